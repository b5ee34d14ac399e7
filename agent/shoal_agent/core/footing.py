"""Primaries and standbys of all stages at once, so that any single node may be lost: the backbone of one deployment.

``bracing`` finds standbys for primaries that stay. Where no such set exists, or once in a while because loads drift,
the question is asked with nothing given but the cuts: where should *both* stand? Per stage two core services, its
primary and its standby, of which there must be one each; the rest is written with what a backbone has anyway::

    kinds of room    memory; one seat per node, which a primary takes: it is the primary of one stage at most
                     for each stage one place per node, which both take: nobody backs itself
    quality          1 - time of the stage there / the longest time that is acceptable at all
    edges            from each primary to the next, what crosses a link in one session
    barred           zones; who would be too slow alone; and whoever is the primary of another stage now and has no
                     room for both, since the old plan serves until the new one is ready
    bytes moved      a second of moving weighs as in the decision about any move: one second of the plan's validity

So the objective is the time of one session, in millionths of the longest that is acceptable, and the bytes it moves.
A standby's time counts ``BACKED_PERMILLE`` of a primary's: it computes only after a loss. Who is slowest in the end
(THROUGHPUT) is not linear; the sum stands for it, and the answer is priced by ``costs`` like any plan.

*Too slow.* A plan that survives may be slower than one that does not, by ``SLOWER_PERMILLE`` at most. Terms ask a gain
of 20 % by default, and 1 / 1.25 is just that: the way back is hardly a gain, and nobody agrees to it (``validity``).

Voters ask the same question about the nodes of a plan that is proposed, from their own figures, and audit it as the
answer (``unfooted``): V x M x K sums.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from shoal_agent.core.backbone import WHOLE_MAX, BackboneProblem, CoreService, Counts, Edge, Machine, Weights
from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.bracing import BRACED_MAX
from shoal_agent.core.costs import Costs, Memory, known_widths, trusted, usable
from shoal_agent.core.crowding import price, under_load
from shoal_agent.core.decision import FETCH_BYTES_PER_S, OPEN_BYTES_PER_S
from shoal_agent.core.problem import AS_IT_IS, Candidate, Links, SplitProblem
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

SLOWER_PERMILLE: Final = 250
"""How much slower a plan may be for the sake of surviving any single loss."""
SCALE: Final = 1_000_000
"""The longest acceptable time, in the unit of the objective."""
BACKED_PERMILLE: Final = 4
"""What a standby's time weighs: enough to choose the faster of two, never to move a primary for it."""
STAYS_PERMILLE: Final = 1
"""Who is the primary stays it, unless another way is better by so much."""
FETCH_BYTES_MIN: Final = 1_000_000
"""However small a stage is, whoever has it already comes before others that are as good."""
_PER_FRAME: Final = 1_000_000_000_000
"""A microsecond in nanoseconds, and the thousandths and thousands in which a backbone counts rates (``Weights``)."""


def slowest_us(score_us: int) -> int:
    """How long a token may take by a plan that survives, if it takes ``score_us`` by one that does not."""
    return score_us * (1000 + SLOWER_PERMILLE) // 1000


