"""What a client saw of a stream one of whose hosts was killed, and the figures of several such streams.

Nothing is asked of the systems themselves: the client's events, their times and the end of its connection are the same
for both, so they can be compared. Times count from the kill, on the clock of the client, which also sends the signal.
The undisturbed run is the same request to the same processes just before.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import Any

from tests.bench.client import Heard


class Ending(StrEnum):
    """How a stream ended, as its client can tell."""

    COMPLETE = "complete"
    WRONG = "complete, but other tokens"
    REFUSED = "ended by an error event"
    CUT = "connection cut"
    HUNG = "silent until the client gave up"


@dataclass(frozen=True)
class Word:
    """One event: the tokens in it, why the answer ends here, what went wrong."""

    tokens: tuple[int, ...] = ()
    finish: str = ""
    error: str = ""


Dialect = Callable[[Mapping[str, Any]], Word]


def openai_word(event: Mapping[str, Any]) -> Word:
    """An event of OpenAI's completions, each choice with its ``token_ids``."""
    if "error" in event:
        return Word(error=str(event["error"]["message"]))
    (choice,) = event["choices"]
    return Word(tuple(choice.get("token_ids") or ()), choice.get("finish_reason") or "")


def llama_word(event: Mapping[str, Any]) -> Word:
    """An event of llama-server's own ``/completion``."""
    if "error" in event:
        return Word(error=str(event["error"]["message"]))
    return Word(tuple(event["tokens"]), event["stop_type"] if event["stop"] else "")


@dataclass(frozen=True)
class Seen:
    """A stream as its client saw it, on the client's clock. ``broken``: what happened to the connection."""

    tokens: tuple[int, ...]
    times_s: tuple[float, ...]
    finish: str
    error: str
    broken: Exception | None
    ended_s: float


@dataclass(frozen=True)
class Blow:
    """What is asked for, and when the host dies."""

    kills: int = 5
    prompt_tokens: int = 16
    tokens: int = 96
    after_tokens: int = 20


Told = Callable[[int], None]
Ask = Callable[[int, Told], Heard]
"""Asks for so many tokens after the prompt of a Blow; the other argument hears how many events have come."""


def strike(ask: Ask, blow: Blow, pid: int) -> tuple[Heard, float]:
    """A stream during which the process ``pid`` is killed; what was heard, and when the signal was sent."""
    sent: list[float] = []

    def told(events: int) -> None:
        if events == blow.after_tokens:
            sent.append(time.perf_counter())
            os.kill(pid, signal.SIGKILL)

    heard = ask(blow.tokens, told)
    assert sent, f"nobody was killed: {heard}"
    return heard, sent[0]


def seen(heard: Heard, dialect: Dialect) -> Seen:
    """What was ``heard``, understood."""
    words = [(at, dialect(event)) for at, event in heard.events()]
    tokens = [(at, token) for at, word in words for token in word.tokens]
    return Seen(
        tuple(token for _, token in tokens),
        tuple(at for at, _ in tokens),
        next((word.finish for _, word in words if word.finish), ""),
        next((word.error for _, word in words if word.error), ""),
        heard.fault,
        heard.ended_s,
    )


def said(heard: Heard, dialect: Dialect) -> str:
    """How an answer ended, in its own words."""
    stream = seen(heard, dialect)
    if stream.broken is not None:
        return repr(stream.broken)
    return stream.error or stream.finish or f"HTTP {heard.status}, no end"


def ending(stream: Seen, undisturbed: Sequence[int]) -> Ending:
    """Which of the five it was."""
    if isinstance(stream.broken, TimeoutError):
        return Ending.HUNG
    if stream.error:
        return Ending.REFUSED
    if stream.broken is not None or not stream.finish:
        return Ending.CUT
    return Ending.COMPLETE if stream.tokens == tuple(undisturbed) else Ending.WRONG


def trial(heard: Heard, dialect: Dialect, undisturbed: Sequence[int], killed_s: float) -> dict[str, Any]:
    """One kill, in milliseconds after it.

    ``noticed_ms``: when the client knew that the stream was over, None if it was completed; ``gap_ms``: the longest
    wait for a token in a stream that was completed, of the waits that ended after the kill.
    """
    stream = seen(heard, dialect)
    kind = ending(stream, undisturbed)
    went_on = kind in (Ending.COMPLETE, Ending.WRONG)
    gaps = [after - before for before, after in pairwise(stream.times_s) if after > killed_s]
    return {
        "ending": kind.value,
        "said": said(heard, dialect),
        "tokens": len(stream.tokens),
        "wanted": len(undisturbed),
        "tokens_after_kill": sum(at > killed_s for at in stream.times_s),
        "as_undisturbed": stream.tokens == tuple(undisturbed[: len(stream.tokens)]),
        "noticed_ms": None if went_on else _ms(stream.ended_s - killed_s),
        "gap_ms": _ms(max(gaps)) if went_on and gaps else None,
    }


def totals(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all kills of one system: how the streams ended, and the spread of the times."""
    endings = [each["ending"] for each in trials]
    return {
        "kills": len(trials),
        "complete": endings.count(Ending.COMPLETE.value),
        "endings": {kind: endings.count(kind) for kind in sorted(set(endings))},
        "tokens_lost": sum(each["wanted"] - each["tokens"] for each in trials),
        "all_as_undisturbed": all(each["as_undisturbed"] for each in trials),
        "noticed_ms": _spread([each["noticed_ms"] for each in trials]),
        "gap_ms": _spread([each["gap_ms"] for each in trials]),
        "fronts_alive": sum(each["front_alive"] for each in trials),
        "served_after": sum(each["next_answered"] for each in trials),
    }


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"min": min(known), "median": median(known), "max": max(known)} if known else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
