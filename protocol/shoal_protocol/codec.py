"""Messages and frame headers to bytes and back: the integer tags, and nothing else to know.

The two tables below *are* the protocol's vocabulary. A kind's number is its place in its table, counted from 1;
the tables are only ever appended to, so a number never changes its meaning and an unknown number is a newer node's
word, refused by us and counted. How a single field is written is in ``fields``.

Plans get their own pair of functions because a plan is named by the digest of its bytes: it travels inside
``PlanAnnounced``, ``Proposed``, ``Certified`` and ``RecoveryOrdered`` as an opaque byte string and is decoded where it
is judged. Decoding promises its shape: at least one stage, block ranges contiguous from block 0, full width where
tokens come in, voters different from each other and enough for the liars the terms allow, and a cause that fits the
epoch.
"""

from itertools import pairwise
from typing import Final, cast

from shoal_protocol.content import ContentRequested, ContentServed
from shoal_protocol.errors import LocalProtocolError, MalformedMessage, OversizedMessage
from shoal_protocol.fields import Coder, decode, encode, record
from shoal_protocol.headers import (
    Activation,
    CloseSession,
    Credit,
    Gossip,
    HandedOver,
    HandOver,
    Header,
    Hello,
    KvKept,
    KvRows,
    OpenSession,
    PathBroken,
    Ping,
    PingAnswered,
    PingReported,
    PingRequested,
    Probe,
    ProbeAnswered,
    Resume,
    ServiceCall,
    ServiceResult,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.journal import JournalRequested, JournalServed, JournalWritten
from shoal_protocol.light import DigestTold, LoadAsked, LoadTold
from shoal_protocol.limits import ENVELOPE_BYTES_MAX, HEADER_BYTES_MAX, PLAN_BYTES_MAX, RECOVERY_EPOCH_MAX
from shoal_protocol.messages import (
    Accused,
    Ack,
    Cause,
    Certified,
    ControlMessage,
    EvidenceFound,
    Heartbeat,
    LinkDeath,
    NodeState,
    PhaseReported,
    Plan,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    Syn,
    SynAck,
    VoteCast,
)
from shoal_protocol.widths import ActivationWidth

MESSAGES: Final[tuple[type, ...]] = (
    NodeState,
    Heartbeat,
    LinkDeath,
    PlanAnnounced,
    PhaseReported,
    Proposed,
    VoteCast,
    Certified,
    EvidenceFound,
    Accused,
    Syn,
    SynAck,
    Ack,
    RecoveryOrdered,
    DigestTold,
)
"""Control messages; kind 1 is the first. Only ever appended to."""

HEADERS: Final[tuple[type, ...]] = (
    Hello,
    Credit,
    OpenSession,
    SessionOpened,
    Activation,
    Token,
    CloseSession,
    SessionRefused,
    Probe,
    ProbeAnswered,
    ServiceCall,
    ServiceResult,
    Gossip,
    Ping,
    PingAnswered,
    PingRequested,
    PingReported,
    ContentRequested,
    ContentServed,
    Resume,
    PathBroken,
    KvRows,
    KvKept,
    HandOver,
    HandedOver,
    JournalWritten,
    JournalRequested,
    JournalServed,
    LoadAsked,
    LoadTold,
)
"""Frame headers; kind 1 is the first. Only ever appended to."""

KIND_OF: Final[dict[type, int]] = {
    **{cls: kind for kind, cls in enumerate(MESSAGES, 1)},
    **{cls: kind for kind, cls in enumerate(HEADERS, 1)},
}
"""The number of each message and each header (two separate number spaces; no class is in both)."""

_MESSAGE_CODERS: Final[dict[int, Coder]] = {KIND_OF[cls]: record(cls, signed=True) for cls in MESSAGES}
_HEADER_CODERS: Final[dict[int, Coder]] = {KIND_OF[cls]: record(cls, signed=False) for cls in HEADERS}
_PLAN: Final = record(Plan, signed=True)


def message_type(kind: int) -> type:
    """The class of control message number ``kind``; MalformedMessage if there is none."""
    if not 1 <= kind <= len(MESSAGES):
        raise MalformedMessage(f"no control message has kind {kind}")
    return MESSAGES[kind - 1]


def encode_message(message: ControlMessage) -> tuple[int, bytes]:
    """Kind and body of ``message``; LocalProtocolError if a field is out of its range."""
    kind = KIND_OF[type(message)]
    return kind, encode(_MESSAGE_CODERS[kind], message)


def decode_message(kind: int, data: bytes | memoryview) -> ControlMessage:
    """The control message in ``data``; RemoteProtocolError otherwise."""
    if len(data) > ENVELOPE_BYTES_MAX:
        raise OversizedMessage(f"message of {len(data)} bytes, at most {ENVELOPE_BYTES_MAX}")
    message_type(kind)
    return cast("ControlMessage", decode(_MESSAGE_CODERS[kind], data))


def encode_header(header: Header) -> tuple[int, bytes]:
    """Kind and bytes of ``header``; LocalProtocolError if a field is out of its range or the whole too large."""
    kind = KIND_OF[type(header)]
    data = encode(_HEADER_CODERS[kind], header)
    if len(data) > HEADER_BYTES_MAX:
        raise LocalProtocolError(f"header of {len(data)} bytes, at most {HEADER_BYTES_MAX}")
    return kind, data


def decode_header(kind: int, data: bytes | memoryview) -> Header:
    """The frame header in ``data``; RemoteProtocolError otherwise."""
    if len(data) > HEADER_BYTES_MAX:
        raise OversizedMessage(f"header of {len(data)} bytes, at most {HEADER_BYTES_MAX}")
    coder = _HEADER_CODERS.get(kind)
    if coder is None:
        raise MalformedMessage(f"no frame header has kind {kind}")
    return cast("Header", decode(coder, data))


def encode_plan(plan: Plan) -> bytes:
    """The bytes whose digest names ``plan``; LocalProtocolError if it is not well formed."""
    try:
        _check_plan(plan)
    except MalformedMessage as error:
        raise LocalProtocolError(str(error)) from error
    data = encode(_PLAN, plan)
    if len(data) > PLAN_BYTES_MAX:
        raise LocalProtocolError(f"plan of {len(data)} bytes, at most {PLAN_BYTES_MAX}")
    return data


def decode_plan(data: bytes) -> Plan:
    """The plan in ``data``, well formed as above; RemoteProtocolError otherwise."""
    if len(data) > PLAN_BYTES_MAX:
        raise OversizedMessage(f"plan of {len(data)} bytes, at most {PLAN_BYTES_MAX}")
    plan = cast("Plan", decode(_PLAN, data))
    _check_plan(plan)
    return plan


def _check_plan(plan: Plan) -> None:
    terms, voters = plan.terms, plan.voters
    if (plan.epoch == 0) != (plan.cause is Cause.GENESIS):
        raise MalformedMessage(f"epoch {plan.epoch} caused by {plan.cause.name}")
    if plan.cause is Cause.RECOVERY and plan.epoch > RECOVERY_EPOCH_MAX:
        raise MalformedMessage(f"a recovery leaps to epoch {plan.epoch}")
    if terms.stages_min > terms.stages_max:
        raise MalformedMessage(f"terms of {terms.stages_min} to {terms.stages_max} stages")
    if len(set(voters)) != len(voters):
        raise MalformedMessage("a voter twice")
    if terms.faulty and len(voters) < 3 * terms.faulty + 1:
        raise MalformedMessage(
            f"{len(voters)} voters, {terms.faulty} of which may lie: at least {3 * terms.faulty + 1}"
        )
    guarded = terms.guarded
    if any(not g.zones or g.last_block < g.first_block for g in guarded):
        raise MalformedMessage("guarded blocks are a range, and have zones")
    if any(after.first_block <= before.last_block for before, after in pairwise(guarded)):
        raise MalformedMessage("guarded blocks stand in order, each once")
    _check_stages(plan)


def _check_stages(plan: Plan) -> None:
    if not plan.stages:
        raise MalformedMessage("a plan without stages")
    next_block = 0
    for index, stage in enumerate(plan.stages):
        if stage.first_block != next_block or stage.last_block < stage.first_block:
            span = f"{stage.first_block}-{stage.last_block}"
            raise MalformedMessage(f"stage {index} holds blocks {span}, must begin with {next_block}")
        if stage.node in stage.standbys or len(set(stage.standbys)) != len(stage.standbys):
            raise MalformedMessage(f"stage {index} names a node twice")
        next_block = stage.last_block + 1
    if plan.stages[0].width is not ActivationWidth.F32:
        raise MalformedMessage("no activations come to the first stage")