def footing(
    problem: SplitProblem,
    stages: Sequence[PlanStage],
    standbys_max: int,
    validity_ms: int,
    among: Sequence[NodeId] | None = None,
) -> BackboneProblem | None:
    """Where the primaries of ``stages`` and one to ``standbys_max`` standbys of each should be, of the nodes ``among``.

    None: there is nothing to ask, because a host is no candidate, has two stages, or is alone.
    """
    hosts, head = [stage.node for stage in stages], price(problem, stages)
    crowd = _crowd(problem, hosts, among)
    if head is None or len(set(hosts)) < len(hosts) or len(crowd) <= 1 or not 0 < len(stages) <= BRACED_MAX:
        return None
    memory, per_token = Memory(problem), 1000 * problem.workload.answer_tokens
    sizes = [memory.needed(s.first_block, s.last_block + 1) - problem.shared_bytes for s in stages]
    if standbys_max < 1 or not all(1 <= size <= WHOLE_MAX for size in sizes):
        return None
    longest_ns = slowest_us(head.score_us + 1) * per_token
    rooms = tuple(max(0, min(node.memory_bytes - problem.shared_bytes, WHOLE_MAX)) for node in crowd)
    edges, network = _traffic(problem, stages, longest_ns)
    times = _times(problem, stages, crowd)
    each = range(len(stages))
    return BackboneProblem(
        ("memory_bytes", "seat", *(f"stage {index}" for index in each)),
        tuple(Machine(node.node, (room, 1, *(1 for _ in each))) for node, room in zip(crowd, rooms, strict=True)),
        (
            *(_primary(problem, stages, sizes, index, crowd, rooms, times[index], longest_ns) for index in each),
            *(_standby(problem, stages, sizes, index, crowd, standbys_max) for index in each),
        ),
        edges,
        problem.links if edges else Links(),
        link_share_permille=1000,
        current=_current(stages, crowd) * 2,
        weights=Weights(quality=SCALE, network=network, moved_mb=_moved_mb(validity_ms)),
        quality_permille=(
            *(_worth_first(crowd, host, row, longest_ns) for host, row in zip(hosts, times, strict=True)),
            *(_worth_next(crowd, hosts, row, longest_ns) for row in times),
        ),
    )


def _crowd(problem: SplitProblem, hosts: Sequence[NodeId], among: Sequence[NodeId] | None) -> list[Candidate]:
    """Candidates looked at, by node id: those who host, then those with the most memory."""
    able = [c for c in problem.candidates if usable(c) and (among is None or c.node in among)]
    first = sorted(able, key=lambda c: (c.node not in hosts, -c.memory_bytes, c.node))
    return sorted(first[:BRACED_MAX], key=lambda c: c.node)


def _times(problem: SplitProblem, stages: Sequence[PlanStage], crowd: Sequence[Candidate]) -> list[list[int]]:
    """How long each stage takes on each node, in the line that it would be (``crowding``)."""
    loaded = {candidate.node: candidate for candidate in under_load(problem, stages).candidates}
    costs = Costs(problem)
    return [[costs.stage(loaded[node.node], s.first_block, s.last_block + 1) for node in crowd] for s in stages]


