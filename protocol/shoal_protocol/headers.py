"""What two nodes say to each other, over TLS, in data-plane frames.

A frame is a header (one of these dataclasses, as a fixed-position msgpack array) and a payload (tensor, ids, answer).
Connections authenticate peers: headers are not signed and may hold floats. Times are *remaining* ms, of no clock.

Every frame of a session carries (deployment, epoch): a stage refuses an epoch it does not hold (``STALE_EPOCH``),
so an imperfect switch costs a retry and never a wrong answer. A session outlives its hosts: its *route* names the node
of each stage; the ingress lays it anew when one is lost, each time as one more *attempt*: a fence, as the epoch is one.
"""

from dataclasses import dataclass
from enum import IntEnum

from shoal_protocol.content import ContentHeader
from shoal_protocol.ids import DeploymentId, Epoch, Incarnation, NodeId, SessionId
from shoal_protocol.journal import JournalHeader
from shoal_protocol.light import LightHeader
from shoal_protocol.tensors import Dtype


class RefusalCode(IntEnum):
    """Why a stage will not go on with a session."""

    STALE_EPOCH = 1
    UNKNOWN_SESSION = 2
    KV_FULL = 3
    OUT_OF_ORDER = 4
    DEADLINE = 5
    STAGE_FAILED = 6
    NOT_HOSTED = 7
    TOO_MANY_SESSIONS = 8
    OLD_ATTEMPT = 9
    NOT_CERTIFIED = 10


class ServiceFault(IntEnum):
    """Why a light service gave no answer: REFUSED, a wrong request; BUSY, ask again later; FAILED, its own fault."""

    REFUSED = 1
    BUSY = 2
    FAILED = 3


class CloseReason(IntEnum):
    """Why the ingress lets a session go."""

    FINISHED = 1
    CANCELLED = 2
    DEADLINE = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1.0 are off."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    top_logprobs: int
    """-1: no logprobs wanted; n >= 0: the drawn token's and the n best ones'."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame in either direction of a connection: who speaks, and how many bytes the other may have in flight."""

    version: int
    node: NodeId
    incarnation: Incarnation
    credit_bytes: int


