"""What the node says to clients of its own API, kept until they have read it.

A generation's answers are kept from its first to its last, so whoever reads them, and whoever comes back for them,
reads the same. Three things may happen to a reader:

- It reads to the end. What it read is kept for a while, if it is one that might come back.
- It goes. Its generation is cancelled; but of one that said beforehand that it might come back (it named its request),
  the generation goes on for ``LINGER_S``, and is cancelled then if it has not come.
- It comes back while its old connection still seems to stand, as connections to lost machines do. The old reader is
  shown nothing more.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core.effects import Finish, Reject
from shoal_agent.core.events import CancelRequested, Event, RequestArrived
from shoal_agent.core.facts import FinishReason, GenerationRequest, RejectCode
from shoal_agent.shell.ports import Answer
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import ORPHAN_S_MAX

LINGER_S: Final = ORPHAN_S_MAX
"""As long as another ingress could still go on with it: a client need not care where it comes back."""
LINGERING_MAX: Final = 128
"""Streams that nobody reads and that are kept all the same; beyond it the oldest go."""
_WELL: Final = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(slots=True, eq=False)
class _Stream:
    """One generation: what was said of it, and how often somebody began to read."""

    request: GenerationRequest
    answers: list[Answer] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    readers: int = 0
    timer: asyncio.TimerHandle | None = None

    def is_asked_by(self, request: GenerationRequest) -> bool:
        """Whether ``request`` is the same wish of the same client."""
        ours, theirs = self.request.claim, request.claim
        return ours is not None and theirs is not None and ours.intent == theirs.intent

    @property
    def over(self) -> bool:
        return bool(self.answers) and isinstance(self.answers[-1], Finish | Reject)

    @property
    def well(self) -> bool:
        last = self.answers[-1] if self.answers else None
        return isinstance(last, Finish) and last.reason in _WELL


class Streams:
    """All generations of this node's clients. Create it inside a running loop."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._streams: dict[SessionId, _Stream] = {}
        self._lingering: dict[SessionId, None] = {}

    @property
    def read_count(self) -> int:
        """Streams that somebody reads."""
        return len(self._streams) - len(self._lingering)

    def answer(self, answer: Answer) -> None:
        """The node says one more thing; if nobody asked, or cares any more, it is dropped."""
        stream = self._streams.get(answer.session)
        if stream is not None:
            stream.answers.append(answer)
            stream.news.set()

    async def read(self, request: GenerationRequest, *, lingers: bool) -> AsyncGenerator[Answer, None]:
        """Everything from the first answer on; ends early if somebody else reads from now on."""
        stream = self._streams.get(request.session)
        if stream is None:
            stream = self._streams[request.session] = _Stream(request)
            self._post(RequestArrived(request))
        elif not stream.is_asked_by(request):
            yield Reject(request.session, RejectCode.CONFLICT, "another request here has this id", None)
            return
        stream.readers += 1
        turn = stream.readers
        self._stay(stream)
        position = 0
        try:
            while stream.readers == turn:
                if position < len(stream.answers):
                    position += 1
                    yield stream.answers[position - 1]
                elif stream.over:
                    return
                else:
                    stream.news.clear()
                    await stream.news.wait()
        finally:
            if stream.readers == turn:
                self._left(stream, lingers=lingers)

    def _stay(self, stream: _Stream) -> None:
        """Somebody reads it: it need not be thrown away, and who read it before is woken."""
        self._lingering.pop(stream.request.session, None)
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None
        stream.news.set()

    def _left(self, stream: _Stream, *, lingers: bool) -> None:
        """Nobody reads it any more."""
        if not lingers or (stream.over and not stream.well):
            self._drop(stream)
            return
        self._lingering[stream.request.session] = None
        stream.timer = self._loop.call_later(LINGER_S, self._drop, stream)
        if len(self._lingering) > LINGERING_MAX:
            self._drop(self._streams[next(iter(self._lingering))])

    def _drop(self, stream: _Stream) -> None:
        session = stream.request.session
        self._stay(stream)
        del self._streams[session]
        if not stream.over:
            self._post(CancelRequested(session))
