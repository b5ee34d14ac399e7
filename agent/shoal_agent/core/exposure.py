"""The cheapest split for every number of blocks outside the trusted zone: how much time an ounce of privacy costs.

The programme of ``search``, with one number more: q, the blocks so far on nodes that are not trusted. A stage on a
trusted node leaves q as it is. A stage on another adds its length, so it leaves q *minus the position* as it is: along
such a diagonal it is the same sliding-window minimum as ever. So the whole profile over q costs L + 1 times one search.

Of a U, head and tail are each held against the source's memory; where that is too little for both, the range of heads
is halved as in ``tight``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from shoal_agent.core.figures import UNREACHED, Figures
from shoal_agent.core.problem import SplitProblem
from shoal_agent.core.search import Run, arrivals, lay
from shoal_agent.core.tight import halves, has_room, tail_from
from shoal_protocol.messages import Objective


@dataclass(frozen=True, slots=True)
class Exposed:
    """The least weighted score with exactly ``blocks`` outside, and how."""

    blocks: int
    score: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class _End:
    score: int
    mask: int
    last: int
    end: int


def profile(
    problem: SplitProblem, figures: Figures, outside: tuple[bool, ...], source: int | None
) -> Iterator[Exposed]:
    """The best for each number of blocks outside, without a U and with one; several may name the same number."""
    yield from Pass(problem, figures, outside, None).solve()
    ranges = [] if source is None or outside[source] else [(1, figures.reach[source][0])]
    while ranges and source is not None:
        low, high = ranges.pop()
        first = tail_from(figures, source, low)
        if low > high or first is None:
            continue
        found = list(Pass(problem, figures, outside, source, (low, high), first).solve())
        wrong = next((each.runs for each in found if not has_room(figures, each.runs)), None)
        if wrong is None:
            yield from found
        else:
            ranges += halves(figures, source, wrong, low, high)


@dataclass(slots=True)
class Pass:
    """One pass: over all nodes, or over all others between a head and a tail on ``source``, which is trusted."""

    problem: SplitProblem
    figures: Figures
    outside: tuple[bool, ...]
    source: int | None
    heads: tuple[int, int] = (1, UNREACHED)
    """The ends that a head may have, first and last."""
    tail_from: int = 1
    """Where the earliest tail may begin."""
    _rows: dict[tuple[int, int], list[list[int] | None]] = field(default_factory=dict)
    """By (mask of nodes used, last node), then q, then end."""
    _best: dict[int, _End] = field(default_factory=dict)

    def solve(self) -> Iterator[Exposed]:
        """The best for each number of blocks outside, fewest first."""
        nodes, own = len(self.figures.nodes), 0 if self.source is None else 2
        for mask in range(1, 1 << nodes):
            stages = mask.bit_count() + own
            if stages > self.problem.stages_max or (self.source is not None and mask >> self.source & 1):
                continue
            for last in (n for n in range(nodes) if mask >> n & 1):
                self._rows[mask, last] = self._fill(mask, last)
                if stages >= self.problem.stages_min and stages - own // 2 >= self.problem.nodes_min:
                    self._finish(mask, last)
        for q in sorted(self._best):
            best = self._best[q]
            yield Exposed(q, best.score, self._runs(best, q))

    def _fill(self, mask: int, last: int) -> list[list[int] | None]:
        figures, ends = self.figures, self.figures.ends
        path, reach = figures.path[last], figures.reach[last]
        came = [self._arrivals(mask, last, q) for q in range(ends + 1)]
        if not self.outside[last]:
            return [None if each is None else lay(each, path, reach, Objective.LATENCY) for each in came]
        rows = [[UNREACHED] * (ends + 1) for _ in came]
        for diagonal in range(-ends, 1):
            begun = [UNREACHED] * ends
            for start in range(-diagonal, ends):
                each = came[diagonal + start]
                begun[start] = UNREACHED if each is None else each[start]
            if min(begun, default=UNREACHED) < UNREACHED:
                row = lay(begun, path, reach, Objective.LATENCY)
                for end in range(max(1, -diagonal), ends + 1):
                    rows[diagonal + end][end] = row[end]
        return [row if min(row) < UNREACHED else None for row in rows]

    def _arrivals(self, mask: int, last: int, q: int) -> list[int] | None:
        figures, before = self.figures, mask ^ 1 << last
        if not before and self.source is None:
            return [figures.enter[last], *[UNREACHED] * (figures.ends - 1)] if q == 0 else None
        ways = [(row, figures.link[u][last]) for u, row in self._senders(before, q)]
        return arrivals(ways, Objective.LATENCY) if ways else None

    def _senders(self, before: int, q: int) -> Iterator[tuple[int, list[int]]]:
        if not before and self.source is not None and q == 0:
            figures, source = self.figures, self.source
            (first, last), reach = self.heads, figures.reach[source][0]
            yield (
                source,
                [
                    figures.enter[source] + cost if first <= end <= min(last, reach) else UNREACHED
                    for end, cost in enumerate(figures.path[source])
                ],
            )
        for u in (n for n in range(len(self.figures.nodes)) if before >> n & 1):
            row = self._rows[before, u][q]
            if row is not None:
                yield u, row

    def _finish(self, mask: int, last: int) -> None:
        figures, ends, source = self.figures, self.figures.ends, self.source
        for q, row in enumerate(self._rows[mask, last]):
            if row is None:
                continue
            score, end = row[ends] + figures.leave[last], ends
            if source is not None:
                path, reach, link = figures.path[source], figures.reach[source], figures.link[last][source]
                starts = (i for i in range(self.tail_from, ends) if reach[i] == ends)
                tails = ((row[i] + link[i] + path[ends] - path[i], i) for i in starts)
                score, end = min(tails, default=(UNREACHED, ends))
                score += figures.leave[source]
            if score < UNREACHED and (q not in self._best or score < self._best[q].score):
                self._best[q] = _End(score, mask, last, end)

    def _runs(self, best: _End, q: int) -> tuple[Run, ...]:
        """The way to ``best``, found again from its end."""
        figures, mask, last, end, found = self.figures, best.mask, best.last, best.end, []
        if self.source is not None:
            found.append(self._run(last, self.source, end, figures.ends))
        while mask:
            row = self._rows[mask, last][q]
            assert row is not None, "it was reached"
            start, q, arrived = self._begun(mask, last, q, end, row[end])
            mask ^= 1 << last
            sender = last
            if mask or self.source is not None:
                ways = ((u, row[start] + figures.link[u][last][start]) for u, row in self._senders(mask, q))
                sender = next(u for u, whole in ways if whole == arrived)
            found.append(self._run(sender, last, start, end))
            last, end = sender, start
        if self.source is not None:
            found.append(Run(self.source, 0, end))
        return tuple(reversed(found))

    def _begun(self, mask: int, last: int, q: int, end: int, cost: int) -> tuple[int, int, int]:
        """(start, blocks outside before, cost of arriving) of the stage on ``last`` that ends at ``end``."""
        path, reach = self.figures.path[last], self.figures.reach[last]
        for start in range(end):
            before = q - (end - start) * self.outside[last]
            came = self._arrivals(mask, last, before) if before >= 0 and reach[start] >= end else None
            if came is not None and came[start] + path[end] - path[start] == cost:
                return start, before, came[start]
        raise AssertionError("what was reached began somewhere")

    def _run(self, sender: int, node: int, start: int, end: int) -> Run:
        return Run(node, start, end, self.figures.fastest_width(sender, node, start) if start else 0)
