r"""The cheapest split over at most eight nodes, each holding one run of blocks: the exact programme.

Let F(j, S, n) be the least cost of blocks 0..j-1 on exactly the nodes S, the last run on n::

    F(j, S, n) = min over i < j, u in S \ {n} of  F(i, S \ {n}, u) (+) link(u, n, i) (+) (path(n, j) - path(n, i))

where (+) is addition for LATENCY and max for THROUGHPUT: both keep "a cheaper prefix never hurts", which is all
dynamic programming needs. S is a bit mask, so "no node twice" is exact, and the number of stages is the number of bits.

*The U.* A device that may hold the head and the tail (its data enters and leaves there) is one node twice, which a set
cannot say. So, where there is an ingress, there is a second pass over all other nodes, which begins with a head on the
source and ends with a tail on it. Its head and its tail are each held against the source's memory, not both together,
and (THROUGHPUT) its processor has the tail to do and one block of the head: what comes out may be too good to be true,
and who asks must look. The same is so of the quality budget: every cut gets its fastest width.

*Limits.* Where one of these two bites, ``tight`` searches again within ``Limits``: one row for every sum of losses that
some cuts can have (``Level``), heads and tails in given ranges, and only what may become cheaper than something known.

*Why it is fast.* The arrival A(i) at (i, n) is minimised over u before the end is chosen. Then the best start for each
end is a sliding-window minimum, because memory and trust only ever move the window forward: a start that is later and
no dearer than another one makes that one useless for all ends to come, so a queue of useful starts is enough, and each
start enters and leaves it once. For LATENCY, A(i) - path(i) is what is compared. For THROUGHPUT, A(i) is, and a start
also goes once the stage from it is longer than all there is to pay at the next, which stays so as stages grow. In all
2^N N^2 L steps of C and 2^N N L of Python; the ways themselves are not written down, but found again from the end.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import add
from typing import Final

from shoal_agent.core.figures import FASTEST, UNREACHED, Figures
from shoal_agent.core.plan import U_STAGES_MIN
from shoal_agent.core.problem import SplitProblem
from shoal_protocol.messages import Objective, PlanStage

Join = Callable[[int, int], int]
"""(+): how the cost of one more leg joins what came before."""


@dataclass(frozen=True, slots=True)
class Run:
    """One stage: blocks ``start..end-1`` on ``node``, its input in ``width``; all by index."""

    node: int
    start: int
    end: int
    width: int = 0


def stages_of_runs(figures: Figures, runs: Sequence[Run]) -> list[PlanStage]:
    """``runs`` as a plan has them."""
    nodes, widths = figures.nodes, figures.widths
    first, *others = [PlanStage(nodes[run.node].node, run.start, run.end - 1) for run in runs]
    return [first, *(replace(s, width=widths[r.width].wire) for s, r in zip(others, runs[1:], strict=True))]


@dataclass(frozen=True, slots=True)
class Found:
    """The best way, and for each node what the best way with it costs."""

    score_ns: int
    runs: tuple[Run, ...]
    best_with: tuple[int, ...] = ()


def join_of(objective: Objective) -> Join:
    """(+)."""
    return add if objective is Objective.LATENCY else max


def cheapest(problem: SplitProblem, figures: Figures) -> Found | None:
    """The programme of this module's docstring; None if nothing fits."""
    passes = [Pass(problem, figures, None)]
    source = source_of(problem, figures)
    if source is not None:
        passes.append(Pass(problem, figures, source))
    for each in passes:
        each.solve()
    chosen = min((each for each in passes if each.best is not None), key=lambda each: each.rank, default=None)
    if chosen is None:
        return None
    best_with = tuple(min(ways) for ways in zip(*(each.best_with for each in passes), strict=True))
    return Found(chosen.rank[0], chosen.runs(), best_with)


def source_of(problem: SplitProblem, figures: Figures) -> int | None:
    """The ingress, if it may hold head and tail; None if it may not, or if there is none."""
    if not problem.u_shape or problem.stages_max < U_STAGES_MIN:
        return None
    return next((index for index, node in enumerate(figures.nodes) if node.node == problem.ingress), None)


def sources_of(problem: SplitProblem, figures: Figures) -> tuple[int, ...]:
    """Everybody who may hold head and tail: the ingress; where there is none, whoever can hold either."""
    if problem.ingress is not None:
        source = source_of(problem, figures)
        return () if source is None else (source,)
    if not problem.u_shape or problem.stages_max < U_STAGES_MIN:
        return ()
    last = figures.ends - 1
    return tuple(n for n, reach in enumerate(figures.reach) if reach[0] > 0 and reach[last] > last)


@dataclass(frozen=True, slots=True)
class Level:
    """One sum of losses, and how a cut leads to it: (level before, width)."""

    loss: int
    steps: tuple[tuple[int, int], ...]


