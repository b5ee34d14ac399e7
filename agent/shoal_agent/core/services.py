"""What the core says to a light service and what it hears back: names, methods, requests and answers.

A light service is a small named thing any node can run (``tokenizer:<model>``). The core calls it by effect or by a
``ServiceCall`` frame. Each message is one frozen dataclass and, on the wire, one fixed-position msgpack array: the
order of the fields **is** the format.

===================  ==========  ======================  ============  =============================
service              method      request                 answer        keeps per session
===================  ==========  ======================  ============  =============================
``chat-template:m``  ``render``  RenderRequest           RenderAnswer  nothing
``tokenizer:m``      ``encode``  EncodeRequest           EncodeAnswer  nothing
``tokenizer:m``      ``check``   CheckRequest            EncodeAnswer  nothing
``sampler:m``        ``open``    OpenSamplerRequest      Done          token history, sampling
``sampler:m``        ``sample``  SampleRequest           SampleAnswer  appends the token it drew
``detokenizer:m``    ``open``    OpenDetokenizerRequest  Done          stop strings
``detokenizer:m``    ``push``    PushRequest             PushAnswer    bytes and text held back
``detokenizer:m``    ``flush``   FlushRequest            FlushAnswer   nothing any more
``embedder:m``       ``embed``   EmbedRequest            EmbedAnswer   nothing
===================  ==========  ======================  ============  =============================

Whatever does not decode is somebody else's mistake: ``MalformedMessage``, and nothing has changed.

What is said with every token (``sample``, ``push``) stays a message as long as it stays on the node: packing it for
nobody to read took some 4 % of the loop's time per token. Everything else is packed always, because unpacking is also
the check of what a client wrote. A request does not know whether it travels: the answer says the same either way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, TypeVar

import msgpack

from shoal_protocol.errors import MalformedMessage
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import SESSION_ID_BYTES, Digest, SessionId
from shoal_protocol.limits import INTEGER_MAX, STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX, TOKENS_MAX, TOP_LOGPROBS_MAX

_MODEL_KEY_BYTES = 8
"""A model is named by the first 16 hex characters of its digest: 64 bits, far beyond the models one cluster holds."""

MARKER_BREAK: Final = "\ufdd0"
"""Between a chat template and its tokenizer: what stands behind the first character of a marker that a *user* wrote.

So a message may quote ``<|im_end|>`` to the letter and yet never end the turn. U+FDD0 is a noncharacter, which Unicode
reserves for such internal use and bars from interchange; one in a message is replaced (U+FFFD) before the rendering.
"""

T = TypeVar("T")
M = TypeVar("M", bound="ServiceMessage")


class ServiceKind(StrEnum):
    """The light services of a text pipeline, as their names begin."""

    CHAT_TEMPLATE = "chat-template"
    TOKENIZER = "tokenizer"
    SAMPLER = "sampler"
    DETOKENIZER = "detokenizer"
    EMBEDDER = "embedder"


class Method(StrEnum):
    """What can be asked of them."""

    RENDER = "render"
    ENCODE = "encode"
    CHECK = "check"
    OPEN = "open"
    SAMPLE = "sample"
    PUSH = "push"
    FLUSH = "flush"
    EMBED = "embed"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """Messages to lay out as the model was taught. Its bytes are ``ChatPrompt.body``, passed on verbatim."""

    messages: tuple[ChatMessage, ...]
    add_generation_prompt: bool


@dataclass(frozen=True, slots=True)
class RenderAnswer:
    """The conversation as one text, markers included: to be encoded with ``special`` set."""

    text: str


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """``special``: strings like ``<|im_end|>`` in ``text`` are markers (rendered template), not text (bare prompt).

    Where they are, a ``MARKER_BREAK`` within such a string makes it text again, and is itself dropped.
    """

    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """A prompt that already is ids: are they all in the vocabulary? Answered with the same ids."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EncodeAnswer:
    """The ids, in order; possibly none."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Ids to embed together; on the wire the same as an EncodeAnswer, which may be passed on as it is."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """A vector of length 1, and how many tokens are in it."""

    vector: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class OpenSamplerRequest:
    """Begin a session (or begin it again, elsewhere) after ``tokens``: the prompt, and whatever was drawn since.

    The history is all the state there is, for the draw at a position depends on the seed, the position, the history
    and the logits alone. Opened elsewhere with the same history, a session goes on as if it had never moved.
    """

    session: SessionId
    tokens: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Draw the token that stands at ``position``; the call's tensor is the logits there, [..., vocabulary]."""

    session: SessionId
    position: int


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """``end``: the model ended its turn. ``top``: (token, logprob), best first; 0.0 and () if logprobs are not wanted.

    A logprob is the natural logarithm of the plain softmax: what the model said, before temperature or any penalty.
    """

    token: int
    end: bool
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class OpenDetokenizerRequest:
    """Begin a text. ``logprobs``: the bytes of each token and of its rivals will be wanted too."""

    session: SessionId
    stop: tuple[str, ...]
    logprobs: bool


