"""A lab that runs: broker, agents, an active plan; and everything down again at the end, whatever happened.

The order is an operator's: broker, agents, then the operator's announcement, once all agents were heard. Leaving
the block stops the agents and the broker by pid, also on cancellation, so no process and no port outlives it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.config import load_operator_config
from shoal_agent.shell.broker import RunningBroker, embedded_broker
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.lab import Lab, LabSettings, Running, make_lab, refuse_dead, start_agent, stop_agents
from shoal_agent.shell.operator import DeployResult, DeployWish, deploy
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective, Plan

WATCH_S: Final = 0.5
"""How often a running lab looks after its agents."""


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A running cluster on this machine. ``apis`` are the agents' HTTP addresses; ``plan`` is its first one."""

    lab: Lab
    agents: list[Running]
    broker: RunningBroker
    apis: dict[NodeId, str]
    plan: Plan

    @property
    def api(self) -> str:
        """The first agent's HTTP address."""
        return self.apis[self.lab.nodes[0].node]

    async def watch(self) -> None:
        """Never returns while all agents live; FailedError when one ended."""
        await _watch(self.agents)

    def kill(self, node: NodeId) -> None:
        """End an agent as a power cut does; nobody is told."""
        self.agents[self._index(node)].process.kill()

    async def start_again(self, node: NodeId) -> None:
        """Start an agent that ended, with the keys and the state it had; it comes back under another HTTP address."""
        index = self._index(node)
        await stop_agents([self.agents[index]])
        self.agents[index] = await start_agent(self.agents[index].node)

    def _index(self, node: NodeId) -> int:
        return next(index for index, agent in enumerate(self.agents) if agent.node.node == node)


@asynccontextmanager
async def local_cluster(
    settings: LabSettings,
    model: str,
    stages: int,
    *,
    cores: Sequence[Sequence[int]] = (),
    tell: Callable[[str], None] = lambda _line: None,
) -> AsyncIterator[LocalCluster]:
    """A cluster of ``settings.nodes`` agents that serves ``model`` in exactly ``stages`` stages.

    ``cores[i]`` are the cores that agent i may use. A UserError says what stood in the way.
    """
    async with embedded_broker(settings.folder / "broker") as broker:
        lab = make_lab(replace(settings, broker_urls=(broker.url,)), unix_s())
        agents: list[Running] = []
        try:
            for index, node in enumerate(lab.nodes):
                agents.append(await start_agent(node, cores[index] if index < len(cores) else ()))
            result = await _deployed(lab, agents, model, stages, tell)
            apis = {heard.node: heard.state.api for heard in result.heard}
            yield LocalCluster(lab, agents, broker, apis, result.plan)
        finally:
            await asyncio.shield(stop_agents(agents))


async def _deployed(
    lab: Lab, agents: Sequence[Running], model: str, stages: int, tell: Callable[[str], None]
) -> DeployResult:
    """Plan and announce; an agent that dies meanwhile is the better error."""
    names = tuple(node.node for node in lab.nodes)
    wish = DeployWish(model, stages=stages, nodes=names, objective=Objective.THROUGHPUT)
    config = load_operator_config(lab.operator_config, environment={})
    work = asyncio.ensure_future(deploy(config, wish, tell))
    watch = asyncio.ensure_future(_watch(agents))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        return watch.result() if watch.done() else work.result()
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _watch(agents: Sequence[Running]) -> DeployResult:
    """Never returns; FailedError when an agent ended."""
    while True:
        refuse_dead(agents)
        await asyncio.sleep(WATCH_S)
