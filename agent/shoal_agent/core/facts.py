"""The values that cross the border between the core and the rooms around it.

All frozen. Tensors appear only as handles: the shell keeps the arrays in a table, the core decides which handle
goes where and when it is released.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, NewType

from shoal_protocol.headers import Sampling
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId, SessionId
from shoal_protocol.messages import Plan
from shoal_protocol.widths import ActivationWidth

TensorHandle = NewType("TensorHandle", int)
"""Key into the shell's tensor table. Whoever receives one owns it and must pass it on or release it."""

CallId = NewType("CallId", int)
"""Names one light-service call, local or remote, until it is answered."""

SessionStage = tuple[SessionId, int]
"""A session on one stage of one epoch (``plan.slot_of``): the unit that owns KV, and by which the engine knows it."""


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """One block of a package: its memory, its KV per token and its measured time on the machine that imported it."""

    resident_bytes: int
    """Memory it takes once it is open, ``ModelFacts.shared_bytes`` apart."""
    kv_bytes_per_token: int
    decode_us: int
    """One token, on a device of ``ModelFacts.reference_macs_per_s``."""
    prefill_us: int
    """128 tokens, on the same device."""
    boundary_bytes_per_token: int
    """What leaves this block per token (0 after the last)."""


@dataclass(frozen=True, slots=True)
class Width:
    """An element type in which activations may cross a cut: a narrow one takes less of a link, and some of the truth.

    ``size_permille`` and ``codec_ps_per_byte`` are of a byte as the block hands it over; ``codec_ps_per_byte`` is what
    both ends take to convert it. ``loss`` is what one cut in this width takes of the quality; losses of cuts add up.
    """

    name: str
    size_permille: int = 1000
    extra_bytes_per_token: int = 0
    codec_ps_per_byte: int = 0
    loss: int = 0

    @property
    def wire(self) -> ActivationWidth:
        """How a plan says it."""
        return on_wire(self.name)


LeftOut = tuple[int, int]
"""First and last of a run of blocks that a session does without."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A run of blocks that the package certifies as one that answers may do without; ``loss`` is in micronats."""

    left_out: LeftOut
    loss: int
    agreement_permille: int = 1000
    saved_permille: int = 0


def on_wire(name: str) -> ActivationWidth:
    """The width that is called ``name``; without a name, as it is."""
    return ActivationWidth[name.upper()] if name else ActivationWidth.F32


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the core must know of a package to plan it and to admit sessions."""

    model: Digest
    name: str
    blocks: tuple[BlockFacts, ...]
    reference_macs_per_s: int
    context_tokens_max: int
    shared_bytes: int = 0
    """What the blocks of one host share: it takes this much once, however many of them it holds."""
    widths: tuple[Width, ...] = ()
    """How its activations may travel, as the package certifies it; ``loss`` is in micronats."""
    shortcuts: tuple[Shortcut, ...] = ()

    def shortcut(self, left_out: LeftOut | None) -> Shortcut | None:
        """What the package certifies of a session without these blocks."""
        return next((each for each in self.shortcuts if each.left_out == left_out), None)


class LinkFault(StrEnum):
    """Why a link of the data plane is down."""

    REFUSED = "refused"
    """The peer's machine answers that nobody listens there."""
    BROKEN = "broken"
    """A connection that stood was ended by the other side."""
    SILENT = "silent"
    """No answer in time, whatever the reason: paused, gone, unreachable."""
    OTHER = "other"
    """Our doing, or a fault in what was said."""


class Road(Enum):
    """How a word of a node came here, hence what it says of the present."""

    BROKER = "broker"
    """Through a broker, as it was said: its owner lived a moment ago, and a broker has it."""
    DIRECT = "direct"
    """In a frame of its owner's own link."""
    RELAYED = "relayed"
    """Kept by a broker, or handed on by another node: its owner lived when it said it, whenever that was."""


BY_BROKER: Final = Road.BROKER
RELAYED: Final = Road.RELAYED
"""Looked up once, for what is asked of every heartbeat: in Python 3.11 the look-up costs more than the test."""


class Standing(StrEnum):
    """What a node makes of another one's silence."""

    UNKNOWN = "unknown"
    """Not watched, or never heard in this life of ours."""
    ALIVE = "alive"
    SLOW = "slow"
    """It answers, but late."""
    LINK_LOST = "link-lost"
    """It lives, as its words or other nodes tell, but does not answer us directly."""
    MQTT_LOST = "mqtt-lost"
    """It answers directly, but its heartbeats do not come over the brokers."""
    SUSPECT = "suspect"
    """No sign of it on any road."""
    DEAD = "dead"
    LEFT = "left"
    """It said goodbye."""


class Symptom(StrEnum):
    """Why a standing changed, in one word for machines and people."""

    HEARD = "heard"
    """A word of its own, or an answer in time."""
    KILLED = "killed"
    """Nobody listens where it did."""
    BROKEN = "broken"
    """It ended its connection, and does not answer."""
    PAUSED = "paused"
    """Connected, and silent."""
    SILENT = "silent"
    """Neither connected nor heard."""
    LATE = "late"
    LINK = "link"
    MQTT = "mqtt"
    GOODBYE = "goodbye"


