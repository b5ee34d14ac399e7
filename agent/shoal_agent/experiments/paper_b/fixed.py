"""Methods that never think: a plan for good, and one that is told the future.

``Fixed`` keeps the plan it was given: the best static split, the same with standbys, one machine for everything, a
cloud behind one cut. It learns which hosts are lost, as all do, and that helps it only where it has standbys.

``Oracle`` bounds what adapting can bring: it sees every machine as it is, knows who is about to fail, moves blocks for
nothing and at once, and asks the same planner. It knows no plan that takes from several requests at a time to better
another's fate, so it is a bound for methods that route all requests by one plan.
"""

from collections.abc import Sequence
from typing import Final

from shoal_agent.core.problem import Split, stages_of
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.control import INDEX, Control
from shoal_agent.experiments.paper_b.serving import PATIENCE_S, Leg, Route
from shoal_agent.experiments.paper_b.trace import Trace, burst_at
from shoal_protocol.messages import PlanStage

IDLE_TICK_S: Final = 60.0
ORACLE_TICK_S: Final = 1.0
RATE_STEP_MILLI: Final = 1000


class Fixed:
    """A plan for good."""

    def __init__(self, stages: Sequence[PlanStage], *, standbys: bool) -> None:
        self.tick_s = IDLE_TICK_S
        self.control = Control(stages, standbys=standbys)

    def route(self, now: float) -> Route | None:
        """Always the same, standbys apart."""
        return self.control.route(now)

    def admits(self, now: float, under_way: int) -> bool:
        """Everybody."""
        return now >= 0.0 and under_way > 0

    def serves(self, epoch: int, now: float) -> bool:
        """There is only one."""
        return self.control.serves(epoch, now)

    def tick(self, now: float) -> None:
        """Nothing to think about."""
        self.control.settle(now)

    def found(self, node: int, now: float) -> None:
        """A standby may step in."""
        self.control.settle(now)
        self.control.found(node)

    def heard(self, node: int, now: float) -> None:
        """It has its blocks again."""
        self.control.settle(now)
        self.control.heard(node)

    def ended(self, now: float, *, late: bool) -> None:
        """Nobody counts."""

    def fetching(self, node: int, now: float) -> bool:
        """Never."""
        return self.control.fetching(node, now)


class Oracle:
    """The best plan for what is and for what is about to be."""

    def __init__(self, trace: Trace, planner: cluster.Planner) -> None:
        self.tick_s = ORACLE_TICK_S
        self._trace, self._planner = trace, planner
        self._plan: Route | None = None
        self.tick(0.0)

    def route(self, now: float) -> Route | None:
        """The plan of this second."""
        return self._plan if now >= 0.0 else None

    def admits(self, now: float, under_way: int) -> bool:
        """Everybody."""
        return now >= 0.0 and under_way > 0

    def serves(self, epoch: int, now: float) -> bool:
        """Every plan it ever had."""
        return self._plan is not None and epoch <= self._plan.epoch and now >= 0.0

    def tick(self, now: float) -> None:
        """Plan with those that live for as long as a request may take."""
        ends = now + ORACLE_TICK_S + PATIENCE_S
        nodes = tuple(
            node
            for node in cluster.EDGE
            if not any(outage.begins_s < ends and now < outage.ends_s for outage in self._trace.outages[node])
        )
        rate = round(1000 * self._trace.rate_per_s * burst_at(now)) // RATE_STEP_MILLI * RATE_STEP_MILLI
        split = self._planner.split(cluster.conditions(self._trace, now, nodes, rate))
        if isinstance(split, Split):
            legs = tuple(Leg(INDEX[s.node], s.first_block, s.last_block) for s in stages_of(split))
            if self._plan is None or self._plan.legs != legs:
                self._plan = Route(0 if self._plan is None else self._plan.epoch + 1, legs)

    def found(self, node: int, now: float) -> None:
        """It knew."""

    def heard(self, node: int, now: float) -> None:
        """It knew."""

    def ended(self, now: float, *, late: bool) -> None:
        """It knew."""

    def fetching(self, node: int, now: float) -> bool:
        """Blocks move for nothing."""
        return node < 0 and now < 0.0
