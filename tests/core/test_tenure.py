from dataclasses import replace

import pytest

from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.tenure import TRANSITIONS, Holding, HostReport, Tenure, Tenures, route_of
from shoal_protocol.ids import DeploymentId, Epoch, Incarnation, NodeId, Sequence, digest_of
from shoal_protocol.messages import DeploymentPhase, Plan, PlanStage
from tests.support.toy import MODEL

ONE, TWO = NodeId("a" * 32), NodeId("b" * 32)
TOY = DeploymentId("toy")
PLAN = Plan(TOY, Epoch(0), GENESIS_PARENT, MODEL, 512, (PlanStage(ONE, 0, 3), PlanStage(TWO, 4, 7)))
DIGEST = digest_of(b"plan")
PHASES = list(DeploymentPhase)


THREE = NodeId("c" * 32)
BACKED = replace(PLAN, stages=(PlanStage(ONE, 0, 3, (THREE, TWO)), PlanStage(TWO, 4, 7, (ONE,))))


def report(
    phase: DeploymentPhase, sequence: int = 1, incarnation: int = 1, standing_by: tuple[int, ...] = ()
) -> HostReport:
    return HostReport(phase, "", Incarnation(incarnation), Sequence(sequence), standing_by=standing_by)


def serving(plan: Plan = PLAN) -> Tenure:
    tenure = Tenure(plan, DIGEST)
    tenure.hear(ONE, report(DeploymentPhase.READY))
    tenure.hear(TWO, report(DeploymentPhase.ACTIVE))
    return tenure


@pytest.mark.parametrize("before", PHASES)
@pytest.mark.parametrize("after", PHASES)
def test_a_host_goes_only_where_the_table_says(before, after):
    tenure = Tenure(PLAN, DIGEST, before)
    if after in TRANSITIONS[before]:
        tenure.advance(after, "why")
        assert (tenure.mine, tenure.detail) == (after, "why")
    else:
        with pytest.raises(AssertionError, match=f"no way from {before.name} to {after.name}"):
            tenure.advance(after)


def test_the_table_knows_every_phase():
    assert set(TRANSITIONS) == set(DeploymentPhase)


def test_only_a_host_has_a_phase():
    with pytest.raises(AssertionError, match="only a host"):
        Tenure(PLAN, DIGEST).advance(DeploymentPhase.READY)


@pytest.mark.parametrize("one", [None, *PHASES])
@pytest.mark.parametrize("two", [None, *PHASES])
def test_an_epoch_serves_while_all_its_hosts_are_ready(one, two):
    tenure = Tenure(PLAN, DIGEST)
    for node, phase in ((ONE, one), (TWO, two)):
        if phase is not None:
            tenure.hear(node, report(phase))
    good = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)
    assert tenure.serving() is (one in good and two in good)


def backed(one: HostReport | None, two: HostReport | None, three: HostReport | None) -> Tenure:
    tenure = Tenure(BACKED, DIGEST)
    for node, said in ((ONE, one), (TWO, two), (THREE, three)):
        if said is not None:
            tenure.hear(node, said)
    return tenure


ACTIVE = report(DeploymentPhase.ACTIVE)
OPEN_0, OPEN_1 = (report(DeploymentPhase.ACTIVE, standing_by=(stage,)) for stage in (0, 1))


@pytest.mark.parametrize(
    ("reports", "lost", "avoid", "route"),
    [
        pytest.param((ACTIVE, ACTIVE, OPEN_0), (), (), (ONE, TWO), id="the primaries, if they are there"),
        pytest.param((ACTIVE, ACTIVE, OPEN_0), (ONE,), (), (THREE, TWO), id="a standby of a lost one"),
        pytest.param((ACTIVE, OPEN_0, OPEN_0), (ONE, THREE), (), (TWO, TWO), id="the next one, a primary itself"),
        pytest.param((OPEN_1, OPEN_0, OPEN_0), (), (TWO,), (ONE, ONE), id="or of one to avoid"),
        pytest.param((ACTIVE, ACTIVE, None), (ONE,), (), None, id="nobody who never said so"),
        pytest.param((ACTIVE, ACTIVE, ACTIVE), (ONE,), (), None, id="nor one whose blocks are not open"),
        pytest.param(
            (ACTIVE, ACTIVE, report(DeploymentPhase.DRAINED, standing_by=(0,))), (ONE,), (), None, id="nor any more"
        ),
        pytest.param(
            (report(DeploymentPhase.LOADING), ACTIVE, OPEN_0), (), (), (THREE, TWO), id="while a primary begins again"
        ),
        pytest.param(
            (report(DeploymentPhase.FAILED), ACTIVE, OPEN_0), (), (), (THREE, TWO), id="or when it has failed"
        ),
    ],
)
def test_a_route_names_the_first_node_of_each_stage_that_can_serve_it(reports, lost, avoid, route):
    assert route_of(backed(*reports), lost, avoid) == route


