"""What nodes say to the whole cluster, over MQTT, in signed envelopes.

One frozen dataclass per kind. The order of the fields **is** the wire format: the codec writes them as one
fixed-position msgpack array, so a field may be appended under a new kind but never moved. Signed bodies hold no
floats (two encodings of one number would be two signatures): fractions travel as integers in a named unit.
"""

from dataclasses import dataclass
from enum import IntEnum

from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, NodeId, Sequence
from shoal_protocol.light import DigestTold
from shoal_protocol.measured import DemandMeasured, LinkMeasured
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.widths import ActivationWidth


class NodePhase(IntEnum):
    """Where an agent is in its life, as Homie's ``$state`` has it."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    DISCONNECTED = 3


class DeploymentPhase(IntEnum):
    """How far one host has come with one epoch of one deployment."""

    LOADING = 0
    READY = 1
    ACTIVE = 2
    DRAINED = 3
    FAILED = 4


class VoteKind(IntEnum):
    """The two ballots of a round."""

    PREVOTE = 1
    PRECOMMIT = 2


class Verdict(IntEnum):
    """What one node says of another's silence."""

    SUSPECT = 1
    DEAD = 2


class Objective(IntEnum):
    """LATENCY: one session alone is over soonest. THROUGHPUT: the busiest stage or link is least busy."""

    LATENCY = 1
    THROUGHPUT = 2


class Cause(IntEnum):
    """Why a plan was proposed. All but GAIN and FRAIL repair something: a hold or a lock does not postpone them."""

    GENESIS = 0
    HOST_LOST = 1
    """A host, or a voter, is dead or said goodbye."""
    NOT_READY = 2
    """A host failed to open its blocks, or did not say READY in time."""
    SLOW = 3
    """Deadlines were missed for three windows."""
    GAIN = 4
    """Another split is predicted to be better by enough, for long enough, its moving included."""
    RECOVERY = 5
    """Operators replaced a plan whose voters are lost."""
    THIN = 6
    """Fewer standbys are there than the terms ask for, and now there are more that can be. The stages stay."""
    FRAIL = 7
    """Some stage had no standby, nor anybody room for one; with primaries elsewhere any node may be lost."""


class SwitchMode(IntEnum):
    """MAKE_BEFORE_BREAK: the old epoch serves until the new one is ready. BREAK_BEFORE_MAKE: memory does not allow."""

    MAKE_BEFORE_BREAK = 1
    BREAK_BEFORE_MAKE = 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node's data plane listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node can carry; changes rarely. ``memory_bytes`` is what it offers for blocks and KV."""

    cores: int
    memory_bytes: int
    memory_total_bytes: int
    disk_free_bytes: int
    speed_macs_per_s: int
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What a node carries now. ``temperature_millicelsius`` is None where there is no sensor."""

    cpu_permille: int
    memory_available_bytes: int
    temperature_millicelsius: int | None
    session_count: int
    kv_bytes: int
    foreign_permille: int = 0
    """What other processes than this agent take of the processors: what is left is ours to plan with."""
    moved_owed_s: int = 0
    """The B queue: bytes of packages fetched beyond the budget, in seconds of what it allows; 0 without a budget."""


@dataclass(frozen=True, slots=True)
class HostedStage:
    """Blocks ``first_block..last_block`` (both included) of one epoch, open on this node."""

    deployment: DeploymentId
    epoch: Epoch
    first_block: int
    last_block: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """The capacity record: everything a node says about itself. Retained; newer ``version`` wins."""

    version: int
    phase: NodePhase
    data: Endpoint
    api: str
    capacity: Capacity
    load: Load
    hosted: tuple[HostedStage, ...]
    models: tuple[Digest, ...]
    services: tuple[str, ...]
    software: str
    links: tuple[LinkMeasured, ...] = ()
    stage_permille: int = 1000
    """Measured time of this node's stages over its profile's prediction; 2000 is half the speed, 0 is not known."""
    locked: bool = False
    """Its operator postpones every change that is no repair (``reconfig.lock``)."""
    demands: tuple[DemandMeasured, ...] = ()
    """What is asked through this node, by deployment; what is asked of the cluster is the sum over all nodes."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I am here, and my record is at ``version``.

    ``root`` sums up every record of the sender's shard and every chain of plans it knows: a hearer with another root
    lacks something, or has something to give. ``health`` is Lifeguard's local health multiplier: 0 is well.
    """

    beat: int
    version: int
    root: bytes = bytes(16)
    health: int = 0


@dataclass(frozen=True, slots=True)
class LinkDeath:
    """The last will, signed in advance: my connection number ``connection`` to ``broker`` broke."""

    connection: int
    broker: str


@dataclass(frozen=True, slots=True)
class PlanAnnounced:
    """A plan, in the exact bytes whose digest names it. Epoch 0 comes from an operator key."""

    plan: bytes


@dataclass(frozen=True, slots=True)
class PhaseReported:
    """One host's progress with one plan. Retained. ``standing_by``: what it could serve at once in another's place."""

    deployment: DeploymentId
    epoch: Epoch
    plan: Digest
    phase: DeploymentPhase
    detail: str
    standing_by: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ballot:
    """One voter's signature on a vote whose statement the message around it names; proves itself, whoever relays it."""

    node: NodeId
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proposed:
    """The proposer of ``round`` names a plan for (deployment, epoch).

    ``valid_round`` None: a fresh plan. Otherwise a quorum prevoted it in that round, and ``support`` are those
    prevotes: without them a voter that a liar kept in the dark could never be convinced.
    """

    deployment: DeploymentId
    epoch: Epoch
    round: int
    valid_round: int | None
    plan: bytes
    support: tuple[Ballot, ...]


