"""Every reason a voter may have not to vote for a plan, one by one; and that none of them is seen where it is not."""

from dataclasses import replace

import pytest

from shoal_agent.core.facts import Standing
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant
from shoal_protocol.messages import Cause, DeploymentPhase, NodePhase, PlanStage, SwitchMode, Terms
from tests.support.opinion import NOW, Opinion
from tests.support.verdicts import judge

HOUR_MS = 3_600_000
KV = 64 * 512


@pytest.fixture
def bereft():
    """The second host is dead; a spare takes its place."""
    me = Opinion()
    me.record(me.names[1], standing=Standing.DEAD)
    return me


def repair(me, **changes):
    return me.after((0, 0, 3), (2, 4, 7), **changes)


def test_a_repair_that_is_due(bereft):
    assert judge(bereft, repair(bereft)) == (True, "")


# --- it does not follow the head --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"parent": Digest(bytes(32))}, "invalid: it does not follow epoch 0"),
        ({"epoch": Epoch(2)}, "invalid: it does not follow epoch 0"),
        ({"deployment": DeploymentId("other")}, "invalid: another deployment than epoch 0"),
        ({"model": Digest(bytes(32))}, "invalid: another model than epoch 0"),
        ({"terms": Terms()}, "invalid: another terms than epoch 0"),
        ({"context_tokens_max": 511}, "invalid: another context_tokens_max than epoch 0"),
        ({"voters": ()}, "invalid: nobody could ever change it"),
        ({"cause": Cause.RECOVERY}, "invalid: nobody votes about RECOVERY"),
    ],
)
def test_it_must_follow_the_head(bereft, change, why):
    assert judge(bereft, repair(bereft, **change)) == (False, why)


def test_it_must_cover_the_model(bereft):
    assert judge(bereft, bereft.after((0, 0, 3), (2, 4, 6))) == (False, "invalid: it ends at block 6, not 7")
    assert judge(bereft, bereft.after((0, 0, 3), (2, 4, 8))) == (False, "invalid: it ends at block 8, not 7")


def test_it_must_keep_to_the_stages_of_the_terms():
    me = Opinion(terms=Terms(stages_min=2, stages_max=2))
    me.record(me.names[1], standing=Standing.DEAD)
    plan = me.after((0, 0, 3), (2, 4, 5), (3, 6, 7))
    assert judge(me, plan) == (False, "invalid: 3 stages, the terms allow 2")
    assert judge(me, me.after((0, 0, 7)))[0] is True, "fewer than asked may be all there is"


# --- its hosts --------------------------------------------------------------------------------------------------------


def test_hosts_are_agents_of_the_roster(bereft):
    stranger = repair(bereft, stages=(PlanStage(bereft.names[0], 0, 3), PlanStage("z" * 32, 4, 7)))
    assert judge(bereft, stranger) == (False, f"invalid: {'z' * 32} is not in the roster")
    witness = bereft.after((0, 0, 3), (5, 4, 7))
    assert judge(bereft, witness) == (False, f"invalid: {bereft.names[5]} is no agent")
    twice = bereft.after((0, 0, 1), (2, 2, 3), (0, 4, 5), (1, 6, 7))
    assert judge(bereft, twice) == (False, "invalid: a node holds two stages, and not just the first and the last")


def test_hosts_are_in_allowed_zones():
    me = Opinion(terms=Terms(stages_min=2, zones=("home",)))
    me.record(me.names[1], standing=Standing.DEAD)
    assert judge(me, me.after((0, 0, 3), (4, 4, 7))) == (False, f"zone: {me.names[4][:8]} is not in home")
    assert judge(me, repair(me))[0] is True


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"standing": Standing.DEAD}, (False, "host-gone: ")),
        ({"standing": Standing.LEFT}, (False, "host-gone: ")),
        ({"phase": NodePhase.DRAINING}, (False, "host-gone: ")),
        ({"standing": Standing.SUSPECT}, (None, "host-silent: ")),
    ],
)
def test_hosts_are_there(bereft, change, answer):
    bereft.record(bereft.names[2], **change)
    verdict, why = judge(bereft, repair(bereft))
    assert (verdict, why) == (answer[0], answer[1] + bereft.names[2][:8])


@pytest.mark.parametrize("standing", [Standing.UNKNOWN, Standing.SLOW, Standing.LINK_LOST, Standing.MQTT_LOST])
def test_a_host_in_trouble_or_unknown_is_no_reason_against_a_repair(bereft, standing):
    bereft.record(bereft.names[2], standing=standing)
    assert judge(bereft, repair(bereft))[0] is True


