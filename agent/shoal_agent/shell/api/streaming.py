"""Server-sent events, and what happens when nobody listens any more.

HTTP tells a server that its client left only if the server looks. ``unless_gone`` looks while it waits for anything
else: whoever leaves has their generation cancelled at once, so its KV cache and its slot go to somebody who stayed.
A client that is there but reads nothing is gone too, after ``API_SEND_S_MAX``.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, suppress
from types import MappingProxyType
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope, Send

from shoal_protocol.limits import API_SEND_S_MAX

T = TypeVar("T")

DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream that ended well."""
RESUMABLE: Final = b"x-shoal-resumable"
"""Whether another node could go on with the stream if this one were lost."""
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that gathers events would turn a stream into a lump
)


class ClientGone(Exception):  # noqa: N818 - nobody's error: an end like others
    """The client closed the connection; there is nobody to answer."""


def numbered(number: int, event: bytes) -> bytes:
    """``event`` with its id, which a client that comes back gives as Last-Event-ID."""
    return b"id: %d\n%b" % (number, event)


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event. JSON has no raw newline, so one ``data`` line is enough."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; if the client leaves first, ``work`` is cancelled and ClientGone raised.

    The body must have been read: from then on the client has nothing to say but goodbye.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_leave(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """A response made of ``events``, which come from ``source``; both are closed however it ends.

    A generator that was never begun cannot close what it would have read from, hence both.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: AsyncGenerator[Any, None],
        *,
        resumable: bool,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self._events = events
        self._source = source
        more = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._headers = [*_HEADERS, (RESUMABLE, b"true" if resumable else b"false"), *more]

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source), aclosing(self._events):
            with suppress(ClientGone):
                await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await _send_in_time(send, {"type": "http.response.start", "status": 200, "headers": self._headers})
        async for chunk in self._events:
            await _send_in_time(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await _send_in_time(send, {"type": "http.response.body", "body": b"", "more_body": False})


async def _send_in_time(send: Send, message: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(API_SEND_S_MAX):
            await send(message)
    except TimeoutError:
        raise ClientGone from None
