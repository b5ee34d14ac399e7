"""The OpenAI API: models, chat completions, completions; under ``/v1`` and, as KServe has it, ``/openai/v1``.

A request goes through five gates, cheapest first: key, size, form, model, cluster. Nothing of a streamed answer is
sent before the cluster has accepted (or refused) the request, so that a refusal still has a status; what breaks later
is told in the stream, as an error event, and the stream ends without ``[DONE]``.

The client is watched while it waits, streamed or not: see ``streaming``.

Every event of a stream has an id: 0 before the first token, then the number of tokens so far, and one more for each
event after the last token. Whoever comes back with the id of the last one it had (``Last-Event-ID``) is shown what
follows; the answers are the same from the first on, and those before are left out here.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, TypeVar, assert_never

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal_agent.core.effects import Accept, Emit, Finish, Reject
from shoal_agent.core.facts import GenerationRequest, Piece
from shoal_agent.shell.api.answers import ChatDialect, CompletionDialect, Dialect, Heading, Json
from shoal_agent.shell.api.auth import authorized
from shoal_agent.shell.api.body import read_body
from shoal_agent.shell.api.claims import RequestId, Secrets, lone, secrets_of, seen_of
from shoal_agent.shell.api.errors import ApiError, broken, invalid_body, rejected, unknown_model
from shoal_agent.shell.api.ports import ApiPorts, ServedModel
from shoal_agent.shell.api.promises import class_of
from shoal_agent.shell.api.schemas import ChatBody, CompletionBody
from shoal_agent.shell.api.streaming import DONE, EventStream, event, numbered, unless_gone
from shoal_agent.shell.metrics import Metrics
from shoal_agent.shell.ports import Answer
from shoal_protocol.ids import SessionId

PREFIXES: Final = ("/v1", "/openai/v1")

Body = TypeVar("Body", ChatBody, CompletionBody)
Stream = AsyncGenerator[Answer, None]
Events = AsyncGenerator[tuple[int | None, bytes], None]
LEFT_OUT: Final = "x-shoal-left-out"
REQUEST_ID: Final = "shoal.request_id"
"""Where the edge of the application puts what a request is called."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request that passed every gate but the cluster's.

    ``every_token``: a token has an event of its own even if it adds no text. ``named``: its client may come back.
    """

    request: GenerationRequest
    dialect: Dialect
    stream: bool
    wants_usage: bool
    every_token: bool
    named: bool


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
        authorized(request, self._ports.keys)
        return JSONResponse({"object": "list", "data": [_model_json(model) for model in self._ports.models()]})

    async def model(self, request: Request) -> Response:
        """One deployment."""
        authorized(request, self._ports.keys)
        return JSONResponse(_model_json(self._served(request.path_params["model"])))

    async def chat(self, request: Request) -> "Response | EventStream":
        """Go on with a conversation."""
        body = await self._read(request, ChatBody.model_validate_json)
        model = self._served(body.model)
        found = self._secrets(request, body)
        dialect = ChatDialect(_heading("chatcmpl", found.session, model, body))
        return await self._answer(request, self._wish(request, body, found, dialect))

    async def completions(self, request: Request) -> "Response | EventStream":
        """Go on with a text."""
        body = await self._read(request, CompletionBody.model_validate_json)
        model = self._served(body.model)
        found = self._secrets(request, body)
        dialect = CompletionDialect(_heading("cmpl", found.session, model, body))
        return await self._answer(request, self._wish(request, body, found, dialect))

    def _secrets(self, request: Request, body: ChatBody | CompletionBody) -> Secrets:
        """The session, and with what its client can come back for it: for streams only."""
        if not body.stream:
            return lone()
        request_id = _request_id(request)
        seen = seen_of(request.headers.get("last-event-id"), request_id)
        asked = type(body).__name__.encode() + body.model_dump_json().encode()
        return secrets_of(request_id, authorized(request, self._ports.keys), body.model, asked, seen)

    async def _read(self, request: Request, parse: Callable[[bytes], Body]) -> Body:
        authorized(request, self._ports.keys)
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

    def _wish(self, request: Request, body: ChatBody | CompletionBody, found: Secrets, dialect: Dialect) -> _Wish:
        asked = replace(body.request(found.session, found.seed), claim=found.claim)
        kind = class_of(request, self._ports.classes)
        if kind is not None:
            asked = replace(asked, kind=kind.name, deadline_s=kind.deadline_ms / 1000)
        every_token = asked.sampling.top_logprobs >= 0 or bool(body.return_token_ids)
        named = found.claim is not None and _request_id(request).named
        return _Wish(asked, dialect, bool(body.stream), body.wants_usage, every_token, named)

    async def _answer(self, request: Request, wish: _Wish) -> "Response | EventStream":
        answers = self._ports.ingress.generate(wish.request, lingers=wish.named)
        back = wish.request.claim is not None and wish.request.claim.seen is not None
        stream = answers if back else _measured(answers, self._ports.metrics)
        if not wish.stream:
            return await unless_gone(request.receive, _whole(stream, wish.dialect))
        accepted = await unless_gone(request.receive, _accepted(stream))
        return EventStream(
            _unseen(_events(stream, wish), wish), stream, resumable=accepted.resumable, headers=_left_out(accepted)
        )


def _request_id(request: Request) -> RequestId:
    found = request.scope[REQUEST_ID]
    assert isinstance(found, RequestId), "the edge of the application puts it there"
    return found


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


async def _accepted(stream: Stream) -> Accept:
    """Wait until the cluster has taken the request; ApiError if it has not."""
    first = await anext(stream, None)
    if first is None:
        raise ApiError(409, "Its client came back for this stream by another connection.", code="request_id_in_use")
    if isinstance(first, Reject):
        await stream.aclose()
        raise rejected(first)
    assert isinstance(first, Accept), "a generation begins with Accept or Reject"
    return first


def _left_out(accepted: Accept) -> dict[str, str]:
    """The header that tells which blocks an answer does without; none of the whole model's."""
    return {} if accepted.left_out is None else {LEFT_OUT: "{}-{}".format(*accepted.left_out)}


