from dataclasses import replace

import pytest

from shoal_agent.core.costs import price
from shoal_agent.core.decision import STAGING_MS_MIN, Choice, Move, Option
from shoal_agent.core.drafting import draft
from shoal_agent.core.outlook import Outlooks
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import Cause, PlanStage, SwitchMode
from tests.support.opinion import NOW, Opinion

KV = 64 * 512


def drafted(me, stages, reason="because", move=None, memory=None):
    outlook = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, NOW)
    if memory is not None:
        candidates = tuple(replace(each, memory_bytes=memory) for each in outlook.problem.candidates)
        outlook = replace(outlook, problem=replace(outlook.problem, candidates=candidates))
    split = price(outlook.problem, stages)
    return draft(me.head, outlook, Option(Choice.RESPLIT, split, move or Move()), Cause.GAIN, reason), split


def test_a_draft_follows_the_head_and_survives_the_wire():
    me = Opinion()
    stages = (PlanStage(me.names[2], 0, 5), PlanStage(me.names[0], 6, 7))
    plan, split = drafted(me, stages)
    head = me.head.plan
    assert (plan.epoch, plan.parent, plan.cause) == (1, me.head.digest, Cause.GAIN)
    assert (plan.deployment, plan.model, plan.terms) == (head.deployment, head.model, head.terms)
    assert plan.context_tokens_max == head.context_tokens_max
    assert (plan.stages, plan.score_us) == (stages, split.score_us)
    assert set(plan.voters[:2]) == {me.names[0], me.names[2]}
    assert len(plan.voters) == 3
    assert decode_plan(encode_plan(plan)) == plan


def test_the_deadline_follows_the_move_and_the_reason_is_one_line():
    me = Opinion()
    stages = (PlanStage(me.names[2], 0, 7),)
    plan, _ = drafted(me, stages, "x" * 1000, Move(8, 10, 10, 5000))
    assert plan.staging_ms == STAGING_MS_MIN + 20_000
    assert len(plan.reason) == REASON_CHARS_MAX
    clauses = "; ".join(f"clause {number}" for number in range(100))
    assert drafted(me, stages, clauses)[0].reason.endswith("; clause 18")


@pytest.mark.parametrize(("spare", "mode"), [(0, SwitchMode.MAKE_BEFORE_BREAK), (-1, SwitchMode.BREAK_BEFORE_MAKE)])
def test_only_memory_forces_to_break_before_making(spare, mode):
    me = Opinion()
    stages = (PlanStage(me.names[1], 0, 5), PlanStage(me.names[2], 6, 7))
    needed = 6 * (1000 + KV) + 2 * 1000  # blocks 6 and 7 of the epoch before stay open beside the new ones
    assert drafted(me, stages, memory=needed + spare)[0].mode is mode
