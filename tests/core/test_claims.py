"""What honest voters put up with, and what they do not."""

from dataclasses import replace

import pytest

from shoal_agent.core.claims import CLAIM_PERMILLE, STALE_PERMILLE, fault_of_claim, is_outdated
from shoal_agent.core.crowding import price
from shoal_agent.core.outlook import Outlooks
from shoal_protocol.messages import Cause
from tests.support.opinion import NOW, Opinion


@pytest.fixture
def priced():
    me = Opinion()
    problem = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, NOW).problem
    plan = me.after((0, 0, 3), (2, 4, 7), cause=Cause.GAIN)
    assert plan.score_us == price(problem, plan.stages).score_us > 0
    return problem, plan


@pytest.mark.parametrize(
    ("permille", "believed"),
    [
        (1000, True),
        (1000 + CLAIM_PERMILLE - 5, True),
        (1000 - CLAIM_PERMILLE + 5, True),
        (1000 + CLAIM_PERMILLE + 5, False),
        (1000 - CLAIM_PERMILLE - 5, False),
        (500, False),
        (2000, False),
        (0, False),
    ],
)
def test_a_claim_is_believed_as_far_as_views_differ(priced, permille, believed):
    problem, plan = priced
    claimed = replace(plan, score_us=plan.score_us * permille // 1000)
    assert (fault_of_claim(problem, claimed) is None) is believed


def test_a_refusal_names_both_figures(priced):
    problem, plan = priced
    found = f"{plan.score_us / 1000:.2f}"
    assert fault_of_claim(problem, replace(plan, score_us=0)) == (
        f"it claims 0.00 ms/token, by my figures it takes {found}"
    )


def test_what_cannot_be_priced_is_no_lie(priced):
    problem, plan = priced
    stranger = replace(plan.stages[0], node="z" * 32)
    assert fault_of_claim(problem, replace(plan, score_us=1, stages=(stranger, plan.stages[1]))) is None


def test_half_and_double_are_beyond_what_is_believed():
    assert CLAIM_PERMILLE < 500


def test_a_wish_is_renewed_before_others_stop_believing_it(priced):
    _, plan = priced
    drifted = replace(plan, score_us=plan.score_us * (1000 + STALE_PERMILLE + 20) // 1000)
    assert is_outdated(plan, drifted)
    assert not is_outdated(plan, replace(plan, score_us=plan.score_us + 1, reason="other words"))
    repair, other = (replace(each, cause=Cause.HOST_LOST) for each in (plan, drifted))
    assert not is_outdated(repair, other), "nobody weighs what a repair claims"
    assert is_outdated(plan, replace(plan, stages=plan.stages[::-1]))
    assert STALE_PERMILLE * 2 < CLAIM_PERMILLE
