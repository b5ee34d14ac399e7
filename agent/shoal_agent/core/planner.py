r"""Where to cut a model, and which node gets which piece.

A model is a chain of blocks; a *split* cuts it into contiguous stages and gives each to a different node. Think of
towns along one road and couriers of different strength: how far each courier carries the parcel, and who hands over
to whom, so that the parcel arrives soonest (LATENCY) or so that the slowest leg is as short as possible (THROUGHPUT).

*How it is found.* Over at most eight candidates by ``search``, exactly: order, cuts and widths. That search cannot see
two kinds of budget: the quality that narrow widths may cost in all, and the memory that head and tail of a U take of
the source together. If its answer keeps both it is the best there is, for it was found among more than is allowed. If
not, ``tight`` finds the best that does, exactly too; and where requests may come in anywhere, it looks for a U on
everybody who may hold both ends.

*Beyond 8 candidates* the exact search would double with each. It is asked twice: about the eight strongest by speed
times useful memory, and about those that ``orders`` proposes; the better answer counts. If neither holds the model,
about the eight with the most memory.

*The terms* are those of ``costs``, in whole nanoseconds, over candidates sorted by node id, first best wins: whoever
solves the same problem gets the same split, whatever the order in which it heard of the nodes. Equal scores go to
fewer stages, then to lower ids in front. One node may be the answer. For every node left out the search knows on its
way what the best split *with* it would cost: that is what a left-out node is told.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from shoal_agent.core.costs import Memory, price_alone, trusted, usable
from shoal_agent.core.crowding import split_crowded
from shoal_agent.core.figures import UNREACHED, Figures, reaches
from shoal_agent.core.orders import promising, strongest
from shoal_agent.core.plan import GENESIS_PARENT, hosts_of
from shoal_agent.core.problem import (
    CANDIDATES_EXACT_MAX,
    Candidate,
    Infeasible,
    Rival,
    Split,
    SplitProblem,
    ends_guarded,
    stages_of,
)
from shoal_agent.core.search import Found, Run, cheapest, sources_of, stages_of_runs
from shoal_agent.core.standbys import back_up
from shoal_agent.core.tight import cheapest_within, is_true
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import Plan, Terms

Hosts = tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Genesis:
    """A first plan and the split it was made from."""

    plan: Plan
    split: Split


def split_model(problem: SplitProblem) -> Split | Infeasible:
    """The cheapest split of ``problem``, exact for up to CANDIDATES_EXACT_MAX candidates and a session that is alone.

    In a crowd, see ``crowding``.
    """
    _check(problem)
    return split_crowded(problem, _split_alone)


def _split_alone(problem: SplitProblem) -> Split | Infeasible:
    able = sorted((c for c in problem.candidates if usable(c)), key=lambda c: c.node)
    stages_max = min(len(able) + problem.u_shape, CANDIDATES_EXACT_MAX, len(problem.blocks))
    if stages_max < problem.stages_min or len(able) < problem.nodes_min:
        reason = f"{problem.stages_min} stages need as many nodes and blocks: {len(able)} usable nodes, "
        reason += f"{len(problem.blocks)} blocks, at most {CANDIDATES_EXACT_MAX} stages"
        return Infeasible(reason, _room_of(problem))
    lost = _untrusted(problem, able)
    if lost is not None:
        return Infeasible(lost, _room_of(problem))
    splits = [_solve(problem, shortlist) for shortlist in _shortlists(problem, able)]
    best = min((split for split in splits if split is not None), key=_rank, default=None)
    if best is None and len(able) > CANDIDATES_EXACT_MAX:
        by_memory = sorted(able, key=lambda c: (-c.memory_bytes, c.node))
        best = _solve(problem, _by_id(by_memory[:CANDIDATES_EXACT_MAX]))
    return Infeasible(_too_large(problem), _room_of(problem)) if best is None else best


def plan_genesis(
    problem: SplitProblem, deployment: DeploymentId, model: Digest, terms: Terms, voters: Callable[[Hosts], Hosts]
) -> Genesis | Infeasible:
    """The plan of epoch 0 for ``deployment`` of package ``model``, or why there is none.

    ``voters`` names, for the hosts, who decides the epoch after.
    """
    split = split_model(problem)
    if isinstance(split, Infeasible):
        return split
    backing = back_up(problem, stages_of(split), terms.standbys)
    plan = Plan(
        deployment,
        Epoch(0),
        GENESIS_PARENT,
        model,
        problem.workload.context_tokens_max,
        backing.stages,
        terms,
        voters(hosts_of(backing.stages)),
        score_us=split.score_us,
        reason=backing.text[:REASON_CHARS_MAX],
    )
    return Genesis(plan, split)


def _check(problem: SplitProblem) -> None:
    """The caller's duties; a breach is a bug, not a bad cluster."""
    assert problem.blocks, "a model has blocks"
    assert problem.reference_macs_per_s > 0, "the profile names the speed of its device"
    assert 1 <= problem.stages_min <= problem.stages_max, "stages_min..stages_max is a range"
    assert problem.workload.answer_tokens > 0, "a session answers at least one token"
    assert len(problem.zones) in {0, len(problem.blocks)}, "zones are named for every block, or for none"
    assert len({c.node for c in problem.candidates}) == len(problem.candidates), "one candidate per node"