# --- myself -----------------------------------------------------------------------------------------------------------


def test_my_memory_holds_the_old_blocks_and_the_new_with_their_kv(bereft):
    plan = bereft.after((2, 0, 1), (0, 2, 7))
    needed = 8 * 1000 + 6 * KV
    bereft.sense(memory_bytes=needed)
    assert judge(bereft, plan)[0] is True
    bereft.sense(memory_bytes=needed - 1)
    verdict, why = judge(bereft, plan)
    assert (verdict, why) == (
        False,
        f"capacity: blocks 2-7 need {needed} bytes beside 0-3 of epoch 0, {needed - 1} are offered",
    )
    assert judge(bereft, replace(plan, mode=SwitchMode.BREAK_BEFORE_MAKE))[0] is True


def test_my_kv_holds_the_sessions_of_the_terms(bereft):
    plan = bereft.after((2, 0, 1), (0, 2, 7))
    assert judge(bereft, plan, kv_bytes_max=6 * KV)[0] is True
    assert judge(bereft, plan, kv_bytes_max=6 * KV - 1)[1].startswith("capacity: blocks 2-7 need")


def newcomer():
    """This node holds nothing; both hosts of the head are others, one of them dead."""
    me = Opinion(served=False)
    stages = (PlanStage(me.names[2], 0, 3), PlanStage(me.names[3], 4, 7))
    me.head = me.adopt(replace(me.head.plan, epoch=Epoch(1), parent=me.head.digest, stages=stages, cause=Cause.GAIN))
    me.record(me.names[3], standing=Standing.DEAD)
    return me, me.after((2, 0, 3), (0, 4, 7))


def test_my_disk_has_room_for_what_i_lack():
    me, plan = newcomer()
    me.sense(disk_free_bytes=4000)
    me.record(me.here, models=())
    assert judge(me, plan)[0] is True
    me.sense(disk_free_bytes=3999)
    assert judge(me, plan) == (False, "disk: 4000 bytes are needed, 3999 are free")
    me.record(me.here)
    assert judge(me, plan)[0] is True, "it is there already"


def test_my_operators_lock_keeps_new_blocks_away_even_in_a_repair():
    me, plan = newcomer()
    me.record(me.here, locked=True)
    assert judge(me, plan) == (False, "locked: this node takes no new blocks")


def test_my_operators_lock_lets_repairs_pass(bereft):
    bereft.record(bereft.here, locked=True)
    assert judge(bereft, repair(bereft))[0] is True


def test_a_host_that_does_not_know_the_model_yet_will_fetch_it():
    me, plan = newcomer()
    me.tables.models.clear()
    assert judge(me, plan, known=False)[0] is True


# --- its voters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voters", "why"),
    [
        ((0, 2), "voters: 2 are named, 3 are due"),
        ((0, 2, 3, 4, 5), "voters: 5 are named, 3 are due"),
        ((0, 2, 2), "voters: one is named twice"),
        ((3, 0, 2), "voters: hosts come first"),
        ((0, 3, 4), "voters: hosts come first"),
        ((0, 2, 1), "voters: {1} is gone"),
    ],
)
def test_voters_are_hosts_first_enough_and_there(bereft, voters, why):
    plan = repair(bereft, voters=tuple(bereft.names[index] for index in voters))
    expected = why.replace("{1}", bereft.names[1][:8])
    assert judge(bereft, plan) == (False, expected)


def test_any_witness_that_is_there_will_do(bereft):
    for witness in (3, 4, 5):
        assert judge(bereft, repair(bereft, voters=tuple(bereft.names[i] for i in (2, 0, witness))))[0] is True


# --- its cause --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Cause.HOST_LOST, Cause.NOT_READY])
def test_a_cause_i_do_not_see_i_may_see_soon(cause):
    me = Opinion()
    assert judge(me, repair(me, cause=cause)) == (None, f"unseen: no {cause.name} here")


def test_a_silent_host_is_not_yet_a_lost_one():
    me = Opinion()
    me.record(me.names[1], standing=Standing.SUSPECT)
    assert judge(me, repair(me)) == (None, "unseen: no HOST_LOST here")


def test_a_host_that_failed_or_is_late_is_a_cause():
    me = Opinion(served=False)
    plan = repair(me, cause=Cause.NOT_READY)
    assert judge(me, plan, Instant(me.head.since + 1))[0] is None
    assert judge(me, plan, Instant(me.head.since + 120))[0] is True
    me.report(me.names[1], DeploymentPhase.FAILED, "no")
    assert judge(me, plan, Instant(me.head.since + 1))[0] is True