@dataclass(frozen=True, slots=True)
class StandingChanged:
    """``node`` is seen in another way. ``silent_s``: since the last sign of it."""

    node: NodeId
    old: Standing
    new: Standing
    why: Symptom
    silent_s: float


@dataclass(frozen=True, slots=True)
class SelfAccused:
    """``accuser`` does not hear this node: any fresh word of ours refutes it."""

    accuser: NodeId


Watched = StandingChanged | SelfAccused


class How(StrEnum):
    """Where the proof of a plan came from."""

    ANNOUNCED = "announced"
    """An operator's first word."""
    AGREED = "agreed"
    """Decided by voters, this node among them."""
    HEARD = "heard"
    """Decided by others."""
    ORDERED = "ordered"
    """Operators replaced what nobody could change any more."""
    RESTORED = "restored"
    """Known to an earlier life of this node."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """``plan`` is the newest proven one of its deployment."""

    plan: Plan
    digest: Digest
    how: How


@dataclass(frozen=True, slots=True)
class JudgementWanted:
    """This node must say whether it can live with ``plan``; who is not sure is asked again until time is over."""

    plan: Plan
    digest: Digest


@dataclass(frozen=True, slots=True)
class Behind:
    """``peer`` knows newer plans of ``deployment`` than this node: ask it for them."""

    deployment: DeploymentId
    peer: NodeId


@dataclass(frozen=True, slots=True)
class Disputed:
    """Two plans are proven for one epoch: more voters lie than the terms allow for. The first one stays."""

    deployment: DeploymentId
    epoch: Epoch
    held: Digest
    other: Digest


@dataclass(frozen=True, slots=True)
class Convicted:
    """``node`` sealed two words that cannot both be honest; this node listens to it no more."""

    node: NodeId


Resolved = Adopted | JudgementWanted | Behind | Disputed | Convicted
"""What comes out of the council."""


@dataclass(frozen=True, slots=True)
class SeatView:
    """How agreement about one deployment stands here; ``round`` and ``step`` only while this node votes."""

    deployment: DeploymentId
    epoch: Epoch
    digest: Digest
    voter: bool
    barred: Epoch | None
    round: int | None = None
    step: str = ""
    locked: Digest | None = None
    pausing: bool = False


class FinishReason(StrEnum):
    """Why a stream ended, in the words of the OpenAI API where it has one."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    FAILED = "failed"


class RejectCode(StrEnum):
    """Why a request was not begun, or could not go on; the API maps each to one HTTP status."""

    UNKNOWN_MODEL = "model_not_found"
    NOT_READY = "not_ready"
    STOPPING = "node_stopping"
    """Only this node takes nothing more; any other one may."""
    STARTING = "node_starting"
    """Only this node takes nothing yet: it has just come back, and has not heard from every host."""
    BAD_PROMPT = "invalid_prompt"
    CONTEXT_EXCEEDED = "context_length_exceeded"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline_exceeded"
    STAGE_LOST = "stage_lost"
    INTERNAL = "internal_error"
    CONFLICT = "request_id_in_use"
    """Another request has this id, or had it a moment ago."""
    NOTHING_KEPT = "stream_not_found"
    """A client came back for a stream of which nothing is left."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the chat template: ``body`` is msgpack of the messages list, opaque to the core."""

    body: bytes


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A bare prompt; special tokens in it are text."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt that already is token ids."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class Claim:
    """What lets a client come back for the rest of its stream, also through another ingress.

    ``key`` opens what was written down of it, and follows from the client's own secrets; ``intent`` is a digest of what
    it asks for. ``seen``: it comes back, and has had so many tokens.
    """

    key: bytes
    intent: bytes
    seen: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation as the ingress's API asks for it. ``tokens_max`` None: as many as the context allows."""

    session: SessionId
    deployment: DeploymentId
    prompt: Prompt
    sampling: Sampling
    tokens_max: int | None
    stop: tuple[str, ...]
    deadline_s: float
    claim: Claim | None = None
    kind: str = ""
    """The request class that its client named; empty: none."""
    part: bool = False
    """It is a step of something larger, which itself answers for the promise of its class."""

    @property
    def promised(self) -> str:
        """The class to which its end counts; empty: none."""
        return "" if self.part else self.kind


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was, and its rivals: (token, bytes, logprob), best first."""

    token: int
    text: bytes
    """The token's own bytes; may be an incomplete piece of UTF-8."""
    logprob: float
    top: tuple[tuple[int, bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added to a stream. ``text`` is whole UTF-8 and may be empty while characters are incomplete."""

    token: int
    text: str
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class StageSpan:
    """A contiguous run of blocks of one epoch, on this node; in which width its input comes and its output leaves."""

    deployment: DeploymentId
    epoch: Epoch
    model: Digest
    first_block: int
    last_block: int
    takes: ActivationWidth = ActivationWidth.F32
    gives: ActivationWidth = ActivationWidth.F32
