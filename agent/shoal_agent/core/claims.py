"""What a plan claims of itself, and how far from it a voter's own figure may be.

A plan carries its score, by the proposer's figures. Nobody needs it to judge the plan: each voter prices head and plan
anew. But it stands in the chain and in every explanation, and who would believe it should be able to. So a voter prices
the stages by its own figures and refuses a claim that is off by more than ``CLAIM_PERMILLE`` of them.

*Why honest claims differ at all.* The arithmetic is the same to the last bit (``costs``); what differs is the newest
record each knows of a node. Records tell news at once, and drift after at most ten seconds; a lost one comes with the
next exchange. In simulated worlds that lose, double and reorder words, with every node's load on a random walk of up to
8 % of its processors a second, the voters of five and seven nodes priced the same plans differently in 0.1 % of pairs,
by 36 % at most; at 2 % a second by 7 % at most. A program that takes three quarters of a machine at once makes it 100 %
until its record is there: who proposes in that very second is refused, and proposes again.

*What it catches.* The bound lies above what drift does and below a half: who claims half of what a plan costs, or
double, is refused by everybody whose own figure is right to a sixth.
"""

from typing import Final

from shoal_agent.core.crowding import price
from shoal_agent.core.problem import SplitProblem
from shoal_protocol.messages import Cause, Plan

CLAIM_PERMILLE: Final = 400
"""How far a claim may be from a voter's own figure, in thousandths of the latter."""


STALE_PERMILLE: Final = CLAIM_PERMILLE // 4
"""A plan that is still wished for is claimed anew when its figure has moved by so much."""


def is_outdated(wish: Plan, plan: Plan) -> bool:
    """Whether ``plan`` is another one than ``wish``, or its score has become too different to be believed for long."""
    same = all(getattr(wish, name) == getattr(plan, name) for name in ("cause", "stages", "voters", "mode"))
    judged = plan.cause in (Cause.SLOW, Cause.GAIN, Cause.FRAIL)
    moved = 1000 * abs(wish.score_us - plan.score_us) > STALE_PERMILLE * plan.score_us
    return not same or (judged and moved)


def fault_of_claim(problem: SplitProblem, plan: Plan) -> str | None:
    """What is wrong with the score that ``plan`` claims, by the figures of ``problem``; None if it is right enough."""
    split = price(problem, plan.stages)
    if split is None or 1000 * abs(plan.score_us - split.score_us) <= CLAIM_PERMILLE * split.score_us:
        return None
    return f"it claims {plan.score_us / 1000:.2f} ms/token, by my figures it takes {split.score_us / 1000:.2f}"
