"""Tokens to text, one at a time, as a stream may show it.

A token of a byte-level vocabulary is a run of bytes, and may begin or end within a character. Two things are held back:

* *bytes* of a character that is not complete yet. What can never become one is replaced by U+FFFD as soon as that is
  certain, exactly as decoding the whole text at once would;
* *text* that may be the beginning of a stop string. The longest such tail waits; everything before it goes out.

The stop string that is complete first wins (of two that end together, the longer), as if the text were looked at
character by character: the answer does not depend on where the tokens were cut. The text before it goes out, the
string itself and all after it never do.

Special tokens are structure and add no text; their marker still is what ``token_bytes`` shows for log probabilities.
"""

import codecs
import time
from dataclasses import dataclass

from shoal_agent.core.services import (
    Done,
    FlushAnswer,
    FlushRequest,
    OpenDetokenizerRequest,
    PushAnswer,
    PushRequest,
)
from shoal_agent.shell.services.sessions import Sessions
from shoal_agent.shell.services.tokenizer import Tokenizer
from shoal_protocol.ids import SessionId


@dataclass(slots=True)
class _Text:
    """One session's text: what waits, and whether it is over."""

    stop: tuple[str, ...]
    logprobs: bool
    decoder: codecs.IncrementalDecoder
    held: str = ""
    stopped: bool = False


class Detokenizer:
    """All texts in the making of one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: Sessions[_Text] = Sessions(time.monotonic)

    def open(self, request: OpenDetokenizerRequest) -> Done:
        """Begin a text."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._texts.open(request.session, _Text(request.stop, request.logprobs, decoder))
        return Done()

    def push(self, request: PushRequest) -> PushAnswer:
        """Add a token; the answer holds what may be shown now."""
        text = self._texts.get(request.session)
        raw = self._tokenizer.bytes_of(request.token)
        top = tuple(self._tokenizer.bytes_of(token) for token in request.top) if text.logprobs else ()
        shown = "" if self._tokenizer.is_marker(request.token) else _advance(text, text.decoder.decode(raw))
        return PushAnswer(shown, text.stopped, raw if text.logprobs else b"", top)

    def flush(self, request: FlushRequest) -> FlushAnswer:
        """End the text: what was held back is shown after all. The session is forgotten."""
        text = self._texts.get(request.session)
        shown = _advance(text, text.decoder.decode(b"", final=True))
        tail = "" if text.stopped else text.held
        self._texts.forget(request.session)
        return FlushAnswer(shown + tail)

    def close(self, session: SessionId) -> None:
        """Forget the session, if it is open."""
        self._texts.forget(session)


def _advance(text: _Text, fresh: str) -> str:
    """Add ``fresh`` characters and return what may be shown of all that waits."""
    if text.stopped:
        return ""
    whole = text.held + fresh
    cut = _first_stop(whole, text.stop)
    if cut is not None:
        text.stopped = True
        text.held = ""
        return whole[:cut]
    wait = _undecided(whole, text.stop)
    shown = len(whole) - wait
    text.held = whole[shown:]
    return whole[:shown]


def _first_stop(whole: str, stop: tuple[str, ...]) -> int | None:
    """Where the stop string begins that is complete first, or None."""
    found = [(at + len(string), at) for string in stop if (at := whole.find(string)) >= 0]
    return min(found)[1] if found else None


def _undecided(whole: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of ``whole`` with which some stop string begins."""
    longest = 0
    for string in stop:
        for length in range(min(len(string) - 1, len(whole)), longest, -1):
            if whole.endswith(string[:length]):
                longest = length
                break
    return longest
