"""Light services by themselves: embeddings as OpenAI has them, and any registered service by its name.

``POST /v1/embeddings`` turns each text (or list of token ids) of ``input`` into a vector: tokenizer, then embedder, of
the deployment's model, wherever they are quickest. ``POST /shoal/v1/services/{service}/{method}`` passes the body on to
a service as it is, and its answer back.

A client may name the class of its request, and ask for less time than everybody has (``promises``).
"""

import asyncio
import base64
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal_agent.core.endings import retry_after_s
from shoal_agent.core.services import (
    CheckRequest,
    EmbedAnswer,
    EncodeRequest,
    Method,
    ServiceKind,
    pack,
    service_name,
    unpack,
)
from shoal_agent.shell.api.auth import authorized
from shoal_agent.shell.api.body import read_body
from shoal_agent.shell.api.errors import ApiError, invalid_body, refused, unknown_model
from shoal_agent.shell.api.ports import ApiPorts, ServedModel
from shoal_agent.shell.api.promises import Promise, kept, promise_of
from shoal_agent.shell.api.streaming import unless_gone
from shoal_agent.shell.ports import Steps
from shoal_protocol.limits import TOKENS_MAX

PREFIXES: Final = ("/v1", "/openai/v1")
TEXTS_MAX: Final = 256
"""Texts of one request: as many errands as a node has under way."""
AT_ONCE: Final = 8
"""Errands of one request that are under way together: a long list must not push others aside."""

TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=TOKENS_MAX)]], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]


class EmbeddingBody(BaseModel):
    """What OpenAI's client sends. ``dimensions`` cannot be chosen: they are the model's."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str
    input: Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1, max_length=TEXTS_MAX)]
    encoding_format: Literal["float", "base64"] = "float"

    def inputs(self) -> list[str | list[int]]:
        """One by one."""
        if isinstance(self.input, str):
            return [self.input]
        if all(isinstance(item, int) for item in self.input):
            return [[item for item in self.input if isinstance(item, int)]]
        return [item for item in self.input if not isinstance(item, int)]


class Embeddings:
    """The endpoints."""

    def __init__(self, ports: ApiPorts) -> None:
        self._keys = ports.keys
        self._models = ports.models
        self._classes = ports.classes
        self._ingress = ports.ingress
        self._metrics = ports.metrics

    def routes(self) -> list[Route]:
        """Every path of these."""
        service = Route("/shoal/v1/services/{service}/{method}", self.service, methods=["POST"])
        return [*(Route(f"{prefix}/embeddings", self.embed, methods=["POST"]) for prefix in PREFIXES), service]

    async def embed(self, request: Request) -> Response:
        """Vectors."""
        authorized(request, self._keys)
        try:
            body = EmbeddingBody.model_validate_json(await read_body(request))
        except ValidationError as fault:
            raise invalid_body(fault) from None
        model, promise = self._served(body.model), promise_of(request, self._classes)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(text: str | list[int]) -> EmbedAnswer:
            async with room:
                return await self._vector(model, text, promise)

        with kept(self._ingress, promise):
            answers = await unless_gone(request.receive, _all(one, body.inputs()))
        tokens = sum(answer.tokens for answer in answers)
        self._metrics.used(tokens, 0)
        data = [
            {"object": "embedding", "index": index, "embedding": _told(answer.vector, body.encoding_format)}
            for index, answer in enumerate(answers)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": model.id, "data": data, "usage": usage})

    async def _vector(self, model: ServedModel, text: str | list[int], promise: Promise) -> EmbedAnswer:
        tokenizer = service_name(ServiceKind.TOKENIZER, model.model)
        embedder = service_name(ServiceKind.EMBEDDER, model.model)
        first, asked = (
            (Method.ENCODE, pack(EncodeRequest(text, special=False)))
            if isinstance(text, str)
            else (Method.CHECK, pack(CheckRequest(tuple(text))))
        )
        steps = ((tokenizer, str(first)), (embedder, str(Method.EMBED)))
        return unpack(EmbedAnswer, await self._answer(steps, asked, promise))

    async def service(self, request: Request) -> Response:
        """Any service that takes and gives bytes."""
        authorized(request, self._keys)
        body = await read_body(request)
        promise = promise_of(request, self._classes)
        steps = ((request.path_params["service"], request.path_params["method"]),)
        with kept(self._ingress, promise):
            answer = await unless_gone(request.receive, self._answer(steps, body, promise))
        return Response(answer, media_type="application/octet-stream")

    async def _answer(self, steps: Steps, request: bytes, promise: Promise) -> bytes:
        ended = await self._ingress.run(steps, request, promise.left_s, promise.kind)
        if ended.code is not None:
            raise refused(ended.code, ended.detail, retry_after_s(ended.code))
        return ended.result

    def _served(self, name: str) -> ServedModel:
        for model in self._models():
            if model.id == name:
                return model
        raise unknown_model(name)


async def _all(
    one: Callable[[str | list[int]], Coroutine[Any, Any, EmbedAnswer]], inputs: Sequence[str | list[int]]
) -> list[EmbedAnswer]:
    """All of them; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(text)) for text in inputs]
    except* ApiError as faults:
        first = faults.exceptions[0]
        assert isinstance(first, ApiError), "nothing else is caught here, and tasks raise no groups"
        raise first from None
    return [task.result() for task in tasks]


def _told(vector: tuple[float, ...], encoding: str) -> Any:  # noqa: ANN401 - JSON
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return list(vector)
