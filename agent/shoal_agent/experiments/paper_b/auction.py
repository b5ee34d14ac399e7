"""Splits by reverse auction, as PipeEdge shares a model out: machines bid for runs of blocks, the cheapest bid wins.

From the first block on, every machine that is free asks the time it would take for the longest run it can hold from
here, its link included; who asks least per block gets the run (greedy; a machine gets one, the ingress also the last
blocks if nobody who is trusted may take them). Nobody looks ahead: a run that is cheap may leave its successors a dear
link. PipeEdge [Imes, King, Walters 2023] proves that the exact problem without repeats is NP-complete; at six machines
the exact search costs a fiftieth of a second, so this is a comparison, not a need.
"""

from collections.abc import Sequence

from shoal_agent.core.costs import Costs, Memory
from shoal_agent.core.problem import Candidate, Infeasible, Split, SplitProblem
from shoal_agent.experiments.paper_b import cluster
from shoal_protocol.messages import PlanStage


class Auction:
    """As ``cluster.Planner``, by another rule."""

    def __init__(self, planner: cluster.Planner) -> None:
        self._planner = planner
        self._known: dict[cluster.Conditions, Split | Infeasible] = {}

    def problem(self, seen: cluster.Conditions) -> SplitProblem:
        """The same question."""
        return self._planner.problem(seen)

    def split(self, seen: cluster.Conditions) -> Split | Infeasible:
        """The auction's answer, in the planner's prices."""
        if seen not in self._known:
            stages = auction(self.problem(seen))
            split = self.price(seen, stages) if stages else None
            self._known[seen] = split or Infeasible("nobody bids for some block", ())
        return self._known[seen]

    def moved(self, seen: cluster.Conditions, stages: tuple[PlanStage, ...]) -> Split | Infeasible:
        """An auction sells runs, not places."""
        return Infeasible(f"no auction of {len(stages)} places among {len(seen.nodes)}", ())

    def price(self, seen: cluster.Conditions, stages: Sequence[PlanStage]) -> Split | None:
        """The planner's."""
        return self._planner.price(seen, stages)

    def alone(self, seen: cluster.Conditions, stages: Sequence[PlanStage]) -> Split | None:
        """The planner's."""
        return self._planner.alone(seen, stages)


def auction(problem: SplitProblem) -> list[PlanStage]:
    """The runs in order; empty if some block finds no bidder."""
    costs, memory = Costs(problem), Memory(problem)
    room = {candidate.node: candidate.memory_bytes for candidate in problem.candidates}
    stages: list[PlanStage] = []
    while not stages or stages[-1].last_block + 1 < cluster.BLOCKS:
        start = stages[-1].last_block + 1 if stages else 0
        bids: list[tuple[float, int, Candidate]] = []
        for candidate in problem.candidates:
            free = room[candidate.node]
            end = _longest(problem, memory, candidate, free, start)
            taken = any(stage.node == candidate.node for stage in stages)
            if end == start or (taken and not (candidate.node == problem.ingress and end == cluster.BLOCKS)):
                continue
            link = costs.hop(stages[-1].node, candidate.node, start) if stages else costs.enter(candidate.node)
            bids.append(((link + costs.stage(candidate, start, end)) / (end - start), end, candidate))
        if not bids:
            return []
        _, end, winner = min(bids, key=lambda bid: (bid[0], bid[2].node))
        stages.append(PlanStage(winner.node, start, end - 1))
        room[winner.node] -= memory.needed(start, end)
    return stages


def _longest(problem: SplitProblem, memory: Memory, candidate: Candidate, free: int, start: int) -> int:
    """The end of the longest run from ``start`` that ``candidate`` may hold in ``free`` bytes."""
    end = start
    while end < cluster.BLOCKS and memory.needed(start, end + 1) <= free:
        if problem.zones[end] and candidate.zone not in problem.zones[end]:
            break
        end += 1
    return end
