"""Every message not to be believed, of every kind: it is refused, counted by its reason, and nothing else happens."""

import dataclasses
from collections import Counter

import msgpack
import pytest

from shoal_agent.core.effects import Broadcast, Count, Note, SendFrame
from shoal_protocol.codec import KIND_OF, MESSAGES, encode_message
from shoal_protocol.envelope import payload_type, seal
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.frames import Frame
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import ClusterId, Incarnation, Sequence, node_id_of
from shoal_protocol.limits import CLOCK_SKEW_MS_MAX, ENVELOPE_BYTES_MAX, SHARDS_MAX
from shoal_protocol.messages import Accused, Heartbeat, SynAck
from shoal_protocol.sealing import Ed25519Sealer, pae
from shoal_protocol.topics import AntiEntropyTopic, EvidenceTopic, RosterTopic, build, topic_for
from tests.support.siege import OPERATORS_SAY, Siege
from tests.support.world import CLUSTER

STRANGER = Ed25519Sealer(b"?" * 32)


@pytest.fixture(scope="module")
def siege():
    return Siege(99)


def signed_anew(wire: bytes, sealer: Ed25519Sealer) -> bytes:
    statement = msgpack.unpackb(wire)[0]
    kind = msgpack.unpackb(statement)[2]
    return msgpack.packb([statement, sealer.sign(pae(payload_type(kind), statement))])


def in_longer_form(siege, message) -> bytes:
    """The same statement with its array's length written in two bytes, and well signed."""
    statement = msgpack.unpackb(siege.sealed(message))[0]
    longer = b"\xdc\x00\x09" + statement[1:]
    assert msgpack.unpackb(longer) == msgpack.unpackb(statement)
    signature = siege.speaker(message).sign(pae(payload_type(KIND_OF[type(message)]), longer))
    return msgpack.packb([longer, signature])


def of_another_cluster(siege, message) -> bytes:
    sealer = siege.speaker(message)
    return seal(
        sealer,
        ClusterId("00" * 16),
        node_id_of(sealer.public_key),
        Incarnation(1),
        Sequence(5),
        60_000,
        siege.world.wall_ms(),
        message,
    )


def with_a_longer_body(siege, message) -> bytes:
    kind, body = encode_message(message)
    return siege.nonsense(kind, msgpack.packb([*msgpack.unpackb(body), 0]))


def without_its_role(siege, message) -> bytes:
    agent = siege.keys[siege.world.names[0]]
    return siege.sealed(message, agent if isinstance(message, OPERATORS_SAY) else siege.world.operator)


def flipped(wire: bytes) -> bytes:
    return wire[:-1] + bytes([wire[-1] ^ 1])


WIRES = {
    "forged": (lambda siege, message: signed_anew(siege.sealed(message), STRANGER), "signature"),
    "mis-signed": (lambda siege, message: flipped(siege.sealed(message)), "signature"),
    "expired": (
        lambda siege, message: siege.sealed(message, ttl_ms=1000, age_ms=1001 + CLOCK_SKEW_MS_MAX),
        "expired",
    ),
    "of an earlier life": (lambda siege, message: siege.sealed(message, incarnation=0), "replay"),
    "of another cluster": (of_another_cluster, "cluster"),
    "of a stranger": (lambda siege, message: siege.sealed(message, STRANGER), "sender"),
    "without its role": (without_its_role, "sender"),
    "truncated": (lambda siege, message: siege.sealed(message)[:-1], "malformed"),
    "with more behind it": (lambda siege, message: siege.sealed(message) + b"\x00", "malformed"),
    "in a longer form": (in_longer_form, "malformed"),
    "with a field too many": (with_a_longer_body, "malformed"),
    "oversized": (lambda siege, message: siege.sealed(message).ljust(ENVELOPE_BYTES_MAX + 1, b"\x00"), "oversized"),
}
LIVES_END = "of an earlier life"
"""Even of what outlives its sender: in its own slot, an earlier life is over once a later one was heard."""


def kinds():
    return pytest.mark.parametrize("kind", range(len(MESSAGES)), ids=[cls.__name__ for cls in MESSAGES])


def place_of(siege, message) -> str:
    return topic_for(CLUSTER, node_id_of(siege.speaker(message).public_key), message)


def bring(siege, road: str, wire: bytes, topic: str) -> None:
    """``wire`` comes from a broker, or over a link, which counts as one more broker."""
    if road == "broker":
        siege.hear(wire, topic)
    else:
        siege.receive(Frame(Gossip(topic), memoryview(wire), 0), siege.world.names[0])


