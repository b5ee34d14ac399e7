"""How a split fares under its own load: a stage that takes long is also one that requests stand in line for.

``costs`` knows how much of a node others take; how much the deployment itself takes of it depends on the split that is
yet to be found, and on how much is asked of it (``problem.demand``: tokens in, tokens out, as ingresses count them). A
node whose stages take ``t`` seconds for what is asked in a second is at work a share ``rho = t`` of the time, and a
session spends 1 / (1 - rho) times as long there: its tokens take turns with those of others, and in processor sharing
that is so whatever the lengths of sessions (M/G/1; Kleinrock, Queueing Systems II, 4.4).

That is convex in the length of a stage, and dynamic programming adds, so the planner is asked with lines that are
guessed, and of its answers the one is taken that is best under its own load:

    nobody waits          the best for a session that is alone
    as in that answer     a host waits for its own stages; another node for the largest of them that it may hold: were
                          it to take that over, so long would the line be
    evenly                with as many stages as the best answer so far has, then one more and one more as long as that
                          makes it better, or some node cannot keep up: the split whose busiest node is least busy
                          (THROUGHPUT); a U only where somebody must hold both ends, for who does both does no more

The last is what a crowd is about: of two nodes with half of the model each, each has a line half as long, but a node
that is asked what it would cost to take over everything never hears of that. On 150 random clusters of four, as busy as
0.2 to 1.2 of what the model takes of a middling node, the answer is 1.6 % above the best there is, 18 % at worst
(tests/property/test_crowding.py); on 80 others it was 1.3 %, and 40 % without the last guess. Loads below
``CALM_PERMILLE`` make stages a ninth longer at most and change no choice that matters, so nothing is guessed for them.
What left-out nodes are told is the answer's figure for them, with as long a line as the answer itself has.

Where nobody asks, all of this is ``costs`` and the planner, to the last bit. Who prices a plan for any decision calls
``price``; ``price_alone`` is for those who have taken care of the crowd themselves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from shoal_agent.core.costs import WAITING_PERMILLE_MAX, Costs, Memory, price_alone, trusted, usable
from shoal_agent.core.problem import (
    NO_DEMAND,
    Candidate,
    Demand,
    Infeasible,
    Rival,
    Split,
    SplitProblem,
    Workload,
    ends_guarded,
    stages_of,
)
from shoal_protocol.messages import Objective, PlanStage

CALM_PERMILLE: Final = 100
_PERMILLE_NS: Final = 1_000_000_000
"""A thousandth of a thousand seconds."""


def under_load(problem: SplitProblem, stages: Sequence[PlanStage]) -> SplitProblem:
    """``problem`` as it is for a session while ``stages`` serve what is asked."""
    return problem if problem.demand == NO_DEMAND else _loaded(problem, stages, problem.candidates)


def price(problem: SplitProblem, stages: Sequence[PlanStage]) -> Split | None:
    """What ``stages`` cost under their own load; None if a host is no usable candidate."""
    if problem.demand == NO_DEMAND:
        return price_alone(problem, stages)
    hosts = {stage.node for stage in stages}
    return price_alone(_loaded(problem, stages, [c for c in problem.candidates if c.node in hosts]), stages)


def split_crowded(problem: SplitProblem, solve: Callable[[SplitProblem], Split | Infeasible]) -> Split | Infeasible:
    """The best of ``solve``'s answers, which knows no crowd, each priced under its own load."""
    alone = replace(problem, demand=NO_DEMAND)
    first = solve(alone)
    if isinstance(first, Infeasible) or problem.demand == NO_DEMAND:
        return first
    best = _priced(problem, first)
    if _longest(problem, first) < CALM_PERMILLE or problem.objective is Objective.THROUGHPUT:
        return best
    best = _better(problem, best, solve(under_load(problem, stages_of(first))))
    u_shape = problem.u_shape and (problem.ingress is not None or ends_guarded(problem.zones))
    for count in range(max(2, len(best.stages)), problem.stages_max + 1):
        even = replace(alone, objective=Objective.THROUGHPUT, stages_min=count, stages_max=count, u_shape=u_shape)
        best = _better(problem, best, solve(even))
        if len(best.stages) < count and _longest(problem, best) < WAITING_PERMILLE_MAX:
            break
    return best


def _longest(problem: SplitProblem, split: Split) -> int:
    """How much of the time the busiest host of ``split`` is at work, as far as that is believed."""
    hosts = {stage.node for stage in split.stages}
    loaded = under_load(problem, stages_of(split))
    return max(c.waiting_permille for c in loaded.candidates if c.node in hosts)


def told(demand: Demand) -> str:
    """What is asked, in few words: a plan's reason has not many."""
    prompts, answers = demand.prompt_tokens_per_ks / 1000, demand.answer_tokens_per_ks / 1000
    return f"asked {prompts:.1f} tokens/s in, {answers:.1f} out"


def _better(problem: SplitProblem, best: Split, found: Split | Infeasible) -> Split:
    """``best``, unless ``found`` is better under its own load."""
    other = best if isinstance(found, Infeasible) else _priced(problem, found)
    return other if other.score_us < best.score_us else best


def _priced(problem: SplitProblem, found: Split) -> Split:
    """``found`` under its own load, rivals in proportion."""
    split = price(problem, stages_of(found))
    assert split is not None, "an answer names candidates only"
    longer, than = split.score_us, max(found.score_us, 1)
    rivals = (Rival(r.node, None if r.score_us is None else r.score_us * longer // than) for r in found.rivals)
    return replace(split, rivals=tuple(rivals))


def _loaded(problem: SplitProblem, stages: Sequence[PlanStage], candidates: Iterable[Candidate]) -> SplitProblem:
    """``problem`` with those ``candidates`` only, which wait behind what ``stages`` serve."""
    work, memory = _work(problem), Memory(problem)

    def load_ns(candidate: Candidate) -> int:
        own = sum(_at_work(work, candidate, stage) for stage in stages if stage.node == candidate.node)
        held = (stage for stage in stages if _may_hold(problem, memory, candidate, stage))
        return own or max((_at_work(work, candidate, stage) for stage in held), default=0)

    return _waiting(problem, [(c, load_ns(c) if usable(c) else 0) for c in candidates])


def _work(problem: SplitProblem) -> Costs:
    """What is asked in a thousand seconds, as if it were one session."""
    asked, load = problem.demand, problem.workload
    tokens = asked.prompt_tokens_per_ks, asked.answer_tokens_per_ks
    return Costs(replace(problem, workload=Workload(load.context_tokens_max, load.sessions, *tokens)))


def _waiting(problem: SplitProblem, loads_ns: Iterable[tuple[Candidate, int]]) -> SplitProblem:
    """``problem`` with these candidates, each at work for so long of a thousand seconds."""
    waiting = ((c, c.waiting_permille + load_ns // _PERMILLE_NS) for c, load_ns in loads_ns)
    candidates = (replace(c, waiting_permille=min(permille, WAITING_PERMILLE_MAX)) for c, permille in waiting)
    return replace(problem, demand=NO_DEMAND, candidates=tuple(candidates))


def _at_work(work: Costs, candidate: Candidate, stage: PlanStage) -> int:
    return work.stage(replace(candidate, waiting_permille=0), stage.first_block, stage.last_block + 1)


def _may_hold(problem: SplitProblem, memory: Memory, candidate: Candidate, stage: PlanStage) -> bool:
    blocks = stage.first_block, stage.last_block + 1
    return memory.needed(*blocks) <= candidate.memory_bytes and trusted(problem, candidate, *blocks)