# --- standbys ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def thin():
    """A plan whose terms ask for two standbys and that has one for its first stage."""
    return Opinion(terms=Terms(stages_min=2, standbys=2, zones=("home",)), standbys=((2,), ()))


def backed(me, *standbys, **changes):
    return me.after((0, 0, 3), (1, 4, 7), standbys=standbys, **({"cause": Cause.THIN} | changes))


def test_more_standbys_that_are_there_are_welcome(thin):
    assert judge(thin, backed(thin, (2,), (3,))) == (True, "")
    assert judge(thin, backed(thin, (3,), (2,))) == (True, "")
    assert judge(thin, backed(thin, (), (3,))) == (None, "unseen: 1 standbys are there, and 1 then")


def test_one_that_is_gone_is_worth_nothing(thin):
    assert judge(thin, backed(thin, (3,), ()))[0] is None
    thin.record(thin.names[2], standing=Standing.DEAD)
    assert judge(thin, backed(thin, (3,), ())) == (True, "")
    assert judge(thin, backed(thin, (2,), (3,))) == (False, f"host-gone: {thin.names[2][:8]}")


def test_one_that_is_silent_is_no_reason_against_the_others(thin):
    thin.record(thin.names[2], standing=Standing.SUSPECT)
    assert judge(thin, backed(thin, (2,), (3,))) == (True, "")


def test_for_standbys_no_stage_may_change(thin):
    swapped = thin.after((1, 0, 3), (0, 4, 7), standbys=((2,), (3,)), cause=Cause.THIN)
    other = thin.after((0, 0, 4), (1, 5, 7), standbys=((2,), (3,)), cause=Cause.THIN)
    for plan in (swapped, other):
        assert judge(thin, plan) == (False, "invalid: THIN leaves the stages as they are")


def test_a_plan_that_did_not_serve_yet_is_waited_for(thin):
    thin.head.served = None
    assert judge(thin, backed(thin, (2,), (3,))) == (None, "unseen: the head did not serve yet")


def test_no_lock_and_no_cool_down_postpones_it(thin):
    thin.record(thin.names[1], locked=True)
    thin.head.since = NOW
    assert judge(thin, backed(thin, (2,), (3,))) == (True, "")


def test_standbys_are_agents_in_allowed_zones_and_no_more_than_asked(thin):
    assert judge(thin, backed(thin, (2,), (4,))) == (False, f"zone: {thin.names[4][:8]} is not in home")
    assert judge(thin, backed(thin, (2,), (5,))) == (False, f"invalid: {thin.names[5]} is no agent")
    few = Opinion(standbys=((), ()))
    assert judge(few, backed(few, (2,), ())) == (False, "invalid: a stage has more standbys than 0")


def test_my_memory_holds_all_my_stages_in_the_end(thin):
    plan = backed(thin, (2,), (0,))
    needed = 8 * (1000 + KV)
    thin.sense(memory_bytes=needed)
    assert judge(thin, plan, kv_bytes_max=4 * KV) == (True, ""), "proposers do not know how much of it KV may take"
    thin.sense(memory_bytes=needed - 1)
    beside = "beside 0-3 of epoch 1"
    assert judge(thin, plan) == (False, f"capacity: blocks 4-7 need {needed} bytes {beside}, {needed - 1} are offered")


def test_blocks_of_the_epoch_before_are_no_reason_against_standing_by(thin):
    plan = thin.after((2, 0, 3), (1, 4, 7), standbys=((3,), (0,)))
    thin.sense(memory_bytes=4 * (1000 + KV))
    thin.record(thin.names[0], phase=NodePhase.READY)
    assert judge(thin, plan) == (None, "unseen: no HOST_LOST here")


def test_a_lock_keeps_new_blocks_away_from_a_standby_too(thin):
    me = Opinion(terms=Terms(stages_min=2, standbys=1))
    me.head.mine, me.head.held = None, {}
    me.record(me.here, locked=True)
    plan = me.after((2, 0, 3), (1, 4, 7), standbys=((0,), ()), cause=Cause.GAIN)
    assert judge(me, plan) == (False, "locked: this node takes no new blocks")


def test_a_disk_holds_what_is_stood_by_for(thin):
    me = Opinion(terms=Terms(stages_min=2, standbys=1))
    me.head.mine, me.head.held = None, {}
    me.record(me.here, models=())
    me.sense(disk_free_bytes=7999)
    plan = me.after((2, 0, 3), (1, 4, 7), standbys=((0,), (0,)))
    assert judge(me, plan) == (False, "disk: 8000 bytes are needed, 7999 are free")
