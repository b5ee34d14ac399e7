"""What nodes say to the whole cluster, over MQTT, in signed envelopes.

One frozen dataclass per kind. The order of the fields **is** the wire format: the codec writes them as one
fixed-position msgpack array, so a field may be appended under a new kind but never moved. Signed bodies hold no
floats (two encodings of one number would be two signatures): fractions travel as integers in a named unit.
"""

from dataclasses import dataclass
from enum import IntEnum

from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId


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


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I am here, and my record is at ``version``."""

    beat: int
    version: int


@dataclass(frozen=True, slots=True)
class LinkDeath:
    """The last will, signed in advance: my connection number ``connection`` to ``broker`` broke.

    A hint about one link.
    """

    connection: int
    broker: str


@dataclass(frozen=True, slots=True)
class PlanAnnounced:
    """A plan, in the exact bytes whose digest names it. Epoch 0 comes from an operator key."""

    plan: bytes


@dataclass(frozen=True, slots=True)
class PhaseReported:
    """One host's progress with one plan. Retained per (deployment, node)."""

    deployment: DeploymentId
    epoch: Epoch
    plan: Digest
    phase: DeploymentPhase
    detail: str


ControlMessage = NodeState | Heartbeat | LinkDeath | PlanAnnounced | PhaseReported


@dataclass(frozen=True, slots=True)
class PlanStage:
    """One stage: ``node`` holds blocks ``first_block..last_block``, both included."""

    node: NodeId
    first_block: int
    last_block: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Who holds what, for one deployment, from one epoch on. Immutable; named by the digest of its bytes.

    ``parent`` is the digest of the plan of the epoch before (zeros at genesis), ``model`` the digest of the
    package's manifest, ``context_tokens_max`` the longest session a host must be able to keep.
    """

    deployment: DeploymentId
    epoch: Epoch
    parent: Digest
    model: Digest
    context_tokens_max: int
    stages: tuple[PlanStage, ...]