@dataclass(frozen=True, slots=True)
class VoteCast:
    """One ballot. ``value`` None is a vote for nothing and ``reason`` says why, in a word.

    ``signature`` covers (cluster, vote, deployment, epoch, round, value) alone, so that it stands in a certificate.
    """

    deployment: DeploymentId
    epoch: Epoch
    round: int
    vote: VoteKind
    value: Digest | None
    reason: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    """A plan and the quorum of precommits of ``round`` that decided it: proves itself, given the plan before it."""

    plan: bytes
    round: int
    ballots: tuple[Ballot, ...]


@dataclass(frozen=True, slots=True)
class EvidenceFound:
    """Two sealed envelopes of one sender that cannot both be honest."""

    first: bytes
    second: bytes


@dataclass(frozen=True, slots=True)
class Accused:
    """``target`` is silent; what was last heard of it is (incarnation, sequence). Any later word of its own refutes."""

    target: NodeId
    incarnation: Incarnation
    sequence: Sequence
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """A record of ``node`` that the speaker keeps; one stamp for each slot."""

    node: NodeId
    incarnation: Incarnation
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Head:
    """The newest plan of ``deployment`` that the speaker can prove."""

    deployment: DeploymentId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Syn:
    """To ``to``: this is what I have of your share of the nodes; send me what is newer and say what you lack."""

    to: NodeId
    stamps: tuple[Stamp, ...]
    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class SynAck:
    """To ``to``: sealed envelopes it lacked, verbatim, and what I have."""

    to: NodeId
    stamps: tuple[Stamp, ...]
    heads: tuple[Head, ...]
    deltas: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """To ``to``: what it lacked."""

    to: NodeId
    deltas: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RecoveryOrdered:
    """Break glass: as many operators as its terms ask replace a plan whose voters are lost; the epoch leaps by 2^20."""

    plan: bytes
    approvals: tuple[Ballot, ...]


ControlMessage = (
    NodeState
    | Heartbeat
    | LinkDeath
    | PlanAnnounced
    | PhaseReported
    | Proposed
    | VoteCast
    | Certified
    | EvidenceFound
    | Accused
    | Syn
    | SynAck
    | Ack
    | RecoveryOrdered
    | DigestTold
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator fixed for the life of a deployment; every later plan repeats them unchanged.

    ``sessions`` of the full context each host keeps KV for; the session whose time is compared has ``prompt_tokens``
    and ``answer_tokens``; ``zones`` are the trust zones that may host (empty: any); ``faulty`` voters may lie; it takes
    ``operators_min`` operators to recover it; a new plan must be ``gain_permille`` better; each stage has ``standbys``;
    narrow activations may cost ``loss_micronats`` in all (KL); ``guarded`` blocks have zones of their own.
    """

    objective: Objective = Objective.LATENCY
    stages_min: int = 1
    stages_max: int = 8
    sessions: int = 1
    prompt_tokens: int = 128
    answer_tokens: int = 128
    zones: tuple[str, ...] = ()
    faulty: int = 0
    operators_min: int = 1
    gain_permille: int = 200
    standbys: int = 1
    loss_micronats: int = 0
    guarded: tuple[GuardedBlocks, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanStage:
    """One stage: ``node``, the primary, holds blocks ``first_block..last_block`` (included); input comes in ``width``.

    So do ``standbys``, best first: a session that loses the primary goes on with one of them, within the epoch.
    """

    node: NodeId
    first_block: int
    last_block: int
    standbys: tuple[NodeId, ...] = ()
    width: ActivationWidth = ActivationWidth.F32


@dataclass(frozen=True, slots=True)
class Plan:
    """Who holds what, for one deployment, from one epoch on. Immutable; named by the digest of its bytes.

    ``parent`` is the digest of the plan of the epoch before (zeros at genesis), ``model`` the digest of the
    package's manifest, ``context_tokens_max`` the longest session a host must be able to keep. ``voters`` decide the
    next epoch (none: nobody can change this plan); ``score_us`` is the planner's figure for it, ``reason`` the
    proposer's words; within ``staging_ms`` of its certificate every host must have said READY.
    """

    deployment: DeploymentId
    epoch: Epoch
    parent: Digest
    model: Digest
    context_tokens_max: int
    stages: tuple[PlanStage, ...]
    terms: Terms = Terms()
    voters: tuple[NodeId, ...] = ()
    cause: Cause = Cause.GENESIS
    mode: SwitchMode = SwitchMode.MAKE_BEFORE_BREAK
    staging_ms: int = 120_000
    score_us: int = 0
    reason: str = ""
