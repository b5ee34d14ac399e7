"""Envelopes: what one member said, to everybody, provably.

::

    statement = [version, cluster, kind, sender, incarnation, sequence, ttl_ms, sent_ms, body]
    wire      = [statement, signature over PAE("application/vnd.shoal.<kind name>.v1+msgpack", statement)]

Brokers, retained copies and relays are untrusted, so everything that gives a message its meaning is under the
signature: the cluster (no message wanders between clusters), the kind (bound twice, inside and as the PAE's type),
the sender, its place in the sender's order, and how long it is meant.

Opening goes from cheap to dear and trusts nothing before its time: size, strict form, version, cluster, sender and
role (all microseconds), then the signature (55 us), and only then is the body decoded.

Of the body is judged here what follows from the envelope and the roster alone, so that nobody behind the door needs
to think of it: a plan that came inside is well formed and is about what the message says it is; a vote bears its
voter's own signature, apart from the envelope's. What needs more is judged where that is known: a certificate or a
recovery against the plan before it (``votes``), evidence by opening what is in it (``evidence``), the rest by who acts.

An envelope that a third party relays, inside the deltas of anti-entropy or as evidence, is opened the same way, but
neither its age nor the replay window matters (a node's door for those is the gate's ``reopen``): it was sealed long
ago, may have been heard before, and is judged by its place in its sender's order.
"""

from dataclasses import dataclass
from typing import Final, cast

from shoal_protocol.codec import decode_message, decode_plan, encode_message, message_type
from shoal_protocol.errors import (
    LocalProtocolError,
    MalformedMessage,
    OversizedMessage,
    StaleMessage,
    UnknownSender,
    WrongCluster,
)
from shoal_protocol.fields import decode, encode, record
from shoal_protocol.ids import ClusterId, Incarnation, NodeId, Sequence, node_id_of
from shoal_protocol.light import DigestTold
from shoal_protocol.limits import CLOCK_SKEW_MS_MAX, ENVELOPE_BYTES_MAX
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
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    Syn,
    SynAck,
    VoteCast,
)
from shoal_protocol.roster import Member, Role, TrustedRoster
from shoal_protocol.sealing import Sealer, pae, verify
from shoal_protocol.votes import verify_vote

ENVELOPE_VERSION: Final = 1

KIND_NAMES: Final[dict[type, str]] = {
    NodeState: "node-state",
    Heartbeat: "heartbeat",
    LinkDeath: "link-death",
    PlanAnnounced: "plan-announced",
    PhaseReported: "phase-reported",
    Proposed: "proposed",
    VoteCast: "vote-cast",
    Certified: "certified",
    EvidenceFound: "evidence-found",
    Accused: "accused",
    Syn: "syn",
    SynAck: "syn-ack",
    Ack: "ack",
    RecoveryOrdered: "recovery-ordered",
    DigestTold: "digest-told",
}
"""How a kind is called in the type its signature is bound to."""

ROLES: Final[dict[type, tuple[Role, ...]]] = {
    NodeState: (Role.AGENT, Role.WITNESS),
    Heartbeat: (Role.AGENT, Role.WITNESS),
    LinkDeath: (Role.AGENT, Role.WITNESS),
    PlanAnnounced: (Role.OPERATOR,),
    PhaseReported: (Role.AGENT, Role.WITNESS),
    Proposed: (Role.AGENT, Role.WITNESS),
    VoteCast: (Role.AGENT, Role.WITNESS),
    Certified: (Role.AGENT, Role.WITNESS),
    EvidenceFound: (Role.AGENT, Role.WITNESS),
    Accused: (Role.AGENT, Role.WITNESS),
    Syn: (Role.AGENT, Role.WITNESS),
    SynAck: (Role.AGENT, Role.WITNESS),
    Ack: (Role.AGENT, Role.WITNESS),
    RecoveryOrdered: (Role.OPERATOR,),
    DigestTold: (Role.AGENT, Role.WITNESS),
}
"""Who may say what: a sender needs one of these roles."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified envelope, opened. Times are the sender's Unix time in milliseconds."""

    cluster: ClusterId
    sender: NodeId
    incarnation: Incarnation
    sequence: Sequence
    ttl_ms: int
    sent_ms: int
    message: ControlMessage


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed; the order of the fields is the wire format."""

    version: int
    cluster: ClusterId
    kind: int
    sender: NodeId
    incarnation: Incarnation
    sequence: Sequence
    ttl_ms: int
    sent_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SealedStatement:
    """What travels: the exact signed bytes and the sender's signature."""

    statement: bytes
    signature: bytes


_STATEMENT: Final = record(Statement, signed=True)
_SEALED: Final = record(SealedStatement, signed=True)


def payload_type(kind: int) -> str:
    """The DSSE type that binds a signature to control messages of ``kind``; MalformedMessage if there is none."""
    return f"application/vnd.shoal.{KIND_NAMES[message_type(kind)]}.v1+msgpack"


