"""The machines and the model of paper (b)'s experiment, and the core's planner with a memory.

Six machines, two of them trusted, none of the trusted able to hold the model; a cloud far away, which only the baseline
that is about it may use. The model has 24 equal blocks; the first two and the last see what must stay private,
so they run where there is trust. A request is one pass of 128 tokens: tokens go in and out, activations cross a cut.

The planner is the core's own and exact, so its answers can be kept: an hour brings some hundreds of different
conditions, and all methods that see the same ask once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core.crowding import price, split_crowded
from shoal_agent.core.decision import same_cuts
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import (
    NO_DEMAND,
    Candidate,
    Demand,
    Infeasible,
    Link,
    Links,
    Split,
    SplitProblem,
    Workload,
)
from shoal_agent.experiments.paper_b.trace import Trace
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

NODES: Final = tuple(NodeId(name) for name in ("n0", "n1", "n2", "n3", "n4", "n5", "n6-cloud"))
INGRESS: Final = 0
"""Where requests come from and answers go."""
CLOUD: Final = 6
EDGE: Final = tuple(range(CLOUD))
STEADY: Final = (INGRESS, CLOUD)
"""Who never fails: with the ingress goes the demand."""
SPEED: Final = (150.0, 260.0, 400.0, 500.0, 300.0, 450.0, 2000.0)
"""Blocks a second, by the profile, of a machine that does nothing else."""
MEMORY_MB: Final = (200, 330, 450, 600, 350, 600, 16_000)
TRUSTED: Final = (0, 1)
TRUST: Final = "trusted"
"""The zone of those."""
BLOCKS: Final = 24
BLOCK_BYTES: Final = 25_000_000
PRIVATE_HEAD: Final = 2
TOKENS: Final = 128
CUT_BYTES: Final = {"fp32": 300_000, "int8": 75_000}
BANDWIDTH: Final = 40_000_000
"""Bytes a second on an undisturbed link."""
INGRESS_SHARE: Final = 0.6
"""The ingress hangs on a weaker link."""
CLOUD_BANDWIDTH: Final = 2_500_000
RTT_S: Final = 0.004
"""A hop costs it once: the request there, its acknowledgement back."""
CLOUD_RTT_S: Final = 0.040
FETCH_LEAVES: Final = 0.5
"""What loading blocks leaves of a link."""
_REFERENCE: Final = 200
_MACS: Final = 1_000_000
"""A block's worth, in the planner's unit of speed."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on the way in, at a cut and on the way out."""

    enter_bytes: int
    cut_bytes: int
    leave_bytes: int


def sizes_of(width: str) -> Sizes:
    """``width`` of the activations: fp32 or int8."""
    return Sizes(8 * (TOKENS + 1), CUT_BYTES[width], 8)


def needs_trust(block: int) -> bool:
    """Whether ``block`` sees what is private."""
    return block < PRIVATE_HEAD or block == BLOCKS - 1


def bandwidth(one: int, other: int) -> float:
    """Of an undisturbed link."""
    if CLOUD in (one, other):
        return CLOUD_BANDWIDTH
    return BANDWIDTH * (INGRESS_SHARE if INGRESS in (one, other) else 1.0)


