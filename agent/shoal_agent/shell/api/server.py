"""Serves the API on a socket of its own, inside the agent's loop, and bounds what a client can cost.

uvicorn speaks HTTP; what it leaves to others is done here. It waits for ever for a client that sends its headers
slowly or never, so ``_TimedProtocol`` gives every request's headers ``API_HEADERS_S_MAX`` and closes connections beyond
``API_CONNECTIONS_MAX`` at once. When uvicorn stops it closes connections that have asked nothing yet, though a request
may be on its way: here they get a moment, and an answer. It takes over the process's signals, which belong to the
agent, and wakes ten times a second; ``_TenantServer`` does neither.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from shoal_agent.shell.sockets import BACKLOG
from shoal_protocol.limits import API_CONNECTIONS_MAX, API_HEADERS_BYTES_MAX, API_HEADERS_S_MAX, API_IDLE_S_MAX

_STOP_S: Final = 3
"""Streams get this long to end by themselves when the agent stops; then they are cancelled."""
_LAST_CALL_S: Final = 0.5
"""Who connected just before the agent stops may send a first request so much later, and is answered."""
_DATE_S: Final = 1.0
"""How old the ``Date`` header may be."""


class ApiServer:
    """Serves ``app`` on ``listener`` from ``run`` until ``stop``."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        host, port, *_ = listener.getsockname()
        self.address: tuple[str, int] = (host, port)
        """Where it listens."""
        self._server = _TenantServer(
            uvicorn.Config(
                app,
                http=_TimedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(API_IDLE_S_MAX),
                timeout_graceful_shutdown=_STOP_S,
                h11_max_incomplete_event_size=API_HEADERS_BYTES_MAX,
            )
        )

    async def run(self) -> None:
        """Serve until ``stop``; returns when the last response has ended or was cancelled, within a few seconds."""
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            # When ``run`` itself is cancelled the server has no chance to: nothing may go on listening.
            for server in getattr(self._server, "servers", ()):
                server.close()

    def stop(self) -> None:
        """Take no more requests, and let ``run`` return."""
        self._server.leave()


class _TenantServer(uvicorn.Server):
    """A server that is a guest in its process: signals are not its own, and it lets an idle machine sleep.

    uvicorn looks ten times a second whether it should leave. A device that waits for its next request would be woken
    for nothing, twenty times a second by two servers; a guest is told instead, and wakes for its ``Date`` header only.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Let ``serve`` return."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _DATE_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the agent's."""
        yield


class _TimedProtocol(H11Protocol):
    """One connection, whose client must send the headers of a request in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments, passed on
        super().__init__(*args, **kwargs)
        self._headers_due: asyncio.TimerHandle | None = None
        self._last_call = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= API_CONNECTIONS_MAX:
            transport.abort()
            return
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        super().data_received(data)
        if self._last_call and self.cycle is not None:
            self.cycle.keep_alive = False
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_came()
        elif self._headers_due is None:
            self._await_headers()

    def shutdown(self) -> None:
        """The server stops."""
        if self.cycle is not None or self.transport.is_closing():
            super().shutdown()
            return
        self._last_call = True
        self.loop.call_later(_LAST_CALL_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        if self.transport is not None:
            super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(API_HEADERS_S_MAX, self._give_up)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
