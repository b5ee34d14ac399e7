from dataclasses import replace

import pytest

from shoal_agent.core.case import (
    BARRED_S,
    FORGIVEN_S,
    TRIALS_MAX,
    VALIDITY_MS,
    VALIDITY_MS_MAX,
    VALIDITY_MS_MIN,
    Scene,
    barred_by,
    case_of,
    footed_option,
    options_of,
)
from shoal_agent.core.causes import Trigger
from shoal_agent.core.crowding import price
from shoal_agent.core.decision import Choice
from shoal_agent.core.footing import footing
from shoal_agent.core.outlook import Outlooks
from shoal_agent.core.problem import Infeasible
from shoal_protocol.ids import Epoch, Instant
from shoal_protocol.messages import Cause, PlanStage, Terms
from tests.support.opinion import NOW, Opinion

HOUR_MS = 3_600_000


@pytest.fixture
def me():
    return Opinion()


def following(me, stood_s, epoch=1):
    """The head after one that stood for so long."""
    plan = replace(me.head.plan, epoch=Epoch(epoch), cause=Cause.GAIN)
    return me.adopt(plan, Instant(me.head.since + stood_s))


def test_a_case_lasts_as_long_as_its_epoch(me):
    case = case_of(me.head, None, NOW)
    assert (case.epoch, case.validity_ms) == (0, VALIDITY_MS)
    assert case_of(me.head, case, NOW) is case
    case.told = "something"
    after = case_of(following(me, 3600), case, NOW)
    assert (after.epoch, after.told) == (1, "")


@pytest.mark.parametrize(
    ("stood_s", "validity_ms"),
    [(3600, VALIDITY_MS), (7200, VALIDITY_MS * 5 // 4), (0, VALIDITY_MS * 3 // 4), (10**9, VALIDITY_MS_MAX)],
)
def test_how_long_plans_stand_is_learned(me, stood_s, validity_ms):
    assert case_of(following(me, stood_s), case_of(me.head, None, NOW), NOW).validity_ms == validity_ms


def test_plans_are_expected_to_stand_for_a_minute_at_least(me):
    case = case_of(me.head, None, NOW)
    for epoch in range(1, 40):
        case = case_of(following(me, 0, epoch), case, NOW)
    assert case.validity_ms == VALIDITY_MS_MIN


def test_who_failed_is_remembered_over_epochs_for_a_while(me):
    case = case_of(me.head, None, NOW)
    case.barred[me.names[1]] = NOW, "failed epoch 0: disk full"
    after = case_of(following(me, 3600), case, Instant(NOW + BARRED_S - 1))
    assert barred_by(after, me.head, None, Instant(NOW + BARRED_S - 1)) == {me.names[1]: "failed epoch 0: disk full"}
    assert case_of(me.head, after, Instant(NOW + BARRED_S)).barred == {}


def test_where_nobody_else_could_who_failed_is_asked_again_after_a_pause_that_grows(me):
    case = case_of(me.head, None, NOW)
    case.barred[me.names[1]] = NOW, "failed epoch 0: disk full"
    case.alone = True
    for trials, pause_s in ((1, FORGIVEN_S), (2, 2 * FORGIVEN_S), (3, 4 * FORGIVEN_S), (TRIALS_MAX, BARRED_S)):
        case.trials = trials
        assert barred_by(case, me.head, None, Instant(NOW + pause_s - 1)) != {}
        assert barred_by(case, me.head, None, Instant(NOW + pause_s)) == {}


def test_who_is_not_ready_counts_as_failed_before_anybody_says_so(me):
    case = case_of(me.head, None, NOW)
    late = Trigger(Cause.NOT_READY, (me.names[1],), "late")
    soon, much_later = Instant(me.head.since + BARRED_S - 1), Instant(me.head.since + BARRED_S)
    assert barred_by(case, me.head, late, soon) == {me.names[1]: "failed epoch 0"}
    assert barred_by(case, me.head, late, much_later) == {}, "it may be tried again"
    assert barred_by(case, me.head, replace(late, cause=Cause.HOST_LOST), soon) == {}


# --- what the backbone answered ---------------------------------------------------------------------------------------


def scene_of(me):
    outlook = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, NOW)
    case = case_of(me.head, None, NOW)
    case.answers = {choice: Infeasible("no", ()) for choice in (Choice.REDISTRIBUTE, Choice.RESPLIT)}
    case.footing = footing(outlook.problem, me.head.plan.stages, 1, HOUR_MS)
    return Scene(case, me.head, None, outlook)


def answer(scene, primaries, standbys):
    nodes = [machine.node for machine in scene.case.footing.machines]
    scene.case.footed = tuple(tuple(int(node == chosen) for node in nodes) for chosen in (*primaries, *standbys))


def test_the_answer_of_the_backbone_is_a_redistribution_with_its_standbys():
    me = Opinion(terms=Terms(stages_min=2, standbys=1), standbys=((3,), (3,)))
    scene = scene_of(me)
    assert footed_option(scene) is None, "it has not answered"
    answer(scene, me.names[:2], (me.names[3], me.names[2]))
    assert footed_option(scene) is None, "nobody would move"
    answer(scene, (me.names[2], me.names[1]), (me.names[0], me.names[3]))
    option = footed_option(scene)
    assert [(stage.node, stage.standbys) for stage in option.stages] == [
        (me.names[2], (me.names[0],)),
        (me.names[1], (me.names[3],)),
    ]
    assert (option.choice, option.move.blocks, option.bares) == (Choice.REDISTRIBUTE, 4, False)
    assert options_of(scene, broken=False, covered=True) == [option]
    assert options_of(scene, broken=True, covered=False) == [], "repairs have no time for it"


def test_what_would_leave_a_stage_without_a_standby_is_marked_where_all_have_one():
    me = Opinion(terms=Terms(stages_min=1, standbys=1), standbys=((3,), (3,)))
    for index in (1, 3, 4):
        me.record(me.names[index], memory=5 * (1000 + 64 * 512), hosted=me.head.plan.stages[1] if index == 1 else None)
    me.record(me.names[0], memory=5 * (1000 + 64 * 512), hosted=me.head.plan.stages[0])
    scene = scene_of(me)
    scene.case.answers[Choice.RESPLIT] = price(scene.outlook.problem, (PlanStage(me.names[2], 0, 7),))
    (alone,) = options_of(scene, broken=False, covered=True)
    assert alone.bares
    (alone,) = options_of(scene, broken=False, covered=False)
    assert not alone.bares
