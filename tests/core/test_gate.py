from dataclasses import replace

import msgpack
import pytest

from shoal_agent.core import gate as gates
from shoal_agent.core.events import EnvelopeReceived
from shoal_agent.core.gate import DuplicateEnvelope, Gate, open_addressed
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError, ReplayedMessage
from shoal_protocol.ids import ClusterId, Incarnation, NodeId, Sequence
from shoal_protocol.limits import CLOCK_SKEW_MS_MAX, ENVELOPE_BYTES_MAX
from shoal_protocol.messages import ControlMessage, Heartbeat, NodeState
from shoal_protocol.replay import HeardBefore
from shoal_protocol.topics import topic_for
from tests.support.protocol import (
    AGENT,
    CLUSTER,
    MESSAGES,
    OBSERVER,
    OPERATOR,
    STRANGER,
    WALL_MS,
    WITNESS,
    by,
    node_of,
    sealed,
    trusted_roster,
)

ROSTER = trusted_roster()
BEAT = next(message for message in MESSAGES if isinstance(message, Heartbeat))
STATE = next(message for message in MESSAGES if isinstance(message, NodeState))
LIFE_MS = 60_000 + CLOCK_SKEW_MS_MAX
"""What ``sealed`` gives a message to live, and the allowance for clocks."""


def gate() -> Gate:
    return Gate(CLUSTER, node_of(AGENT), ROSTER)


def topic_of(message: ControlMessage, sender: NodeId | None = None) -> str:
    speaker = OPERATOR if type(message).__name__ == "PlanAnnounced" else AGENT
    return topic_for(CLUSTER, sender or node_of(speaker), message)


def arrives(
    door: Gate,
    wire: bytes,
    message: ControlMessage = BEAT,
    *,
    broker: str = "a",
    topic: str | None = None,
    wall_ms: int = WALL_MS,
) -> Envelope:
    return door.open(EnvelopeReceived(broker, topic or topic_of(message), wire), wall_ms)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_a_member_may_say_comes_through(message):
    assert arrives(gate(), sealed(message), message).message == message


def test_the_same_bytes_from_the_same_broker_are_a_replay():
    door = gate()
    arrives(door, sealed(BEAT))
    with pytest.raises(ReplayedMessage):
        arrives(door, sealed(BEAT))


def test_a_word_that_is_not_new_comes_with_its_envelope_so_that_its_sender_can_be_told():
    door = gate()
    arrives(door, sealed(BEAT, 5))
    with pytest.raises(HeardBefore, match="accepted before") as caught:
        arrives(door, sealed(BEAT, 5, ttl_ms=59_000))
    assert (caught.value.envelope.sender, caught.value.envelope.sequence) == (node_of(AGENT), 5)
    assert caught.value.reason == ReplayedMessage.reason


def test_what_a_broker_says_it_repeats_is_a_copy_and_not_a_replay():
    door, wire = gate(), sealed(BEAT)
    arrives(door, wire)
    with pytest.raises(DuplicateEnvelope):
        door.open(EnvelopeReceived("a", topic_of(BEAT), wire, redelivered=True), WALL_MS)
    with pytest.raises(ReplayedMessage):
        door.open(EnvelopeReceived("a", topic_of(BEAT), wire), WALL_MS)


def test_a_repeated_envelope_is_a_copy_even_when_its_bytes_are_forgotten(monkeypatch):
    monkeypatch.setattr(gates, "COPIES_MAX", 2)
    door, wire = gate(), sealed(BEAT)
    for sequence in (1, 2, 3):
        arrives(door, sealed(BEAT, sequence))
    with pytest.raises(DuplicateEnvelope):
        door.open(EnvelopeReceived("a", topic_of(BEAT), wire, redelivered=True), WALL_MS)


def test_the_same_bytes_from_another_broker_are_a_copy_once():
    door = gate()
    arrives(door, sealed(BEAT))
    with pytest.raises(DuplicateEnvelope):
        arrives(door, sealed(BEAT), broker="b")
    with pytest.raises(ReplayedMessage):
        arrives(door, sealed(BEAT), broker="b")


@pytest.mark.parametrize(("bound", "value"), [("COPIES_MAX", 8), ("COPIES_BYTES_MAX", 8 * len(sealed(BEAT)))])
def test_copies_are_remembered_up_to_a_bound_and_replayed_no_longer(monkeypatch, bound, value):
    monkeypatch.setattr(gates, bound, value)
    door = gate()
    for sequence in range(1, 11):
        arrives(door, sealed(BEAT, sequence))
        assert len(door._young) + len(door._old) <= 8
    for sequence in range(7, 11):
        with pytest.raises(DuplicateEnvelope):
            arrives(door, sealed(BEAT, sequence), broker="b")
    with pytest.raises(ReplayedMessage):
        arrives(door, sealed(BEAT, 1), broker="b")


