"""Everything a node can ask for, in the imperative.

The shell performs a list in order. One ordering is a promise: a ``Persist`` is durable before any later
``Broadcast`` or ``SendFrame`` of the same list leaves (etcd's ``Ready`` contract). Effects that take time answer
with an event; none answers twice.

``stage`` in what is asked of the engine is the node's own number for one stage of one epoch (``plan.slot_of``): while a
session moves, a node may hold it in two epochs.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

from shoal_agent.core.backbone import BackboneProblem
from shoal_agent.core.facts import CallId, FinishReason, LeftOut, Piece, RejectCode, StageSpan, TensorHandle, Usage
from shoal_agent.core.problem import SplitProblem
from shoal_agent.core.services import Parcel
from shoal_protocol.headers import Header
from shoal_protocol.ids import Digest, Incarnation, NodeId, SessionId

SOLVES_MAX: Final = 2
"""Splits asked for at once: a plan with new cuts and one with the old ones are looked for side by side."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Publish ``wire`` on every broker. ``expiry_s`` bounds how long a retained copy lives."""

    topic: str
    wire: bytes
    retain: bool
    at_least_once: bool
    expiry_s: int


@dataclass(frozen=True, slots=True)
class Persist:
    """Write ``data`` under ``name`` atomically and durably."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Listen:
    """Hear the heartbeats and records of exactly these shares of the nodes, on every broker, now and ever after."""

    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AdoptIncarnation:
    """The boot counter was lost and others remember it: go on as life ``incarnation``. As durable as a ``Persist``."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send to ``peer`` (never ourselves), connecting if need be.

    Ownership of a payload handle passes to the shell, unless ``keep``: then the node may send it again, and releases
    it.
    """

    peer: NodeId
    header: Header
    payload: TensorHandle | bytes | None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class LoadBlocks:
    """Open the blocks of ``span``; answered by BlocksLoaded or BlocksFailed.

    What is not in the store is fetched first, from ``sources``: peers believed to hold the package, best first.
    """

    span: StageSpan
    sources: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchBlocks:
    """Get the weights of ``span`` into the store, and open nothing: there is no room for it now.

    Not answered: whatever is still lacking is fetched by LoadBlocks. ``sources`` as there.
    """

    span: StageSpan
    sources: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Get what a node must have to plan for ``model`` and to serve it light services; not the weights.

    Answered by ModelAvailable or ModelMissing. ``sources`` as in LoadBlocks. Asking again while it is under way
    changes nothing, there is one answer; but whatever is being fetched of the model without a source now has these.
    """

    model: Digest
    sources: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Solve:
    """Find the best split, or places by the backbone; answered by Solved with the same ``ticket``.

    At most ``SOLVES_MAX`` splits are under way, and beside them one backbone, for which no repair waits.
    """

    ticket: int
    problem: SplitProblem | BackboneProblem


@dataclass(frozen=True, slots=True)
class UnloadBlocks:
    """Close the blocks of ``span`` that no other epoch uses."""

    span: StageSpan


@dataclass(frozen=True, slots=True)
class OpenStage:
    """Reserve KV for one session on one stage. Cannot fail: memory is only committed as it is written.

    Blocks that are ``left_out`` are not run and have no KV; a stage without any other hands on what comes.
    """

    session: SessionId
    stage: int
    span: StageSpan
    tokens_max: int
    left_out: LeftOut | None = None


@dataclass(frozen=True, slots=True)
class RunStage:
    """Run the stage's blocks over ``token_count`` positions; answered by StageFinished or StageFailed.

    ``payload`` are token ids (int64) if the span begins with block 0, hidden states otherwise. Ownership passes.
    ``want_logits`` is False for the chunks of a prompt before the last: the head is skipped.
    """

    session: SessionId
    stage: int
    position: int
    token_count: int
    payload: TensorHandle | bytes
    want_logits: bool


@dataclass(frozen=True, slots=True)
class CloseStage:
    """Terminate a run in progress (its answer is still owed, as StageFailed) and free the session's KV."""

    session: SessionId
    stage: int