def seal(
    sealer: Sealer,
    cluster: ClusterId,
    sender: NodeId,
    incarnation: Incarnation,
    sequence: Sequence,
    ttl_ms: int,
    sent_ms: int,
    message: ControlMessage,
) -> bytes:
    """``message`` as it travels; LocalProtocolError if a field is out of range, or it is too large, or not our name."""
    if sender != node_id_of(sealer.public_key):
        raise LocalProtocolError(f"{sender} is not the id of the key that seals")
    kind, body = encode_message(message)
    statement = encode(
        _STATEMENT,
        Statement(ENVELOPE_VERSION, cluster, kind, sender, incarnation, sequence, ttl_ms, sent_ms, body),
    )
    signature = sealer.sign(pae(payload_type(kind), statement))
    wire = encode(_SEALED, SealedStatement(statement, signature))
    if len(wire) > ENVELOPE_BYTES_MAX:
        raise LocalProtocolError(f"envelope of {len(wire)} bytes, at most {ENVELOPE_BYTES_MAX}")
    return wire


def open_envelope(wire: bytes, roster: TrustedRoster, cluster: ClusterId) -> Envelope:
    """The verified envelope in ``wire``. Neither its age nor whether it was seen before is judged here.

    OversizedMessage, MalformedMessage, WrongCluster, UnknownSender (also: not its role) or BadSignature otherwise.
    """
    if len(wire) > ENVELOPE_BYTES_MAX:
        raise OversizedMessage(f"envelope of {len(wire)} bytes, at most {ENVELOPE_BYTES_MAX}")
    sealed = cast("SealedStatement", decode(_SEALED, wire))
    said = cast("Statement", decode(_STATEMENT, sealed.statement))
    if said.version != ENVELOPE_VERSION:
        raise MalformedMessage(f"envelope version {said.version}, not {ENVELOPE_VERSION}")
    if said.cluster != cluster:
        raise WrongCluster(f"envelope of cluster {said.cluster}")
    member = roster.member(said.sender)
    if member is None:
        raise UnknownSender(f"{said.sender} is not in the roster")
    kind_type = message_type(said.kind)
    if not any(role in ROLES[kind_type] for role in member.roles):
        raise UnknownSender(f"{said.sender} has no role that may say {KIND_NAMES[kind_type]}")
    verify(member.public_key, pae(payload_type(said.kind), sealed.statement), sealed.signature)
    message = decode_message(said.kind, said.body)
    _judge(message, member, cluster)
    return Envelope(cluster, said.sender, said.incarnation, said.sequence, said.ttl_ms, said.sent_ms, message)


def _judge(message: ControlMessage, speaker: Member, cluster: ClusterId) -> None:
    """What can be said against ``message`` by whoever knows the roster and nothing else."""
    match message:
        case PlanAnnounced():
            _require_genesis(message)
        case Proposed():
            _require_proposal(message)
        case VoteCast():
            statement = (cluster, message.deployment, message.epoch, message.round, message.vote, message.value)
            verify_vote(speaker.public_key, message.signature, *statement)
        case Certified():
            if decode_plan(message.plan).epoch == 0:
                raise MalformedMessage("nobody votes on epoch 0")
        case RecoveryOrdered():
            if decode_plan(message.plan).cause is not Cause.RECOVERY:
                raise MalformedMessage("a recovery of another cause")
        case _:
            pass


def _require_genesis(message: PlanAnnounced) -> None:
    """An operator's word begins a deployment; later epochs need the voters of the one before."""
    epoch = decode_plan(message.plan).epoch
    if epoch != 0:
        raise UnknownSender(f"an operator may not announce epoch {epoch}")


def _require_proposal(message: Proposed) -> None:
    plan = decode_plan(message.plan)
    if (plan.deployment, plan.epoch) != (message.deployment, message.epoch) or plan.epoch == 0:
        raise MalformedMessage(f"a plan for {plan.deployment}/{plan.epoch} proposed for {message.epoch}")
    if message.valid_round is not None and message.valid_round >= message.round:
        raise MalformedMessage(f"round {message.round} cannot know of round {message.valid_round}")


def check_age(envelope: Envelope, wall_ms: int, *, known_sender: bool) -> None:
    """StaleMessage if ``envelope`` is past its time to live, or a stranger's from the future.

    Clocks of two machines differ, so both judgements allow ``CLOCK_SKEW_MS_MAX``; without it, a node half a minute
    off could not send a heartbeat that lives ten seconds.

    *Past*: ``sent_ms + ttl_ms`` plus the allowance is over. This holds for everybody, because a broker may withhold
    and release later, and for retained copies too, whose age is no fault as long as their own ``ttl_ms`` covers it:
    a plan of last year is valid, a state record of last night is not.

    *Future*: only a sender never heard before is asked not to be ahead of us. Afterwards (incarnation, sequence)
    order its words, and a clock that is set right, on their side or on ours, must not silence a node we know.
    """
    if envelope.sent_ms + envelope.ttl_ms + CLOCK_SKEW_MS_MAX < wall_ms:
        age_ms = wall_ms - envelope.sent_ms
        raise StaleMessage(f"{envelope.sender} said this {age_ms} ms ago, it was meant for {envelope.ttl_ms} ms")
    if not known_sender and envelope.sent_ms > wall_ms + CLOCK_SKEW_MS_MAX:
        raise StaleMessage(f"{envelope.sender} is {envelope.sent_ms - wall_ms} ms ahead of our clock")