@dataclass(frozen=True, slots=True)
class PushRequest:
    """One more token, and the ids of its best rivals (empty unless logprobs are wanted)."""

    session: SessionId
    token: int
    top: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PushAnswer:
    """``text`` may be given out now. ``stopped``: a stop string was met, and nothing more will come."""

    text: str
    stopped: bool
    token_bytes: bytes
    top_bytes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FlushRequest:
    """The text is over; the session is forgotten."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class FlushAnswer:
    """What was still held back: an unfinished stop string, an unfinished character (as U+FFFD)."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """An answer with nothing in it."""


ServiceMessage = (
    RenderRequest
    | RenderAnswer
    | EncodeRequest
    | CheckRequest
    | EncodeAnswer
    | EmbedRequest
    | EmbedAnswer
    | OpenSamplerRequest
    | SampleRequest
    | SampleAnswer
    | OpenDetokenizerRequest
    | PushRequest
    | PushAnswer
    | FlushRequest
    | FlushAnswer
    | Done
)


Parcel = bytes | ServiceMessage
"""A request or an answer: packed, or as it is because it never leaves the node."""


def model_key(model: Digest) -> str:
    """How a model is named within a service's name."""
    return model[:_MODEL_KEY_BYTES].hex()


def service_name(kind: ServiceKind, model: Digest) -> str:
    """``tokenizer:0123456789abcdef``."""
    return f"{kind}:{model_key(model)}"


def pack(message: Parcel) -> bytes:
    """The bytes of any request or answer: its fields in their order, nested ones likewise. Bytes stay as they are."""
    return message if isinstance(message, bytes) else bytes(msgpack.packb(message, default=_row))


def unpack(kind: type[M], raw: Parcel) -> M:
    """``raw`` as a message of ``kind``, or MalformedMessage. One that never travelled is what it is."""
    if isinstance(raw, kind):
        return raw
    assert isinstance(raw, bytes), f"this node took a {type(raw).__name__} for a {kind.__name__}"
    try:
        # msgpack bounds every length by the size of ``raw``, so nothing is allocated beyond what was received.
        value = msgpack.unpackb(raw, use_list=False)
    except ValueError as fault:
        raise MalformedMessage(f"not a service message: {fault}") from None
    message = _READERS[kind](_tuple(value, len(fields(kind))))
    assert isinstance(message, kind)
    return message


def _row(message: ServiceMessage) -> tuple[object, ...]:
    return tuple(getattr(message, field.name) for field in fields(message))


# --- strict readers: each takes what msgpack gave and returns the typed value, or raises ---------------------------


def _tuple(value: object, width: int) -> tuple[object, ...]:
    if not isinstance(value, tuple) or len(value) != width:
        raise MalformedMessage(f"expected an array of {width}")
    return value


