import dataclasses

import msgpack
import pytest
from hypothesis import given, settings

from shoal_protocol.codec import (
    HEADERS,
    KIND_OF,
    MESSAGES,
    decode_header,
    decode_message,
    decode_plan,
    encode_header,
    encode_message,
    encode_plan,
    message_type,
)
from shoal_protocol.content import ContentKind, ContentRequested
from shoal_protocol.errors import LocalProtocolError, MalformedMessage, OversizedMessage
from shoal_protocol.fields import encode, record
from shoal_protocol.headers import ServiceResult
from shoal_protocol.ids import Epoch, digest_of, node_id_bytes
from shoal_protocol.limits import (
    CONTENT_CHUNK_BYTES,
    ENVELOPE_BYTES_MAX,
    HEADER_BYTES_MAX,
    LOSS_MICRONATS_MAX,
    PLAN_BYTES_MAX,
    RECOVERY_EPOCH_MAX,
    SESSIONS_MAX,
    STAGES_MAX,
)
from shoal_protocol.messages import Cause, Heartbeat, Plan, PlanStage, Terms
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.widths import ActivationWidth
from tests.support import protocol as samples

KINDS = {
    "NodeState": 1,
    "Heartbeat": 2,
    "LinkDeath": 3,
    "PlanAnnounced": 4,
    "PhaseReported": 5,
    "Proposed": 6,
    "VoteCast": 7,
    "Certified": 8,
    "EvidenceFound": 9,
    "Accused": 10,
    "Syn": 11,
    "SynAck": 12,
    "Ack": 13,
    "RecoveryOrdered": 14,
    "DigestTold": 15,
}
HEADER_KINDS = {
    "Hello": 1,
    "Credit": 2,
    "OpenSession": 3,
    "SessionOpened": 4,
    "Activation": 5,
    "Token": 6,
    "CloseSession": 7,
    "SessionRefused": 8,
    "Probe": 9,
    "ProbeAnswered": 10,
    "ServiceCall": 11,
    "ServiceResult": 12,
    "Gossip": 13,
    "Ping": 14,
    "PingAnswered": 15,
    "PingRequested": 16,
    "PingReported": 17,
    "ContentRequested": 18,
    "ContentServed": 19,
    "Resume": 20,
    "PathBroken": 21,
    "KvRows": 22,
    "KvKept": 23,
    "HandOver": 24,
    "HandedOver": 25,
    "JournalWritten": 26,
    "JournalRequested": 27,
    "JournalServed": 28,
    "LoadAsked": 29,
    "LoadTold": 30,
}


def test_the_numbers_never_change():
    """A deployed node knows them: append to the codec's tables and here, never edit."""
    assert {cls.__name__: KIND_OF[cls] for cls in MESSAGES} == KINDS
    assert {cls.__name__: KIND_OF[cls] for cls in HEADERS} == HEADER_KINDS


def test_every_message_and_header_there_is_has_a_number():
    assert {type(message) for message in samples.MESSAGES} == set(MESSAGES)
    assert {type(header) for header in samples.HEADERS} == set(HEADERS)
    assert not set(MESSAGES) & set(HEADERS)


@given(samples.CONTROL)
def test_every_message_survives(message):
    kind, data = encode_message(message)
    assert message_type(kind) is type(message)
    assert decode_message(kind, data) == message
    assert encode_message(decode_message(kind, data)) == (kind, data)


@given(samples.HEADER)
@settings(max_examples=200)
def test_every_header_survives(header):
    kind, data = encode_header(header)
    assert decode_header(kind, data) == header
    assert encode_header(decode_header(kind, data)) == (kind, data)


@given(samples.plans())
def test_every_plan_survives(plan):
    assert decode_plan(encode_plan(plan)) == plan


def test_a_message_is_an_array_in_the_order_of_its_fields():
    assert msgpack.unpackb(encode_message(Heartbeat(3, 9, bytes(16), 1))[1]) == [3, 9, bytes(16), 1]


@pytest.mark.parametrize("kind", [0, 15, 255, -1])
def test_an_unknown_message_kind_is_refused(kind):
    with pytest.raises(MalformedMessage):
        decode_message(kind, b"\x90")


@pytest.mark.parametrize("kind", [0, 20, 255])
def test_an_unknown_header_kind_is_refused(kind):
    with pytest.raises(MalformedMessage):
        decode_header(kind, b"\x90")


def test_one_kind_does_not_decode_as_another():
    for message in samples.MESSAGES:
        kind, data = encode_message(message)
        for other in set(KINDS.values()) - {kind}:
            with pytest.raises(MalformedMessage):
                decode_message(other, data)


def test_too_large_is_refused_unread():
    with pytest.raises(OversizedMessage):
        decode_message(1, bytes(ENVELOPE_BYTES_MAX + 1))
    with pytest.raises(OversizedMessage):
        decode_header(1, bytes(HEADER_BYTES_MAX + 1))
    with pytest.raises(OversizedMessage):
        decode_plan(bytes(PLAN_BYTES_MAX + 1))


