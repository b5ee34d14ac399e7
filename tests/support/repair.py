"""A cluster of five that serves one tiny model in three stages, and what is timed when one of its hosts is lost.

Three hosts, so the voters are the hosts: whoever dies, a quorum of two is left, and two spare nodes have room.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from shoal_agent.core.plan import rendezvous_order
from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from tests.support.processes import POLL_S, Agent, Processes, View, describe, processes

MODEL: Final = "tiny"
AGENTS: Final = 5
STAGES: Final = 3
MEMORY_BYTES: Final = 10**9
REPAIRED_S_MAX: Final = 5.0
"""The bar: from the blow until every survivor sees the new plan ACTIVE."""
SETTLED_S_MAX: Final = 30.0


@dataclass(frozen=True)
class Repair:
    """Seconds after the blow until *every* survivor took the victim for lost, knew the new plan, saw it ACTIVE.

    ``detected_s`` None: it was still there when the new plan was ACTIVE, as who says goodbye is until it has drained.
    """

    detected_s: float | None
    certified_s: float
    active_s: float

    def __str__(self) -> str:
        detected = "-" if self.detected_s is None else f"{self.detected_s:.2f} s"
        return f"detected {detected}, certified {self.certified_s:.2f} s, active {self.active_s:.2f} s"


@contextlib.asynccontextmanager
async def served(store: Path, folder: Path, *, agents: int = AGENTS, **settings: Any) -> AsyncIterator[Processes]:
    """``AGENTS`` of ``agents`` run and serve in ``STAGES`` stages; everybody knows everybody."""
    lab = LabSettings(folder / "lab", agents, store, (), memory_bytes=MEMORY_BYTES)
    async with processes(lab, **settings) as cluster:
        await begin(cluster, cluster.agents[:AGENTS], DeployWish(MODEL, stages=STAGES))
        yield cluster


async def begin(cluster: Processes, agents: Sequence[Agent], wish: DeployWish) -> None:
    """Start ``agents``, deploy, and wait until all see the plan ACTIVE and each other.

    They are named where the ``wish`` names nobody: an operator who names nobody listens until nobody new is heard.
    """
    await cluster.start(*agents)
    await cluster.until(lambda view: len(view.alive) == len(agents), agents, SETTLED_S_MAX)
    await cluster.deploy(replace(wish, nodes=wish.nodes or tuple(agent.node for agent in agents)))
    await settled(cluster, agents)


async def settled(cluster: Processes, agents: Sequence[Agent]) -> None:
    """Everybody knows everybody, and the newest plan is ACTIVE on all its hosts."""
    nodes = {agent.node for agent in agents}
    await cluster.until(lambda view: view.active and view.alive == nodes and view.brokers_up, agents, SETTLED_S_MAX)


async def hosts_of(cluster: Processes, witness: Agent) -> list[Agent]:
    """The hosts of the newest plan as ``witness`` knows it, in order."""
    return [cluster.agent(node) for node in (await cluster.view(witness)).hosts]


async def first_proposer(cluster: Processes, witness: Agent) -> Agent:
    """Who proposes first in the next agreement; with three hosts the voters are the hosts."""
    view = await cluster.view(witness)
    return cluster.agent(rendezvous_order(f"{MODEL}/{view.epoch + 1}".encode(), [*view.hosts])[0])


async def repaired(cluster: Processes, victim: Agent, blow: Callable[[], Any], within_s: float) -> Repair:
    """Strike, and time what the survivors believe; fails with what they believed if it takes longer."""
    survivors = [agent for agent in cluster.agents if agent is not victim and agent.process is not None]
    before = (await cluster.view(survivors[0])).epoch
    wanted: dict[str, Callable[[View], bool]] = {
        "detected": lambda view: victim.node not in view.alive,
        "certified": lambda view: view.epoch > before and victim.node not in view.hosts,
        "active": lambda view: view.epoch > before and victim.node not in view.hosts and view.active,
    }
    reached: dict[str, float] = {}
    clock = asyncio.get_running_loop().time
    begun, views = clock(), []
    blow()
    while "active" not in reached and clock() - begun < within_s:
        views = await cluster.views(*survivors)
        elapsed = clock() - begun
        for name, reaches in wanted.items():
            if name not in reached and all(map(reaches, views)):
                reached[name] = elapsed
        await asyncio.sleep(POLL_S)
    told = "\n".join(f"{agent.name} {describe(view)}" for agent, view in zip(survivors, views, strict=True))
    assert "active" in reached, f"{victim.name} struck, epoch was {before}, reached {reached}:\n{told}"
    return Repair(reached.get("detected"), reached["certified"], reached["active"])


async def revive(cluster: Processes, victim: Agent) -> None:
    """A killed agent comes back, and everybody knows it again."""
    await victim.stop()
    await cluster.start(victim)
    await settled(cluster, [agent for agent in cluster.agents if agent.process is not None])


def tell(line: str) -> None:
    """Shown by `pytest -rP`."""
    sys.stdout.write(f"{line}\n")


def kill(agent: Agent) -> Callable[[], None]:
    """The blow that leaves no process."""
    return lambda: agent.signal(signal.SIGKILL)


def freeze(agent: Agent) -> Callable[[], None]:
    """The blow that leaves sockets that say nothing."""
    return lambda: agent.signal(signal.SIGSTOP)


@dataclass
class Asking:
    """One request after the other while something else happens."""

    answers: list[list[int]]
    refusals: list[str]


@contextlib.asynccontextmanager
async def asking(cluster: Processes, agent: Agent, pause_s: float = 0.1) -> AsyncIterator[Asking]:
    """Ask ``agent`` all the while."""
    seen = Asking([], [])

    async def ask() -> None:
        while True:
            try:
                answer = await cluster.request(agent)
            except httpx.TransportError as fault:
                seen.refusals.append(repr(fault))
            else:
                if answer.status_code == httpx.codes.OK:
                    seen.answers.append(answer.json()["choices"][0]["token_ids"])
                else:
                    seen.refusals.append(answer.text)
            await asyncio.sleep(pause_s)

    task = asyncio.create_task(ask())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
