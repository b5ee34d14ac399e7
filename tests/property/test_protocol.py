"""Whatever a peer, a broker or a member sends: it is understood, or it is a RemoteProtocolError. Nothing else."""

import struct
import zlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_protocol.codec import (
    HEADERS,
    MESSAGES,
    decode_header,
    decode_message,
    decode_plan,
    encode_header,
    encode_message,
    encode_plan,
)
from shoal_protocol.envelope import check_age, open_envelope, payload_type, seal
from shoal_protocol.errors import (
    BadSignature,
    MalformedMessage,
    OversizedMessage,
    RemoteProtocolError,
    ReplayedMessage,
    StaleMessage,
    UnknownSender,
    WrongCluster,
)
from shoal_protocol.fields import encode, record
from shoal_protocol.frames import FrameReader, encode_frame
from shoal_protocol.ids import ClusterId
from shoal_protocol.limits import ENVELOPE_BYTES_MAX
from shoal_protocol.messages import Heartbeat
from shoal_protocol.replay import ReplayWindow
from shoal_protocol.roster import ROSTER_TYPE, RootSignature, Roster, SignedRoster, TrustedRoster
from shoal_protocol.sealing import pae
from shoal_protocol.topics import check_topic, parse, topic_for
from tests.support import protocol as samples
from tests.support.protocol import AGENT, CLUSTER, OPERATOR, ROOTS, WALL_MS, node_of, sealed

ROSTER = samples.trusted_roster()
ENVELOPES = [sealed(message, 3) for message in samples.MESSAGES]
FRAMES = [
    encode_frame(header, None)[0] if payload is None else encode_frame(header, payload)[0] + payload
    for header, payload in ((header, samples.PAYLOADS.get(type(header))) for header in samples.HEADERS)
]
PIECES = st.binary(min_size=1, max_size=6) | st.sampled_from(
    [b"\xc0", b"\xdd\xff\xff\xff\xff", b"\x81\xc0\xc0", b"\xc1"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=12) | st.dictionaries(SCALARS, inner, max_size=2), max_leaves=30
)


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of ``originals`` after up to four edits: bytes changed, lost, inserted, repeated, or taken from another."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["replace", "flip", "repeat", "splice"])):
            case "replace":
                data[start:end] = draw(st.just(b"") | PIECES)
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "repeat":
                data[start:start] = data[start:end]
            case _:
                data[start:] = draw(st.sampled_from(originals))[start:]
    return bytes(data)


@given(mutated(ENVELOPES))
@settings(max_examples=300)
def test_a_mutated_envelope_is_the_original_or_refused(wire):
    try:
        envelope = open_envelope(wire, ROSTER, CLUSTER)
    except RemoteProtocolError:
        assert wire not in ENVELOPES
        return
    assert wire in ENVELOPES
    assert envelope.message == samples.MESSAGES[ENVELOPES.index(wire)]


STATEMENTS = [msgpack.unpackb(wire)[0] for wire in ENVELOPES]


@given(mutated(STATEMENTS), st.sampled_from([AGENT, OPERATOR]), st.integers(1, len(MESSAGES)))
@settings(max_examples=300)
def test_a_member_that_signs_nonsense_is_refused_or_said_exactly_this(statement, sealer, kind):
    signature = sealer.sign(pae(payload_type(kind), statement))
    wire = msgpack.packb([statement, signature])
    try:
        got = open_envelope(wire, ROSTER, CLUSTER)
    except RemoteProtocolError:
        return
    again = (got.incarnation, got.sequence, got.ttl_ms, got.sent_ms, got.message)
    assert seal(sealer, CLUSTER, got.sender, *again) == wire


@given(st.sampled_from(samples.MESSAGES), ANYTHING)
def test_a_member_may_sign_any_value_as_a_body(message, value):
    row = msgpack.unpackb(msgpack.unpackb(sealed(message))[0])
    row[-1] = packed(value)
    statement = msgpack.packb(row)
    sealer = samples.SPEAKERS.get(type(message), AGENT)
    wire = msgpack.packb([statement, sealer.sign(pae(payload_type(row[2]), statement))])
    try:
        got = open_envelope(wire, ROSTER, CLUSTER)
    except RemoteProtocolError:
        return
    assert encode_message(got.message) == (row[2], row[-1])


def packed(value: object) -> bytes:
    return msgpack.packb(value, unicode_errors="surrogatepass")


@given(st.integers(0, len(HEADERS) + 1), ANYTHING.map(packed) | st.binary(max_size=80))
@settings(max_examples=300)
def test_any_bytes_are_one_of_ours_or_refused(kind, data):
    for read, write in ((decode_message, encode_message), (decode_header, encode_header)):
        try:
            value = read(kind, data)
        except RemoteProtocolError:
            continue
        assert write(value) == (kind, data)
    with pytest.raises(RemoteProtocolError):
        decode_plan(data)


@given(mutated([encode_plan(samples.PLAN)]))
def test_a_mutated_plan_is_another_plan_or_refused(data):
    try:
        plan = decode_plan(data)
    except RemoteProtocolError:
        return
    assert encode_plan(plan) == data