def rtt_s(one: int, other: int) -> float:
    """Of any link."""
    return CLOUD_RTT_S if CLOUD in (one, other) else RTT_S


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is believed of the machines; by index, in permille. ``nodes`` may be hosts; others are down or barred."""

    nodes: tuple[int, ...]
    busy: tuple[int, ...]
    link: tuple[int, ...]
    demand: Demand


def demand_of(rate_milli: int) -> Demand:
    """What so many requests in a thousand seconds ask for."""
    return Demand(TOKENS * rate_milli, rate_milli)


def conditions(trace: Trace, now: float, nodes: tuple[int, ...], rate_milli: int) -> Conditions:
    """The truth at ``now``."""
    busy = tuple(round(1000 * steps.at(now)) for steps in trace.busy)
    return Conditions(nodes, busy, tuple(round(1000 * steps.at(now)) for steps in trace.link), demand_of(rate_milli))


def usual(trace: Trace, nodes: tuple[int, ...]) -> Conditions:
    """What is usual over the whole trace: what a split that never changes should be made for."""
    busy = tuple(round(1000 * steps.mean(trace.length_s)) for steps in trace.busy)
    link = tuple(round(1000 * steps.mean(trace.length_s)) for steps in trace.link)
    return Conditions(nodes, busy, link, demand_of(round(1000 * len(trace.arrivals) / trace.length_s)))


class Planner:
    """The core's planner, asked once for every different question."""

    def __init__(self, sizes: Sizes) -> None:
        self._boundary = sizes.cut_bytes // (TOKENS + 1)
        self._problems: dict[Conditions, SplitProblem] = {}
        self._splits: dict[Conditions, Split | Infeasible] = {}
        self._same: dict[tuple[Conditions, tuple[tuple[int, int], ...]], Split | Infeasible] = {}
        self._solved: dict[SplitProblem, Split | Infeasible] = {}
        """Conditions that differ in the rate of requests alone pose the same problem before its own load is added."""
        self._alone: dict[tuple[Conditions, tuple[PlanStage, ...]], Split | None] = {}
        self._prices: dict[tuple[Conditions, tuple[PlanStage, ...]], Split | None] = {}

    def problem(self, seen: Conditions) -> SplitProblem:
        """``seen`` as the core asks it."""
        if seen not in self._problems:
            self._problems[seen] = self._problem(seen)
        return self._problems[seen]

    def split(self, seen: Conditions) -> Split | Infeasible:
        """The best split."""
        if seen not in self._splits:
            self._splits[seen] = split_crowded(self.problem(seen), self._solve)
        return self._splits[seen]

    def _solve(self, problem: SplitProblem) -> Split | Infeasible:
        if problem not in self._solved:
            self._solved[problem] = split_model(problem)
        return self._solved[problem]

    def moved(self, seen: Conditions, stages: tuple[PlanStage, ...]) -> Split | Infeasible:
        """The best hosts for the cuts of ``stages``, told in stages of one block each."""
        key = seen, tuple((stage.first_block, stage.last_block) for stage in stages)
        if key not in self._same:
            self._same[key] = split_crowded(same_cuts(self.problem(seen), stages), self._solve)
        return self._same[key]

    def price(self, seen: Conditions, stages: Sequence[PlanStage]) -> Split | None:
        """What ``stages`` cost under their own load; None if a host of theirs is not there."""
        key = seen, tuple(stages)
        if key not in self._prices:
            self._prices[key] = price(self.problem(seen), stages)
        return self._prices[key]

    def alone(self, seen: Conditions, stages: Sequence[PlanStage]) -> Split | None:
        """The same without a line to stand in: what one request takes."""
        key = seen, tuple(stages)
        if key not in self._alone:
            self._alone[key] = price(replace(self.problem(seen), demand=NO_DEMAND), stages)
        return self._alone[key]

    def _problem(self, seen: Conditions) -> SplitProblem:
        micros = 1_000_000 // _REFERENCE
        blocks = tuple(BlockFacts(BLOCK_BYTES, 0, 0, micros, self._boundary) for _ in range(BLOCKS))
        candidates = tuple(
            Candidate(NODES[n], int(SPEED[n] * _MACS), MEMORY_MB[n] * 1_000_000, seen.busy[n], zone=_zone(n))
            for n in seen.nodes
        )
        links = {
            (NODES[one], NODES[other]): Link(
                round(1e6 * rtt_s(one, other)),
                int(bandwidth(one, other) * min(seen.link[one], seen.link[other]) // 1000),
            )
            for one in seen.nodes
            for other in seen.nodes
            if one != other
        }
        return SplitProblem(
            blocks,
            _REFERENCE * _MACS,
            candidates,
            Workload(TOKENS, 1, TOKENS, 1),
            Links(measured=links),
            ingress=NODES[INGRESS],
            zones=tuple((TRUST,) if needs_trust(block) else () for block in range(BLOCKS)),
            u_shape=True,
            demand=seen.demand,
        )


def _zone(node: int) -> str:
    return TRUST if node in TRUSTED else ""
