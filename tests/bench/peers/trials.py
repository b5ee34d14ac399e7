"""Kill a host in mid-generation: the same for both systems.

Each trial starts its own processes: two hosts, one core each, and a front, to which the client talks. It asks once
undisturbed and once with a host killed (the first and the second in turn), then whether the next request is answered.
llama.cpp's front is llama-server, which is never the victim; Shoal's is the agent that is not the victim, since every
agent is an ingress.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shoal_agent.shell.cluster import local_cluster
from shoal_agent.shell.lab import LabSettings
from tests.bench import client
from tests.bench.peers import llama
from tests.bench.peers.build import Built
from tests.bench.peers.kills import Ask, Blow, Dialect, Told, llama_word, openai_word, said, seen, strike, trial
from tests.bench.peers.llama import HOSTS
from tests.bench.variants import Model

SILENCE_S_MAX: Final = 30.0
"""A client that hears nothing for so long gives up; both systems know within a second or not at all."""
NEXT_TOKENS: Final = 8
DIES_S_MAX: Final = 5.0
"""A server that has not followed its host by then is taken for alive."""


async def llama_trial(
    built: Built, model: Path, prompt: list[int], blow: Blow, number: int, folder: Path, cores: Sequence[int]
) -> dict[str, Any]:
    """One kill behind a llama-server."""
    async with (
        llama.hosts(built, cores[:HOSTS], folder) as hosts,
        llama.server(built, model, hosts, cores[0], folder) as server,
    ):
        watch = asyncio.create_task(_ended_s(server.process))
        victim = number % HOSTS

        def ask(count: int, told: Told) -> client.Heard:
            return server.ask(prompt, count, told, SILENCE_S_MAX)

        found, killed_s = await _disturbed(ask, llama_word, blow, hosts[victim].process.pid)
        done, _ = await asyncio.wait({watch}, timeout=DIES_S_MAX)
        return {
            "victim": f"host {victim + 1}",
            **found,
            "front_alive": not done,
            "front_code": server.process.returncode,
            "front_gone_ms": round((watch.result() - killed_s) * 1000, 1) if done else None,
            "front_said": last_words(server.log.read_text(errors="replace")),
        }


async def shoal_trial(
    model: Model, prompt: list[int], blow: Blow, number: int, folder: Path, cores: Sequence[int]
) -> dict[str, Any]:
    """One kill in a cluster of two agents, asked at the one that stays."""
    settings = LabSettings(folder, HOSTS, model.store, ())
    pinned = [[core] for core in cores[:HOSTS]]
    async with local_cluster(settings, model.name, HOSTS, cores=pinned) as cluster:
        victim = number % HOSTS
        doomed, other = (cluster.plan.stages[stage].node for stage in (victim, 1 - victim))
        agents = {running.node.node: running for running in cluster.agents}

        def ask(count: int, told: Told) -> client.Heard:
            body = client.completion(model.name, prompt, count)
            headers = client.bearer(cluster.lab.api_key)
            return client.post(cluster.apis[other], "/v1/completions", body, headers, told, SILENCE_S_MAX)

        found, _ = await _disturbed(ask, openai_word, blow, agents[doomed].pid)
        alive = agents[other].process.returncode is None
        return {"victim": f"host {victim + 1}", **found, "front_alive": alive}


async def _disturbed(ask: Ask, dialect: Dialect, blow: Blow, pid: int) -> tuple[dict[str, Any], float]:
    """What became of the stream, and of the next request; and when the host was killed."""
    before = seen(await asyncio.to_thread(ask, blow.tokens, _unheard), dialect)
    assert before.finish, before
    assert len(before.tokens) == blow.tokens, before
    heard, killed_s = await asyncio.to_thread(strike, ask, blow, pid)
    after = await asyncio.to_thread(ask, NEXT_TOKENS, _unheard)
    found = trial(heard, dialect, before.tokens, killed_s)
    answered = bool(seen(after, dialect).finish)
    return found | {"next_answered": answered, "next_said": said(after, dialect)}, killed_s


def _unheard(_events: int) -> None:
    pass


async def _ended_s(process: asyncio.subprocess.Process) -> float:
    """When the process ended, on the client's clock."""
    await process.wait()
    return time.perf_counter()


def last_words(log: str) -> str:
    """Why llama.cpp says it aborted, empty if it did not."""
    lines = (line.strip().rpartition("/")[2] for line in log.splitlines())
    return next((line for line in lines if "RPC server crashed" in line), "")