ANY_LOSS: Final = (Level(0, ((0, FASTEST),)),)
"""Losses are not counted, and every cut is crossed in its fastest width."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pass keeps to: what cannot come to less than ``below_ns`` is dropped.

    ``rest`` has for each node and end the least that follows; without it nothing is dropped.
    """

    levels: tuple[Level, ...] = ANY_LOSS
    below_ns: int = UNREACHED
    rest: Sequence[Sequence[int]] = ()
    head_from: int = 1
    head_to: int = UNREACHED
    tail_from: int = 0


@dataclass(frozen=True, slots=True)
class _Best:
    score_ns: int
    stages: int
    mask: int
    last: int
    end: int
    """Where the last of the nodes in ``mask`` ends; behind it there is the tail, if anything."""
    level: int
    tail_width: int


@dataclass(slots=True)
class Pass:
    """One pass: over all nodes, or (``source``) over all others, between a head and a tail on it."""

    problem: SplitProblem
    figures: Figures
    source: int | None
    limits: Limits = Limits()
    best: _Best | None = None
    best_with: list[int] = field(default_factory=list)
    _rows: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)
    """F(., S, n) by (mask of nodes used, last node, level); none where nothing is reached."""

    @property
    def rank(self) -> tuple[int, int]:
        """Cheaper first, then fewer stages."""
        assert self.best is not None, "who found nothing is not compared"
        return self.best.score_ns, self.best.stages

    def solve(self) -> None:
        """Fill all rows, smaller sets first."""
        nodes, own = len(self.figures.nodes), 0 if self.source is None else 2
        self.best_with = [UNREACHED] * nodes
        for mask in range(1, 1 << nodes):
            stages = mask.bit_count() + own
            if stages > self.problem.stages_max or (self.source is not None and mask >> self.source & 1):
                continue
            for last in (n for n in range(nodes) if mask >> n & 1):
                for level in range(len(self.limits.levels)):
                    self._fill(mask, last, level)
                if stages >= self.problem.stages_min and stages - own // 2 >= self.problem.nodes_min:
                    self._finish(mask, last, stages)

    def _fill(self, mask: int, last: int, level: int) -> None:
        figures, objective = self.figures, self.problem.objective
        came = self._arrivals(mask, last, level)
        if came is None:
            return
        row = lay(came, figures.path[last], figures.reach[last], objective)
        if self.limits.rest:
            join, below = join_of(objective), self.limits.below_ns
            row = [
                cost if join(cost, after) < below else UNREACHED
                for cost, after in zip(row, self.limits.rest[last], strict=True)
            ]
        if min(row) >= UNREACHED:
            return
        self._rows[mask, last, level] = row

    def _finish(self, mask: int, last: int, stages: int) -> None:
        """The ways that end with ``last`` after ``mask`` (and a tail, if there is a source) are complete."""
        whole = min(self._complete(mask, last, stages), key=lambda best: best.score_ns, default=None)
        if whole is None or whole.score_ns >= UNREACHED:
            return
        # Of equals the fewest stages, then lower ids, then those that serve earlier stages.
        if self.best is None or (whole.score_ns, stages, mask, -last) < (*self.rank, self.best.mask, -self.best.last):
            self.best = whole
        for node in range(len(self.best_with)):
            if mask >> node & 1 or node == self.source:
                self.best_with[node] = min(self.best_with[node], whole.score_ns)

    def _complete(self, mask: int, last: int, stages: int) -> Iterator[_Best]:
        figures, join, ends = self.figures, join_of(self.problem.objective), self.figures.ends
        for number, level in enumerate(self.limits.levels):
            if self.source is None:
                row = self._rows.get((mask, last, number))
                if row is not None:
                    yield _Best(join(row[ends], figures.leave[last]), stages, mask, last, ends, number, 0)
                continue
            path, reach, out = figures.path[self.source], figures.reach[self.source], figures.leave[self.source]
            whole_ns = path[ends] + (path[self.limits.head_from] if join is max else 0)
            for before, width in level.steps:
                row = self._rows.get((mask, last, before))
                if row is None:
                    continue
                link, first = figures.crossing(last, self.source, width), max(1, self.limits.tail_from)
                tails = [
                    (join(join(row[i], link[i]), whole_ns - path[i]), i) for i in range(first, ends) if reach[i] == ends
                ]
                score_ns, end = min(tails, default=(UNREACHED, ends))
                yield _Best(join(score_ns, out), stages, mask, last, end, before, width)

    def _arrivals(self, mask: int, last: int, level: int) -> list[int] | None:
        """What it costs to come to ``last`` before each block, the other nodes of ``mask`` being used."""
        figures, before = self.figures, mask ^ 1 << last
        if not before and self.source is None:
            return [figures.enter[last], *[UNREACHED] * (figures.ends - 1)] if level == 0 else None
        ways = [(row, figures.crossing(u, last, width)) for u, width, _, row in self._senders(before, level)]
        return arrivals(ways, self.problem.objective) if ways else None

    def _senders(self, before: int, level: int) -> Iterator[tuple[int, int, int, list[int]]]:
        """(node, width, level before, row) of whoever may hand over, such that the losses come to ``level``."""
        for lower, width in self.limits.levels[level].steps:
            if not before and self.source is not None and lower == 0:
                yield self.source, width, lower, self._head(self.source)
            for u in (n for n in range(len(self.figures.nodes)) if before >> n & 1):
                row = self._rows.get((before, u, lower))
                if row is not None:
                    yield u, width, lower, row

    def _head(self, source: int) -> list[int]:
        """A head on the source, by its end."""
        path, join, figures = self.figures.path[source], join_of(self.problem.objective), self.figures
        ends = range(self.limits.head_from, min(figures.reach[source][0], self.limits.head_to) + 1)
        return [join(figures.enter[source], path[end]) if end in ends else UNREACHED for end in range(figures.ends + 1)]

    def runs(self) -> tuple[Run, ...]:
        """The best way, found again from its end."""
        best = self.best
        assert best is not None, "there is one"
        mask, last, level, end, found = best.mask, best.last, best.level, best.end, []
        if self.source is not None:
            found.append(self._run(last, self.source, end, self.figures.ends, best.tail_width))
        while mask:
            came = self._arrivals(mask, last, level)
            assert came is not None, "somebody came"
            start = self._start(came, last, end, self._rows[mask, last, level][end])
            mask ^= 1 << last
            before, width, level = self._sender(mask, last, level, start, came[start])
            found.append(self._run(before, last, start, end, width))
            last, end = before, start
        if self.source is not None:
            found.append(Run(self.source, 0, end))
        return tuple(reversed(found))

    def _run(self, sender: int, node: int, start: int, end: int, width: int) -> Run:
        if start and width == FASTEST:
            width = self.figures.fastest_width(sender, node, start)
        return Run(node, start, end, width if start else 0)

    def _start(self, came: list[int], last: int, end: int, cost_ns: int) -> int:
        """The first start of those that cost ``cost_ns``."""
        join, path, reach = join_of(self.problem.objective), self.figures.path[last], self.figures.reach[last]
        return next(
            i for i, arrived in enumerate(came) if reach[i] >= end and join(arrived, path[end] - path[i]) == cost_ns
        )

    def _sender(self, before: int, last: int, level: int, start: int, cost_ns: int) -> tuple[int, int, int]:
        """Who hands over to ``last`` at ``start`` for ``cost_ns``, in which width, from which level.

        Of equals the highest id, so lower ones come first.
        """
        if not before and self.source is None:
            return last, FASTEST, level
        join = join_of(self.problem.objective)
        return max(
            (u, width, lower)
            for u, width, lower, row in self._senders(before, level)
            if join(row[start], self.figures.crossing(u, last, width)[start]) == cost_ns
        )