@dataclass(frozen=True, slots=True)
class ExportKv:
    """Copy rows of a session's KV out, between two runs or beside one that writes later positions.

    Positions ``position .. position+token_count-1`` of blocks ``first_block..last_block``, which are of the stage's
    span. Answered by KvExported.
    """

    session: SessionId
    stage: int
    first_block: int
    last_block: int
    position: int
    token_count: int


@dataclass(frozen=True, slots=True)
class ImportKv:
    """Write rows of KV, as KvExported had them, into a session that does not run. Ownership of ``rows`` passes.

    Answered by KvImported.
    """

    session: SessionId
    stage: int
    first_block: int
    last_block: int
    position: int
    token_count: int
    rows: TensorHandle | bytes


@dataclass(frozen=True, slots=True)
class CallService:
    """Run a method of a local light service; answered by ServiceReturned or ServiceFailed.

    ``request`` is packed if it came from another node, and may be one of the messages of ``services`` if it never
    travelled: who asks in bytes is answered in bytes. ``tensor`` (logits for the sampler) is released by the shell
    after the call. What has not begun within ``left_s`` is not run any more but answered as BUSY: nobody waits for it.
    """

    call: CallId
    service: str
    method: str
    request: Parcel
    tensor: TensorHandle | None
    left_s: float = inf


@dataclass(frozen=True, slots=True)
class StartInstance:
    """Run up to ``instances`` calls of ``service`` at a time from now on: more than before."""

    service: str
    instances: int


@dataclass(frozen=True, slots=True)
class StopInstance:
    """Run no more than ``instances`` at a time; calls that run end as they would. 0: forget the service's state too."""

    service: str
    instances: int


@dataclass(frozen=True, slots=True)
class CloseService:
    """The session is over: a stateful service (sampler, detokenizer) forgets what it kept under this key."""

    service: str
    session: SessionId


@dataclass(frozen=True, slots=True)
class Accept:
    """The request passed admission; the stream may begin. ``resumable``: another ingress could go on with it.

    ``left_out``: blocks that it is answered without.
    """

    session: SessionId
    prompt_tokens: int
    resumable: bool = False
    left_out: LeftOut | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """One more token of a stream, exactly once and in order."""

    session: SessionId
    piece: Piece


@dataclass(frozen=True, slots=True)
class Finish:
    """The stream is over. ``tail`` is text that was held back while a stop string was still possible."""

    session: SessionId
    reason: FinishReason
    tail: str
    usage: Usage
    detail: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The request was not begun. ``retry_after_s`` None: trying again will not help."""

    session: SessionId
    code: RejectCode
    detail: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class ErrandEnded:
    """The last answer of an errand, or why there is none."""

    errand: int
    result: bytes
    code: RejectCode | None
    detail: str


@dataclass(frozen=True, slots=True)
class PipelineJudged:
    """Whether a run of a pipeline may begin; no ``code``: it may, and will probably end after ``finish_s``."""

    run: int
    finish_s: float
    code: RejectCode | None
    detail: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class ReleaseTensor:
    """Forget a tensor nobody will read."""

    handle: TensorHandle


@dataclass(frozen=True, slots=True)
class Count:
    """Add ``amount`` to a counter of the metrics: ``name`` is the family, ``label`` the reason or kind."""

    name: str
    label: str
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log; the core itself never logs."""

    level: str
    text: str
    fields: tuple[tuple[str, str | int | float], ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything is said: the process may end."""


Effect = (
    Broadcast
    | Listen
    | Persist
    | AdoptIncarnation
    | SendFrame
    | LoadBlocks
    | FetchBlocks
    | FetchModel
    | Solve
    | UnloadBlocks
    | OpenStage
    | RunStage
    | CloseStage
    | ExportKv
    | ImportKv
    | CallService
    | StartInstance
    | StopInstance
    | CloseService
    | Accept
    | Emit
    | Finish
    | Reject
    | ErrandEnded
    | PipelineJudged
    | ReleaseTensor
    | Count
    | Note
    | Stop
)
