"""What the proposer's side of standbys and of the backbone wishes, the planner answering in place.

That thin plans get standbys: tests/core/test_steering.py. Whole clusters: tests/cluster/test_frail.py.
"""

from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.backbone import BackboneProblem
from shoal_agent.core.case import Case
from shoal_agent.core.causes import STANDBY_S
from shoal_agent.core.covering import CLOCK_S_MAX, CLOCK_S_MIN, STEWARD_S, Covering, answered
from shoal_agent.core.decision import HOLD_S
from shoal_agent.core.facts import Standing
from shoal_agent.core.steering import EVALUATE_S, Unwish, Wish
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_protocol.ids import Epoch, Instant
from shoal_protocol.messages import Cause, Terms
from tests.support.mind import Mind, hosts, wished
from tests.support.opinion import SPEED, TOY, Opinion

STAGE = 4 * (1000 + 64 * 512)
ROOMS = (2.2, 1.2, 1.2, 1.2)
"""Of node 0 there is one place left, and of 2 and 3 one each: enough for all standbys of two stages."""


def offering(me, rooms, **changes):
    for index, stages in enumerate(rooms):
        held = me.head.plan.stages[index] if index < 2 else None
        me.record(me.names[index], memory=int(stages * STAGE), hosted=held, **changes.get(me.names[index], {}))
    me.record(me.names[4], memory=1000)


def unequal(**terms):
    """Blocks 0-2 on node 0, which alone has room to back 3-7 on node 1; nodes 2 and 3 have room for 0-2."""
    me = Opinion(terms=Terms(**({"stages_min": 2, "standbys": 1} | terms)), standbys=((2,), ()))
    first, last = me.head.plan.stages
    voters = (me.here, *(voter for voter in me.head.plan.voters if voter != me.here))
    stages = replace(first, last_block=2), replace(last, first_block=3)
    me.head.plan = replace(me.head.plan, stages=stages, voters=voters)
    offering(me, (1.3, 1.3, 0.8, 0.8))
    return Mind(me)


def asked(mind):
    return [effect for effect in mind.asked if isinstance(effect.problem, BackboneProblem) and effect.problem.edges]


def standbys(me, plan):
    return [tuple(me.names.index(node) for node in stage.standbys) for stage in plan.stages]


def test_where_no_standby_has_room_another_primary_is_wished_once_that_has_held():
    mind = unequal()
    assert mind.think_for(HOLD_S - EVALUATE_S) == []
    assert len(asked(mind)) == 1
    plan = wished(mind.think_for(3 * EVALUATE_S))
    assert (plan.cause, hosts(mind.me, plan)[1]) == (Cause.FRAIL, 1)
    assert standbys(mind.me, plan)[1] == (0,)
    assert sorted((hosts(mind.me, plan)[0], *standbys(mind.me, plan)[0])) == [2, 3]
    assert plan.reason.startswith(
        "blocks 3-7 have no standby, and beside the primaries there is no room for one; placed together anew: "
    )
    assert plan.reason.endswith("(at most 25 % more is allowed)")
    assert mind.steering.judge(plan, mind.now) == (True, "")
    assert mind.think_for(20) == [], "it is wished once"
    assert len(asked(mind)) == 1, "and asked once"


def test_who_comes_back_takes_the_wish_back():
    mind = unequal()
    wished(mind.think_for(HOLD_S + 4 * EVALUATE_S))
    mind.me.record(mind.me.names[4], memory=2 * STAGE)
    facts = mind.think_for(20)
    assert isinstance(facts[-1], Wish)
    assert wished(facts[-1:]).cause is Cause.THIN, "the stages can stay now"