def refused(siege, road: str, wire: bytes, topic: str, reason: str, aside: Counter | None = None) -> list:
    """``wire`` on ``topic`` is refused for ``reason``, counted once, and changes nothing; what else is done about it.

    ``aside`` is what may be counted besides.
    """
    target, now = siege.target, siege.world.now
    before, counts = target.node.snapshot(now), Counter(target.counts)
    siege.world.log.clear()
    bring(siege, road, wire, topic)
    assert Counter(target.counts) - counts - (aside or Counter()) == Counter({("messages_rejected", reason): 1})
    after = target.node.snapshot(now)
    assert Counter(dict(after.rejected))[reason] == Counter(dict(before.rejected))[reason] + 1
    assert dataclasses.replace(after, rejected=()) == dataclasses.replace(before, rejected=())
    effects = [effect for _, name, effect in siege.world.log if name == target.name]
    assert effects
    return [effect for effect in effects if not isinstance(effect, Count | Note)]


def roads():
    return pytest.mark.parametrize("road", ["broker", "link"])


@roads()
@kinds()
@pytest.mark.parametrize("attack", WIRES)
def test_what_is_not_to_be_believed_is_refused(siege, kind, attack, road):
    make, reason = WIRES[attack]
    message = siege.messages[kind]
    if attack == LIVES_END:
        accepted(siege, road, message)
    answers = refused(siege, road, make(siege, message), place_of(siege, message), reason)
    if attack == LIVES_END:
        speaker = node_id_of(siege.speaker(message).public_key)
        assert all(is_told(answer, speaker) for answer in answers), "one from the past is told, and nobody else"
    else:
        assert not answers


def is_told(effect, node) -> bool:
    """Whether ``effect`` says something to ``node`` alone."""
    if isinstance(effect, SendFrame):
        return effect.peer == node
    return isinstance(effect, Broadcast) and effect.topic == build(AntiEntropyTopic(CLUSTER, node))


UNASKED = ("messages_rejected", "unasked")
"""A SynAck that no Syn asked for passes the door, and is refused behind it."""


def accepted(siege, road: str, message) -> bytes:
    """``message`` under a new number passes the door."""
    wire, before = siege.sealed(message), Counter(siege.target.counts)
    bring(siege, road, wire, place_of(siege, message))
    counted = Counter(siege.target.counts) - before
    refusals = {key for key in counted if key[0] in ("messages_rejected", "messages_duplicate")}
    assert refusals <= ({UNASKED} if isinstance(message, SynAck) else set())
    return wire


FORKED = Counter({("messages_rejected", "equivocation"): 1})
"""Two records under one number are more than a replay: they are evidence, and everybody is told."""


def is_evidence(effect) -> bool:
    topic = effect.header.topic if isinstance(effect, SendFrame) else effect.topic
    return topic == build(EvidenceTopic(CLUSTER))


@roads()
@kinds()
def test_what_is_right_is_heard_once_and_a_replay_refused(siege, kind, road):
    message = siege.messages[kind]
    wire = accepted(siege, road, message)
    assert not refused(siege, road, wire, place_of(siege, message), "replay")
    again = siege.sealed(message, sequence=siege._sequence, ttl_ms=60_000)
    assert again != wire
    answers = refused(siege, road, again, place_of(siege, message), "replay", FORKED)
    assert all(is_evidence(answer) for answer in answers)


@roads()
@kinds()
def test_what_comes_on_another_topic_is_refused(siege, kind, road):
    message, other = siege.messages[kind], siege.world.names[2]
    here = place_of(siege, message)
    elsewhere = [topic_for(CLUSTER, other, siege.messages[index]) for index in range(len(MESSAGES))]
    elsewhere += [build(RosterTopic(CLUSTER)), "homeassistant/status", "", here + "/", "x" * 70_000]
    elsewhere += [topic_for(ClusterId("00" * 16), siege.world.names[0], message)]
    for topic in elsewhere:
        if topic != here:
            assert not refused(siege, road, siege.sealed(message), topic, "malformed")


def test_the_share_in_a_topic_is_nobodys_word():
    siege = Siege(98)
    for message in siege.messages[:3]:
        wire, sender = siege.sealed(message), siege.world.names[0]
        before = siege.refusals()
        siege.hear(wire, topic_for(CLUSTER, sender, message, SHARDS_MAX - 1))
        assert siege.refusals() == before


def test_every_reason_there_is_is_met():
    reasons = {reason for _, reason in WIRES.values()} | {"malformed", "replay"}
    assert reasons == {cls.reason for cls in RemoteProtocolError.__subclasses__()}


def test_the_kinds_are_those_of_the_codec(siege):
    assert [type(message) for message in siege.messages] == list(MESSAGES)
    assert isinstance(siege.messages[1], Heartbeat)
    assert isinstance(siege.messages[9], Accused)
