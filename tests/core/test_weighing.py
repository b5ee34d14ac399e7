"""How a voter weighs what is no repair: gains, claims, and other primaries so that any loss is survived."""

from dataclasses import replace

import pytest

from shoal_agent.core.facts import Standing
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_protocol.ids import Incarnation, Instant
from shoal_protocol.messages import Cause, SwitchMode, Terms
from tests.support.opinion import NOW, SPEED, Opinion
from tests.support.verdicts import judge

KV = 64 * 512


# --- a gain -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager():
    """The third node is four times faster than the hosts."""
    me = Opinion()
    me.record(me.names[2], speed=4 * SPEED)
    return me


def better(me, **changes):
    return me.after((0, 0, 0), (2, 1, 7), cause=Cause.GAIN, **changes)


def test_a_gain_by_my_own_figures(eager):
    assert judge(eager, better(eager)) == (True, "")


def test_no_gain_by_my_own_figures(eager):
    eager.record(eager.names[2], speed=SPEED)
    verdict, why = judge(eager, better(eager))
    assert (verdict, why.split(":")[0]) == (False, "worse-score")
    assert "20.0 % are asked" in why


def test_a_voter_prices_head_and_proposal_in_the_same_crowd():
    me = Opinion()
    spread = (0, 0, 1), (1, 2, 3), (2, 4, 5), (3, 6, 7)
    assert judge(me, me.after(*spread, cause=Cause.GAIN))[1].startswith("worse-score")
    me.record(me.names[4], asked=(1_600_000, 1_600_000))
    assert judge(me, me.after(*spread, cause=Cause.GAIN)) == (True, "")
    me.record(me.names[4], asked=(0, 1_000))
    assert judge(me, me.after(*spread, cause=Cause.GAIN))[1].startswith("worse-score")


def test_a_small_gain_is_not_asked_for():
    me = Opinion(terms=Terms(stages_min=2, gain_permille=700))
    me.record(me.names[2], speed=4 * SPEED)
    assert judge(me, better(me))[1].startswith("worse-score: a gain of ")


def test_a_gain_must_pay_for_its_move(eager):
    heavy = tuple(replace(block, resident_bytes=10**10) for block in eager.facts.blocks)
    eager.facts = replace(eager.facts, blocks=heavy)
    eager.record(eager.names[2], speed=4 * SPEED, memory=10**12, free=10**12, models=())
    assert judge(eager, better(eager))[1].startswith("worse-score")


@pytest.mark.parametrize(("after_s", "verdict"), [(1.0, False), (COOL_DOWN_S - 3, None), (COOL_DOWN_S, True)])
def test_a_new_plan_is_left_alone_for_a_while(eager, after_s, verdict):
    eager.head.since = Instant(NOW - after_s)
    answer, why = judge(eager, better(eager))
    assert answer is verdict
    assert why.startswith("" if verdict else "cooldown: ")


@pytest.mark.parametrize("index", [0, 1])
def test_a_lock_of_any_host_postpones_a_gain(eager, index):
    eager.record(eager.names[index], hosted=eager.head.plan.stages[index], locked=True)
    assert judge(eager, better(eager)) == (False, f"locked: {eager.names[index][:8]} holds a lock")


def test_a_lock_elsewhere_does_not(eager):
    assert eager.names[4] not in eager.head.plan.voters
    eager.record(eager.names[4], locked=True)
    assert judge(eager, better(eager))[0] is True


def test_a_gain_on_a_node_that_is_no_candidate_here(eager):
    eager.record(eager.names[4], speed=4 * SPEED, locked=True)
    plan = eager.after((0, 0, 0), (4, 1, 7), cause=Cause.GAIN)
    assert judge(eager, plan) == (False, f"unfit: {eager.names[4][:8]} is locked by its operator")


def test_figures_cannot_be_judged_without_the_model_or_a_price_of_what_is(eager):
    assert judge(eager, better(eager), known=False)[0] is None
    eager.record(eager.names[1], standing=Standing.SUSPECT)
    assert judge(eager, better(eager)) == (None, "unpriced: a host of the present plan is no candidate")


