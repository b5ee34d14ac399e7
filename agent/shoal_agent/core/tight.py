"""The cheapest split where a budget bites: quality over all cuts, or the memory of a U's head and tail together.

``search`` sees neither, so its answer may break them; nor that one processor has both ends to do, where throughput is
asked for; nor does it look for a U where there is no ingress and anybody may hold both ends. Three things make it exact
again:

*Levels.* Losses of widths are few, so the sums that cuts can come to are few: a dozen, for three widths. The programme
keeps one row for each.

*Halves.* Head and tail share the source's memory and its processor, which a row cannot remember. So first every head in
a range is allowed, and tails as if it were the shortest of them: too good to be true at worst. If the answer is not
true, the range is cut in two: heads below m, and heads from m on, whose tails have what m leaves. With m no more than
the head of the answer, and large enough to leave too little memory for its tail, neither can give that answer again;
where time is what is not true, the second range is told better. A range of one head is true. Only ranges that promise
something better are looked at.

*Bounds.* A split that keeps the budgets is known as a rule before it begins: the fast answer itself, where only a U
could be better; the same in wider widths; or one without a U in the width that loses least. What cannot become cheaper
than the best known is dropped (``remainder``), which is nearly everything. So a U on each of eight nodes is looked for
in a fraction of the time that the best row takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from shoal_agent.core.figures import UNREACHED, Figures
from shoal_agent.core.problem import SplitProblem
from shoal_agent.core.remainder import rest_of
from shoal_agent.core.search import ANY_LOSS, Found, Level, Limits, Pass, Run, cheapest, join_of, sources_of
from shoal_protocol.messages import Objective


def is_true(problem: SplitProblem, figures: Figures, found: Found) -> bool:
    """Whether ``found`` keeps what the fast search cannot see, and costs what that said."""
    return _keeps_budgets(problem, figures, found.runs) and _honest(problem, figures, found) == found


def _keeps_budgets(problem: SplitProblem, figures: Figures, runs: Sequence[Run]) -> bool:
    return has_room(figures, runs) and _keeps_quality(problem, figures, runs)


def _keeps_quality(problem: SplitProblem, figures: Figures, runs: Sequence[Run]) -> bool:
    loss = sum(figures.widths[run.width].loss for run in runs[1:])
    return problem.loss_max is None or loss <= problem.loss_max


def _honest(problem: SplitProblem, figures: Figures, found: Found) -> Found:
    """``found`` with what both ends of a U take of their one processor."""
    first, last = found.runs[0], found.runs[-1]
    if problem.objective is Objective.LATENCY or len(found.runs) == 1 or first.node != last.node:
        return found
    path = figures.path[last.node]
    return replace(found, score_ns=max(found.score_ns, path[first.end] + path[last.end] - path[last.start]))


def has_room(figures: Figures, runs: Sequence[Run]) -> bool:
    """Whether head and tail of a U fit their node together."""
    first, last = runs[0], runs[-1]
    taken = figures.memory.needed(last.start, last.end)
    if len(runs) > 1 and first.node == last.node:
        taken += figures.memory.needed(first.start, first.end) - figures.memory.shared
    return taken <= figures.nodes[last.node].memory_bytes


def tail_from(figures: Figures, source: int, head: int) -> int | None:
    """Where the longest tail begins that ``source`` can hold beside a head that ends at ``head``; None if none does."""
    left = figures.nodes[source].memory_bytes - figures.memory.needed(0, head) + figures.memory.shared
    return next((i for i in range(1, figures.ends) if figures.memory.needed(i, figures.ends) <= left), None)


def cheapest_within(problem: SplitProblem, figures: Figures, fast: Found | None) -> tuple[Run, ...] | None:
    """The best split that keeps all budgets; ``fast`` is what the fast search found. None if there is none."""
    levels, join = _levels(problem, figures), join_of(problem.objective)
    best = fast
    if fast is not None and not is_true(problem, figures, fast):
        safe = (each for each in _safe(problem, figures, fast) if _keeps_budgets(problem, figures, each.runs))
        known = (_honest(problem, figures, each) for each in safe)
        best = min(known, key=lambda found: found.score_ns, default=None)
        below_ns = UNREACHED if best is None else best.score_ns
        straight = Pass(problem, figures, None, Limits(levels, below_ns, rest_of(figures, join, None)))
        best = _solved(straight) or best
    for source in sources_of(problem, figures):
        best = _best_u(problem, figures, source, Limits(levels, rest=rest_of(figures, join, source)), best)
    return None if best is None else best.runs


def _solved(search: Pass) -> Found | None:
    search.solve()
    return None if search.best is None else Found(search.best.score_ns, search.runs())


def _best_u(problem: SplitProblem, figures: Figures, source: int, limits: Limits, best: Found | None) -> Found | None:
    """The best of ``best`` and all U's: ranges of heads are halved until what is found is true."""
    ranges = [(1, figures.reach[source][0])]
    while ranges:
        low, high = ranges.pop()
        first = tail_from(figures, source, low)
        if low > high or first is None:
            continue
        below = UNREACHED if best is None else best.score_ns
        within = replace(limits, below_ns=below, head_from=low, head_to=high, tail_from=first)
        found = _solved(Pass(problem, figures, source, replace(within, levels=ANY_LOSS)))
        if found is not None and not _keeps_quality(problem, figures, found.runs):
            found = _solved(Pass(problem, figures, source, within))  # now with every sum of losses, which takes longer
        if found is None or found.score_ns >= below:
            continue
        true, room = _honest(problem, figures, found), has_room(figures, found.runs)
        if room and true.score_ns < below:
            best = true
        if not room:
            ranges += halves(figures, source, found.runs, low, high)
        elif true != found:
            middle = (low + found.runs[0].end + 2) // 2
            ranges += [(low, middle - 1), (middle, high)]
    return best


