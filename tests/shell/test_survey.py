import pytest

from shoal_agent.core.problem import Candidate
from shoal_agent.shell.survey import QUIET_S, Package, Survey, candidate_of, why_not
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import ClusterId, Digest, Incarnation, Instant, NodeId, Sequence
from shoal_protocol.messages import Capacity, Endpoint, Heartbeat, LinkDeath, Load, NodePhase, NodeState

MODEL, OTHER = Digest(b"m" * 32), Digest(b"o" * 32)
PACKAGE = Package(MODEL, 1000)
A, B, C = (NodeId(letter * 32) for letter in "abc")


def state(version=1, phase=NodePhase.READY, models=(MODEL,), disk_free_bytes=10_000):
    return NodeState(
        version=version,
        phase=phase,
        data=Endpoint("127.0.0.1", 7600),
        api="",
        capacity=Capacity(4, 8000, 9000, disk_free_bytes, 5_000_000, ()),
        load=Load(250, 7000, None, 0, 0, foreign_permille=100),
        hosted=(),
        models=models,
        services=(),
        software="shoal 0",
    )


def say(survey, node, message, at=0.0, incarnation=1):
    survey.hear(Envelope(ClusterId("0" * 32), node, Incarnation(incarnation), Sequence(1), 1, 1, message), Instant(at))


def heard(survey):
    return [each.node for each in survey.heard()]


def over(survey, at, wanted=(), nodes_min=1):
    return survey.over(frozenset(wanted), nodes_min, PACKAGE, Instant(at))


@pytest.fixture
def survey():
    return Survey(Instant(0.0))


def test_a_record_without_a_heartbeat_may_be_of_the_dead(survey):
    say(survey, A, state())
    assert heard(survey) == []
    say(survey, A, Heartbeat(1, 1))
    assert heard(survey) == [A]


@pytest.mark.parametrize("order", [0, 1])
def test_record_and_heartbeat_come_in_any_order(survey, order):
    messages = [state(), Heartbeat(1, 1)]
    for message in messages[order:] + messages[:order]:
        say(survey, A, message)
    assert heard(survey) == [A]


def test_a_heartbeat_of_a_later_life_does_not_prove_the_record(survey):
    say(survey, A, state(), incarnation=1)
    say(survey, A, Heartbeat(1, 1), incarnation=2)
    assert heard(survey) == []
    say(survey, A, state(), incarnation=2)
    assert heard(survey) == [A]


def test_the_newest_record_counts(survey):
    for version in (2, 3, 1):
        say(survey, A, state(version))
    say(survey, A, Heartbeat(1, 3))
    assert survey.heard()[0].state.version == 3


def test_other_kinds_are_nothing(survey):
    say(survey, A, LinkDeath(1, "b"))
    assert heard(survey) == []


def test_who_is_heard_is_in_order(survey):
    for node in (C, A, B):
        say(survey, node, state())
        say(survey, node, Heartbeat(1, 1))
    assert heard(survey) == [A, B, C]


def test_it_is_over_when_nobody_was_new_for_a_while(survey):
    say(survey, A, Heartbeat(1, 1), 0.5)
    say(survey, A, state(), 1.0)
    say(survey, A, Heartbeat(2, 1), 1.5)
    say(survey, A, state(2), 2.0)
    assert survey.deadline() == 1.0 + QUIET_S
    assert not over(survey, 1.0 + QUIET_S - 0.01)
    assert over(survey, 1.0 + QUIET_S)
    say(survey, B, state(), 3.0)
    say(survey, B, Heartbeat(1, 1), 3.0)
    assert not over(survey, 1.0 + QUIET_S)


def test_silence_is_not_enough_without_enough_nodes(survey):
    assert not over(survey, 100.0)
    say(survey, A, state(), 1.0)
    say(survey, A, Heartbeat(1, 1), 1.0)
    assert not over(survey, 100.0, nodes_min=2)
    assert over(survey, 100.0, nodes_min=1)


def test_named_nodes_end_it_at_once(survey):
    for node in (A, B):
        assert not over(survey, 0.0, wanted=(A, B))
        say(survey, node, state())
        say(survey, node, Heartbeat(1, 1))
    assert over(survey, 0.0, wanted=(A, B))


def test_somebody_must_have_the_package(survey):
    for node in (A, B):
        say(survey, node, state(models=()))
        say(survey, node, Heartbeat(1, 1))
    assert not survey.held(PACKAGE)
    assert not over(survey, 100.0)
    say(survey, C, state())
    assert not over(survey, 100.0), "a record without a heartbeat may be of the dead"
    say(survey, C, Heartbeat(1, 1))
    assert survey.held(PACKAGE)
    assert over(survey, 200.0, nodes_min=3), "two of them fetch it"


def test_a_named_node_must_be_able_to_host(survey):
    say(survey, B, state())
    say(survey, B, Heartbeat(1, 1))
    say(survey, A, state(models=(), disk_free_bytes=0))
    say(survey, A, Heartbeat(1, 1))
    assert not over(survey, 100.0, wanted=(A,))
    say(survey, A, state(2))
    assert over(survey, 100.0, wanted=(A,))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (state(), None),
        (state(phase=NodePhase.STARTING), "is starting"),
        (state(phase=NodePhase.DRAINING), "is draining"),
        (state(phase=NodePhase.DISCONNECTED), "is disconnected"),
        (state(models=(OTHER,)), None),
        (state(models=(), disk_free_bytes=999), "has not got the package, nor room for it (999 of 1000 bytes)"),
        (state(disk_free_bytes=999), None),
    ],
)
def test_who_can_host(record, reason):
    assert why_not(record, PACKAGE) == reason


def test_a_candidate_offers_what_is_free(survey):
    say(survey, A, state())
    say(survey, A, Heartbeat(1, 1))
    assert candidate_of(survey.heard()[0]) == Candidate(A, 5_000_000, 7000, 100)