def test_a_young_plan_and_a_lock_postpone_it():
    mind = unequal()
    mind.think_for(HOLD_S // 2)
    mind.me.head.since = mind.now
    assert mind.think_for(COOL_DOWN_S - EVALUATE_S) == []
    assert wished(mind.think_for(3 * EVALUATE_S)).cause is Cause.FRAIL
    mind = unequal()
    mind.me.record(mind.me.names[1], memory=int(1.3 * STAGE), hosted=mind.me.head.plan.stages[1], locked=True)
    assert mind.think_for(HOLD_S + 20) == []


def test_without_standbys_in_the_terms_nothing_is_frail():
    mind = unequal(standbys=0)
    mind.me.head.plan = replace(
        mind.me.head.plan, stages=tuple(replace(stage, standbys=()) for stage in mind.me.head.plan.stages)
    )
    assert mind.think_for(HOLD_S + CLOCK_S_MAX / 60) == []
    assert asked(mind) == []


def test_what_would_be_too_slow_is_not_wished():
    mind = unequal()
    slow = {mind.me.names[index]: {"speed": SPEED // 3} for index in (2, 3)}
    offering(mind.me, (1.3, 1.3, 0.8, 0.8), **slow)
    assert mind.think_for(HOLD_S + 20) == []


def test_only_the_steward_asks():
    mind = unequal()
    voters = mind.me.head.plan.voters
    mind.me.head.plan = replace(mind.me.head.plan, voters=(*voters[1:], mind.me.here))
    assert mind.think_for(STANDBY_S + 20) == []
    assert asked(mind) == []
    mind.me.head.since = Instant(mind.now - STEWARD_S * (len(voters) - 1) - 1)
    mind.think_for(4)
    assert len(asked(mind)) == 1, "after an hour it is the next one's turn"


def test_who_there_is_or_how_much_they_offer_makes_it_ask_again_and_drift_does_not():
    mind = unequal()
    mind.think_for(STANDBY_S + 10)
    mind.me.record(mind.me.names[3], memory=int(0.8 * STAGE), foreign=300)
    mind.think_for(30)
    assert len(asked(mind)) == 1
    mind.me.record(mind.me.names[3], memory=int(0.9 * STAGE))
    mind.think_for(10)
    assert len(asked(mind)) == 2


def test_the_slow_clock_asks_about_what_is_well_too():
    me = Opinion(terms=Terms(stages_min=2, standbys=1), standbys=((2,), (3,)))
    mind = Mind(me)
    assert mind.think_for(CLOCK_S_MIN - 4) == []
    assert asked(mind) == []
    begun = mind.now
    while not asked(mind):
        assert mind.think_for(30) == [], "nothing is better"
        assert mind.now - begun <= CLOCK_S_MAX - CLOCK_S_MIN + 30
    assert mind.think_for(CLOCK_S_MIN - 40) == []
    assert len(asked(mind)) == 1


def test_the_clocks_of_two_stewards_ring_apart():
    head = Opinion().head
    dues = []
    for seed in range(20):
        case = Case(Epoch(0), head.since)
        covering = Covering(head.plan.voters[0], Opinion().tables, Random(seed), lambda problem, out: None)
        assert not covering._due(case, Instant(head.since + CLOCK_S_MIN - 1))
        covering._due(case, Instant(head.since + CLOCK_S_MIN))
        dues.append(case.due - head.since)
    assert all(CLOCK_S_MIN <= due <= CLOCK_S_MAX for due in dues)
    assert max(dues) - min(dues) > 1000


def test_the_backbone_offers_the_fastest_that_survives_where_the_fastest_does_not():
    """A node four times as fast could take both stages' work, but then nobody could back it."""
    me = Opinion(terms=Terms(stages_min=2, standbys=1), standbys=((2,), (3,)))
    mind = Mind(me)
    offering(me, (1.2, 1.2, 1.2, 1.2), **{me.names[2]: {"speed": 4 * SPEED}})
    facts = mind.think_for(HOLD_S + 10)
    plan = wished(facts)
    assert plan.cause is Cause.GAIN
    assert all(stage.standbys for stage in plan.stages)


def test_what_survives_is_not_left_for_what_is_only_faster():
    """Blocks 0-7 on the fast node alone would be faster by far; nobody has room to back it."""
    me = Opinion(terms=Terms(stages_min=1, standbys=1), standbys=((3,), (3,)))
    mind = Mind(me)
    offering(me, (1.2, 1.2, 2.2, 2.0 - 0.01), **{me.names[2]: {"speed": 20 * SPEED}})
    plans = [wished([fact]) for fact in mind.think_for(HOLD_S + 20) if isinstance(fact, Wish)]
    assert all(stage.standbys for plan in plans for stage in plan.stages)
    told = [entry.text for entry in me.tables.story.about("toy/1")]
    assert any("but not every loss of one node would be survived" in text for text in told), told


def test_answers_find_their_question():
    case = Case(Epoch(0), Instant(0.0), bracing_ticket=1, footing_ticket=2)
    assert answered(case, 2, ((1,),))
    assert (case.footed, case.footing_ticket, case.braced, case.bracing_ticket) == (((1,),), None, None, 1)
    assert answered(case, 1, None)
    assert not answered(case, 1, None)


def test_a_busy_planner_is_asked_later():
    mind = unequal()
    mind.busy = True
    mind.think_for(STANDBY_S + 4)
    waiting, mind.busy = list(mind.asked), False
    for effect in waiting:
        mind.answer(effect)
    assert wished(mind.think_for(HOLD_S + 20)).cause is Cause.FRAIL


@pytest.mark.parametrize("index", [2, 3])
def test_while_somebody_it_needs_is_only_suspected_nothing_moves(index):
    mind = unequal()
    mind.think_for(30)
    mind.me.record(mind.me.names[index], memory=int(0.8 * STAGE), standing=Standing.SUSPECT)
    assert [fact for fact in mind.think_for(HOLD_S + 20) if not isinstance(fact, Unwish)] == []
    assert TOY in mind.me.tables.tenures.deployments()
