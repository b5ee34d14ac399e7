"""The OpenAI API: models, chat completions, completions; under ``/v1`` and, as KServe has it, ``/openai/v1``.

A request goes through five gates, cheapest first: key, size, form, model, cluster. Nothing of a streamed answer is
sent before the cluster has accepted (or refused) the request, so that a refusal still has a status; what breaks later
is told in the stream, as an error event, and the stream ends without ``[DONE]``.

The client is watched while it waits, streamed or not: see ``streaming``.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar, assert_never

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal_agent.core.effects import Accept, Emit, Finish, Reject
from shoal_agent.core.facts import GenerationRequest, Piece, Usage
from shoal_agent.shell.api.answers import ChatDialect, CompletionDialect, Dialect, Heading, Json
from shoal_agent.shell.api.body import read_body
from shoal_agent.shell.api.errors import broken, invalid_body, rejected, unauthorized, unknown_model
from shoal_agent.shell.api.ports import ApiPorts, ServedModel
from shoal_agent.shell.api.schemas import ChatBody, CompletionBody
from shoal_agent.shell.api.streaming import DONE, EventStream, event, unless_gone
from shoal_agent.shell.metrics import Metrics
from shoal_agent.shell.ports import Answer
from shoal_protocol.ids import SESSION_ID_BYTES, SessionId
from shoal_protocol.limits import INTEGER_MAX

PREFIXES: Final = ("/v1", "/openai/v1")

Body = TypeVar("Body", ChatBody, CompletionBody)
Stream = AsyncGenerator[Answer, None]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request that passed every gate but the cluster's.

    ``every_token``: a token has an event of its own even if it adds no text.
    """

    request: GenerationRequest
    dialect: Dialect
    stream: bool
    wants_usage: bool
    every_token: bool


class OpenAi:
    """The endpoints."""

    def __init__(self, ports: ApiPorts) -> None:
        self._ports = ports

    def routes(self) -> list[Route]:
        """Every path of the API."""
        return [
            route
            for prefix in PREFIXES
            for route in (
                Route(f"{prefix}/models", self.models, methods=["GET"]),
                Route(f"{prefix}/models/{{model}}", self.model, methods=["GET"]),
                Route(f"{prefix}/chat/completions", self.chat, methods=["POST"]),
                Route(f"{prefix}/completions", self.completions, methods=["POST"]),
            )
        ]

    async def models(self, request: Request) -> Response:
        """All deployments this node knows."""
        self._authorize(request)
        return JSONResponse({"object": "list", "data": [_model_json(model) for model in self._ports.models()]})

    async def model(self, request: Request) -> Response:
        """One deployment."""
        self._authorize(request)
        return JSONResponse(_model_json(self._served(request.path_params["model"])))

    async def chat(self, request: Request) -> "Response | EventStream":
        """Go on with a conversation."""
        body = await self._read(request, ChatBody.model_validate_json)
        model = self._served(body.model)
        session = _new_session()
        dialect = ChatDialect(_heading("chatcmpl", session, model, body))
        return await self._answer(request, _wish(body, body.request(session, _new_seed()), dialect))

    async def completions(self, request: Request) -> "Response | EventStream":
        """Go on with a text."""
        body = await self._read(request, CompletionBody.model_validate_json)
        model = self._served(body.model)
        session = _new_session()
        dialect = CompletionDialect(_heading("cmpl", session, model, body))
        return await self._answer(request, _wish(body, body.request(session, _new_seed()), dialect))

    def _authorize(self, request: Request) -> None:
        if not self._ports.keys.admits(request.headers.get("authorization")):
            raise unauthorized()

    async def _read(self, request: Request, parse: Callable[[bytes], Body]) -> Body:
        self._authorize(request)
        raw = await read_body(request)
        try:
            return parse(raw)
        except ValidationError as fault:
            raise invalid_body(fault) from None

    def _served(self, name: str) -> ServedModel:
        for model in self._ports.models():
            if model.id == name:
                return model
        raise unknown_model(name)

    async def _answer(self, request: Request, wish: _Wish) -> "Response | EventStream":
        stream = _measured(self._ports.ingress.generate(wish.request), self._ports.metrics)
        if not wish.stream:
            return JSONResponse(await unless_gone(request.receive, _whole(stream, wish.dialect)))
        await unless_gone(request.receive, _accepted(stream))
        return EventStream(_events(stream, wish), stream)