def _traffic(problem: SplitProblem, stages: Sequence[PlanStage], longest_ns: int) -> tuple[tuple[Edge, ...], int]:
    """What goes from primary to primary, a frame at a time; and what a microsecond of it weighs."""
    costs, width_of = Costs(problem), known_widths(problem)
    edges, frames = [], 1
    for index, (_, after) in enumerate(pairwise(stages)):
        frames, size = costs.carried(after.first_block, width_of.get(after.width, AS_IT_IS))
        edges.append(Edge(index, index + 1, 1, -(-size // frames)))
    return tuple(edges), min(SCALE * frames * _PER_FRAME // longest_ns, WHOLE_MAX)


def _primary(
    problem: SplitProblem,
    stages: Sequence[PlanStage],
    sizes: Sequence[int],
    index: int,
    crowd: Sequence[Candidate],
    rooms: Sequence[int],
    times: Sequence[int],
    longest_ns: int,
) -> CoreService:
    holds = {stage.node: size for stage, size in zip(stages, sizes, strict=True) if stage is not stages[index]}
    barred = dict.fromkeys(_strangers(problem, stages[index], crowd))
    for node, room, time_ns in zip(crowd, rooms, times, strict=True):
        if time_ns > longest_ns or sizes[index] + holds.get(node.node, 0) > room:
            barred[node.node] = None
    one = _service(f"primary {index}", sizes, index, (1,))
    return replace(one, hosts_max=1, barred=tuple(barred))


def _standby(
    problem: SplitProblem,
    stages: Sequence[PlanStage],
    sizes: Sequence[int],
    index: int,
    crowd: Sequence[Candidate],
    standbys_max: int,
) -> CoreService:
    one = _service(f"standby {index}", sizes, index, (0,))
    return replace(one, hosts_max=standbys_max, barred=tuple(_strangers(problem, stages[index], crowd)))


def _service(name: str, sizes: Sequence[int], index: int, seat: tuple[int, ...]) -> CoreService:
    own = (int(index == other) for other in range(len(sizes)))
    return CoreService(
        name,
        (sizes[index], *seat, *own),
        survive_permille=0,  # that somebody is left follows from there being two of them on two nodes
        hosts_min=1,
        per_host_max=1,
        price=SCALE,
        weight_bytes=max(sizes[index], FETCH_BYTES_MIN),
    )


def _strangers(problem: SplitProblem, stage: PlanStage, crowd: Sequence[Candidate]) -> list[NodeId]:
    """Who may not hold its blocks, by the zone it stands in."""
    return [c.node for c in crowd if not trusted(problem, c, stage.first_block, stage.last_block + 1)]


def _current(stages: Sequence[PlanStage], crowd: Sequence[Candidate]) -> Counts:
    """Who has the blocks of each stage: they move nowhere if it changes its part."""
    return tuple(tuple(int(c.node in (stage.node, *stage.standbys)) for c in crowd) for stage in stages)


def _moved_mb(validity_ms: int) -> int:
    """A megabyte, if a plan that stands for ``validity_ms`` costs all of ``SCALE``."""
    moving_ms = 1_000_000_000 // FETCH_BYTES_PER_S + 1_000_000_000 // OPEN_BYTES_PER_S
    return -(-SCALE * moving_ms // validity_ms)


def _worth_first(crowd: Sequence[Candidate], host: NodeId, times: Sequence[int], longest_ns: int) -> tuple[int, ...]:
    """As a primary: by how fast it is; who is it already first."""
    late = (-(-1000 * ns // longest_ns) for ns in times)
    moves = (0 if node.node == host else STAYS_PERMILLE for node in crowd)
    return tuple(max(0, 1000 - time - move) for time, move in zip(late, moves, strict=True))


def _worth_next(
    crowd: Sequence[Candidate], hosts: Sequence[NodeId], times: Sequence[int], longest_ns: int
) -> tuple[int, ...]:
    """As a standby: nodes without a stage of their own first, then fast ones."""
    slow = (BACKED_PERMILLE * min(ns, longest_ns) // longest_ns for ns in times)
    return tuple(1000 - late - (node.node in hosts) for node, late in zip(crowd, slow, strict=True))


def footed(asked: BackboneProblem, stages: Sequence[PlanStage], counts: Counts) -> tuple[PlanStage, ...]:
    """``stages`` with the primaries and standbys that ``counts`` gives them, best first."""
    found = []
    for index, stage in enumerate(stages):
        rows = counts[index], counts[len(stages) + index]
        primary, backing = ([v for v, count in enumerate(row) if count] for row in rows)
        worth = asked.quality_permille[len(stages) + index]
        best = sorted(backing, key=lambda v: (-worth[v], asked.machines[v].node))
        standbys = tuple(asked.machines[v].node for v in best)
        found.append(replace(stage, node=asked.machines[primary[0]].node, standbys=standbys))
    return tuple(found)


def unfooted(
    problem: SplitProblem, before: Sequence[PlanStage], after: Sequence[PlanStage], standbys_max: int, validity_ms: int
) -> list[str]:
    """What is wrong with ``after`` as an answer to the question about ``before``, by these figures; empty: nothing."""
    nodes = dict.fromkeys(node for stage in (*before, *after) for node in (stage.node, *stage.standbys))
    asked = footing(problem, before, standbys_max, validity_ms, list(nodes))
    if asked is None:
        return ["form: it cannot be asked where these stages should stand"]
    known = {machine.node for machine in asked.machines}
    strangers = [node for stage in after for node in (stage.node, *stage.standbys) if node not in known]
    if strangers:
        return [f"form: {strangers[0]} is no candidate"]
    primaries = [tuple(int(machine.node == stage.node) for machine in asked.machines) for stage in after]
    standbys = [tuple(int(machine.node in stage.standbys) for machine in asked.machines) for stage in after]
    return verify(asked, (*primaries, *standbys), None)
