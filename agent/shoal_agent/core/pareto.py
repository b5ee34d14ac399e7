"""Splits that nothing beats: no other one is as fast, as cheap and as private, and better in one of the three.

    latency   of one token answered, as ``costs`` has it
    money     of a session: price per node-hour, times how long the node is at work for it (waiting costs nothing)
    privacy   blocks that run outside the trusted zones; fewer is better, none is private

*How it is found.* For each number of blocks outside (``exposure``), the split is found that is least in

    w_t * latency + w_m * money          with both weights positive

Nothing can beat it that has as few blocks outside: it would be less in this very sum. So whatever is shown here is
beaten by no split there is, known or unknown; no comparison of what happens to be found could promise that. The
weights are two extremes (time first, money only among equals; and the other way round), and WEIGHTS between, measured
in what the extremes differ by. A U is looked at if its source is trusted: another one has nothing to keep.

*What it may leave out.* Of the splits with the same number of blocks outside, those in a dent between two others
(a weighted sum never finds them), and what lies between two weights. Narrow widths are used only if every cut may
have them within the quality budget.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core.costs import Memory, price_alone, usable
from shoal_agent.core.exposure import Exposed, profile
from shoal_agent.core.figures import Figures
from shoal_agent.core.orders import strongest
from shoal_agent.core.problem import CANDIDATES_EXACT_MAX, NO_DEMAND, Candidate, Split, SplitProblem
from shoal_agent.core.search import Run, source_of, stages_of_runs
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective

PRICE_MICRO_MAX: Final = 10**10
"""Ten thousand of whatever currency, an hour: more is a slip of the keyboard."""
WEIGHTS: Final = ((16, 1), (4, 1), (1, 1), (1, 4), (1, 16))
"""Of time and money, in units of what the two extremes differ by."""
FIRST: Final = 1 << 80
"""A weight that makes the other one count among equals only: both figures stay below it."""
HOUR_NS: Final = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One split that nothing beats."""

    split: Split
    latency_ns: int
    """Of a session."""
    money: int
    """Of a session, in millionths an hour times nanoseconds: exact, and for comparing only."""
    outside: int

    def price_micro(self, tokens: int, answer_tokens: int) -> float:
        """What ``tokens`` tokens answered cost, in millionths, ``answer_tokens`` being a session's."""
        return self.money * tokens / answer_tokens / HOUR_NS


@dataclass(frozen=True, slots=True)
class Terms:
    """What nodes cost an hour, in millionths (none named: nothing), and which zones are trusted."""

    price_micro: Mapping[NodeId, int]
    trusted: tuple[str, ...]

    def __post_init__(self) -> None:
        for node, price_micro in self.price_micro.items():
            if not 0 <= price_micro <= PRICE_MICRO_MAX:
                raise ValueError(f"{node} costs {price_micro} millionths an hour, not 0 to {PRICE_MICRO_MAX}")


def front(
    problem: SplitProblem, terms: Terms, tell: Callable[[int, int], None] = lambda _done, _of: None
) -> tuple[Choice, ...]:
    """Splits that nothing beats, fastest first; of more than CANDIDATES_EXACT_MAX candidates a choice is searched.

    Where much is asked, ``problem`` is one ``under_load`` of some split: all are compared in the same line.

    ``tell`` hears how many of how many searches are done.
    """
    assert problem.demand == NO_DEMAND, "the line is in the nodes"
    safe = tuple(w for w in problem.widths if _harmless(problem, w.loss))
    if problem.widths and not safe:
        problem = replace(problem, stages_max=1, stages_min=1, nodes_min=1, u_shape=False)
    asked = replace(problem, objective=Objective.LATENCY, widths=safe, loss_max=None)
    nodes = _searched(asked, terms)
    if not nodes:
        return ()
    figures = Figures(asked, nodes)
    rates = [terms.price_micro.get(node.node, 0) for node in nodes]
    outside = tuple(node.zone not in terms.trusted for node in nodes)
    found: dict[tuple[int, int, int], tuple[Run, ...]] = {}
    total = len(WEIGHTS) + 2
    weights = [(FIRST, 1), (1, FIRST)]
    for number in range(total):
        if number == len(weights):
            between = _between([_figures_of(figures, rates, outside, runs) for runs in found.values()])
            if not between:
                break
            weights += between
        time, money = weights[number]
        for each in _unbeaten(asked, figures.weighted(time, money, rates), outside):
            found[_figures_of(figures, rates, outside, each.runs)] = each.runs
        tell(number + 1, total)
    tell(total, total)
    return tuple(Choice(_told(asked, figures, runs), *key) for key, runs in sorted(found.items()))


def _harmless(problem: SplitProblem, loss: int) -> bool:
    return problem.loss_max is None or loss * (problem.stages_max - 1) <= problem.loss_max


def _searched(problem: SplitProblem, terms: Terms) -> list[Candidate]:
    """All usable candidates; of too many the three cheapest for their work, three trusted, and the strongest."""
    able = sorted((c for c in problem.candidates if usable(c)), key=lambda c: c.node)
    if len(able) <= CANDIDATES_EXACT_MAX:
        return able
    ranked = strongest(able, Memory(problem).needed(0, len(problem.blocks)))
    source = [c for c in able if c.node == problem.ingress]
    cheap = sorted(ranked, key=lambda c: (terms.price_micro.get(c.node, 0) / c.speed_macs_per_s, c.node))
    home = [c for c in ranked if c.zone in terms.trusted]
    chosen = list(dict.fromkeys([*source, *home[:3], *cheap[:3], *ranked]))
    return sorted(chosen[:CANDIDATES_EXACT_MAX], key=lambda c: c.node)


def _unbeaten(problem: SplitProblem, figures: Figures, outside: tuple[bool, ...]) -> Iterator[Exposed]:
    """For each number of blocks outside the best, unless fewer outside are as good."""
    found = profile(problem, figures, outside, source_of(problem, figures))
    every = sorted(found, key=lambda each: (each.blocks, each.score, len(each.runs)))
    least: int | None = None
    for each in every:
        if least is None or each.score < least:
            least = each.score
            yield each


def _between(known: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Weights of time and money by what they differ by among ``known``; none if one of them does not differ."""
    if not known:
        return []
    spans = [max(column) - min(column) for column in zip(*known, strict=True)]
    time, money = spans[:2]
    return [(w_time * money, w_money * time) for w_time, w_money in WEIGHTS] if time and money else []


def _figures_of(
    figures: Figures, rates: Sequence[int], outside: Sequence[bool], runs: Sequence[Run]
) -> tuple[int, int, int]:
    """(latency, money, blocks outside) of ``runs``."""
    latency = figures.enter[runs[0].node] + figures.leave[runs[-1].node]
    money = exposed = 0
    sender = -1
    for run in runs:
        latency += figures.path[run.node][run.end] - figures.path[run.node][run.start]
        latency += figures.link[sender][run.node][run.start] if run.start else 0
        money += rates[run.node] * (figures.busy[run.node][run.end] - figures.busy[run.node][run.start])
        exposed += (run.end - run.start) * outside[run.node]
        sender = run.node
    return latency, money, exposed


def _told(problem: SplitProblem, figures: Figures, runs: Sequence[Run]) -> Split:
    split = price_alone(problem, stages_of_runs(figures, runs))
    assert split is not None, "only candidates are searched"
    return split
