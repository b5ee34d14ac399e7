import pytest

from shoal_agent.sim import opening
from shoal_agent.sim.opening import Openings
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.messages import Heartbeat, NodeState
from shoal_protocol.topics import topic_for
from tests.support.protocol import AGENT, CLUSTER, MESSAGES, node_of, sealed, trusted_roster

ROSTER = trusted_roster()
BEAT, STATE = (next(each for each in MESSAGES if isinstance(each, kind)) for kind in (Heartbeat, NodeState))
TOPIC = topic_for(CLUSTER, node_of(AGENT), BEAT)


@pytest.fixture
def opened(monkeypatch):
    """The memo, and what really had to be opened."""
    real, calls = opening.open_addressed, []

    def counted(wire, topic, roster, cluster):
        calls.append(wire)
        return real(wire, topic, roster, cluster)

    monkeypatch.setattr(opening, "open_addressed", counted)
    return Openings(), calls


def test_the_same_bytes_are_opened_once(opened):
    openings, calls = opened
    first = openings.open(sealed(BEAT), TOPIC, ROSTER, CLUSTER)
    assert first.message == BEAT
    assert (
        openings.open(sealed(BEAT), TOPIC, ROSTER, CLUSTER)
        is openings.open(sealed(BEAT), None, ROSTER, CLUSTER)
        is first
    )
    assert len(calls) == 1


def test_another_topic_is_judged_again_and_what_is_refused_every_time(opened):
    openings, calls = opened
    openings.open(sealed(BEAT), TOPIC, ROSTER, CLUSTER)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            openings.open(sealed(BEAT), topic_for(CLUSTER, node_of(AGENT), STATE), ROSTER, CLUSTER)
    assert len(calls) == 3


def test_another_roster_knows_nothing(opened):
    openings, calls = opened
    for _ in range(2):
        openings.open(sealed(BEAT), TOPIC, trusted_roster(), CLUSTER)
    assert len(calls) == 2


def test_memory_is_bounded(opened, monkeypatch):
    monkeypatch.setattr(opening, "OPENED_MAX", 8)
    openings, calls = opened
    for sequence in range(1, 20):
        openings.open(sealed(BEAT, sequence), TOPIC, ROSTER, CLUSTER)
        assert len(openings._young) + len(openings._old) <= 8
    openings.open(sealed(BEAT, 19), TOPIC, ROSTER, CLUSTER)
    assert len(calls) == 19
    openings.open(sealed(BEAT, 1), TOPIC, ROSTER, CLUSTER)
    assert len(calls) == 20
