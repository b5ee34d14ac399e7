r"""Where to cut a model, and which node gets which piece.

A model is a chain of blocks; a *split* cuts it into contiguous stages and gives each to a different node. Think of
towns along one road and couriers of different strength: how far each courier carries the parcel, and who hands over
to whom, so that the parcel arrives soonest (LATENCY) or so that the slowest leg is as short as possible (THROUGHPUT).

*The programme.* Let F(j, S, n) be the least cost of blocks 0..j-1 on exactly the nodes S, the last stage on n::

    F(j, S, n) = min over i < j, u in S \ {n} of  F(i, S \ {n}, u) (+) link(u, n, i) (+) stage(n, i, j)

where (+) is addition for LATENCY and max for THROUGHPUT: both keep "a cheaper prefix never hurts", which is all
dynamic programming needs. S is a bit mask, so "no node twice" is exact, the number of stages is the number of bits
of S, and memory is checked per stage alone. The arrival at (i, n) is minimised over u before the end j is chosen,
which leaves 2^N N^2 L + 2^N N L^2 steps: 32 blocks over 8 nodes take 0.1 s of plain Python, 128 blocks 1 s.

*The terms* are those of ``costs``, in whole nanoseconds, over candidates sorted by node id, first best wins: whoever
solves the same problem gets the same split, whatever the order in which it heard of the nodes. Equal scores go to
fewer stages, then to lower ids in front. For every node left out the programme knows on its way what the best split
*with* it would cost: that is what a left-out node is told.

*Beyond 8 candidates* the exact search would double with each; eight are chosen by speed times useful memory, and if
those cannot hold the model, the eight with the most memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import add
from typing import Final

from shoal_agent.core.costs import Costs, Memory, idle_permille, usable
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.problem import (
    CANDIDATES_EXACT_MAX,
    Candidate,
    Infeasible,
    Rival,
    Split,
    SplitProblem,
    SplitStage,
    stages_of,
)
from shoal_agent.core.standbys import back_up
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import Objective, Plan, Terms

_UNREACHED: Final = 1 << 120
"""Dearer than any split: a thousand blocks of an hour each, in nanoseconds, stay below 2^62."""

Hosts = tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Genesis:
    """A first plan and the split it was made from."""

    plan: Plan
    split: Split


def split_model(problem: SplitProblem) -> Split | Infeasible:
    """The cheapest split of ``problem``, exact for up to CANDIDATES_EXACT_MAX candidates."""
    _check(problem)
    able = sorted((c for c in problem.candidates if usable(c)), key=lambda c: c.node)
    hosts_max = min(len(able), CANDIDATES_EXACT_MAX, len(problem.blocks))
    if hosts_max < problem.stages_min:
        reason = f"{problem.stages_min} stages need as many nodes and blocks: {len(able)} usable nodes, "
        reason += f"{len(problem.blocks)} blocks, at most {CANDIDATES_EXACT_MAX} stages"
        return Infeasible(reason, _room_of(problem))
    for shortlist in _shortlists(problem, able):
        split = _search(problem, _Figures(problem, shortlist))
        if split is not None:
            return split
    return Infeasible(_too_large(problem), _room_of(problem))


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
        voters(tuple(stage.node for stage in split.stages)),
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
    assert len({c.node for c in problem.candidates}) == len(problem.candidates), "one candidate per node"


def _shortlists(problem: SplitProblem, able: list[Candidate]) -> Iterator[list[Candidate]]:
    """Which candidates to search, best guess first; each in order of node id."""
    if len(able) <= CANDIDATES_EXACT_MAX:
        yield able
        return
    whole = Memory(problem).needed(0, len(problem.blocks))

    def power(candidate: Candidate) -> int:
        return candidate.speed_macs_per_s * idle_permille(candidate) * min(candidate.memory_bytes, whole)

    by_power = sorted(able, key=lambda c: (-power(c), c.node))
    by_memory = sorted(able, key=lambda c: (-c.memory_bytes, c.node))
    for order in (by_power, by_memory):
        yield sorted(order[:CANDIDATES_EXACT_MAX], key=lambda c: c.node)


class _Figures:
    """Every term of the programme, worked out once; nodes and blocks by index."""

    def __init__(self, problem: SplitProblem, nodes: list[Candidate]) -> None:
        self.nodes = nodes
        self.memory = Memory(problem)
        self._costs = Costs(problem)
        starts = range(len(problem.blocks))
        self._end = len(problem.blocks)
        self.stage = [[self._stage_costs(node, start) for start in starts] for node in nodes]
        """stage[n][i][k]: blocks i..i+k on node n; the list ends where n's memory does."""
        self.link = [[[self._costs.hop(u.node, n.node, start) for start in starts] for n in nodes] for u in nodes]
        """link[u][n][i]: what leaves block i-1, from node u to node n (unused at i = 0)."""
        self.enter = [self._costs.enter(node.node) for node in nodes]
        self.leave = [self._costs.leave(node.node) for node in nodes]

    def _stage_costs(self, node: Candidate, start: int) -> list[int]:
        costs = []
        for end in range(start + 1, self._end + 1):
            if self.memory.needed(start, end) > node.memory_bytes:
                break
            costs.append(self._costs.stage(node, start, end))
        return costs


