"""One node's opinions, the planner answering in place. Whole clusters: tests/cluster/test_repair.py."""

from dataclasses import replace

import pytest

from shoal_agent.core.backbone import BackboneProblem
from shoal_agent.core.case import BARRED_S, FORGIVEN_S
from shoal_agent.core.causes import STANDBY_S, WITNESS_S
from shoal_agent.core.decision import HOLD_S
from shoal_agent.core.facts import Standing
from shoal_agent.core.steering import EVALUATE_S, FETCH_S, Unwish, Wish
from shoal_agent.core.timers import Routine
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_protocol.ids import Epoch
from shoal_protocol.messages import Cause, DeploymentPhase, NodePhase, Terms
from tests.support.mind import Mind, hosts, wished
from tests.support.opinion import SPEED, TOY, Opinion

FAILED = DeploymentPhase.FAILED


@pytest.fixture
def mind():
    return Mind(Opinion())


# --- repairs ----------------------------------------------------------------------------------------------------------


def test_while_all_is_well_nothing_is_wished(mind):
    assert mind.think_for(200) == []
    assert len(mind.asked) == 2, "an unchanged problem is solved once: other cuts, and the same cuts elsewhere"


def test_a_dead_host_is_replaced_at_once(mind):
    mind.think()
    plan = wished(mind.stood(1, Standing.DEAD))
    assert (plan.cause, plan.epoch, plan.parent) == (Cause.HOST_LOST, 1, mind.me.head.digest)
    assert plan.stages[0] == mind.me.head.plan.stages[0], "who lives keeps its blocks"
    assert (plan.stages[1].first_block, plan.stages[1].last_block) == (4, 7)
    assert mind.me.names[1] not in plan.voters
    assert plan.reason.startswith(f"host {mind.me.names[1][:8]} is dead; the plan cannot stay; redistribute")
    assert mind.think(EVALUATE_S) == [], "it is wished once"


def test_a_suspected_host_stops_all_thought_of_change(mind):
    mind.me.record(mind.me.names[2], speed=10 * SPEED)
    mind.think_for(HOLD_S - 10)
    assert mind.stood(1, Standing.SUSPECT) == []
    assert mind.think_for(40) == []
    assert mind.stood(1, Standing.ALIVE) == []
    assert mind.think_for(HOLD_S - 4) == [], "a gain has to hold without a break"


def test_a_host_that_comes_back_takes_the_wish_back(mind):
    mind.think()
    mind.stood(1, Standing.DEAD)
    assert mind.stood(1, Standing.ALIVE) == [Unwish(TOY)]


def test_a_host_that_leaves_is_replaced_while_it_serves(mind):
    node = mind.me.names[1]
    mind.me.record(node, phase=NodePhase.DRAINING, hosted=mind.me.head.plan.stages[1])
    plan = wished(mind.do(lambda now, out: mind.steering.heard(node, now, out)))
    assert plan.cause is Cause.HOST_LOST
    assert 1 not in hosts(mind.me, plan)
    assert "is leaving" in plan.reason


def test_records_of_those_that_stay_cost_nothing(mind):
    node = mind.me.names[1]
    assert mind.do(lambda now, out: mind.steering.heard(node, now, out)) == []
    assert mind.asked == []


def test_a_host_that_failed_is_not_named_again_for_a_while():
    mind = Mind(Opinion(served=False))
    mind.me.report(mind.me.names[1], FAILED, "disk full")
    plan = wished(mind.failed(1))
    assert plan.cause is Cause.NOT_READY
    assert 1 not in hosts(mind.me, plan)
    for index in (2, 3, 4):
        mind.me.record(mind.me.names[index], standing=Standing.DEAD)
    assert [type(fact) for fact in mind.think(EVALUATE_S)] == [Wish], "this node alone is left"
    mind.me.record(mind.me.here, memory=1000)
    assert mind.think(EVALUATE_S) == [Unwish(TOY)]
    assert any("no other plan is possible" in entry.text for entry in mind.me.tables.story.about("toy/1"))
    assert hosts(mind.me, wished(mind.think_for(2 * FORGIVEN_S))) == [1], "nobody else could, and it may be mended"


def test_a_host_that_failed_has_a_long_pause_while_others_can_host():
    mind = Mind(Opinion(served=False))
    mind.me.report(mind.me.names[1], FAILED, "disk full")
    facts = [*mind.failed(1), *mind.think_for(BARRED_S - 10)]
    assert facts
    assert all(1 not in hosts(mind.me, wished([fact])) for fact in facts if isinstance(fact, Wish))