def test_missed_deadlines_ask_for_any_gain_at_once(eager):
    eager.head.since = Instant(NOW - 1)
    assert judge(eager, replace(better(eager), cause=Cause.SLOW))[0] is True
    eager.record(eager.names[2], speed=SPEED // 2)
    assert judge(eager, replace(better(eager), cause=Cause.SLOW))[0] is False


@pytest.mark.parametrize("cause", [Cause.GAIN, Cause.SLOW])
@pytest.mark.parametrize("permille", [500, 2000])
def test_a_gain_that_claims_half_of_what_it_costs_or_double_is_refused(eager, cause, permille):
    plan = better(eager)
    lie = replace(plan, cause=cause, score_us=plan.score_us * permille // 1000)
    verdict, why = judge(eager, lie)
    assert (verdict, why[:7]) == (False, "claim: ")


def test_nothing_that_runs_is_broken_for_a_gain(eager):
    plan = better(eager, mode=SwitchMode.BREAK_BEFORE_MAKE)
    assert judge(eager, plan) == (False, "outage: nothing that runs is broken before what follows is made")


def test_a_plan_of_blocks_that_there_are_not_is_refused_before_anything_is_reckoned(eager):
    """It can be neither priced nor placed, and whoever tried would fall over it."""
    for cause in (Cause.GAIN, Cause.SLOW, Cause.FRAIL):
        plan = eager.after((0, 0, 0), (2, 1, 8), cause=cause)
        assert judge(eager, plan) == (False, "invalid: it ends at block 8, not 7")


def test_a_gain_is_dearer_to_who_owes_bytes(eager):
    """One second of fetching, and an hour owed: more than the plan would stand."""
    heavy = tuple(replace(block, resident_bytes=4_000_000) for block in eager.facts.blocks)
    eager.facts = replace(eager.facts, blocks=heavy)
    state = eager.record(eager.names[2], speed=4 * SPEED, models=())
    assert judge(eager, better(eager))[0] is True
    owing = replace(state, version=state.version + 1, load=replace(state.load, moved_owed_s=3600))
    eager.tables.membership.merge(eager.names[2], Incarnation(1), owing, NOW)
    verdict, why = judge(eager, better(eager))
    assert (verdict, why.split(":")[0]) == (False, "worse-score")


def test_what_survives_any_loss_is_not_left_for_what_does_not():
    me = Opinion(terms=Terms(stages_min=2, standbys=1), standbys=((3,), (3,)))
    me.record(me.names[2], speed=4 * SPEED)
    bare = me.after((0, 0, 0), (2, 1, 7), standbys=((3,), ()), cause=Cause.GAIN)
    assert judge(me, bare) == (False, "bare: blocks 1-7 would have no standby, and now all stages have")
    assert judge(me, replace(bare, cause=Cause.SLOW))[0] is False
    backed_too = me.after((0, 0, 0), (2, 1, 7), standbys=((3,), (3,)), cause=Cause.GAIN)
    assert judge(me, backed_too) == (True, "")
    me.record(me.names[3], standing=Standing.DEAD)
    assert judge(me, me.after((0, 0, 0), (2, 1, 7), standbys=((), ()), cause=Cause.GAIN)) == (True, "")


# --- other primaries, so that any loss is survived --------------------------------------------------------------------

STAGE = 4 * (1000 + KV)


@pytest.fixture
def frail():
    """Blocks 4-7 have no standby; the second host has no room for 0-3, the third and the fourth for one stage each."""
    me = Opinion(terms=Terms(stages_min=2, standbys=1), standbys=((2,), ()))
    for index, stages in enumerate((2.5, 1.2, 1.2, 1.2)):
        hosted = me.head.plan.stages[index] if index < 2 else None
        me.record(me.names[index], memory=int(stages * STAGE), hosted=hosted)
    me.sense(memory_bytes=int(2.5 * STAGE))
    return me


def firm(me, *hosts, standbys=((2,), (0,)), **changes):
    (first, last) = hosts or (0, 3)
    return me.after((first, 0, 3), (last, 4, 7), standbys=standbys, **({"cause": Cause.FRAIL} | changes))


def test_another_primary_so_that_any_loss_is_survived(frail):
    assert judge(frail, firm(frail)) == (True, "")
    assert judge(frail, firm(frail, 2, 3, standbys=((0,), (1,)))) == (True, "")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"standbys": ((2,), ())}, (False, "bare: blocks 4-7 would have no standby")),
        ({"standbys": ((), ())}, (False, "bare: blocks 0-3, 4-7 would have no standby")),
        ({"score_us": 1}, (False, "claim: ")),
        ({"mode": SwitchMode.BREAK_BEFORE_MAKE}, (False, "outage: ")),
        ({"standbys": ((1,), (2,))}, (True, "")),
        ({"standbys": ((3,), (0,))}, (False, "unfit: memory_bytes: ")),
    ],
)
def test_it_must_survive_fit_and_be_what_it_claims(frail, change, answer):
    verdict, why = judge(frail, firm(frail, **change))
    assert (verdict, why[: len(answer[1])]) == answer


def test_it_leaves_the_cuts_as_they_are(frail):
    plan = frail.after((0, 0, 2), (3, 3, 7), standbys=((2,), (1,)), cause=Cause.FRAIL)
    assert judge(frail, plan) == (False, "invalid: FRAIL leaves the cuts as they are")


def test_it_may_be_a_little_slower_and_no_more(frail):
    frail.record(frail.names[3], memory=int(1.2 * STAGE), speed=SPEED * 7 // 10)
    assert judge(frail, firm(frail)) == (True, ""), "half of the way takes 1 / 0.7"
    frail.record(frail.names[3], memory=int(1.2 * STAGE), speed=SPEED * 6 // 10)
    verdict, why = judge(frail, firm(frail))
    assert (verdict, why.split(":")[0]) == (False, "worse-score")


def test_who_sees_all_stages_backed_does_not_see_why_yet(frail):
    whole = Opinion(terms=Terms(stages_min=2, standbys=1), standbys=((2,), (3,)))
    assert judge(whole, firm(whole, standbys=((2,), (0,)))) == (None, "unseen: all stages have standbys that are there")
    whole.record(whole.names[3], standing=Standing.DEAD)
    assert judge(whole, firm(whole, 0, 2, standbys=((1,), (0,)))) == (True, "")


def test_it_waits_like_a_gain_and_for_locks(frail):
    assert judge(frail, firm(frail), known=False) == (None, "model-missing: this node cannot judge the figures yet")
    frail.head.served = None
    assert judge(frail, firm(frail)) == (None, "unseen: the head did not serve yet")
    frail.record(frail.names[1], memory=int(1.2 * STAGE), hosted=frail.head.plan.stages[1], locked=True)
    assert judge(frail, firm(frail)) == (False, f"locked: {frail.names[1][:8]} holds a lock")
    frail.head.since = Instant(NOW - 10)
    assert judge(frail, firm(frail)) == (False, "cooldown: 50 s of it are left")