async def _whole(stream: Stream, dialect: Dialect) -> JSONResponse:
    """The answer as one object."""
    pieces: list[Piece] = []
    async with aclosing(stream):
        accepted = await _accepted(stream)
        async for answer in stream:
            match answer:
                case Emit(_, piece):
                    pieces.append(piece)
                case Finish(_, reason, tail, usage):
                    fault = broken(answer)
                    if fault is not None:
                        raise fault
                    return JSONResponse(dialect.whole(pieces, tail, reason, usage), headers=_left_out(accepted))
                case Reject():
                    raise rejected(answer)
                case Accept():
                    raise AssertionError("accepted twice")
                case _:
                    assert_never(answer)
    raise AssertionError("a generation ends with Finish or Reject")


async def _unseen(events: Events, wish: _Wish) -> AsyncGenerator[bytes, None]:
    """Those of ``events`` that the client has not had; errors have no number, and are always told."""
    claim = wish.request.claim
    seen = -1 if claim is None or claim.seen is None else claim.seen
    async with aclosing(events):
        async for number, told in events:
            if number is None:
                yield told
            elif number > seen:
                yield numbered(number, told)


async def _events(stream: Stream, wish: _Wish) -> Events:
    """The answer as server-sent events, each with its number. ``stream`` has been accepted."""
    extra: Json = {"usage": None} if wish.wants_usage else {}
    dialect = wish.dialect
    shown = tokens = 0
    opening = dialect.opening()
    if opening is not None:
        yield 0, event(opening | extra)
    async for answer in stream:
        match answer:
            case Emit(_, piece):
                tokens += 1
                if piece.text or wish.every_token:
                    yield tokens, event(dialect.chunk(piece.text, piece, shown) | extra)
                shown += len(piece.text)
            case Finish(_, reason, tail, usage):
                fault = broken(answer)
                if fault is not None:
                    yield None, event(dict(fault.body()))
                    return
                if tail:
                    yield tokens + 1, event(dialect.chunk(tail, None, shown) | extra)
                yield tokens + 2, event(dialect.closing(reason) | extra)
                if wish.wants_usage:
                    yield tokens + 3, event(dialect.usage(usage))
                yield tokens + 4, DONE
            case Reject():
                yield None, event(dict(rejected(answer).body()))
            case Accept():
                raise AssertionError("accepted twice")
            case _:
                assert_never(answer)


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
