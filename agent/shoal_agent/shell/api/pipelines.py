"""Pipelines over HTTP: ``GET /shoal/v1/pipelines`` lists them, ``POST /shoal/v1/pipelines/{name}`` runs one.

The body is the request: as it is, or a JSON object of texts if the pipeline takes its request in parts. The answer is
told by its sort (``core/pipeline.py``): text as text, bytes as bytes, the rest as JSON::

    tokens   {"tokens": [1, 2]}
    vector   {"vector": [0.6, 0.8], "tokens": 2}
    map      {"left": {"vector": ...}, "answer": "a text", "scan": {"base64": "..."}}

Time and class are as for a chat (``promises``): the class that the client names, else the pipeline's own.
"""

import base64
import json
from typing import Any

import msgpack
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.pipeline import PART, REQUEST, Pipeline, Sort
from shoal_agent.core.services import EmbedAnswer, EncodeAnswer, unpack
from shoal_agent.shell.api.auth import authorized
from shoal_agent.shell.api.body import read_body
from shoal_agent.shell.api.errors import ApiError, invalid, refused
from shoal_agent.shell.api.ports import ApiPorts
from shoal_agent.shell.api.promises import kept, promise_of
from shoal_agent.shell.api.runs import Runs
from shoal_agent.shell.api.streaming import unless_gone
from shoal_agent.shell.pipeline_manifest import described
from shoal_protocol.errors import MalformedMessage

Json = dict[str, Any]


class Pipelines:
    """The endpoints."""

    def __init__(self, ports: ApiPorts) -> None:
        self._keys = ports.keys
        self._classes = ports.classes
        self._ingress = ports.ingress
        self._pipelines = {pipeline.name: pipeline for pipeline in ports.pipelines}
        self._runs = Runs(ports.ingress, ports.models, ports.metrics)

    def routes(self) -> list[Route]:
        """Every path of these."""
        return [
            Route("/shoal/v1/pipelines", self.listed, methods=["GET"]),
            Route("/shoal/v1/pipelines/{name}", self.run, methods=["POST"]),
        ]

    async def listed(self, request: Request) -> Response:
        """What there is, what each takes and gives."""
        authorized(request, self._keys)
        return JSONResponse({"object": "list", "data": [described(each) for each in self._pipelines.values()]})

    async def run(self, request: Request) -> Response:
        """Answer one request."""
        authorized(request, self._keys)
        pipeline = self._pipelines.get(request.path_params["name"])
        if pipeline is None:
            message = f"There is no pipeline {request.path_params['name'][:100]!r} here."
            raise ApiError(404, message, code="pipeline_not_found")
        parts = parts_of(pipeline, await read_body(request))
        promise = promise_of(request, self._classes, pipeline.kind)
        with kept(self._ingress, promise):
            run = self._runs.run(pipeline, parts, promise.left_s, promise.kind)
            ended = await unless_gone(request.receive, run)
            if ended.code is not None:
                raise refused(ended.code, ended.detail, ended.retry_after_s)
            return _response(pipeline, ended.answer)


def parts_of(pipeline: Pipeline, body: bytes) -> dict[str, bytes]:
    """What every input that is no step is; ApiError if the body is not what the pipeline takes."""
    wanted = pipeline.parts
    if not wanted:
        return {REQUEST: body}
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise ApiError(400, f"The body is not valid JSON. {fault}", code="invalid_json") from None
    if not isinstance(given, dict) or set(given) != set(wanted):
        raise invalid("body", f"The body is an object of these texts and no others: {', '.join(wanted)}.")
    parts = {}
    for name in wanted:
        try:
            parts[f"{PART}{name}"] = given[name].encode()
        except (AttributeError, UnicodeEncodeError):
            raise invalid(name, f"{name}: must be a text.") from None
    return parts


def _response(pipeline: Pipeline, answer: bytes) -> Response:
    sort = pipeline.sort_of(pipeline.output)
    if sort is Sort.BYTES:
        return Response(answer, media_type="application/octet-stream")
    try:
        told = told_of(pipeline, pipeline.output, answer)
    except (MalformedMessage, UnicodeDecodeError):
        # A peer's service gave it; nobody looked at it on the way.
        raise refused(RejectCode.INTERNAL, "a service answered what makes no sense") from None
    if isinstance(told, str):
        return Response(told, media_type="text/plain")
    return JSONResponse(told)


def told_of(pipeline: Pipeline, name: str, answer: bytes) -> str | Json:
    """The answer of one step (or a part of the request), by its sort."""
    match pipeline.sort_of(name):
        case Sort.TEXT:
            return answer.decode()
        case Sort.TOKENS:
            return {"tokens": list(unpack(EncodeAnswer, answer).tokens)}
        case Sort.VECTOR:
            embedded = unpack(EmbedAnswer, answer)
            return {"vector": list(embedded.vector), "tokens": embedded.tokens}
        case Sort.MAP:
            inputs: dict[str, bytes] = msgpack.unpackb(answer)  # this node packed it
            return {given: told_of(pipeline, given, raw) for given, raw in inputs.items()}
        case Sort.BYTES:
            return {"base64": base64.b64encode(answer).decode()}
