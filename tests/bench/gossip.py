"""What it costs one agent that others talk: CPU of agents without models and without requests, alone and among many.

    .venv/bin/python -m tests.bench.gossip [--agents 20] [--seconds 60]

An agent alone pays for its sensors, its timers and its own heartbeat on two brokers; what it pays more among others is
what hearing them costs. The kernel's account of each process is read before and after, so that other work on the
machine matters little. One agent has a core to itself and the others share the rest, for elsewhere they would be on
other devices: twenty processes on one core throw each other's code out of its caches, twice a second each.

Messages are counted by a subscriber to everything on one broker: every agent hears them from each. Ends with 1 if the
bar is not kept.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiomqtt
import psutil

from shoal_agent.shell.lab import LabSettings
from tests.bench.machine import Foreign, commit, machine, versions
from tests.support.processes import Agent, Broker, Processes, processes

BAR_PERCENT: Final = 1.0
"""Of one core, for gossip, on one agent among twenty."""
BROKERS: Final = 2
TOGETHER: Final = 4
"""Agents started at a time: a start takes a second of a core."""
MEET_S_MAX: Final = 120.0
SETTLE_S: Final = 15.0
"""More than one round of repetitions: whatever a start leaves behind is done by then."""


@dataclass(frozen=True)
class Cost:
    """Of one agent among ``agents``: percent of a core, alone on it and (median) among those that share the other."""

    agents: int
    percent: float
    crowded_percent: float | None
    messages_per_s: float
    bytes_per_s: float
    foreign_cores: float
    """Work of others meanwhile: two threads that share a core make each other's seconds worth less."""


@dataclass
class Heard:
    """What was said on one broker."""

    messages: int = 0
    bytes: int = 0


async def cost(folder: Path, agents: int, seconds: float) -> Cost:
    """What ``agents`` agents cost each, measured for ``seconds``."""
    async with processes(LabSettings(folder / "lab", agents, folder / "store", ()), brokers=BROKERS) as cluster:
        for begin in range(0, agents, TOGETHER):
            await cluster.start(*cluster.agents[begin : begin + TOGETHER])
        _set_apart(cluster)
        await cluster.until(lambda view: len(view.alive) == agents, cluster.agents, MEET_S_MAX)
        await asyncio.sleep(SETTLE_S)
        async with _listening(cluster.brokers[0]) as heard:
            return await _measured(cluster, heard, seconds)


async def _measured(cluster: Processes, heard: Heard, seconds: float) -> Cost:
    heard.messages = heard.bytes = 0
    foreign = Foreign()
    before, begun = [_cpu_s(agent) for agent in cluster.agents], time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - begun
    used = [_cpu_s(agent) - then for agent, then in zip(cluster.agents, before, strict=True)]
    percent = [100 * each / elapsed for each in used]
    return Cost(
        len(cluster.agents),
        round(percent[0], 3),
        round(median(percent[1:]), 3) if percent[1:] else None,
        round(heard.messages / elapsed, 2),
        round(heard.bytes / elapsed, 1),
        foreign.look(),
    )


def _set_apart(cluster: Processes) -> None:
    """The first agent on the first core, everybody else on the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    _pin(cluster.agents[0].pid, [first])
    for each in (*cluster.agents[1:], *cluster.brokers):
        if each.process is not None and others:
            _pin(each.process.pid, others)


def _pin(pid: int, cores: Sequence[int]) -> None:
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, cores)


def _cpu_s(agent: Agent) -> float:
    times = psutil.Process(agent.pid).cpu_times()
    return times.user + times.system


@contextlib.asynccontextmanager
async def _listening(broker: Broker) -> AsyncIterator[Heard]:
    """Counts all that is said on ``broker``."""
    heard = Heard()

    async def listen() -> None:
        async for message in client.messages:
            heard.messages += 1
            heard.bytes += len(message.payload)

    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("#")
        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def report(alone: Cost, among: Cost) -> dict[str, Any]:
    """Both, and the difference: what gossip costs."""
    gossip = round(among.percent - alone.percent, 3)
    return {
        "machine": machine(),
        "versions": versions(),
        **commit(),
        "alone": vars(alone),
        "among": vars(among),
        "gossip_percent": gossip,
        "bar_percent": BAR_PERCENT,
        "kept": gossip <= BAR_PERCENT,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gossip")
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    wish = parser.parse_args(arguments)
    costs = []
    for agents in (1, wish.agents):
        with tempfile.TemporaryDirectory() as folder:
            costs.append(asyncio.run(cost(Path(folder), agents, wish.seconds)))
    found = report(*costs)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0 if found["kept"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
