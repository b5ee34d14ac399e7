from dataclasses import replace

from shoal_agent.core.plan import Room
from shoal_agent.core.room import room_for, taken_bytes
from shoal_protocol.ids import DeploymentId, Epoch
from shoal_protocol.messages import Cause, DeploymentPhase, PlanStage, SwitchMode, Terms
from tests.support.opinion import TOY, Opinion

OTHER = DeploymentId("other")
STAGE_KV = 4 * 64 * 512


def room(me, plan):
    return room_for(me.tables, me.here, plan, 10**6, 10**5)


def test_blocks_of_an_epoch_that_served_are_kept_beside_the_next():
    me = Opinion()
    kept = room(me, me.after((0, 2, 5), (1, 6, 7)))
    assert isinstance(kept, Room)
    assert [(span.epoch, span.first_block, span.last_block) for span in kept.kept] == [(0, 0, 3)]
    assert (kept.memory_bytes, kept.kv_bytes_max, kept.taken_bytes) == (10**6, 10**5, 0)


def test_break_before_make_keeps_nothing():
    me = Opinion()
    assert room(me, me.after((0, 2, 5), (1, 6, 7), mode=SwitchMode.BREAK_BEFORE_MAKE)).kept == ()


def test_what_never_served_and_what_is_given_back_takes_no_room():
    me = Opinion()
    me.head.served = None
    assert room(me, me.after((0, 0, 7))).kept == ()
    me.head.served, me.head.mine = me.head.since, DeploymentPhase.DRAINED
    assert room(me, me.after((0, 0, 7))).kept == ()


def test_other_deployments_take_blocks_and_the_kv_they_promise():
    me = Opinion()
    plan = replace(me.head.plan, deployment=OTHER, terms=Terms(sessions=3))
    me.adopt(plan)
    assert taken_bytes(me.tables, me.here, TOY) == 4 * 1000 + 3 * STAGE_KV
    assert taken_bytes(me.tables, me.names[1], TOY) == 4 * 1000 + 3 * STAGE_KV
    assert taken_bytes(me.tables, me.names[2], TOY) == 0
    assert taken_bytes(me.tables, me.here, OTHER) == 4 * 1000 + STAGE_KV
    assert room(me, me.after((0, 0, 7))).taken_bytes == 4 * 1000 + 3 * STAGE_KV


def test_only_the_newest_plan_of_another_deployment_counts():
    me = Opinion()
    me.adopt(replace(me.head.plan, deployment=OTHER))
    stages = (PlanStage(me.names[2], 0, 7),)
    me.adopt(replace(me.head.plan, deployment=OTHER, epoch=Epoch(1), stages=stages, cause=Cause.GAIN))
    assert taken_bytes(me.tables, me.here, TOY) == 0
    assert taken_bytes(me.tables, me.names[2], TOY) == 8 * 1000 + 2 * STAGE_KV


def test_a_model_nobody_told_of_takes_nothing_known():
    me = Opinion()
    me.adopt(replace(me.head.plan, deployment=OTHER, model=bytes(32)))
    assert taken_bytes(me.tables, me.here, TOY) == 0
