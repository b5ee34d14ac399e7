"""How a split fares under its own load: a stage that takes long is also one that requests stand in line for.

``costs`` knows how much of a node others take; how much the deployment itself takes of it depends on the split that is
yet to be found. With ``rate`` sessions a second, a node whose stages take ``t`` seconds of a session is at work a share
``rho = rate t`` of the time, and a session spends ``t / (1 - rho)`` there (M/M/1; an upper bound for work as even as a
stage's). That is convex in ``t``, and dynamic programming adds, so it is iterated: solve, load every node with what it
would have to do, solve again. The better of both answers, each under its own load, is taken (two rounds: the third
changed nothing that mattered).

A node with stages in the split is loaded with these; one without, with the largest stage it may hold: were it to take
that over, so long would the line be. Loads below ``CALM_PERMILLE`` make stages a third longer at most and change no
choice that matters, so nothing is solved again for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from shoal_agent.core.costs import WAITING_PERMILLE_MAX, Costs, Memory, price, trusted, usable
from shoal_agent.core.problem import Candidate, Infeasible, Split, SplitProblem, stages_of
from shoal_protocol.messages import PlanStage

CALM_PERMILLE: Final = 250


def under_load(problem: SplitProblem, stages: Sequence[PlanStage], sessions_per_ks: int) -> SplitProblem:
    """``problem`` as it is while ``stages`` serve ``sessions_per_ks`` sessions every thousand seconds."""
    costs, memory = Costs(problem), Memory(problem)
    return replace(
        problem,
        candidates=tuple(
            replace(c, waiting_permille=_waiting(c, _load_ns(problem, costs, memory, c, stages), sessions_per_ks))
            for c in problem.candidates
        ),
    )


def crowded_price(problem: SplitProblem, stages: Sequence[PlanStage], sessions_per_ks: int) -> Split | None:
    """What ``stages`` cost under their own load; None if a host is no usable candidate."""
    return price(under_load(problem, stages, sessions_per_ks), stages)


def split_crowded(
    problem: SplitProblem, sessions_per_ks: int, solve: Callable[[SplitProblem], Split | Infeasible]
) -> Split | Infeasible:
    """The better of two answers of ``solve``, priced under its own load."""
    first = solve(problem)
    if isinstance(first, Infeasible):
        return first
    loaded = under_load(problem, stages_of(first), sessions_per_ks)
    best = price(loaded, stages_of(first))
    assert best is not None, "an answer names candidates only"
    hosts = {stage.node for stage in first.stages}
    if max(c.waiting_permille for c in loaded.candidates if c.node in hosts) < CALM_PERMILLE:
        return best
    second = solve(loaded)
    other = crowded_price(problem, stages_of(second), sessions_per_ks) if isinstance(second, Split) else None
    return best if other is None or best.score_us <= other.score_us else other


def _load_ns(
    problem: SplitProblem, costs: Costs, memory: Memory, candidate: Candidate, stages: Sequence[PlanStage]
) -> int:
    """How long a session would keep ``candidate`` at work."""
    if not usable(candidate):
        return 0
    busy = costs.busy(candidate)
    times = [(stage, busy[stage.last_block + 1] - busy[stage.first_block]) for stage in stages]
    own = sum(time for stage, time in times if stage.node == candidate.node)
    return own or max((time for stage, time in times if _may_hold(problem, memory, candidate, stage)), default=0)


def _may_hold(problem: SplitProblem, memory: Memory, candidate: Candidate, stage: PlanStage) -> bool:
    blocks = stage.first_block, stage.last_block + 1
    return memory.needed(*blocks) <= candidate.memory_bytes and trusted(problem, candidate, *blocks)


def _waiting(candidate: Candidate, load_ns: int, sessions_per_ks: int) -> int:
    """With what others take; ``costs`` bounds what comes of it."""
    own = load_ns * sessions_per_ks // 1_000_000_000
    return min(candidate.waiting_permille + own, WAITING_PERMILLE_MAX)