def _wish(body: ChatBody | CompletionBody, request: GenerationRequest, dialect: Dialect) -> _Wish:
    every_token = request.sampling.top_logprobs >= 0 or bool(body.return_token_ids)
    return _Wish(request, dialect, bool(body.stream), body.wants_usage, every_token)


async def _measured(answers: Stream, metrics: Metrics) -> Stream:
    """Passes ``answers`` on, noting when tokens came and how many there were."""
    begun = last = time.monotonic()
    async with aclosing(answers):
        async for answer in answers:
            if isinstance(answer, Emit):
                now = time.monotonic()
                if last is begun:
                    metrics.first_token(now - begun)
                else:
                    metrics.next_token(now - last)
                last = now
            elif isinstance(answer, Finish):
                metrics.used(answer.usage.prompt_tokens, answer.usage.completion_tokens)
            yield answer


async def _accepted(stream: Stream) -> None:
    """Wait until the cluster has taken the request; ApiError if it has not."""
    first = await anext(stream)
    if isinstance(first, Reject):
        await stream.aclose()
        raise rejected(first)
    assert isinstance(first, Accept), "a generation begins with Accept or Reject"


async def _whole(stream: Stream, dialect: Dialect) -> Json:
    """The answer as one object."""
    pieces: list[Piece] = []
    async with aclosing(stream):
        await _accepted(stream)
        async for answer in stream:
            match answer:
                case Emit(_, piece):
                    pieces.append(piece)
                case Finish(_, reason, tail, usage):
                    fault = broken(answer)
                    if fault is not None:
                        raise fault
                    return dialect.whole(pieces, tail, reason, usage)
                case Reject():
                    raise rejected(answer)
                case Accept():
                    raise AssertionError("accepted twice")
                case _:
                    assert_never(answer)
    raise AssertionError("a generation ends with Finish or Reject")


async def _events(stream: Stream, wish: _Wish) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. ``stream`` has been accepted."""
    extra: Json = {"usage": None} if wish.wants_usage else {}
    dialect = wish.dialect
    shown = 0
    opening = dialect.opening()
    if opening is not None:
        yield event(opening | extra)
    async for answer in stream:
        match answer:
            case Emit(_, piece):
                if piece.text or wish.every_token:
                    yield event(dialect.chunk(piece.text, piece, shown) | extra)
                shown += len(piece.text)
            case Finish(_, reason, tail, usage):
                fault = broken(answer)
                if fault is not None:
                    yield event(dict(fault.body()))
                    return
                if tail:
                    yield event(dialect.chunk(tail, None, shown) | extra)
                yield event(dialect.closing(reason) | extra)
                yield _last(dialect, usage, wants_usage=wish.wants_usage)
            case Reject():
                yield event(dict(rejected(answer).body()))
            case Accept():
                raise AssertionError("accepted twice")
            case _:
                assert_never(answer)


def _last(dialect: Dialect, usage: Usage, *, wants_usage: bool) -> bytes:
    return (event(dialect.usage(usage)) if wants_usage else b"") + DONE


def _model_json(model: ServedModel) -> Json:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_s,
        "owned_by": "shoal",
        "context_length": model.context_tokens_max,
    }


def _heading(prefix: str, session: SessionId, model: ServedModel, body: ChatBody | CompletionBody) -> Heading:
    token_ids = bool(body.return_token_ids)
    return Heading(f"{prefix}-{session.hex()}", int(time.time()), model.id, model.fingerprint, token_ids)


def _new_session() -> SessionId:
    return SessionId(secrets.token_bytes(SESSION_ID_BYTES))


def _new_seed() -> int:
    return secrets.randbelow(INTEGER_MAX)