@dataclass(frozen=True, slots=True)
class _Row:
    """F(., S, n) for one set and last node, by end j; ``origin[j]`` is (i, u), u = -1 at the ingress."""

    cost: list[int]
    origin: list[tuple[int, int]]


_Join = Callable[[int, int], int]
"""(+): how the cost of one more leg joins what came before."""
_Rows = dict[tuple[int, int], _Row]
"""Rows by (mask of nodes used, last node)."""
_Best = tuple[int, int, int, int]
"""(score_ns, stages, mask, minus the last node): compared in this order, so lower ids serve earlier stages."""


def _search(problem: SplitProblem, figures: _Figures) -> Split | None:
    """The programme of this module's docstring; None if nothing fits."""
    join: _Join = add if problem.objective is Objective.LATENCY else max
    nodes, ends = len(figures.nodes), len(problem.blocks)
    rows: _Rows = {}
    best: _Best | None = None
    best_with = [_UNREACHED] * nodes
    for mask in range(1, 1 << nodes):
        stages = mask.bit_count()
        if stages > problem.stages_max:
            continue
        for last in (n for n in range(nodes) if mask >> n & 1):
            arrivals = _arrivals(rows, figures, mask ^ 1 << last, last, join)
            row = rows[mask, last] = _extend(arrivals, figures.stage[last], ends, join)
            if stages >= problem.stages_min and row.cost[ends] < _UNREACHED:
                whole = (join(row.cost[ends], figures.leave[last]), stages, mask, -last)
                best = whole if best is None else min(best, whole)
                _note(best_with, mask, whole[0])
    if best is None:
        return None
    split = _trace(problem, figures, rows, best)
    return replace(split, rivals=tuple(_rivals(problem, figures, best[2], best_with)))


def _note(best_with: list[int], mask: int, score_ns: int) -> None:
    """A split of the nodes in ``mask`` costs ``score_ns``: no better one with any of them may be known."""
    for node, known in enumerate(best_with):
        if mask >> node & 1 and score_ns < known:
            best_with[node] = score_ns


def _rivals(problem: SplitProblem, figures: _Figures, chosen: int, best_with: list[int]) -> Iterator[Rival]:
    """What it would cost to give each node that was not chosen a stage."""
    per_token = 1000 * problem.workload.answer_tokens
    for index, candidate in enumerate(figures.nodes):
        if not chosen >> index & 1:
            reached = best_with[index] < _UNREACHED
            yield Rival(candidate.node, best_with[index] // per_token if reached else None)


def _arrivals(rows: _Rows, figures: _Figures, before: int, last: int, join: _Join) -> list[tuple[int, int, int]]:
    """(start, cost, previous node) of every way to come to node ``last`` with the nodes ``before`` already used."""
    if before == 0:
        return [(0, figures.enter[last], -1)]
    previous = [u for u in range(len(figures.nodes)) if before >> u & 1]
    arrivals = []
    for start in range(before.bit_count(), len(figures.stage[last])):
        ways = (
            (join(rows[before, u].cost[start], figures.link[u][last][start]), -u)
            for u in previous
            if rows[before, u].cost[start] < _UNREACHED
        )
        cost, node = min(ways, default=(_UNREACHED, 0))
        if cost < _UNREACHED:
            arrivals.append((start, cost, -node))
    return arrivals


def _extend(arrivals: list[tuple[int, int, int]], stage: list[list[int]], ends: int, join: _Join) -> _Row:
    """Lay a stage on the last node from every arrival to every end its memory allows."""
    row = _Row([_UNREACHED] * (ends + 1), [(0, -1)] * (ends + 1))
    cost_at = row.cost
    for start, arrived, node in arrivals:
        for end, stage_ns in enumerate(stage[start], start + 1):
            total = join(arrived, stage_ns)
            if total < cost_at[end]:
                cost_at[end] = total
                row.origin[end] = (start, node)
    return row


def _trace(problem: SplitProblem, figures: _Figures, rows: _Rows, best: _Best) -> Split:
    """Walk the origins back from the end and name the terms."""
    score_ns, _, mask, minus_last = best
    last = -minus_last
    per_token = 1000 * problem.workload.answer_tokens
    stages: list[SplitStage] = []
    end = len(problem.blocks)
    while last >= 0:
        start, previous = rows[mask, last].origin[end]
        link_ns = figures.enter[last] if previous < 0 else figures.link[previous][last][start]
        stage_ns = figures.stage[last][start][end - start - 1]
        memory = figures.memory.needed(start, end)
        node = figures.nodes[last].node
        stages.append(SplitStage(node, start, end - 1, stage_ns // per_token, link_ns // per_token, memory))
        mask, last, end = mask ^ 1 << last, previous, start
    return Split(tuple(reversed(stages)), score_ns // per_token)


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
    lines = []
    for candidate in sorted(problem.candidates, key=lambda c: c.node):
        longest = max(len(costs) for costs in _Figures(problem, [candidate]).stage[0]) if usable(candidate) else 0
        lines.append(
            f"{candidate.node}: offers {candidate.memory_bytes} bytes at {candidate.speed_macs_per_s} MAC/s, "
            f"holds at most {longest} of {len(problem.blocks)} blocks in a row"
        )
    return tuple(lines)
