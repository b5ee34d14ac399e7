"""Who takes a stage's place when its node is lost.

A standby has the stage's blocks open and keeps copies of its sessions, so it takes what its primary takes: the blocks
and KV for every session (what several stages share is on a node once). It computes nothing while all is well, so time
is no matter, only memory. Primaries come first: standbys get what they leave.

Every stage gets its first standby before any gets its second, and the stage that the fewest nodes may hold, and could,
chooses first; of equal ones the largest. Where no blocks are guarded by zone that is always the largest. Of the nodes
with room for it the choice is

    without a stage of its own      two stages of one plan should not be lost with one node
    then fewest stages to back      for the same reason
    then fastest, then lowest id    so that everybody who looks at the same figures makes the same choice

Two nodes with a stage each back each other. Whoever stood by for the same blocks before goes on doing so, if there is
room for it: its blocks are open and the copies are there, and nothing should move that need not. All on integers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shoal_agent.core.costs import Memory, idle_permille, trusted, usable
from shoal_agent.core.problem import Candidate, SplitProblem
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage


@dataclass(frozen=True, slots=True)
class Lack:
    """A stage that has fewer standbys than it should have, and why."""

    stage: int
    first_block: int
    last_block: int
    standbys: int
    why: str


@dataclass(frozen=True, slots=True)
class Backing:
    """The stages with their standbys, and what is lacking."""

    stages: tuple[PlanStage, ...]
    lacks: tuple[Lack, ...]

    @property
    def text(self) -> str:
        """What is lacking, in one clause; empty if nothing is."""
        if not self.lacks:
            return ""
        first, more = self.lacks[0], len(self.lacks) - 1
        has = "no standby" if first.standbys == 0 else f"only {first.standbys} standby" + "s" * (first.standbys > 1)
        others = f", and so for {more} more stage" + "s" * (more > 1) if more else ""
        return f"blocks {first.first_block}-{first.last_block} have {has}: {first.why}{others}"


def back_up(
    problem: SplitProblem, stages: Sequence[PlanStage], wanted: int, before: Sequence[PlanStage] = ()
) -> Backing:
    """Give each of ``stages`` as many as ``wanted`` standbys; ``before`` are the stages of the plan before."""
    giver = _Giver(problem, stages)
    order = sorted(range(len(stages)), key=lambda index: (giver.able(index), -giver.needed(index), index))
    for index in order:
        for node in _standbys_before(stages[index], before):
            if len(giver.given[index]) < wanted and node in giver.fitting(index):
                giver.give(index, node)
    for count in range(1, wanted + 1):
        for index in order:
            chosen = giver.best(index)
            if len(giver.given[index]) < count and chosen is not None:
                giver.give(index, chosen)
    return Backing(
        tuple(replace(stage, standbys=tuple(giver.given[index])) for index, stage in enumerate(stages)),
        tuple(
            Lack(index, stage.first_block, stage.last_block, len(giver.given[index]), giver.why_no_more(index))
            for index, stage in enumerate(stages)
            if len(giver.given[index]) < wanted
        ),
    )


def _standbys_before(stage: PlanStage, before: Sequence[PlanStage]) -> Iterator[NodeId]:
    for known in before:
        if (known.first_block, known.last_block) == (stage.first_block, stage.last_block):
            yield from known.standbys


class _Giver:
    """Standbys given so far, and what every node has left."""

    def __init__(self, problem: SplitProblem, stages: Sequence[PlanStage]) -> None:
        self._problem = problem
        self._stages = stages
        self._memory = Memory(problem)
        self._shared = problem.shared_bytes
        self._candidates = sorted((c for c in problem.candidates if usable(c)), key=lambda c: c.node)
        self._taken: dict[NodeId, int] = {}
        self._backs: dict[NodeId, int] = {}
        self._hosts = dict.fromkeys(stage.node for stage in stages)
        self.given: list[list[NodeId]] = [[] for _ in stages]
        for index, stage in enumerate(stages):
            self._take(index, stage.node)

    def needed(self, index: int) -> int:
        """Bytes of stage ``index`` on a node that has nothing else."""
        return self._memory.needed(self._stages[index].first_block, self._stages[index].last_block + 1)

    def able(self, index: int) -> int:
        """How many nodes may hold stage ``index``, and could if they had nothing else."""
        blocks = self._stages[index].first_block, self._stages[index].last_block + 1
        needed = self.needed(index)
        return sum(needed <= c.memory_bytes and trusted(self._problem, c, *blocks) for c in self._candidates)

    def _take(self, index: int, node: NodeId) -> None:
        self._taken[node] = self._taken.get(node, self._shared) + self.needed(index) - self._shared

    def give(self, index: int, node: NodeId) -> None:
        """``node`` is one more standby of stage ``index``."""
        self.given[index].append(node)
        self._backs[node] = self._backs.get(node, 0) + 1
        self._take(index, node)

    def _left(self, candidate: Candidate) -> int:
        return candidate.memory_bytes - self._taken.get(candidate.node, self._shared)

    def _others(self, index: int) -> list[Candidate]:
        """Who is nothing to stage ``index`` yet, and may be."""
        stage = self._stages[index]
        known, blocks = (stage.node, *self.given[index]), (stage.first_block, stage.last_block + 1)
        return [c for c in self._candidates if c.node not in known and trusted(self._problem, c, *blocks)]

    def fitting(self, index: int) -> dict[NodeId, Candidate]:
        """Those of them with room for it."""
        needed = self.needed(index) - self._shared
        return {c.node: c for c in self._others(index) if needed <= self._left(c)}

    def best(self, index: int) -> NodeId | None:
        """Who of them should be the next standby of stage ``index``."""

        def rank(candidate: Candidate) -> tuple[bool, int, int, NodeId]:
            power = candidate.speed_macs_per_s * idle_permille(candidate)
            return candidate.node in self._hosts, self._backs.get(candidate.node, 0), -power, candidate.node

        chosen = min(self.fitting(index).values(), key=rank, default=None)
        return None if chosen is None else chosen.node

    def why_no_more(self, index: int) -> str:
        """Why stage ``index`` got no more."""
        others = self._others(index)
        if not others:
            return "there is no other node" if not self.given[index] else "there are no more nodes"
        most = max(self._left(candidate) for candidate in others)
        needed = self.needed(index) - self._shared
        return f"they need {needed / 1e6:.1f} MB, other nodes have at most {max(most, 0) / 1e6:.1f} MB left"