def test_an_opener_may_be_shared_and_is_believed():
    seen = []

    def opener(wire, topic, roster, cluster):
        seen.append((wire, topic))
        return open_addressed(wire, None, roster, cluster)

    door, wire = Gate(CLUSTER, node_of(AGENT), ROSTER, opener), sealed(BEAT)
    assert arrives(door, wire, topic="elsewhere") == door.reopen(wire)
    assert seen == [(wire, "elsewhere"), (wire, None)]


def tampered(offset: int) -> bytes:
    wire = bytearray(sealed(BEAT))
    wire[offset] ^= 1
    return bytes(wire)


FORGERIES = {
    "empty": (b"", "malformed"),
    "noise": (b"\x93\x01\x02", "malformed"),
    "too deep": (b"\x92" + b"\x91" * 1000 + b"\x01", "malformed"),
    "too long": (bytes(ENVELOPE_BYTES_MAX + 1), "oversized"),
    "signature changed": (tampered(-1), "signature"),
    "signed by another": (
        msgpack.packb([msgpack.unpackb(sealed(BEAT))[0], msgpack.unpackb(sealed(BEAT, **by(WITNESS)))[1]]),
        "signature",
    ),
    "another cluster": (sealed(BEAT, cluster=ClusterId("0" * 32)), "cluster"),
    "a stranger": (sealed(BEAT, **by(STRANGER)), "sender"),
    "a role that only listens": (sealed(BEAT, **by(OBSERVER)), "sender"),
    "an operator beats no heart": (sealed(BEAT, **by(OPERATOR)), "sender"),
    "from the future": (sealed(BEAT, sent_ms=WALL_MS + CLOCK_SKEW_MS_MAX + 1), "expired"),
    "too old": (sealed(BEAT, sent_ms=WALL_MS - LIFE_MS - 1), "expired"),
}


@pytest.mark.parametrize(("wire", "reason"), FORGERIES.values(), ids=FORGERIES)
def test_everything_else_is_refused_for_its_reason_and_changes_nothing(wire, reason):
    door = gate()
    with pytest.raises(RemoteProtocolError) as refusal:
        arrives(door, wire)
    assert refusal.value.reason == reason
    assert not door._young
    assert arrives(door, sealed(BEAT)).message == BEAT


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "shoal/1/+/hb/0",
        "shoal/2/" + CLUSTER + "/hb/0",
        topic_for(CLUSTER, node_of(AGENT), STATE),
        topic_for(ClusterId("0" * 32), node_of(AGENT), BEAT),
        "x" * 100_000,
    ],
    ids=["none", "filter", "version", "another kind's", "another cluster's", "endless"],
)
def test_a_topic_is_the_one_that_follows_from_what_was_signed(topic):
    door = gate()
    with pytest.raises(MalformedMessage):
        arrives(door, sealed(BEAT), topic=topic or "/")
    assert arrives(door, sealed(BEAT)).message == BEAT


def test_a_record_on_the_topic_of_another_node_is_refused():
    with pytest.raises(MalformedMessage):
        arrives(gate(), sealed(STATE), topic=topic_for(CLUSTER, node_of(WITNESS), STATE))


def test_a_clock_that_is_set_back_does_not_silence_a_sender_we_know():
    door = gate()
    arrives(door, sealed(BEAT, 1))
    late = sealed(BEAT, 2, sent_ms=WALL_MS + 10 * CLOCK_SKEW_MS_MAX)
    assert arrives(door, late).sequence == 2


def test_an_earlier_life_is_a_replay():
    door = gate()
    arrives(door, sealed(BEAT, 1, incarnation=Incarnation(3)))
    with pytest.raises(ReplayedMessage):
        arrives(door, sealed(BEAT, 9, incarnation=Incarnation(2)))


def test_a_sequence_is_used_once_whatever_it_says():
    door = gate()
    arrives(door, sealed(BEAT, 5))
    with pytest.raises(ReplayedMessage):
        arrives(door, sealed(replace(BEAT, version=8), Sequence(5)))


def test_what_was_stored_is_verified_again_but_neither_aged_nor_counted():
    door = gate()
    plan = MESSAGES[3]
    wire = sealed(plan, sent_ms=WALL_MS - 10 * LIFE_MS)
    assert door.reopen(wire).message == door.reopen(wire).message == plan
    with pytest.raises(RemoteProtocolError):
        door.reopen(wire[:-1] + bytes([wire[-1] ^ 1]))