def halves(figures: Figures, source: int, runs: Sequence[Run], low: int, high: int) -> list[tuple[int, int]]:
    """Heads from ``low`` to ``high`` in two ranges, neither of which can give ``runs`` again, which have no room."""
    head, tail = runs[0].end, runs[-1].start
    least = next(end for end in range(low, head + 1) if tail < (tail_from(figures, source, end) or figures.ends))
    middle = (least + head + 1) // 2
    return [(low, middle - 1), (middle, high)]


def _levels(problem: SplitProblem, figures: Figures) -> tuple[Level, ...]:
    """Every sum of losses that cuts can come to within the budget."""
    if problem.loss_max is None or not figures.widths:
        return ANY_LOSS
    losses = [width.loss for width in figures.widths]
    sums, newest = [0], [0]
    for _ in range(problem.stages_max - 1):
        found = sorted({known + loss for known in newest for loss in losses if known + loss <= problem.loss_max})
        newest = [each for each in found if each not in sums]
        sums += newest
    sums.sort()
    return tuple(
        Level(whole, tuple((sums.index(whole - loss), w) for w, loss in enumerate(losses) if whole - loss in sums))
        for whole in sums
    )


def _safe(problem: SplitProblem, figures: Figures, fast: Found) -> Iterator[Found]:
    """Splits that may keep the budgets: the fast one in the best widths, and one without a U that loses least."""
    if not figures.widths:
        return
    yield from _rewidened(problem, figures, fast.runs)
    least = min(range(len(figures.widths)), key=lambda w: (figures.widths[w].loss, w))
    plain = replace(problem, u_shape=False, widths=(figures.widths[least],))
    found = cheapest(plain, Figures(plain, figures.nodes))
    if found is not None:
        yield Found(found.score_ns, tuple(replace(run, width=least) for run in found.runs))


def _rewidened(problem: SplitProblem, figures: Figures, runs: Sequence[Run]) -> Iterator[Found]:
    """``runs`` in the widths that are best for each sum of losses."""
    join, first = join_of(problem.objective), runs[0]
    begun = join(figures.enter[first.node], figures.path[first.node][first.end])
    by_loss = {0: Found(begun, (replace(first, width=0),))}
    for before, run in pairwise(runs):
        stage = figures.path[run.node][run.end] - figures.path[run.node][run.start]
        after: dict[int, Found] = {}
        for loss, way in by_loss.items():
            for w, by_start in enumerate(figures.hops[before.node][run.node]):
                score_ns = join(join(way.score_ns, by_start[run.start]), stage)
                whole = loss + figures.widths[w].loss
                if whole not in after or score_ns < after[whole].score_ns:
                    after[whole] = Found(score_ns, (*way.runs, replace(run, width=w)))
        by_loss = after
    leave = figures.leave[runs[-1].node]
    yield from (replace(way, score_ns=join(way.score_ns, leave)) for way in by_loss.values())