def arrivals(ways: Sequence[tuple[list[int], list[int]]], objective: Objective) -> list[int]:
    """The least of row (+) link over ``ways``, before each block."""
    best = [UNREACHED] * len(ways[0][1])
    if objective is Objective.LATENCY:
        for row, link in ways:
            best = [whole if (whole := a + b) < c else c for a, b, c in zip(row, link, best, strict=False)]
    else:
        for row, link in ways:
            best = [whole if (whole := max(b, a)) < c else c for a, b, c in zip(row, link, best, strict=False)]
    return best


def lay(came: list[int], path: list[int], reach: list[int], objective: Objective) -> list[int]:
    """The least cost at every end of a run that begins wherever it may."""
    row = [UNREACHED] * len(path)
    first = next((i for i, arrived in enumerate(came) if arrived < UNREACHED), len(came))
    if objective is Objective.LATENCY:
        _lay_sum(came, path, reach, row, first)
    else:
        _lay_max(came, path, reach, row, first)
    return row


def _lay_sum(came: list[int], path: list[int], reach: list[int], row: list[int], first: int) -> None:
    useful: deque[tuple[int, int]] = deque()
    for start in range(first, len(came)):
        arrived, end = came[start], start + 1
        if arrived < UNREACHED and reach[start] > start:
            key = arrived - path[start]
            while useful and useful[-1][0] >= key:
                useful.pop()
            useful.append((key, reach[start]))
        while useful and useful[0][1] < end:
            useful.popleft()
        if useful:
            row[end] = useful[0][0] + path[end]


def _lay_max(came: list[int], path: list[int], reach: list[int], row: list[int], first: int) -> None:
    useful: deque[tuple[int, int, int]] = deque()
    for start in range(first, len(came)):
        arrived, end = came[start], start + 1
        if arrived < UNREACHED and reach[start] > start:
            while useful and useful[-1][0] >= arrived:
                useful.pop()
            useful.append((arrived, path[start], reach[start]))
        while useful and useful[0][2] < end:
            useful.popleft()
        if not useful:
            continue
        here = path[end]
        cost = max(useful[0][0], here - useful[0][1])
        while len(useful) > 1 and (after := max(useful[1][0], here - useful[1][1])) <= cost:
            useful.popleft()
            cost = after
        row[end] = cost
