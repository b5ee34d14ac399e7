import pytest

from shoal_agent.core.causes import (
    STANDBY_S,
    WITNESS_S,
    is_gone,
    late_hosts,
    missed_standbys,
    slowness_of,
    standbys_there,
    trigger_of,
)
from shoal_agent.core.facts import Standing
from shoal_protocol.ids import Instant
from shoal_protocol.messages import Cause, DeploymentPhase, NodePhase
from tests.support.opinion import NOW, TOY, Opinion

FAILED, LOADING, READY = DeploymentPhase.FAILED, DeploymentPhase.LOADING, DeploymentPhase.READY


@pytest.fixture
def me():
    return Opinion()


def trigger(me, gone_since=None, now=NOW):
    return trigger_of(me.tables, me.here, me.head, gone_since or {}, now)


def test_all_is_well(me):
    assert trigger(me) is None
    assert late_hosts(me.head, NOW) == ()


@pytest.mark.parametrize("standing", [Standing.SUSPECT, Standing.SLOW, Standing.LINK_LOST, Standing.MQTT_LOST])
def test_a_host_in_trouble_is_not_a_lost_one(me, standing):
    me.record(me.names[1], standing=standing)
    assert trigger(me) is None


@pytest.mark.parametrize("standing", [Standing.DEAD, Standing.LEFT])
def test_a_lost_host(me, standing):
    me.record(me.names[1], standing=standing)
    found = trigger(me)
    assert (found.cause, found.nodes, found.stays) == (Cause.HOST_LOST, (me.names[1],), False)
    assert found.text == f"host {me.names[1][:8]} is {standing.value}"


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("phase", [NodePhase.DRAINING, NodePhase.DISCONNECTED])
def test_a_host_that_says_it_leaves_is_lost_while_it_serves(me, index, phase):
    me.record(me.names[index], phase=phase)
    assert is_gone(me.tables, me.here, me.names[index])
    found = trigger(me)
    assert (found.cause, found.text) == (Cause.HOST_LOST, f"host {me.names[index][:8]} is leaving")


def test_what_happens_to_others_is_no_cause(me):
    me.record(me.names[3], standing=Standing.DEAD)
    assert me.names[3] not in me.head.plan.voters
    assert trigger(me, {me.names[3]: Instant(0.0)}) is None


def test_a_host_that_failed():
    me = Opinion(served=False)
    me.report(me.names[1], FAILED, "block 5: tampered")
    found = trigger(me, now=Instant(me.head.since + 1))
    assert (found.cause, found.nodes) == (Cause.NOT_READY, (me.names[1],))
    assert found.text == f"host {me.names[1][:8]} failed (block 5: tampered)"


def test_hosts_that_are_late():
    me = Opinion(served=False)
    due = Instant(me.head.since + me.head.plan.staging_ms / 1000)
    me.report(me.names[0], READY)
    assert trigger(me, now=Instant(due - 0.001)) is None
    assert late_hosts(me.head, due) == (me.names[1],)
    assert trigger(me, now=due).text == f"host {me.names[1][:8]} is not ready after 120 s"


def test_a_host_that_began_again_has_its_time_again(me):
    me.report(me.names[1], LOADING, at=NOW, sequence=2)
    assert trigger(me) is None
    assert trigger(me, now=Instant(NOW + 119)) is None
    me.report(me.names[1], LOADING, at=Instant(NOW + 100), sequence=3)
    assert trigger(me, now=Instant(NOW + 120)).cause is Cause.NOT_READY, "saying it again is not beginning again"


def test_a_lost_host_is_graver_than_a_late_one(me):
    me.report(me.names[0], FAILED, sequence=2)
    me.record(me.names[1], standing=Standing.DEAD)
    assert trigger(me).cause is Cause.HOST_LOST


def test_a_lost_voter_has_time_to_come_back(me):
    (witness,) = set(me.head.plan.voters) - set(me.names[:2])
    me.record(witness, standing=Standing.DEAD)
    since = {witness: NOW}
    assert trigger(me, since, Instant(NOW + WITNESS_S - 0.1)) is None
    found = trigger(me, since, Instant(NOW + WITNESS_S))
    assert (found.cause, found.nodes, found.stays) == (Cause.HOST_LOST, (witness,), True)
    me.record(witness)
    assert trigger(me, since, Instant(NOW + WITNESS_S)) is None


def test_a_standby_is_missed_once_it_has_been_gone_for_a_while_and_breaks_nothing():
    me = Opinion(standbys=((3, 4), (3,)))
    plan, three = me.head.plan, me.names[3]

    def missed(since, now):
        return missed_standbys(me.tables, me.here, plan, since, now)

    assert (missed({three: NOW}, Instant(NOW + 99)), standbys_there(me.tables, me.here, plan)) == ((), 3)
    me.record(three, standing=Standing.DEAD)
    assert standbys_there(me.tables, me.here, plan) == 1
    assert missed({three: NOW}, Instant(NOW + STANDBY_S - 0.1)) == ()
    assert missed({three: NOW}, Instant(NOW + STANDBY_S)) == (three, three), "it backed two stages"
    assert trigger(me, {three: NOW}, Instant(NOW + STANDBY_S)) is None


def test_clients_that_wait_too_long_are_the_fault_of_the_plan_that_serves_them(me):
    for number in range(10):
        me.tables.lateness.ended(TOY, Instant(NOW + number), late=True)
    found = slowness_of(me.tables, me.here, me.head, Instant(NOW + 9))
    assert (found.cause, found.nodes, found.stays) == (Cause.SLOW, (me.here,), False)
    me.report(me.names[1], LOADING, sequence=2)
    assert slowness_of(me.tables, me.here, me.head, Instant(NOW + 9)) is None
    me.report(me.names[1], READY, sequence=3)
    assert slowness_of(me.tables, me.here, me.head, Instant(NOW + 9)) is None, "what was late before is forgotten"
