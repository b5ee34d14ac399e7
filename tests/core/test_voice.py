"""How a node speaks: sealed, numbered, to brokers and to links."""

import pytest

from shoal_agent.core.effects import Broadcast, SendFrame
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.voice import RECORDS_MAX, TTL_MS, Voice
from shoal_protocol.envelope import Envelope, open_envelope
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, Instant, NodeId, Sequence
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import DeploymentPhase, Heartbeat, LinkDeath, PhaseReported, Syn
from tests.support.crowd import Crowd
from tests.support.talker import CLUSTER, WALL_MS

NOW = Instant(5.0)
PEER, OTHER = NodeId("a" * 32), NodeId("b" * 32)
BEAT = Heartbeat(1, 1)


def phase(deployment: str = "toy") -> PhaseReported:
    return PhaseReported(DeploymentId(deployment), Epoch(0), Digest(bytes(32)), DeploymentPhase.READY, "")


@pytest.fixture
def crowd() -> Crowd:
    return Crowd(1)


@pytest.fixture
def voice(crowd: Crowd) -> Voice:
    (talker,) = crowd.all()
    made = Voice(talker.gossip._config, talker.voice.identity)
    made.sense(talker.voice.sampled, Instant(0.0))
    return made


def opened(wire: bytes, crowd: Crowd) -> Envelope:
    return open_envelope(wire, crowd.roster, CLUSTER)


def test_everything_is_numbered_in_one_row_and_dated_by_the_sensors_clock(voice: Voice, crowd: Crowd):
    out = Outbox(voice.identity.node)
    wires = [voice.say(BEAT, NOW, out), voice.seal(phase(), NOW), voice.will("a", 3, NOW)[1]]
    envelopes = [opened(wire, crowd) for wire in wires]
    assert [envelope.sequence for envelope in envelopes] == [1, 2, 3]
    assert voice.sequence == 3
    assert {envelope.sent_ms for envelope in envelopes} == {WALL_MS + 5000}
    assert [envelope.ttl_ms for envelope in envelopes] == [TTL_MS, TTL_MS, TTL_MS_MAX]
    assert envelopes[2].message == LinkDeath(3, "a")


def test_what_is_said_goes_to_every_broker_and_directly_to_whom_it_concerns(voice: Voice):
    out = Outbox(voice.identity.node)
    wire = voice.say(phase(), NOW, out, retain=True, direct=[PEER, voice.identity.node, OTHER])
    topic = f"shoal/1/{CLUSTER}/d/toy/s/{voice.identity.node}"
    assert out.effects == [
        Broadcast(topic, wire, retain=True, at_least_once=True, expiry_s=TTL_MS // 1000),
        SendFrame(PEER, Gossip(topic), wire),
        SendFrame(OTHER, Gossip(topic), wire),
    ]


def test_only_heartbeats_need_not_arrive(voice: Voice):
    out = Outbox(voice.identity.node)
    voice.say(BEAT, NOW, out)
    voice.say(phase(), NOW, out)
    assert [(effect.retain, effect.at_least_once) for effect in out.effects] == [(False, False), (False, True)]


@pytest.mark.parametrize("direct", [True, False])
def test_one_node_alone_is_told_by_one_road(voice: Voice, crowd: Crowd, direct: bool):
    out = Outbox(voice.identity.node)
    voice.tell(PEER, Syn(PEER, (), ()), NOW, out, direct=direct)
    (effect,) = out.effects
    if direct:
        assert isinstance(effect, SendFrame)
        assert (effect.peer, effect.header) == (PEER, Gossip(f"shoal/1/{CLUSTER}/ae/{PEER}"))
        wire = effect.payload
    else:
        assert isinstance(effect, Broadcast)
        assert (effect.topic, effect.retain) == (f"shoal/1/{CLUSTER}/ae/{PEER}", False)
        wire = effect.wire
    assert opened(wire, crowd).message == Syn(PEER, (), ())


def test_the_last_record_of_every_slot_stands(voice: Voice):
    out = Outbox(voice.identity.node)
    voice.say(phase("a"), NOW, out, retain=True)
    old = voice.say(phase("b"), NOW, out, retain=True)
    voice.say(BEAT, NOW, out)
    new = voice.say(phase("b"), NOW, out, retain=True)
    assert [(record.slot[1], record.sequence) for record in voice.lasting.values()] == [("a", 1), ("b", 4)]
    assert voice.lasting[5, "b"].wire == new
    assert voice.said(Sequence(2), old)
    assert not voice.said(Sequence(2), new), "another word under this number"
    assert not voice.said(Sequence(3), new)
    assert not voice.said(Sequence(5), new), "nothing was said under this number yet"


def test_what_is_too_long_ago_to_tell_counts_as_said(voice: Voice):
    out = Outbox(voice.identity.node)
    for _ in range(RECORDS_MAX + 1):
        voice.say(phase(), NOW, out, retain=True)
    assert voice.said(Sequence(1), b"?")
    assert not voice.said(Sequence(2), b"?")


def test_a_later_life_begins_from_nothing(voice: Voice, crowd: Crowd):
    out = Outbox(voice.identity.node)
    voice.say(phase(), NOW, out, retain=True)
    with pytest.raises(AssertionError, match="never lived twice"):
        voice.be_reborn(voice.identity.incarnation)
    voice.be_reborn(Incarnation(9))
    assert (voice.lasting, voice.sequence) == ({}, 0)
    envelope = opened(voice.say(BEAT, NOW, out), crowd)
    assert (envelope.incarnation, envelope.sequence) == (9, 1)
    assert not voice.said(Sequence(1), b"of an earlier life")