def test_an_epoch_that_was_complete_once_serves_while_there_is_a_route():
    ready = report(DeploymentPhase.READY)
    new = backed(ready, None, replace(ready, standing_by=(0,)))
    assert not new.serving(), "a stage has nobody"
    new.hear(TWO, ready)
    assert new.serving()
    assert not new.serving({ONE}), "it never was complete as far as anybody knows"
    new.served = new.since
    assert new.serving({ONE})
    assert not new.complete({ONE})
    assert not new.serving({ONE, THREE})


def test_a_host_that_is_active_proves_to_a_newcomer_that_the_epoch_was_complete():
    assert backed(None, ACTIVE, OPEN_0).serving()
    assert not backed(None, report(DeploymentPhase.READY), replace(OPEN_0, phase=DeploymentPhase.READY)).serving()


def test_the_stages_a_node_can_serve_are_those_whose_blocks_are_open():
    tenure = Tenure(BACKED, DIGEST, DeploymentPhase.READY)
    assert (tenure.asked, tenure.open_stages) == (False, ())
    tenure.held = {2: Holding.CLOSING, 1: Holding.OPEN, 3: Holding.OPENING, 0: Holding.OPEN}
    assert (tenure.asked, tenure.open_stages) == (True, (0, 1))


@pytest.mark.parametrize(
    ("later", "wins"),
    [((2, 6), True), ((2, 5), False), ((2, 4), False), ((3, 1), True), ((1, 9), False)],
)
def test_the_newest_word_of_a_host_counts_in_whatever_order_it_comes(later, wins):
    tenure = Tenure(PLAN, DIGEST)
    tenure.hear(ONE, report(DeploymentPhase.READY, 5, 2))
    incarnation, sequence = later
    tenure.hear(ONE, report(DeploymentPhase.LOADING, sequence, incarnation))
    assert (tenure.reports[ONE].phase is DeploymentPhase.LOADING) is wins


def test_an_epoch_is_taken_once():
    tenures = Tenures()
    assert tenures.add(PLAN, DIGEST) is not None
    assert tenures.add(PLAN, DIGEST) is None
    assert tenures.add(replace(PLAN, context_tokens_max=1), digest_of(b"other")) is None
    assert tenures.get(TOY, Epoch(0)).digest == DIGEST


def test_the_newest_serving_epoch_is_the_one_that_serves():
    tenures = Tenures()
    for epoch in (2, 0, 1):
        tenures.add(replace(PLAN, epoch=Epoch(epoch)), DIGEST)
    tenures.add(replace(PLAN, deployment=DeploymentId("other")), DIGEST)
    assert tenures.serving(TOY) is None
    for epoch in (0, 1):
        tenures.get(TOY, Epoch(epoch)).reports.update(serving().reports)
    assert tenures.serving(TOY).plan.epoch == 1
    assert tenures.serving(DeploymentId("other")) is None
    assert tenures.known(TOY)
    assert not tenures.known(DeploymentId("nothing"))


def test_all_come_by_deployment_and_epoch():
    tenures = Tenures()
    names = [("b", 0), ("a", 10), ("a", 9)]
    for name, epoch in names:
        tenures.add(replace(PLAN, deployment=DeploymentId(name), epoch=Epoch(epoch)), DIGEST)
    assert [(tenure.plan.deployment, tenure.plan.epoch) for tenure in tenures.all()] == sorted(names)
    tenures.check()


def test_a_tenure_filed_under_another_name_is_noticed():
    tenures = Tenures()
    tenures.add(PLAN, DIGEST).plan = replace(PLAN, epoch=Epoch(1))
    with pytest.raises(AssertionError):
        tenures.check()