def _rank(split: Split) -> tuple[int, int]:
    return split.score_us, len(split.stages)


def _by_id(nodes: Iterable[Candidate]) -> list[Candidate]:
    return sorted(nodes, key=lambda c: c.node)


def _shortlists(problem: SplitProblem, able: list[Candidate]) -> Iterator[list[Candidate]]:
    """Which candidates to search; each in order of node id."""
    if len(able) <= CANDIDATES_EXACT_MAX:
        yield able
        return
    ranked = strongest(able, Memory(problem).needed(0, len(problem.blocks)))
    yield _by_id(ranked[:CANDIDATES_EXACT_MAX])
    source = _homes(problem, ranked)[:1]
    proposed = [*promising(problem, ranked)[: CANDIDATES_EXACT_MAX - len(source)], *source, *ranked]
    second = _by_id(list(dict.fromkeys(proposed))[:CANDIDATES_EXACT_MAX])
    if second != _by_id(ranked[:CANDIDATES_EXACT_MAX]):
        yield second


def _homes(problem: SplitProblem, ranked: list[Candidate]) -> list[Candidate]:
    """Who must not be missed for the ends of a U: the ingress, or who may hold both where not everybody may."""
    last = len(problem.blocks) - 1
    if not problem.u_shape:
        return []
    if problem.ingress is not None:
        return [c for c in ranked if c.node == problem.ingress]
    guarded = ends_guarded(problem.zones)
    return [c for c in ranked if guarded and trusted(problem, c, 0, 1) and trusted(problem, c, last, last + 1)]


def _solve(problem: SplitProblem, shortlist: list[Candidate]) -> Split | None:
    """The best split over ``shortlist``; None if nothing fits."""
    figures = Figures(problem, shortlist)
    found = cheapest(problem, figures)
    runs = None if found is None else found.runs
    true = found is None or is_true(problem, figures, found)
    if not true or (problem.ingress is None and sources_of(problem, figures)):
        runs = cheapest_within(problem, figures, found)
    if runs is None:
        return None
    rivals = tuple(_rivals(problem, figures, found, runs)) if found is not None and true else ()
    return _told(problem, figures, runs, rivals)


def _told(problem: SplitProblem, figures: Figures, runs: Sequence[Run], rivals: tuple[Rival, ...]) -> Split:
    """``runs`` with their prices."""
    split = price_alone(problem, stages_of_runs(figures, runs))
    assert split is not None, "only candidates are searched"
    return replace(split, rivals=rivals)


def _rivals(problem: SplitProblem, figures: Figures, found: Found, runs: Sequence[Run]) -> Iterator[Rival]:
    """What it would cost to give each node that has none of ``runs`` a stage, as ``found`` says."""
    per_token = 1000 * problem.workload.answer_tokens
    chosen = {run.node for run in runs}
    for index, (candidate, score_ns) in enumerate(zip(figures.nodes, found.best_with, strict=True)):
        if index not in chosen:
            yield Rival(candidate.node, score_ns // per_token if score_ns < UNREACHED else None)


def _untrusted(problem: SplitProblem, able: Iterable[Candidate]) -> str | None:
    """What is wrong if a block has no node in its zones at all."""
    there = {candidate.zone for candidate in able}
    for block, zones in enumerate(problem.zones):
        if zones and there.isdisjoint(zones):
            return f"block {block} may be in zone {' or '.join(zones)} only, where no usable node is"
    return None


def _too_large(problem: SplitProblem) -> str:
    load = problem.workload
    memory, blocks = Memory(problem), len(problem.blocks)
    offered = sum(c.memory_bytes for c in problem.candidates)
    return (
        f"no {problem.stages_min} to {problem.stages_max} stages of {blocks} blocks fit: the model takes "
        f"{memory.needed(0, blocks)} bytes ({memory.kv(0, blocks)} of them KV for {load.sessions} x "
        f"{load.context_tokens_max} tokens), {len(problem.candidates)} nodes offer {offered}"
    )


def _room_of(problem: SplitProblem) -> tuple[str, ...]:
    """One line per candidate: what it offers and the longest run of blocks it could hold."""
    lines, memory = [], Memory(problem)
    for candidate in sorted(problem.candidates, key=lambda c: c.node):
        ends = reaches(problem, memory, candidate) if usable(candidate) else []
        longest = max((end - start for start, end in enumerate(ends)), default=0)
        lines.append(
            f"{candidate.node}: offers {candidate.memory_bytes} bytes at {candidate.speed_macs_per_s} MAC/s, "
            f"holds at most {longest} of {len(problem.blocks)} blocks in a row"
        )
    return tuple(lines)