def test_fewer_stages_than_asked_for_if_nothing_else_fits(mind):
    mind.think()
    for index in (2, 3, 4):
        mind.me.record(mind.me.names[index], standing=Standing.DEAD)
    plan = wished(mind.stood(1, Standing.DEAD))
    assert hosts(mind.me, plan) == [0]


def test_a_witness_that_stays_away_is_replaced_and_no_block_moves(mind):
    (witness,) = set(mind.me.head.plan.voters) - set(mind.me.names[:2])
    index = mind.me.names.index(witness)
    assert mind.stood(index, Standing.DEAD) == []
    plan = wished(mind.think_for(14))
    assert plan.stages == mind.me.head.plan.stages
    assert witness not in plan.voters
    assert len(plan.voters) == 3
    assert plan.reason.startswith(f"voter {witness[:8]} is dead")


def test_a_witness_nobody_can_replace_is_waited_for(mind):
    for index in (2, 3, 4, 5):
        mind.me.record(mind.me.names[index], standing=Standing.DEAD)
        mind.stood(index, Standing.DEAD)
    assert mind.think_for(60) == []


# --- gains ------------------------------------------------------------------------------------------------------------


def quickened(speed=4 * SPEED):
    mind = Mind(Opinion())
    mind.me.record(mind.me.names[2], speed=speed)
    return mind


def test_a_gain_is_wished_when_it_has_held_for_a_minute():
    mind = quickened()
    assert mind.think_for(HOLD_S) == []
    plan = wished(mind.think_for(2 * EVALUATE_S))
    assert plan.cause is Cause.GAIN
    assert 2 in hosts(mind.me, plan)
    assert "% better, moving" in plan.reason
    assert mind.steering.judge(plan, mind.now) == (True, "")


def test_a_gain_that_goes_takes_the_wish_back():
    mind = quickened()
    mind.think_for(HOLD_S + 4)
    mind.me.record(mind.me.names[2], speed=SPEED)
    assert mind.think(EVALUATE_S) == [Unwish(TOY)]