def _each(value: object, read: Callable[[object], T], count_max: int | None = None) -> tuple[T, ...]:
    if not isinstance(value, tuple):
        raise MalformedMessage("expected an array")
    if count_max is not None and len(value) > count_max:
        raise MalformedMessage(f"an array of {len(value)}, at most {count_max}")
    return tuple(read(item) for item in value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedMessage("expected text")
    return value


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedMessage("expected bytes")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise MalformedMessage("expected true or false")
    return value


def _natural(value: object, value_max: int = TOKENS_MAX) -> int:
    if type(value) is not int or not 0 <= value <= value_max:
        raise MalformedMessage(f"expected a whole number from 0 to {value_max}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedMessage("expected a finite number")
    return float(value)


def _session(value: object) -> SessionId:
    raw = _blob(value)
    if len(raw) != SESSION_ID_BYTES:
        raise MalformedMessage(f"a session id is {SESSION_ID_BYTES} bytes, not {len(raw)}")
    return SessionId(raw)


def _stop(value: object) -> str:
    text = _text(value)
    if not 0 < len(text.encode()) <= STOP_STRING_BYTES_MAX:
        raise MalformedMessage(f"a stop string is 1 to {STOP_STRING_BYTES_MAX} bytes")
    return text


def _message(value: object) -> ChatMessage:
    role, content = _tuple(value, 2)
    return ChatMessage(_text(role), _text(content))


def _rival(value: object) -> tuple[int, float]:
    token, logprob = _tuple(value, 2)
    return _natural(token), _number(logprob)


def _sampling(value: object) -> Sampling:
    temperature, top_k, top_p, penalty, seed, top_logprobs = _tuple(value, 6)
    if type(top_logprobs) is not int or not -1 <= top_logprobs <= TOP_LOGPROBS_MAX:
        raise MalformedMessage(f"top_logprobs is -1 to {TOP_LOGPROBS_MAX}")
    sampling = Sampling(
        temperature=_number(temperature),
        top_k=_natural(top_k),
        top_p=_number(top_p),
        repetition_penalty=_number(penalty),
        seed=_natural(seed, INTEGER_MAX),
        top_logprobs=top_logprobs,
    )
    if sampling.temperature < 0.0 or sampling.repetition_penalty <= 0.0 or not 0.0 < sampling.top_p <= 1.0:
        raise MalformedMessage("sampling out of range: temperature >= 0, repetition_penalty > 0, 0 < top_p <= 1")
    return sampling


_READERS: Final[Mapping[type, Callable[[tuple[object, ...]], ServiceMessage]]] = {
    RenderRequest: lambda row: RenderRequest(_each(row[0], _message), _flag(row[1])),
    RenderAnswer: lambda row: RenderAnswer(_text(row[0])),
    EncodeRequest: lambda row: EncodeRequest(_text(row[0]), _flag(row[1])),
    CheckRequest: lambda row: CheckRequest(_each(row[0], _natural)),
    EncodeAnswer: lambda row: EncodeAnswer(_each(row[0], _natural)),
    EmbedRequest: lambda row: EmbedRequest(_each(row[0], _natural)),
    EmbedAnswer: lambda row: EmbedAnswer(_each(row[0], _number), _natural(row[1])),
    OpenSamplerRequest: lambda row: OpenSamplerRequest(_session(row[0]), _each(row[1], _natural), _sampling(row[2])),
    SampleRequest: lambda row: SampleRequest(_session(row[0]), _natural(row[1])),
    SampleAnswer: lambda row: SampleAnswer(
        _natural(row[0]), _flag(row[1]), _number(row[2]), _each(row[3], _rival, TOP_LOGPROBS_MAX)
    ),
    OpenDetokenizerRequest: lambda row: OpenDetokenizerRequest(
        _session(row[0]), _each(row[1], _stop, STOP_STRINGS_MAX), _flag(row[2])
    ),
    PushRequest: lambda row: PushRequest(_session(row[0]), _natural(row[1]), _each(row[2], _natural, TOP_LOGPROBS_MAX)),
    PushAnswer: lambda row: PushAnswer(
        _text(row[0]), _flag(row[1]), _blob(row[2]), _each(row[3], _blob, TOP_LOGPROBS_MAX)
    ),
    FlushRequest: lambda row: FlushRequest(_session(row[0])),
    FlushAnswer: lambda row: FlushAnswer(_text(row[0])),
    Done: lambda row: Done(),  # noqa: ARG005 - every reader takes a row
}
