"""A small HTTP server on loopback that speaks the shapes of an agent's API, for commands that are its clients.

It serves what a test wrote into it, notes what it was asked, and can hold an answer open until the client is gone.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY: Final = "shoal-test-key"
START_S_MAX: Final = 10.0
GONE_S_MAX: Final = 10.0


@dataclass
class ApiServer:
    """What the API answers, and what it was asked."""

    state: Any = field(default_factory=dict)
    models: list[str] = field(default_factory=lambda: ["tiny"])
    pieces: list[str] = field(default_factory=lambda: ["Hel", "lo", "!"])
    token_ids: list[list[int]] = field(default_factory=list)
    """Of each piece; none if it is not asked for them."""
    last_word: bool = True
    """Whether a stream ends as it should."""
    extra_lines: list[str] = field(default_factory=list)
    finish_reason: str | None = "stop"
    refuse: tuple[int, Any] | None = None
    hold: bool = False
    """After the first piece the stream stays open until the client goes away."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    client_gone: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/shoal/v1/state", self._state),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        if self.refuse is not None:
            status, body = self.refuse
            return Response(body, status) if isinstance(body, str) else JSONResponse(body, status)
        return None

    async def _state(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse(self.state)

    async def _models(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse({"object": "list", "data": [{"id": m} for m in self.models]})

    async def _chat(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        self.asked.append(await request.json())
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        try:
            for index, piece in enumerate(self.pieces):
                choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
                ids = {"token_ids": self.token_ids[index]} if self.token_ids else {}
                yield self._event({"id": "chatcmpl-0a0b", "choices": [choice | ids]})
                if index == 0 and self.hold:
                    await asyncio.sleep(GONE_S_MAX)
            for line in self.extra_lines:
                yield line
            if not self.last_word:
                return
            closing = {"index": 0, "delta": {}, "finish_reason": self.finish_reason}
            yield self._event({"id": "chatcmpl-0a0b", "choices": [closing]})
            usage = {"prompt_tokens": 5, "completion_tokens": len(self.pieces), "total_tokens": 5 + len(self.pieces)}
            yield self._event({"id": "chatcmpl-0a0b", "choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):  # while it waits, or while it hands an event over
            self.client_gone.set()
            raise

    @staticmethod
    def _event(value: dict[str, Any]) -> str:
        return f"data: {json.dumps(value)}\n\n"


@contextmanager
def serving(server: ApiServer) -> Iterator[ApiServer]:
    """``server`` on a free port of loopback, in a thread of its own."""
    started = threading.Event()

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(server.app(), port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    running = Announcing(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        assert started.wait(START_S_MAX)
        port = running.servers[0].sockets[0].getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        yield server
    finally:
        running.should_exit = True
        thread.join(START_S_MAX)
