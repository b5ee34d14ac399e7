from dataclasses import replace

import pytest

from shoal_agent.core.crowding import price
from shoal_agent.core.decision import STAGING_MS_MIN, Choice, Move, Option
from shoal_agent.core.drafting import draft
from shoal_agent.core.outlook import Outlooks
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import Cause, PlanStage, SwitchMode, Terms
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


# --- standbys ---------------------------------------------------------------------------------------------------------


def backed(standbys):
    """Opinion of an epoch whose first stage is backed by node 3, and whose terms ask for so many ``standbys``."""
    return Opinion(terms=Terms(stages_min=2, standbys=standbys), standbys=((3,) * (standbys > 0), ()))


def test_a_draft_names_standbys_and_keeps_those_there_were():
    me = backed(1)
    stages = me.head.plan.stages
    plan, _ = drafted(me, stages)
    assert [stage.standbys for stage in plan.stages] == [me.named((3,)), me.named((2,))]
    assert plan.reason == "because"


def test_where_nobody_has_room_the_reason_says_so_at_its_end():
    me = backed(2)
    memory = 4 * (1000 + KV)
    clauses = "; ".join(f"clause {number}" for number in range(100))
    plan, _ = drafted(me, me.head.plan.stages, clauses, memory=memory)
    assert [len(stage.standbys) for stage in plan.stages] == [2, 1], "three have no stage, and room for one"
    assert plan.reason.startswith("clause 0; ")
    needed = f"they need {memory / 1e6:.1f} MB, other nodes have at most 0.0 MB left"
    assert plan.reason.endswith(f"; blocks 4-7 have only 1 standby: {needed}")
    assert len(plan.reason) <= REASON_CHARS_MAX
    assert decode_plan(encode_plan(plan)) == plan


@pytest.mark.parametrize(("standbys", "mode"), [(1, SwitchMode.MAKE_BEFORE_BREAK), (0, SwitchMode.BREAK_BEFORE_MAKE)])
def test_blocks_that_a_node_only_stands_by_with_force_nobody_to_break(standbys, mode):
    me = backed(standbys)
    me.record(me.names[3], hosted=me.head.plan.stages[0])
    stages = (PlanStage(me.names[0], 0, 3), PlanStage(me.names[3], 4, 7))
    assert drafted(me, stages, memory=4 * (1000 + KV))[0].mode is mode


def test_standbys_that_were_placed_with_their_primaries_stay_as_they_are():
    me = Opinion(terms=Terms(stages_min=2, standbys=1))
    stages = (PlanStage(me.names[2], 0, 3, (me.names[1],)), PlanStage(me.names[0], 4, 7, (me.names[2],)))
    outlook = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, NOW)
    split = price(outlook.problem, stages)
    plan = draft(me.head, outlook, Option(Choice.REDISTRIBUTE, split, stages=stages), Cause.FRAIL, "because")
    assert (plan.stages, plan.reason, plan.cause) == (stages, "because", Cause.FRAIL)
    alone = draft(me.head, outlook, Option(Choice.REDISTRIBUTE, split), Cause.GAIN, "because")
    assert alone.stages != stages
