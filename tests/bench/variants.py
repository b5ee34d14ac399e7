"""The five ways to run one model that are compared; all of them up at once, one asked at a time.

==========  =====================================================================================
unsplit     one graph, one plain onnxruntime session, everything bound: the fastest whole
whole       the engine's Stage over all blocks in one process, no agent: what the ratios divide by
one         one agent, asked through its API
two, three  so many agents, each with one stage, over TLS; asked through the API of the one with the first stage
==========  =====================================================================================

Agent i is pinned to core i modulo the cores there are, the processes of the first two variants to the first core, this
process (the client) and the brokers to the last one. Everything computes on one thread.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from shoal_agent.shell.cluster import LocalCluster, local_cluster
from shoal_agent.shell.lab import LabSettings
from tests.bench import client
from tests.support.house import ROOT

AGENTS: Final = {"one": 1, "two": 2, "three": 3}
IN_PROCESS: Final = ("unsplit", "whole")
NAMES: Final = (*IN_PROCESS, *AGENTS)
ANSWER_S_MAX: Final = 300.0
LINE_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """One generation. ``inside_s``: the mean gap as the ingress agent measured it, None without one."""

    tokens: list[int]
    first_s: float
    gaps_s: list[float]
    inside_s: float | None = None


class Variant(Protocol):
    """One way to run the model."""

    async def generate(self, prompt: list[int], count: int) -> Sample:
        """``count`` greedy tokens after ``prompt``."""


@dataclass(frozen=True)
class Model:
    """Where the package is."""

    store: Path
    name: str


@dataclass
class Child:
    """The whole model in a process of its own."""

    process: asyncio.subprocess.Process

    async def generate(self, prompt: list[int], count: int) -> Sample:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompt": prompt, "count": count}).encode() + b"\n")
        return Sample(**await self.answer())

    async def answer(self) -> dict:
        """The next line it prints."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_S_MAX)
        assert line, "the child ended"
        return json.loads(line)


@dataclass
class Cluster:
    """Agents, asked through the API of the one that holds the first stage."""

    cluster: LocalCluster
    model: str

    async def generate(self, prompt: list[int], count: int) -> Sample:
        api, key = self.cluster.apis[self.cluster.plan.stages[0].node], self.cluster.lab.api_key
        gaps_before, sum_before = await asyncio.to_thread(client.inter_token, api, key)
        seen = await asyncio.to_thread(client.stream, api, key, self.model, prompt, count)
        gaps, total = await asyncio.to_thread(client.inter_token, api, key)
        inside = (total - sum_before) / (gaps - gaps_before) if gaps > gaps_before else None
        return Sample(seen.tokens, seen.first_s, seen.gaps_s, inside)


@asynccontextmanager
async def running(
    names: Sequence[str], model: Model, folder: Path, cores: Sequence[int]
) -> AsyncIterator[dict[str, Variant]]:
    """All of ``names``, up and idle, until the block is left."""
    async with AsyncExitStack() as stack:
        found: dict[str, Variant] = {}
        for name in names:
            if name in IN_PROCESS:
                found[name] = await stack.enter_async_context(_child(name, model, cores[0]))
            else:
                agents = AGENTS[name]
                settings = LabSettings(folder / name, agents, model.store, ())
                pinned = [[cores[index % len(cores)]] for index in range(agents)]
                cluster = await stack.enter_async_context(local_cluster(settings, model.name, agents, cores=pinned))
                found[name] = Cluster(cluster, model.name)
        yield found


@asynccontextmanager
async def _child(kind: str, model: Model, core: int) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.whole", kind, str(model.store), model.name, str(core)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ,
        limit=LINE_BYTES_MAX,
    )
    try:
        child = Child(process)
        await child.answer()
        yield child
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), ANSWER_S_MAX)
