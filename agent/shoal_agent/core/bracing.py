"""Standbys for all stages at once, where one after the other did not find room for all: a small backbone.

``standbys`` gives the largest stage the best node, and that may be the one node the next stage had needed. The same
question as a backbone (``backbone``): stages are its core services, a standby is an instance, and each stage must have
as many as were asked for, on as many nodes. Primaries stay, so of a node counts what its own stage leaves, and nobody
backs itself. Blocks that serve are not moved for the sake of those that do not; where that leaves a stage without a
standby, the same question is asked about primaries and standbys together (``footing``).

It is the proposer's to solve. What others check is what they check of any plan that adds standbys: more of them are
there than before, and each of them has room for what it is given.

What is preferred is what ``standbys`` prefers, as money: nodes that have it already (fetching costs), then nodes
without a stage of their own, then fast ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from shoal_agent.core.backbone import WHOLE_MAX, BackboneProblem, CoreService, Counts, Machine, Weights
from shoal_agent.core.costs import Memory, idle_permille, trusted, usable
from shoal_agent.core.plan import hosts_of
from shoal_agent.core.problem import Candidate, SplitProblem
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

BRACED_MAX: Final = 16
"""Candidates looked at, those with the most memory left: with them the programme takes some tenths of a second."""
_PRICE: Final = 1000
"""Of any standby; the best node for it earns all of it back."""
_FETCH_BYTES_MIN: Final = 1_000_000
"""However small a stage is, whoever has it already comes before the best of others."""
_KINDS: Final = ("memory_bytes",)


def bracing(problem: SplitProblem, stages: Sequence[PlanStage], wanted: int) -> BackboneProblem | None:
    """What to ask so that each of ``stages`` has ``wanted`` standbys; None if there are too few nodes."""
    left = _left(problem, stages)
    if wanted < 1 or len(left) <= wanted or len(stages) > BRACED_MAX:
        return None
    memory, hosts = Memory(problem), hosts_of(stages)
    sizes = [memory.needed(stage.first_block, stage.last_block + 1) - problem.shared_bytes for stage in stages]
    if not all(1 <= size <= WHOLE_MAX for size in sizes):
        return None
    fastest = max(power for _, _, power in left)
    worth = tuple(500 * power // fastest + (0 if node in hosts else 500) for node, _, power in left)
    return BackboneProblem(
        _KINDS,
        tuple(Machine(node, (room,)) for node, room, _ in left),
        tuple(
            CoreService(
                f"stage {index}",
                (size,),
                survive_permille=0,
                hosts_min=wanted,
                hosts_max=wanted,
                per_host_max=1,
                price=_PRICE,
                weight_bytes=max(size, _FETCH_BYTES_MIN),
                barred=(stage.node, *_strangers(problem, stage)),
            )
            for index, (stage, size) in enumerate(zip(stages, sizes, strict=True))
        ),
        current=tuple(tuple(int(node in stage.standbys) for node, _, _ in left) for stage in stages),
        weights=Weights(quality=_PRICE, moved_mb=_PRICE),
        quality_permille=(worth,) * len(stages),
    )


def _strangers(problem: SplitProblem, stage: PlanStage) -> list[NodeId]:
    """Who may not hold its blocks, by the zone it stands in."""
    blocks = stage.first_block, stage.last_block + 1
    return [c.node for c in problem.candidates if c.node != stage.node and not trusted(problem, c, *blocks)]


def _left(problem: SplitProblem, stages: Sequence[PlanStage]) -> list[tuple[NodeId, int, int]]:
    """Candidates by node id: what their own stages leave of their memory, and their power."""
    memory = Memory(problem)

    def room(candidate: Candidate) -> int:
        own = [(stage.first_block, stage.last_block + 1) for stage in stages if stage.node == candidate.node]
        return min(candidate.memory_bytes - memory.together(own), WHOLE_MAX)

    able = [(c.node, room(c), c.speed_macs_per_s * idle_permille(c)) for c in problem.candidates if usable(c)]
    able = sorted(each for each in able if each[1] > 0)
    kept = sorted(able, key=lambda each: (-each[1], each[0]))[:BRACED_MAX]
    return sorted(kept)


def braced(asked: BackboneProblem, stages: Sequence[PlanStage], counts: Counts) -> tuple[PlanStage, ...]:
    """``stages`` with the standbys that ``counts`` gives them, best first."""
    found = []
    for stage, row, worth in zip(stages, counts, asked.quality_permille, strict=True):
        chosen = [(-good, machine.node) for machine, n, good in zip(asked.machines, row, worth, strict=True) if n]
        found.append(replace(stage, standbys=tuple(node for _, node in sorted(chosen))))
    return tuple(found)
