"""What the protocol's tests share: fixed keys, one of every message and header, a roster, and strategies for more."""

import dataclasses
from enum import IntEnum
from types import NoneType, UnionType
from typing import Final, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from shoal_protocol import bounds, content, headers, journal, messages
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import seal
from shoal_protocol.ids import (
    ClusterId,
    DeploymentId,
    Digest,
    Epoch,
    Incarnation,
    NodeId,
    Sequence,
    SessionId,
    digest_of,
    node_id_from_bytes,
    node_id_of,
)
from shoal_protocol.journal import Page, bind_pages, seal_page
from shoal_protocol.light import DigestTold, LoadAsked, LoadTold, ServiceLoad
from shoal_protocol.limits import (
    CONTENT_CHUNK_BYTES,
    EPOCH_LEAP,
    INTEGER_MAX,
    LIST_ITEMS_MAX,
    RECOVERY_EPOCH_MAX,
    ROOT_BYTES,
    STANDBYS_MAX,
    TEXT_BYTES_MAX,
    VOTERS_MAX,
)
from shoal_protocol.measured import DemandMeasured, LinkMeasured
from shoal_protocol.messages import (
    Accused,
    Ack,
    Ballot,
    Capacity,
    Cause,
    Certified,
    ControlMessage,
    DeploymentPhase,
    Endpoint,
    EvidenceFound,
    Head,
    Heartbeat,
    HostedStage,
    LinkDeath,
    Load,
    NodePhase,
    NodeState,
    Objective,
    PhaseReported,
    Plan,
    PlanAnnounced,
    PlanStage,
    Proposed,
    RecoveryOrdered,
    Stamp,
    SwitchMode,
    Syn,
    SynAck,
    Terms,
    Verdict,
    VoteCast,
    VoteKind,
)
from shoal_protocol.relay import Ack as CircuitAck
from shoal_protocol.relay import (
    CircuitBox,
    CircuitStatement,
    RelayKind,
    circuit_keys,
    encode_ack,
    ephemeral_of,
    sign_circuit,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.tensors import Dtype
from shoal_protocol.topics import topic_for
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.votes import sign_recovery, sign_vote
from shoal_protocol.widths import ActivationWidth

CLUSTER: Final = ClusterId("5a" * 16)
WALL_MS: Final = 1_760_000_000_000
ROOTS: Final = tuple(Ed25519Sealer(bytes([index]) * 32) for index in (1, 2, 3))
AGENT: Final = Ed25519Sealer(bytes([10]) * 32)
WITNESS: Final = Ed25519Sealer(bytes([11]) * 32)
OPERATOR: Final = Ed25519Sealer(bytes([12]) * 32)
OBSERVER: Final = Ed25519Sealer(bytes([13]) * 32)
STRANGER: Final = Ed25519Sealer(bytes([14]) * 32)
SESSION: Final = SessionId(bytes(range(16)))
TOY: Final = DeploymentId("toy-1.5b")


def node_of(sealer: Ed25519Sealer) -> NodeId:
    return node_id_of(sealer.public_key)


MEMBERS: Final = tuple(
    Member(node_of(sealer), sealer.public_key, roles, "home", certificate)
    for sealer, roles, certificate in (
        (AGENT, (Role.AGENT,), b"certificate of the agent"),
        (WITNESS, (Role.WITNESS, Role.OBSERVER), b"certificate of the witness"),
        (OPERATOR, (Role.OPERATOR,), b""),
        (OBSERVER, (Role.OBSERVER,), b""),
    )
)
ROSTER: Final = Roster(CLUSTER, 1, 4_000_000_000, tuple(root.public_key for root in ROOTS), 2, MEMBERS)


def trusted_roster(members: tuple[Member, ...] = MEMBERS) -> TrustedRoster:
    wire = sign_roster(dataclasses.replace(ROSTER, members=members), ROOTS[:2])
    return TrustedRoster.open(wire, ROSTER.root_keys, 2, WALL_MS // 1000)


GUARDED: Final = (GuardedBlocks(0, 1, ("home",)),)
PLAN: Final = Plan(
    deployment=TOY,
    epoch=Epoch(0),
    parent=Digest(bytes(32)),
    model=digest_of(b"manifest"),
    context_tokens_max=8192,
    stages=(
        PlanStage(node_of(AGENT), 0, 4, (node_of(WITNESS), node_of(STRANGER))),
        PlanStage(node_of(WITNESS), 5, 5, (node_of(AGENT),), ActivationWidth.F16),
        PlanStage(node_of(STRANGER), 6, 31, width=ActivationWidth.I8X32),
    ),
    terms=Terms(Objective.THROUGHPUT, 1, 4, 3, 512, 256, ("home", "lab"), 0, 1, 150, 2, 250_000, GUARDED),
    voters=(node_of(AGENT), node_of(WITNESS)),
    score_us=41_200,
    reason="three nodes, 41.2 ms a token",
)
NEXT: Final = dataclasses.replace(
    PLAN,
    epoch=Epoch(1),
    parent=digest_of(encode_plan(PLAN)),
    stages=(PlanStage(node_of(AGENT), 0, 15), PlanStage(node_of(WITNESS), 16, 31)),
    cause=Cause.HOST_LOST,
    mode=SwitchMode.BREAK_BEFORE_MAKE,
    score_us=60_900,
    reason="a host is silent",
)
"""What the two voters of PLAN decide."""
RECOVERY: Final = dataclasses.replace(NEXT, epoch=Epoch(EPOCH_LEAP), cause=Cause.RECOVERY, voters=(node_of(AGENT),))
ROUND: Final = 2


def cast(sealer: Ed25519Sealer, vote: VoteKind, round_: int, value: Digest | None, reason: str = "") -> VoteCast:
    """A vote on epoch 1 of the toy, with its voter's signature."""
    signature = sign_vote(sealer, CLUSTER, TOY, NEXT.epoch, round_, vote, value)
    return VoteCast(TOY, NEXT.epoch, round_, vote, value, reason, signature)


def ballots(vote: VoteKind, round_: int, value: Digest | None, *voters: Ed25519Sealer) -> tuple[Ballot, ...]:
    """The same votes as they stand in a certificate or behind a proposal."""
    return tuple(Ballot(node_of(voter), cast(voter, vote, round_, value).signature) for voter in voters)


def sealed(message: ControlMessage, sequence: int = 1, **changes: object) -> bytes:
    """``message`` from the one who may say it."""
    sealer = SPEAKERS.get(type(message), AGENT)
    arguments: dict[str, object] = {
        "sealer": sealer,
        "cluster": CLUSTER,
        "sender": node_of(sealer),
        "incarnation": Incarnation(2),
        "sequence": Sequence(sequence),
        "ttl_ms": 60_000,
        "sent_ms": WALL_MS,
        "message": message,
    }
    return seal(**(arguments | changes))


def by(sealer: Ed25519Sealer) -> dict[str, object]:
    """What makes ``sealed`` speak in the name of another."""
    return {"sealer": sealer, "sender": node_of(sealer)}


SPEAKERS: Final = {PlanAnnounced: OPERATOR, RecoveryOrdered: OPERATOR}
"""Who says a kind in these tests; the agent says the rest."""

_VALUE: Final = digest_of(encode_plan(NEXT))
_LIES: Final = tuple(cast(WITNESS, VoteKind.PREVOTE, 0, value) for value in (_VALUE, None))
_STAMPS: Final = (
    Stamp(node_of(AGENT), Incarnation(2), Sequence(70)),
    Stamp(node_of(WITNESS), Incarnation(5), Sequence(1)),
)
_DELTAS: Final = tuple(sealed(Heartbeat(beat, 9), beat, **by(WITNESS)) for beat in (1, 2))
LOAD: Final = ServiceLoad("tokenizer:0123456789abcdef", 2, 5, 24_500, 120_000)

MESSAGES: Final[tuple[ControlMessage, ...]] = (
    NodeState(
        version=7,
        phase=NodePhase.READY,
        data=Endpoint("192.0.2.7", 7400),
        api="http://192.0.2.7:8080",
        capacity=Capacity(4, 2 << 30, 4 << 30, 9 << 30, 12_000_000_000, ("CPUExecutionProvider",)),
        load=Load(125, 1 << 30, None, 2, 3 << 20, 40),
        hosted=(HostedStage(TOY, Epoch(0), 0, 4),),
        models=(digest_of(b"manifest"),),
        services=("tokenizer:0123456789abcdef", "sampler:0123456789abcdef"),
        software="0.1.0",
        links=(LinkMeasured(node_of(WITNESS), 840), LinkMeasured(node_of(STRANGER), 41, relayed=True, bytes_per_s=9)),
        stage_permille=1130,
        locked=True,
        demands=(DemandMeasured(TOY, 12_288, 45_056),),
    ),
    Heartbeat(beat=3600, version=7, root=bytes(range(ROOT_BYTES)), health=1),
    LinkDeath(connection=3, broker="mqtts://broker-1:8883"),
    PlanAnnounced(encode_plan(PLAN)),
    PhaseReported(TOY, Epoch(0), digest_of(encode_plan(PLAN)), DeploymentPhase.FAILED, "block 3: no memory", (1, 2)),
    Proposed(TOY, NEXT.epoch, ROUND, 0, encode_plan(NEXT), ballots(VoteKind.PREVOTE, 0, _VALUE, AGENT, WITNESS)),
    cast(AGENT, VoteKind.PRECOMMIT, ROUND, None, "blocks 0-15 need 900 MiB, 700 are free"),
    Certified(encode_plan(NEXT), ROUND, ballots(VoteKind.PRECOMMIT, ROUND, _VALUE, AGENT, WITNESS)),
    EvidenceFound(*(sealed(lie, sequence, **by(WITNESS)) for sequence, lie in enumerate(_LIES, 1))),
    Accused(node_of(WITNESS), Incarnation(5), Sequence(1), Verdict.DEAD, "connection refused"),
    Syn(node_of(WITNESS), _STAMPS, (Head(TOY, Epoch(1)),)),
    SynAck(node_of(WITNESS), _STAMPS, (Head(TOY, Epoch(1)),), _DELTAS),
    Ack(node_of(WITNESS), _DELTAS),
    RecoveryOrdered(encode_plan(RECOVERY), (sign_recovery(OPERATOR, CLUSTER, encode_plan(RECOVERY)),)),
    DigestTold((LOAD,), 250),
)

ROUTE: Final = (node_of(WITNESS), node_of(AGENT), node_of(STRANGER))
"""Who serves a session of PLAN whose first two primaries stand in for each other."""
PAGE: Final = Page(bytes(32), Epoch(0), 3, 2, 512, ((0, 256), (2, 1)), 0, False, bytes(range(8)) * 3, (2, 4))
SAMPLING: Final = headers.Sampling(0.7, 40, 0.95, 1.1, 42, 5)
HEADERS: Final[tuple[headers.Header, ...]] = (
    headers.Hello(1, node_of(AGENT), Incarnation(5), 16 << 20),
    headers.Credit(65_536),
    headers.OpenSession(TOY, Epoch(0), SESSION, 1, 512, 30_000, SAMPLING, 3, ROUTE, (2, 4)),
    headers.SessionOpened(SESSION, 1, 3, 12, 8),
    headers.Activation(TOY, Epoch(0), SESSION, 1, 12, 1, True, 29_500, Dtype.F32, (1, 1, 6), 3),
    headers.Token(TOY, Epoch(0), SESSION, 13, 4711, False, -0.25, ((4711, -0.25), (9, -1.5)), 3),
    headers.CloseSession(SESSION, headers.CloseReason.CANCELLED, Epoch(0)),
    headers.SessionRefused(SESSION, 1, headers.RefusalCode.KV_FULL, "3 of 3 MiB in use", 3),
    headers.Probe(99),
    headers.ProbeAnswered(99),
    headers.ServiceCall(17, "tokenizer:0123456789abcdef", "encode", 1_000, 1_500),
    headers.ServiceResult(17, "", None),
    headers.Gossip(topic_for(CLUSTER, node_of(AGENT), MESSAGES[1])),
    headers.Ping(7),
    headers.PingAnswered(7),
    headers.PingRequested(8, node_of(WITNESS)),
    headers.PingReported(8, node_of(WITNESS), reached=True),
    content.ContentRequested(18, content.ContentKind.BLOB, digest_of(b"weights"), 1 << 20, CONTENT_CHUNK_BYTES),
    content.ContentServed(18, 3 << 20, ""),
    headers.Resume(TOY, Epoch(0), SESSION, 1, 3, 11, 9),
    headers.PathBroken(SESSION, 1, 3, node_of(STRANGER)),
    headers.KvRows(TOY, Epoch(0), SESSION, 1, 5, 5, 8, 4, 512, 29_000, node_of(AGENT), 3, (2, 4)),
    headers.KvKept(TOY, Epoch(0), SESSION, 1, 5, 5, 8, headers.RefusalCode.KV_FULL),
    headers.HandOver(TOY, Epoch(0), SESSION, 1, 3, Epoch(1), ROUTE[:2], last=True),
    headers.HandedOver(SESSION, 1, 3, 12, last=True, refusal=None),
    journal.JournalWritten(SESSION, 3, 29_000),
    journal.JournalRequested(SESSION),
    journal.JournalServed(SESSION, node_of(AGENT), 29_000),
    LoadAsked(19, LOAD.service),
    LoadTold(19, LOAD, 250),
)
PAYLOADS: Final[dict[type, bytes]] = {
    headers.OpenSession: bytes(range(8)) * 3,
    headers.Activation: bytes(range(24)),
    headers.ServiceCall: b"\x91\xa2hi",
    headers.ServiceResult: b"\x91\x93\x01\x02\x03",
    headers.Gossip: sealed(MESSAGES[1], 4),
    content.ContentServed: bytes(range(32)),
    headers.KvRows: bytes(range(64)),
    journal.JournalWritten: seal_page(bytes(32), PAGE),
    journal.JournalServed: bind_pages((seal_page(bytes(32), PAGE),)),
}
"""What the frames above carry."""


CIRCUIT: Final = bytes(range(32, 48))
SECRETS: Final = (bytes([20]) * 32, bytes([21]) * 32)
"""What the agent, who dials, and the witness drew for CIRCUIT. A roster makes the witness no agent; here it is one."""
OPENING: Final = sign_circuit(
    AGENT, CircuitStatement(CLUSTER, node_of(AGENT), node_of(WITNESS), CIRCUIT, ephemeral_of(SECRETS[0]), None)
)
ANSWER: Final = sign_circuit(
    WITNESS,
    CircuitStatement(
        CLUSTER, node_of(WITNESS), node_of(AGENT), CIRCUIT, ephemeral_of(SECRETS[1]), ephemeral_of(SECRETS[0])
    ),
)


def circuit_ends() -> tuple[CircuitBox, CircuitBox]:
    """Both ends of CIRCUIT, the agent's first."""
    keys = [
        circuit_keys(secret, ephemeral_of(other), OPENING, ANSWER)
        for secret, other in zip(SECRETS, reversed(SECRETS), strict=True)
    ]
    return CircuitBox(CIRCUIT, *keys[0]), CircuitBox(CIRCUIT, *reversed(keys[1]))


RELAYED: Final = (
    ("open", OPENING),
    ("opened", ANSWER),
    ("data", circuit_ends()[0].seal(RelayKind.DATA, 7, bytes(range(48)))),
    ("ack", circuit_ends()[1].seal(RelayKind.ACK, 2, encode_ack(CircuitAck(6, 0b101)))),
    ("close", circuit_ends()[1].seal(RelayKind.CLOSE, 0, b"going")),
)
"""One of every relayed message."""


def said_by(sealer: Ed25519Sealer, message: ControlMessage, sequence: int = 1) -> bytes:
    """``message`` in the name of another, its own vote signed by that one too."""
    if isinstance(message, VoteCast):
        message = cast(sealer, message.vote, message.round, message.value, message.reason)
    return sealed(message, sequence, **by(sealer))


def values(hint: object, name: str = "") -> st.SearchStrategy:
    """Every value a field of type ``hint`` called ``name`` may hold, limits included."""
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is Ellipsis:
            return st.lists(values(items[0], name), max_size=min(3, bounds.ITEMS.get(name, LIST_ITEMS_MAX))).map(tuple)
        return st.tuples(*[values(item, name) for item in items])
    if get_origin(hint) in (Union, UnionType):  # the former where a NewType stands in it
        kept = next(part for part in get_args(hint) if part is not NoneType)
        return st.none() | values(kept, name)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return records(hint)
    return _scalars(hint, name)


def _scalars(hint: object, name: str) -> st.SearchStrategy:
    if hint is NodeId:
        return st.binary(min_size=20, max_size=20).map(node_id_from_bytes)
    if hint is ClusterId:
        return st.binary(min_size=16, max_size=16).map(lambda raw: ClusterId(raw.hex()))
    if hint is DeploymentId:
        return st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
    if hint is SessionId:
        return st.binary(min_size=16, max_size=16)
    if hint is Digest:
        return st.binary(min_size=32, max_size=32)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(max_size=TEXT_BYTES_MAX // 4)
    if hint is bytes:
        low, high = bounds.BYTES[name]
        return st.binary(min_size=low, max_size=min(high, max(low, 100)))
    if hint is float:
        low, high = bounds.FLOATS.get(name, (None, None))
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    low, high = bounds.INTEGERS.get(name, (0, INTEGER_MAX))
    return st.integers(low, high) | st.sampled_from([low, high])


def records(cls: type, **given: object) -> st.SearchStrategy:
    """Every value of dataclass ``cls`` that has what is ``given``."""
    hints = get_type_hints(cls)
    drawn = {f.name: values(hints[f.name], f.name) for f in dataclasses.fields(cls) if f.name not in given}
    return st.builds(cls, **drawn, **{name: st.just(value) for name, value in given.items()})


_BARE_PLANS: Final = records(Plan, stages=(), terms=None)
_BARE_TERMS: Final = records(Terms, guarded=())


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Every well-formed plan of up to six stages."""
    drawn, limits = draw(_BARE_PLANS), draw(_BARE_TERMS)
    stages_min, stages_max = sorted((limits.stages_min, limits.stages_max))
    guarded = tuple(GuardedBlocks(at, at, (zone,)) for at, zone in enumerate(limits.zones))
    terms = dataclasses.replace(limits, stages_min=stages_min, stages_max=stages_max, guarded=guarded)
    fewest = 3 * terms.faulty + 1 if terms.faulty else 0
    voters = draw(st.lists(values(NodeId), min_size=fewest, max_size=VOTERS_MAX, unique=True))
    top = RECOVERY_EPOCH_MAX if drawn.cause is Cause.RECOVERY else drawn.epoch
    epoch = Epoch(0 if drawn.cause is Cause.GENESIS else max(1, min(drawn.epoch, top)))
    widths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    stages, first = [], 0
    for width in widths:
        node, *standbys = draw(st.lists(values(NodeId), min_size=1, max_size=1 + STANDBYS_MAX, unique=True))
        narrow = draw(values(ActivationWidth)) if first else ActivationWidth.F32
        stages.append(PlanStage(node, first, first + width - 1, tuple(standbys), narrow))
        first += width
    return dataclasses.replace(drawn, epoch=epoch, terms=terms, voters=tuple(voters), stages=tuple(stages))


CONTROL: Final = st.one_of([records(cls) for cls in get_args(messages.ControlMessage)])
HEADER: Final = st.one_of([records(cls) for cls in get_args(headers.Header)])
