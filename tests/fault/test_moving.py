"""A node's processor is taken away, and its light services go to others; it comes back, and so do they.

Four real agents, real tokenizer and embedder instances. One agent has a processor of its own, on which burners run for
a while; the others share the rest. Clients ask that one agent for embeddings of long texts all the time.
`pytest -rP tests/fault/test_moving.py` prints what was measured.
"""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from tests.support.processes import Agent, Processes, processes
from tests.support.repair import MEMORY_BYTES, MODEL, begin

AGENTS = 4
BURNERS = 10
DEADLINE_S = 8.0
TEXT = "the quick brown fox asks what the capital of france is. " * 1200
"""Some 70 KiB: a twentieth of a second of one processor."""
EVERY_S = 0.25
CALM_S = 4.0
MOVED_S_MAX = 40.0
POLL_S = 0.3

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(len(CPUS) < 2, reason="one agent needs a processor for itself"),
]


def pin(pid: int, cpus: Sequence[int]) -> None:
    """All threads of a process; new ones follow."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cpus)


@contextlib.asynccontextmanager
async def burning(cpu: int) -> AsyncIterator[None]:
    """Others use the processor."""
    # Each in a session of its own: kernels may share the processor among sessions.
    command = (sys.executable, "-c", "while True: pass")
    burners = [await asyncio.create_subprocess_exec(*command, start_new_session=True) for _ in range(BURNERS)]
    try:
        for burner in burners:
            os.sched_setaffinity(burner.pid, [cpu])
        yield
    finally:
        for burner in burners:
            burner.kill()
            await burner.wait()


@dataclass
class Clients:
    """Who ask one agent for embeddings, steadily."""

    client: httpx.AsyncClient
    agent: Agent
    took_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def one(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        body = {"model": MODEL, "input": TEXT}
        headers = {"X-Deadline-S": str(DEADLINE_S)}
        answer = await self.client.post(f"{self.agent.api}/v1/embeddings", json=body, headers=headers)
        self.took_s.append(loop.time() - begun)
        if answer.status_code != httpx.codes.OK:
            self.wrong.append(f"{answer.status_code} {answer.text[:200]}")

    async def go_on(self) -> None:
        while True:
            self.tasks.append(asyncio.create_task(self.one()))
            await asyncio.sleep(EVERY_S)

    def so_far(self) -> str:
        """What was measured since the last time."""
        took, self.took_s = sorted(self.took_s), []
        if not took:
            return "nothing"
        return f"{len(took)} answers, median {took[len(took) // 2]:.3f} s, worst {took[-1]:.3f} s"


def say(*words: str) -> None:
    """For whoever reads the figures."""
    sys.stdout.write("\n  ".join(words) + "\n")


async def story(cluster: Processes, agent: Agent) -> list[str]:
    """What the agent explains of its light services."""
    answer = await cluster.client.get(f"{agent.api}/shoal/v1/explain", params={"deployment": MODEL})
    return [f"{e['subject'].partition(':')[0]} {e['text']}" for e in answer.json()["story"] if ":" in e["subject"]]


async def metrics(cluster: Processes, agent: Agent) -> str:
    """What it counts of its light services."""
    text = (await cluster.client.get(f"{agent.api}/metrics")).text
    wanted = r"^shoal_(?:calls|instances|service)_\w+(?:total)?\{?.*$"
    return "\n".join(line for line in re.findall(wanted, text, re.MULTILINE) if "_created" not in line)


async def sent(cluster: Processes, agent: Agent) -> float:
    """Calls it sent to others."""
    text = (await cluster.client.get(f"{agent.api}/metrics")).text
    return sum(float(value) for value in re.findall(r"^shoal_calls_sent_total\{.*\} (\S+)$", text, re.MULTILINE))


async def until_told(cluster: Processes, agent: Agent, word: str) -> None:
    """Return when ``word`` stands in a line of the story."""
    try:
        async with asyncio.timeout(MOVED_S_MAX):
            while True:
                if any(word in line for line in await story(cluster, agent)):
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        told = "\n".join(await story(cluster, agent))
        pytest.fail(f"not told within {MOVED_S_MAX:g} s: {word}\n{told}\n{await metrics(cluster, agent)}")


async def test_light_services_move_away_from_a_loaded_node_and_back(tiny_store, tmp_path):
    lab = LabSettings(tmp_path / "lab", AGENTS, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(lab) as cluster:
        await begin(cluster, cluster.agents, DeployWish(MODEL, stages=1))
        loaded, *others = cluster.agents
        pin(loaded.pid, CPUS[:1])
        for other in others:
            pin(other.pid, CPUS[1:])
        clients = Clients(cluster.client, loaded)
        asking = asyncio.create_task(clients.go_on())
        try:
            await asyncio.sleep(CALM_S)
            say("calm", clients.so_far())
            before = await sent(cluster, loaded)
            async with burning(CPUS[0]):
                await until_told(cluster, loaded, "tokenizer moves away")
                await asyncio.sleep(CALM_S)
                say("loaded", clients.so_far(), f"{await sent(cluster, loaded) - before:.0f} calls sent to others")
            await until_told(cluster, loaded, "tokenizer moves back")
            await asyncio.sleep(CALM_S)
            say("after", clients.so_far())
        finally:
            asking.cancel()
            await asyncio.gather(*clients.tasks, return_exceptions=True)
        say("told", *await story(cluster, loaded))
        assert await sent(cluster, loaded) > before
        assert not clients.wrong, clients.wrong[:3]
        assert all(task.exception() is None for task in clients.tasks), "no request is lost"