@dataclass(frozen=True, slots=True)
class Credit:
    """``credit_bytes`` more may be sent: that much was consumed here."""

    credit_bytes: int


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Ingress to the node that serves ``stage``: reserve KV for ``tokens_max``, or go on with what you have of it.

    ``route`` names the node of every stage (empty: the plan's primaries). ``left_out`` are the first and the last of a
    run of blocks that this session does without, all its life: whoever has some of them hands the value on as it came,
    and whose manifest does not certify it refuses (``NOT_CERTIFIED``). A node that knows the session, as a stage
    of an older attempt or by KV that others sent it, keeps that KV, forgets what it was about to do, and sends
    nothing before it is told to ``Resume``. Payload, to the sampler's host only: all token ids so far (int64).
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    stage: int
    tokens_max: int
    deadline_ms: int
    sampling: Sampling
    attempt: int = 0
    route: tuple[NodeId, ...] = ()
    left_out: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """Stage host to ingress: reserved, or taken up.

    ``position``: KV is here for all positions before it. ``retained_from``: of this stage's outputs, those from here
    to ``position`` can be sent again (``position`` itself: none).
    """

    session: SessionId
    stage: int
    attempt: int = 0
    position: int = 0
    retained_from: int = 0


@dataclass(frozen=True, slots=True)
class Resume:
    """Ingress to stage host: every stage of this attempt is there; go on.

    Your next input starts at ``position``, which is at most yours: KV beyond it will be written again. Before that,
    send once more the outputs you retained from ``replay_from`` to ``position`` (``position`` itself: none).
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    stage: int
    attempt: int
    position: int
    replay_from: int


@dataclass(frozen=True, slots=True)
class Activation:
    """Input of ``stage``: payload is a tensor (dtype, shape) for positions ``position .. position+token_count-1``.

    ``last`` marks the chunk after whose last position a token is wanted.
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    stage: int
    position: int
    token_count: int
    last: bool
    deadline_ms: int
    dtype: Dtype
    shape: tuple[int, ...]
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """Sampler's host to ingress: ``token`` stands at ``position``; ``end`` if the model ended its turn.

    ``top`` holds (token, logprob) of the best candidates, best first; logprobs are natural, 0.0 and () when not wanted.
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    position: int
    token: int
    end: bool
    logprob: float
    top: tuple[tuple[int, float], ...]
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Ingress to whoever may hold something of this session: free it; of one ``epoch`` only, if it moved to another."""

    session: SessionId
    reason: CloseReason
    epoch: Epoch | None = None


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """Stage host to ingress: I cannot (or no longer) serve this session."""

    session: SessionId
    stage: int
    code: RefusalCode
    detail: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class PathBroken:
    """Stage host to ingress: my link to ``node``, before or after me on the route, is down. I keep what I have."""

    session: SessionId
    stage: int
    attempt: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class KvRows:
    """KV of blocks ``first_block..last_block`` for positions ``position .. position+token_count-1``.

    From the node that serves them to one that shall be able to: a standby of ``stage`` in the same epoch, or the host
    of ``stage`` in the ``epoch`` a session moves to. Payload: block by block, state by state as the manifest lists
    them, the rows of each as they lie in memory, [heads, token_count, width]. Unasked and unmetered by sessions: the
    first rows open a *shadow* of the session there, with the ``tokens_max`` and ``deadline_ms`` of the session, for its
    ``ingress`` and the trust zone of that one. ``attempt`` is the sender's: who served the session under an older
    one is superseded, and keeps a shadow. ``left_out`` is the session's: such blocks have no rows.
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    stage: int
    first_block: int
    last_block: int
    position: int
    token_count: int
    tokens_max: int
    deadline_ms: int
    ingress: NodeId
    attempt: int = 0
    left_out: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class KvKept:
    """Answer to KvRows: of these blocks the rows before ``position`` are here; go on from there, or why not at all.

    One KvRows per session and range of blocks is under way at a time: this is its flow control, and how a gap heals.
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    stage: int
    first_block: int
    last_block: int
    position: int
    refusal: RefusalCode | None


@dataclass(frozen=True, slots=True)
class HandOver:
    """Ingress to the node that serves ``stage`` in ``epoch``: send its KV to ``route`` in ``target_epoch``.

    It goes on serving meanwhile and keeps sending what is added. ``last``: nothing will be added any more. Answered by
    HandedOver: once when the others are nearly up to date, and once more after ``last`` when they are.
    """

    deployment: DeploymentId
    epoch: Epoch
    session: SessionId
    stage: int
    attempt: int
    target_epoch: Epoch
    route: tuple[NodeId, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Stage host to ingress: all of its KV before ``position`` is where it shall go, or why it will not be."""

    session: SessionId
    stage: int
    attempt: int
    position: int
    last: bool
    refusal: RefusalCode | None


@dataclass(frozen=True, slots=True)
class Probe:
    """Are you there? Answered with the same ``nonce`` at once."""

    nonce: int


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """I am: ``nonce`` is the probe's."""

    nonce: int


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """Run ``method`` of light service ``service`` (as ``tokenizer:0123456789abcdef``) on the payload, its msgpack.

    ``owed_milli``: Z of the request's class at its ingress, in thousandths of a late request; 0: nothing, or no class.
    """

    call: int
    service: str
    method: str
    deadline_ms: int
    owed_milli: int


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """Answer to ``call``: payload is the result, or empty and ``error`` says why not, in words; ``fault``, in kind."""

    call: int
    error: str
    fault: ServiceFault | None


@dataclass(frozen=True, slots=True)
class Gossip:
    """A control message, the link being one more broker: payload is a sealed envelope, ``topic`` where it belongs."""

    topic: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Is the agent alive, and not only its machine? The node itself answers with the same ``nonce``."""

    nonce: int


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """It is: ``nonce`` is the ping's."""

    nonce: int


@dataclass(frozen=True, slots=True)
class PingRequested:
    """I cannot reach ``target``: try in my place."""

    nonce: int
    target: NodeId


@dataclass(frozen=True, slots=True)
class PingReported:
    """Answer to a PingRequested: whether ``target`` answered me."""

    nonce: int
    target: NodeId
    reached: bool


Header = (
    Hello
    | Credit
    | OpenSession
    | SessionOpened
    | Activation
    | Token
    | CloseSession
    | SessionRefused
    | Probe
    | ProbeAnswered
    | ServiceCall
    | ServiceResult
    | Gossip
    | Ping
    | PingAnswered
    | PingRequested
    | PingReported
    | ContentHeader
    | Resume
    | PathBroken
    | KvRows
    | KvKept
    | HandOver
    | HandedOver
    | JournalHeader
    | LightHeader
)
