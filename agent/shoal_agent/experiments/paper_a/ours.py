"""Ours: gateways dispatch by rule B, nodes scale by rule A. Decentralised, unless its ``Eyes`` see everything.

``Centre`` is what a centre costs: a stage's report and the answer to it take a round trip, and while the centre is
down nothing is decided at all.
"""

from dataclasses import dataclass

from shoal_agent.experiments.paper_a.dispatching import Eyes, Gateways
from shoal_agent.experiments.paper_a.paper_rule import age
from shoal_agent.experiments.paper_a.routes import Routes
from shoal_agent.experiments.paper_a.scaling import Nodes, Sizes
from shoal_agent.experiments.paper_a.scenario import Scenario
from shoal_agent.experiments.paper_a.world import Placement, Stage, World


@dataclass(frozen=True, slots=True)
class Centre:
    """How far the deciding place is, and when it is down."""

    round_trip_slots: int
    down_from: int
    down_until: int

    def is_down(self, slot: int) -> bool:
        return self.down_from <= slot < self.down_until


class Ours:
    """Rules A and B over the simulated system."""

    def __init__(
        self,
        scenario: Scenario,
        placement: Placement,
        v: float,
        eyes: Eyes,
        seed: int,
        *,
        by_tail: bool = True,
        centre: Centre | None = None,
    ) -> None:
        routes = Routes(scenario, placement)
        self._gateways = Gateways(scenario, routes, v, eyes, seed)
        self._nodes = Nodes(Sizes(routes, by_tail=by_tail), v)
        self._centre = centre

    def decide(self, world: World) -> None:
        """One slot: everybody hears, gateways dispatch, nodes scale."""
        age(world)
        self._gateways.hear(world)
        if self._centre and self._centre.is_down(world.slot):
            return
        for stage in sorted(world.waiting, key=lambda stage: self._turn(world, stage)):
            if self._centre and world.slot - stage.since_ms < self._centre.round_trip_slots:
                continue
            self._send(world, stage)
        self._nodes.scale(world)

    def _turn(self, world: World, stage: Stage) -> tuple[bool, float, int, int]:
        """Earliest deadline first, which is optimal until there is too much to do; then it serves the lost first."""
        task = stage.task
        return self._gateways.hopeless(world, stage), task.due_ms, task.number, stage.service.number

    def _send(self, world: World, stage: Stage) -> None:
        node = self._gateways.choose(world, stage)
        if node is None:
            return
        if not stage.service.core:
            world.send_light(stage, node)
            self._nodes.came(node, stage.service)
        elif world.takes(node, stage.service):
            world.send_core(stage, node)