@given(mutated([b"".join(FRAMES), *FRAMES]), st.integers(1, 60))
@settings(max_examples=300)
def test_a_mutated_stream_is_read_or_refused_and_never_misread(stream, chunk_bytes):
    reader = FrameReader()
    try:
        frames = [
            frame for i in range(0, len(stream), chunk_bytes) for frame in reader.feed(stream[i : i + chunk_bytes])
        ]
    except RemoteProtocolError:
        return
    wire = b"".join(b"".join(bytes(part or b"") for part in encode_frame(f.header, f.payload)) for f in frames)
    assert stream.startswith(wire)


HEADS = [(header, *encode_header(header)) for header in samples.HEADERS]


@given(st.data(), st.sampled_from(HEADS))
@settings(max_examples=300)
def test_a_peer_with_a_sound_checksum_is_understood_or_refused(data, original):
    header, kind, head = original
    payload = samples.PAYLOADS.get(type(header), b"")
    broken = data.draw(mutated([head]))
    lengths = struct.pack(">2sBBII", b"SH", 1, kind, len(broken), len(payload))
    wire = lengths + struct.pack(">I", zlib.crc32(lengths + broken)) + broken + payload
    try:
        (frame,) = FrameReader().feed(wire)
    except RemoteProtocolError:
        return
    assert encode_header(frame.header) == (kind, broken)


ROSTER_BODY = encode(record(Roster, signed=True), samples.ROSTER)


@given(mutated([ROSTER_BODY]))
def test_even_the_roots_cannot_sign_a_roster_that_breaks_a_node(body):
    signatures = tuple(RootSignature(root.public_key, root.sign(pae(ROSTER_TYPE, body))) for root in ROOTS)
    wire = encode(record(SignedRoster, signed=True), SignedRoster(body, signatures))
    try:
        roster = TrustedRoster.open(wire, samples.ROSTER.root_keys, 2, WALL_MS // 1000)
    except RemoteProtocolError:
        return
    assert roster.wire == wire


BEAT = Heartbeat(1, 1)
BEAT_TOPIC = topic_for(CLUSTER, node_of(AGENT), BEAT)
GOOD = sealed(BEAT)
FORGED = msgpack.packb([msgpack.unpackb(GOOD)[0], samples.STRANGER.sign(b"")])
STATE = samples.MESSAGES[0]
REJECTIONS = {
    "forged": (BEAT_TOPIC, FORGED, BadSignature),
    "mis-signed": (BEAT_TOPIC, GOOD[:-1] + bytes([GOOD[-1] ^ 1]), BadSignature),
    "replayed": (BEAT_TOPIC, GOOD, ReplayedMessage),
    "expired": (BEAT_TOPIC, sealed(BEAT, 2, sent_ms=WALL_MS - 600_000), StaleMessage),
    "from the future": (
        BEAT_TOPIC,
        sealed(BEAT, **samples.by(samples.WITNESS), sent_ms=WALL_MS + 600_000),
        StaleMessage,
    ),
    "of another cluster": (BEAT_TOPIC, sealed(BEAT, 2, cluster=ClusterId("00" * 16)), WrongCluster),
    "of a stranger": (BEAT_TOPIC, sealed(BEAT, 2, **samples.by(samples.STRANGER)), UnknownSender),
    "not its role": (BEAT_TOPIC, sealed(BEAT, 2, **samples.by(samples.OBSERVER)), UnknownSender),
    "on another's topic": (topic_for(CLUSTER, node_of(samples.WITNESS), STATE), sealed(STATE, 2), MalformedMessage),
    "on no topic of ours": ("homeassistant/status", sealed(BEAT, 2), MalformedMessage),
    "oversized": (BEAT_TOPIC, bytes(ENVELOPE_BYTES_MAX + 1), OversizedMessage),
    "truncated": (BEAT_TOPIC, GOOD[:-1], MalformedMessage),
    "empty": (BEAT_TOPIC, b"", MalformedMessage),
}


def hear(window: ReplayWindow, topic: str, wire: bytes) -> None:
    """All checks, in the order a node makes them."""
    place = parse(topic)
    envelope = open_envelope(wire, ROSTER, CLUSTER)
    check_topic(place, envelope)
    check_age(envelope, WALL_MS, known_sender=window.knows(envelope.sender))
    window.accept(envelope)


@pytest.mark.parametrize(("topic", "wire", "error"), REJECTIONS.values(), ids=REJECTIONS.keys())
def test_each_rejection_has_its_reason_and_leaves_no_trace(topic, wire, error):
    window = ReplayWindow()
    hear(window, BEAT_TOPIC, GOOD)
    with pytest.raises(error) as raised:
        hear(window, topic, wire)
    assert raised.value.reason == error.reason
    hear(window, BEAT_TOPIC, sealed(BEAT, 2))


def test_every_reason_there_is_stands_in_the_table():
    assert {error for _, _, error in REJECTIONS.values()} == set(RemoteProtocolError.__subclasses__())
