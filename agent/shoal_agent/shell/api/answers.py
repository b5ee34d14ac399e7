"""The shapes of OpenAI's answers: what a token, an end and a whole text look like to a client.

Two dialects, chat and (older) completion, each in two forms: one object at the end, or a stream of chunks. The
dialects differ in names only, so a stream's life (open, pieces, close, usage) is written once, in ``openai.py``, and
asks a ``Dialect`` for the objects. Pure: pieces in, JSON-ready dictionaries out.

A token may be an incomplete character. The chat dialect gives its bytes beside its text (broken parts as U+FFFD); the
completion dialect has only text, which also keys a dictionary, so such a token is written as its bytes in hexadecimal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal_agent.core.facts import FinishReason, Piece, TokenLogprob, Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Heading:
    """What every object of one answer begins with. ``fingerprint`` changes when the plan's epoch does.

    ``token_ids``: each choice also names its tokens by id, for clients that count or compare them.
    """

    id: str
    created_s: int
    model: str
    fingerprint: str
    token_ids: bool = False


class Dialect(Protocol):
    """How one of the two APIs writes an answer."""

    def opening(self) -> Json | None:
        """The chunk before the first token, if there is one."""

    def chunk(self, text: str, piece: Piece | None, text_before: int) -> Json:
        """``text`` that may be shown now, and the token it came with (None: held back until the end).

        ``text_before``: characters of the answer shown before.
        """

    def closing(self, reason: FinishReason) -> Json:
        """The chunk that says why the text is over."""

    def usage(self, usage: Usage) -> Json:
        """The chunk with the counts and no choice."""

    def whole(self, pieces: Sequence[Piece], tail: str, reason: FinishReason, usage: Usage) -> Json:
        """Everything at once."""


def usage_json(usage: Usage) -> Json:
    """The exact counts."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """``/v1/chat/completions``."""

    heading: Heading

    def opening(self) -> Json:
        return self._chunk([_choice("delta", {"role": "assistant", "content": ""}, None, None)])

    def chunk(self, text: str, piece: Piece | None, text_before: int) -> Json:
        del text_before
        pieces = [piece] if piece is not None else []
        choice = _choice("delta", {"content": text}, _chat_logprobs(pieces), None)
        return self._chunk([choice | _token_ids(self.heading, pieces)])

    def closing(self, reason: FinishReason) -> Json:
        return self._chunk([_choice("delta", {}, None, reason)])

    def usage(self, usage: Usage) -> Json:
        return self._chunk([]) | {"usage": usage_json(usage)}

    def whole(self, pieces: Sequence[Piece], tail: str, reason: FinishReason, usage: Usage) -> Json:
        text = "".join(piece.text for piece in pieces) + tail
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = _choice("message", message, _chat_logprobs(pieces), reason) | _token_ids(self.heading, pieces)
        return _object(self.heading, "chat.completion", [choice]) | {"usage": usage_json(usage)}

    def _chunk(self, choices: list[Json]) -> Json:
        return _object(self.heading, "chat.completion.chunk", choices)


@dataclass(frozen=True, slots=True)
class CompletionDialect:
    """``/v1/completions``."""

    heading: Heading

    def opening(self) -> None:
        return None

    def chunk(self, text: str, piece: Piece | None, text_before: int) -> Json:
        pieces = [piece] if piece is not None else []
        choice = _choice("text", text, _completion_logprobs(pieces, text_before), None)
        return self._object([choice | _token_ids(self.heading, pieces)])

    def closing(self, reason: FinishReason) -> Json:
        return self._object([_choice("text", "", None, reason)])

    def usage(self, usage: Usage) -> Json:
        return self._object([]) | {"usage": usage_json(usage)}

    def whole(self, pieces: Sequence[Piece], tail: str, reason: FinishReason, usage: Usage) -> Json:
        text = "".join(piece.text for piece in pieces) + tail
        choice = _choice("text", text, _completion_logprobs(pieces, 0), reason) | _token_ids(self.heading, pieces)
        return self._object([choice]) | {"usage": usage_json(usage)}

    def _object(self, choices: list[Json]) -> Json:
        return _object(self.heading, "text_completion", choices)


def _object(heading: Heading, kind: str, choices: list[Json]) -> Json:
    return {
        "id": heading.id,
        "object": kind,
        "created": heading.created_s,
        "model": heading.model,
        "system_fingerprint": heading.fingerprint,
        "choices": choices,
    }


def _choice(key: str, value: object, logprobs: Json | None, reason: FinishReason | None) -> Json:
    finish = None if reason is None else reason.value
    return {"index": 0, key: value, "logprobs": logprobs, "finish_reason": finish}


def _token_ids(heading: Heading, pieces: Sequence[Piece]) -> Json:
    return {"token_ids": [piece.token for piece in pieces]} if heading.token_ids else {}


def _logprobs(pieces: Sequence[Piece]) -> list[TokenLogprob]:
    return [piece.logprob for piece in pieces if piece.logprob is not None]


def _chat_logprobs(pieces: Sequence[Piece]) -> Json | None:
    entries = _logprobs(pieces)
    if not entries:
        return None
    content = [
        _chat_token(entry.text, entry.logprob)
        | {"top_logprobs": [_chat_token(text, logprob) for _, text, logprob in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _chat_token(text: bytes, logprob: float) -> Json:
    return {"token": text.decode(errors="replace"), "logprob": logprob, "bytes": list(text)}


def _completion_logprobs(pieces: Sequence[Piece], text_before: int) -> Json | None:
    entries = _logprobs(pieces)
    if not entries:
        return None
    offsets = []
    for piece in pieces:
        offsets.append(text_before)
        text_before += len(piece.text)
    return {
        "tokens": [_completion_token(entry.text) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{_completion_token(text): logprob for _, text, logprob in entry.top} for entry in entries],
        "text_offset": offsets,
    }


def _completion_token(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)