def test_our_own_text_beyond_its_bound_is_our_mistake():
    with pytest.raises(LocalProtocolError):
        encode_header(ServiceResult(1, "x" * 2000, None))


def stages(*spans, standbys=(), width=ActivationWidth.F32):
    return tuple(PlanStage(samples.node_of(samples.AGENT), first, last, standbys, width) for first, last in spans)


def unchecked(plan: Plan) -> bytes:
    """``plan`` as somebody writes it who does not look at what he writes."""
    return encode(record(Plan, signed=True), plan)


STAGES = [field.name for field in dataclasses.fields(Plan)].index("stages")
BROKEN = [
    stages(),
    stages((1, 4)),
    stages((0, 4), (6, 9)),
    stages((0, 4), (4, 9)),
    stages((0, 4), (3, 9)),
    stages((0, 4), (5, 4)),
    stages((5, 9), (0, 4)),
    stages(*[(block, block) for block in range(STAGES_MAX + 1)]),
    stages((0, 4), standbys=(samples.node_of(samples.AGENT),)),
    stages((0, 4), standbys=(samples.node_of(samples.WITNESS),) * 2),
    stages((0, 4), width=ActivationWidth.F16),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_plan_that_does_not_cover_blocks_in_order_or_names_a_node_twice_is_refused(broken):
    plan = dataclasses.replace(samples.PLAN, stages=broken)
    with pytest.raises(LocalProtocolError):
        encode_plan(plan)
    row = msgpack.unpackb(encode_plan(samples.PLAN))
    row[STAGES] = [
        [node_id_bytes(s.node), s.first_block, s.last_block, [*map(node_id_bytes, s.standbys)], s.width.value]
        for s in broken
    ]
    with pytest.raises(MalformedMessage, match=r"stage|array"):
        decode_plan(msgpack.packb(row))


def test_the_longest_plan_is_allowed():
    plan = dataclasses.replace(samples.PLAN, stages=stages(*[(block, block) for block in range(STAGES_MAX)]))
    assert decode_plan(encode_plan(plan)) == plan


VOTERS = tuple(samples.node_of(sealer) for sealer in (samples.AGENT, samples.WITNESS, samples.OPERATOR))
UNFIT = {
    "a genesis for a reason": {"cause": Cause.GAIN},
    "a later epoch without one": {"epoch": Epoch(1)},
    "a recovery to where no epoch follows": {"epoch": Epoch(RECOVERY_EPOCH_MAX + 1), "cause": Cause.RECOVERY},
    "a voter twice": {"voters": VOTERS[:2] * 2},
    "three voters of which one may lie": {"voters": VOTERS, "terms": Terms(faulty=1)},
    "nobody to vote, one of whom may lie": {"voters": (), "terms": Terms(faulty=1)},
    "more stages at least than at most": {"terms": Terms(stages_min=3, stages_max=2)},
}


@pytest.mark.parametrize("changes", UNFIT.values(), ids=UNFIT.keys())
def test_a_plan_that_contradicts_itself_is_refused(changes):
    plan = dataclasses.replace(samples.PLAN, **changes)
    with pytest.raises(LocalProtocolError):
        encode_plan(plan)
    with pytest.raises(MalformedMessage):
        decode_plan(unchecked(plan))


def test_four_voters_may_have_a_liar_among_them():
    plan = dataclasses.replace(samples.NEXT, voters=(*VOTERS, samples.node_of(samples.STRANGER)), terms=Terms(faulty=1))
    assert decode_plan(encode_plan(plan)) == plan


def test_a_plan_beyond_its_size_is_our_mistake():
    plan = dataclasses.replace(samples.PLAN, terms=Terms(zones=("z" * 1000,) * 100))
    with pytest.raises(LocalProtocolError, match="plan of"):
        encode_plan(plan)


@pytest.mark.parametrize(
    "terms",
    [
        {"sessions": 0},
        {"sessions": SESSIONS_MAX + 1},
        {"prompt_tokens": 0},
        {"answer_tokens": 0},
        {"operators_min": 0},
        {"faulty": 3},
        {"stages_min": 0},
        {"gain_permille": 1001},
        {"loss_micronats": LOSS_MICRONATS_MAX + 1},
        {"guarded": (GuardedBlocks(0, 1, ()),)},
        {"guarded": (GuardedBlocks(2, 1, ("home",)),)},
        {"guarded": (GuardedBlocks(0, 1, ("home",)), GuardedBlocks(1, 2, ("lab",)))},
        {"guarded": (GuardedBlocks(4, 5, ("home",)), GuardedBlocks(1, 2, ("lab",)))},
    ],
    ids=str,
)
def test_terms_that_nothing_could_meet_are_refused(terms):
    plan = dataclasses.replace(samples.PLAN, terms=Terms(**terms))
    with pytest.raises(LocalProtocolError):
        encode_plan(plan)


@pytest.mark.parametrize("byte_count", [0, CONTENT_CHUNK_BYTES + 1])
def test_a_piece_of_content_has_a_size(byte_count):
    with pytest.raises(LocalProtocolError):
        encode_header(ContentRequested(1, ContentKind.BLOB, digest_of(b""), 0, byte_count))
