"""Everything that can happen to a node, in the past tense.

The shell (or the simulator) turns the world into these and hands them to ``Node.handle`` with the instant at which
they happened. Bytes a peer sent arrive either as ``EnvelopeReceived`` (still sealed: the core is the gate) or as
``FrameReceived`` (the connection authenticated the peer, the header was strictly decoded).
"""

from dataclasses import dataclass

from shoal_agent.core.backbone import Backbone
from shoal_agent.core.facts import CallId, GenerationRequest, LinkFault, ModelFacts, StageSpan, TensorHandle
from shoal_agent.core.problem import Infeasible, Split
from shoal_agent.core.services import Parcel
from shoal_protocol.headers import Header, ServiceFault
from shoal_protocol.ids import DeploymentId, Digest, NodeId, SessionId
from shoal_protocol.messages import Capacity, Load


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The deadline the node asked for has come."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The sensors were read. ``wall_ms`` is Unix time, used only to judge senders never heard before."""

    capacity: Capacity
    load: Load
    wall_ms: int
    joules: float | None = None
    """Drawn by the machine in the last ``seconds``, as it counts or by its power model; None if nothing is known."""
    seconds: float = 0.0
    """Since the reading before."""
    moved_bytes: int = 0
    """Of packages, fetched from peers meanwhile."""
    rates: tuple[tuple[NodeId, int], ...] = ()
    """How many bytes a second come in from peers, while they come: of whom it is known."""


@dataclass(frozen=True, slots=True)
class ModelAvailable:
    """A verified package is in this node's store, or all of it but weights that LoadBlocks would fetch."""

    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class ModelMissing:
    """A package could not be fetched: ``reason`` says who was asked, and what would help."""

    model: Digest
    reason: str


@dataclass(frozen=True, slots=True)
class ServicesAvailable:
    """The light services this node can run, by full name (``sampler``, ``tokenizer:<model hex>``)."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What an earlier life of this node wrote with Persist, read back at start."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class BrokerConnected:
    """The link to ``broker`` is up and subscribed."""

    broker: str


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The link to ``broker`` broke; the driver goes on trying."""

    broker: str
    reason: str


@dataclass(frozen=True, slots=True)
class EnvelopeReceived:
    """Bytes from a broker. Nothing about them is trusted, the topic included.

    ``redelivered``: the broker says that it repeats itself (a retained message, a second try), so bytes already
    accepted are no sign of foul play.
    """

    broker: str
    topic: str
    wire: bytes
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame from an authenticated peer.

    The payload of an Activation or of KvRows is a tensor and comes as a handle, owned by the node from now on; any
    other payload is small and comes as bytes. None if empty.
    """

    peer: NodeId
    header: Header
    payload: TensorHandle | bytes | None


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """The data-plane link to ``peer`` is up."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The data-plane link to ``peer`` broke, or could not be opened; what was queued on it is gone."""

    peer: NodeId
    reason: str
    fault: LinkFault = LinkFault.OTHER


@dataclass(frozen=True, slots=True)
class PeerRelayed:
    """Our frames to ``peer`` go through the brokers from now on, or do no longer: the link is another one."""

    peer: NodeId
    relayed: bool


@dataclass(frozen=True, slots=True)
class PeerMisbehaved:
    """Somebody sent what no correct node sends; already rejected. ``peer`` None: not even authenticated."""

    peer: NodeId | None
    reason: str


@dataclass(frozen=True, slots=True)
class BlocksLoaded:
    """Every block of ``span`` is open and warm."""

    span: StageSpan
    resident_bytes: int
    opened: int = 0
    """Blocks of it that were not open already."""


@dataclass(frozen=True, slots=True)
class BlocksFailed:
    """The span could not be opened: ``reason`` says which block and why (missing, tampered, out of memory)."""

    span: StageSpan
    reason: str


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage run is done; ``output`` (hidden states, or logits of the last position) is owned by the node.

    None when the run was the head's and no token was wanted.
    """

    session: SessionId
    stage: int
    position: int
    output: TensorHandle | None
    shape: tuple[int, ...]
    took_s: float


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A stage run failed or was terminated; nothing of it is left."""

    session: SessionId
    stage: int
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class KvExported:
    """The rows that ExportKv asked for, owned by the node; None and a ``reason`` if the session is over."""

    session: SessionId
    stage: int
    first_block: int
    last_block: int
    position: int
    token_count: int
    rows: TensorHandle | None
    byte_count: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class KvImported:
    """The rows that ImportKv brought are written, or ``reason`` says why not; then nothing was."""

    session: SessionId
    stage: int
    first_block: int
    last_block: int
    position: int
    token_count: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceReturned:
    """A light service answered: in bytes if it was asked in bytes."""

    call: CallId
    result: Parcel


@dataclass(frozen=True, slots=True)
class ServiceFailed:
    """A light service did not answer the call; ``reason`` is fit to show to the caller."""

    call: CallId
    reason: str
    fault: ServiceFault


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A client of this node's API wants a generation."""

    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class ErrandArrived:
    """A client of this node's API wants light services alone: each of ``steps`` (service, method), one after another.

    ``request`` goes to the first; each answer is the next one's request. Answered by ErrandEnded.
    """

    errand: int
    steps: tuple[tuple[str, str], ...]
    request: bytes
    deadline_s: float
    kind: str = ""
    """The class of the request that it is a step of; empty: none. Its own end counts to no class."""


@dataclass(frozen=True, slots=True)
class ErrandCancelled:
    """Nobody waits for this errand any more; one that is over already is no fault."""

    errand: int


@dataclass(frozen=True, slots=True)
class StepAhead:
    """What a step of a run to come will probably be, after the steps of these indices (``habits``)."""

    name: str
    after: tuple[int, ...]
    request_bytes: int
    service: str = ""
    """In full; empty: a generation of ``model``."""
    model: DeploymentId | None = None
    chat: bool = False
    answer_tokens_max: int = 0
    prompt_tokens: int | None = None
    """As they were lately; None: never measured."""
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PipelineArrived:
    """A client of this node's API wants a pipeline run, a request of class ``kind``. Answered by PipelineJudged."""

    run: int
    pipeline: str
    kind: str
    deadline_s: float
    steps: tuple[StepAhead, ...]


@dataclass(frozen=True, slots=True)
class PipelineEnded:
    """A pipeline's run that came in here is over: one request of class ``kind``, whatever its steps were."""

    kind: str
    late: bool


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The client went away, or no longer wants it."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Solved:
    """The planner answered."""

    ticket: int
    answer: Split | Infeasible | Backbone


@dataclass(frozen=True, slots=True)
class LockChanged:
    """The operator put ``reconfig.lock`` in its place, or took it away."""

    held: bool


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The process was asked to end: say goodbye."""


Event = (
    TimePassed
    | Sampled
    | ModelAvailable
    | ModelMissing
    | ServicesAvailable
    | Restored
    | BrokerConnected
    | BrokerLost
    | EnvelopeReceived
    | FrameReceived
    | PeerConnected
    | PeerLost
    | PeerRelayed
    | PeerMisbehaved
    | BlocksLoaded
    | BlocksFailed
    | StageFinished
    | StageFailed
    | KvExported
    | KvImported
    | ServiceReturned
    | ServiceFailed
    | RequestArrived
    | ErrandArrived
    | ErrandCancelled
    | PipelineArrived
    | PipelineEnded
    | CancelRequested
    | Solved
    | LockChanged
    | StopRequested
)