def test_a_newcomer_that_does_not_help_is_left_out():
    mind = quickened(SPEED // 2)
    assert mind.think_for(HOLD_S + 10) == []


def test_nothing_is_gained_soon_after_a_certificate():
    mind = quickened()
    mind.me.head.since = mind.now
    assert mind.think_for(COOL_DOWN_S - 2) == []
    assert wished(mind.think_for(6)).cause is Cause.GAIN


@pytest.mark.parametrize("index", [0, 1])
def test_a_lock_postpones_a_gain_and_tells_so(index):
    mind = quickened()
    stage = mind.me.head.plan.stages[index]
    mind.me.record(mind.me.names[index], hosted=stage, locked=True)
    assert mind.think_for(HOLD_S + 20) == []
    told = [entry.text for entry in mind.me.tables.story.about("toy/1")]
    assert f"postponed by the lock on {mind.me.names[index][:8]}" in told[-1]
    mind.me.record(mind.me.names[index], hosted=stage)
    assert wished(mind.think(EVALUATE_S)).cause is Cause.GAIN


def test_the_story_does_not_grow_while_nothing_changes():
    mind = quickened()
    mind.think_for(600)
    assert len(mind.me.tables.story.about("toy/1")) == 4


# --- missed deadlines -------------------------------------------------------------------------------------------------


def kept_waiting(mind, seconds):
    facts = []
    for _ in range(int(seconds / EVALUATE_S)):
        mind.me.tables.lateness.ended(TOY, mind.now, late=True)
        facts += mind.think_for(EVALUATE_S)
    return facts


def test_missed_deadlines_ask_for_whatever_is_better_at_once():
    mind = quickened(SPEED * 11 // 10)
    plan = wished(kept_waiting(mind, 45))
    assert plan.cause is Cause.SLOW
    assert "requests missed their deadline" in plan.reason
    assert mind.steering.judge(plan, mind.now)[0] is True


def test_missed_deadlines_alone_make_nothing_better():
    mind = quickened(SPEED // 2)
    assert kept_waiting(mind, 100) == []


# --- the planner, and who thinks --------------------------------------------------------------------------------------


def test_whoever_does_not_vote_does_not_think():
    mind = Mind(Opinion())
    plan = replace(mind.me.head.plan, voters=tuple(mind.me.names[1:4]))
    mind.me.head.plan = plan
    assert mind.think_for(10) == []
    assert mind.asked == []


def test_a_voter_that_does_not_know_the_model_fetches_it(mind):
    mind.me.tables.models.clear()
    mind.think_for(FETCH_S + 6)
    assert len(mind.fetched) == 2
    assert set(mind.fetched[0].sources) == set(mind.me.names[1:])


def test_a_plan_of_blocks_that_the_model_has_not_got_is_nothing_to_think_about(mind):
    """Whoever signed it: its hosts refuse it, and nobody can price what would come after it."""
    me = mind.me
    first, last = me.head.plan.stages
    me.head.plan = replace(me.head.plan, stages=(first, replace(last, last_block=len(me.facts.blocks))))
    assert mind.stood(1, Standing.DEAD) == []
    assert mind.think_for(FETCH_S + 6) == []
    assert (mind.asked, mind.fetched) == ([], [])
    assert mind.steering.account(me.head, mind.now).outlook is None
    assert mind.steering.judge(replace(me.head.plan, epoch=Epoch(1)), mind.now)[0] is not True


def test_the_planner_is_asked_for_one_problem_at_a_time(mind):
    mind.busy = True
    mind.think()
    mind.me.record(mind.me.names[2], speed=4 * SPEED)
    mind.think(EVALUATE_S)
    assert len(mind.asked) == 2
    first, second = mind.asked
    mind.answer(first)
    mind.busy = False
    mind.answer(second)
    assert len(mind.asked) == 4, "what changed meanwhile is asked then"


def test_an_answer_about_a_plan_that_is_over_frees_the_planner(mind):
    mind.busy = True
    mind.think()
    stages = (mind.me.head.plan.stages[0], replace(mind.me.head.plan.stages[1], node=mind.me.names[2]))
    after = mind.me.after((0, 0, 3), (2, 4, 7), cause=Cause.GAIN)
    mind.me.head = mind.me.adopt(replace(after, stages=stages), mind.now)
    mind.think(EVALUATE_S)
    assert len(mind.asked) == 2, "the planner takes no more at once, whatever became of the question"
    for effect in list(mind.asked):
        mind.answer(effect)
    assert len(mind.asked) == 4


def test_the_clock_is_armed_again_and_again(mind):
    mind.steering.begin(mind.now)
    assert mind.me.tables.timers.deadline() == mind.now + EVALUATE_S
    mind.think()
    assert Routine.STEER in mind.me.tables.timers


def test_a_plan_of_a_deployment_nobody_told_of_is_not_judged(mind):
    stranger = replace(mind.me.after((0, 0, 7)), deployment="other")
    assert mind.steering.judge(stranger, mind.now)[0] is False


# --- standbys ---------------------------------------------------------------------------------------------------------


def backed(*standbys, wanted=1):
    return Mind(Opinion(terms=Terms(stages_min=2, standbys=wanted), standbys=standbys))


def standbys(me, plan):
    return [tuple(me.names.index(node) for node in stage.standbys) for stage in plan.stages]


def test_a_standby_that_stays_away_is_replaced_and_no_block_moves():
    mind = backed((2,), (3,))
    mind.think()
    assert mind.stood(3, Standing.DEAD) == []
    assert mind.think_for(STANDBY_S - 2) == [], "restarts are common"
    plan = wished(mind.think_for(4))
    assert (plan.cause, plan.epoch) == (Cause.THIN, 1)
    stages = [(stage.node, stage.first_block, stage.last_block) for stage in plan.stages]
    assert stages == [(stage.node, stage.first_block, stage.last_block) for stage in mind.me.head.plan.stages]
    ((first,), (second,)) = standbys(mind.me, plan)
    assert (first, second not in (1, 3)) == (2, True)
    assert plan.reason == f"standby {mind.me.names[3][:8]} is dead; 1 of 2 standbys are there"
    assert mind.think_for(10) == [], "it is wished once"
    mind.stood(3, Standing.ALIVE)
    assert mind.think(EVALUATE_S) == [Unwish(TOY)]


def test_a_standby_nobody_can_replace_is_waited_for():
    mind = backed((2,), (3,))
    for index in (2, 4):
        mind.me.record(mind.me.names[index], memory=1000)
    for index in (0, 1):
        mind.me.record(mind.me.names[index], memory=5 * (1000 + 64 * 512), hosted=mind.me.head.plan.stages[index])
    mind.think()
    mind.stood(3, Standing.DEAD)
    assert mind.think_for(60) == []


def test_standbys_are_placed_together_where_one_by_one_they_lack_room():
    """The only spare has room for one stage, and of the hosts only the second has room for the other's."""
    mind, stage_bytes = backed((), ()), 4 * (1000 + 64 * 512)
    for index, memory in enumerate((1.2, 2.2, 1.2, 0.1, 0.1)):
        held = mind.me.head.plan.stages[index] if index < 2 else None
        mind.me.record(mind.me.names[index], memory=int(memory * stage_bytes), hosted=held)
    plan = wished(mind.think_for(10))
    assert (plan.cause, standbys(mind.me, plan)) == (Cause.THIN, [(1,), (2,)])
    assert plan.reason == "0 of 2 standbys are there; placed together"
    assert sum(isinstance(effect.problem, BackboneProblem) for effect in mind.asked) == 1, "it is asked once"


def test_where_there_is_room_for_some_standbys_those_are_wished():
    mind, stage_bytes = backed((), ()), 4 * (1000 + 64 * 512)
    for index, memory in enumerate((1.2, 1.2, 1.2, 0.1, 0.1)):
        held = mind.me.head.plan.stages[index] if index < 2 else None
        mind.me.record(mind.me.names[index], memory=int(memory * stage_bytes), hosted=held)
    plan = wished(mind.think_for(10))
    assert standbys(mind.me, plan) == [(2,), ()]
    assert "blocks 4-7 have no standby" in plan.reason


def test_where_there_is_room_now_standbys_are_added_once_the_plan_is_of_age():
    mind = backed((), ())
    mind.me.head.since = mind.now
    mind.think()
    assert mind.think_for(STANDBY_S - 4) == []
    plan = wished(mind.think_for(6))
    assert (plan.cause, standbys(mind.me, plan)) == (Cause.THIN, [(2,), (3,)])
    assert plan.reason == "0 of 2 standbys are there"


def test_a_plan_that_has_all_it_asks_for_is_left_alone():
    assert backed((2,), (3,)).think_for(100) == []
    assert backed((), (), wanted=0).think_for(100) == []
    assert backed((2, 3), (3, 2), wanted=2).think_for(100) == []


def test_while_a_host_or_a_standby_is_only_suspected_nothing_is_added():
    for index in (1, 2):
        mind = backed((2,), ())
        mind.me.record(mind.me.names[index], standing=Standing.SUSPECT)
        assert mind.think_for(60) == []


def test_a_witness_and_a_standby_are_replaced_together():
    mind = backed((2,), (3,))
    (witness,) = set(mind.me.head.plan.voters) - set(mind.me.names[:2])
    mind.think()
    mind.stood(mind.me.names.index(witness), Standing.DEAD)
    plan = wished(mind.think_for(WITNESS_S + 2))
    assert plan.cause is Cause.HOST_LOST
    assert witness not in (*plan.voters, *(node for stage in plan.stages for node in stage.standbys))
    assert all(stage.standbys for stage in plan.stages)


def test_a_witness_nobody_can_replace_does_not_keep_a_standby_from_it():
    mind = backed((2,), (3,))
    (witness,) = set(mind.me.head.plan.voters) - set(mind.me.names[:2])
    for name in mind.me.names[2:]:
        if name != witness:
            mind.me.record(name, standing=Standing.DEAD)
            mind.do(lambda now, out, name=name: mind.steering.stood(name, Standing.DEAD, now, out))
    mind.think()
    mind.stood(mind.me.names.index(witness), Standing.DEAD)
    plan = wished(mind.think_for(2 * STANDBY_S)[-1:])
    assert (plan.cause, standbys(mind.me, plan)) == (Cause.THIN, [(1,), (0,)])


def test_a_standby_takes_the_place_of_a_dead_host():
    """Its blocks are open, and the sessions are there already."""
    mind = backed((3,), (4,))
    for index in (2, 4):
        mind.me.record(mind.me.names[index], speed=int(1.1 * SPEED))
    mind.me.record(mind.me.names[3], hosted=mind.me.head.plan.stages[0])
    mind.think()
    plan = wished(mind.stood(1, Standing.DEAD))
    assert hosts(mind.me, plan) == [0, 4]
    assert standbys(mind.me, plan)[0] == (3,), "and the other one stays where it is"
    assert "moving 0 blocks" not in plan.reason, "its record does not say that it has them"
    mind = backed((3,), (4,))
    mind.me.record(mind.me.names[4], hosted=mind.me.head.plan.stages[1])
    mind.think()
    assert "moving 0 blocks" in wished(mind.stood(1, Standing.DEAD)).reason
