"""The ASGI application: routes, and what is true of every answer.

Every response carries an ``X-Request-Id``: the client's own if it is harmless, else a fresh one; what it is good
for is in ``claims``. Every error, also of a
path or method that does not exist, has OpenAI's shape. Every response is counted under the route's own pattern, never
under a path a client made up.
"""

from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal_agent.shell.api.admin import Admin
from shoal_agent.shell.api.claims import request_id_of
from shoal_agent.shell.api.embeddings import Embeddings
from shoal_agent.shell.api.errors import SERVER, ApiError
from shoal_agent.shell.api.openai import REQUEST_ID, OpenAi
from shoal_agent.shell.api.pipelines import Pipelines
from shoal_agent.shell.api.ports import ApiPorts
from shoal_agent.shell.api.streaming import ClientGone
from shoal_agent.shell.metrics import Metrics

_CLIENT_CLOSED: Final = 499
"""nginx's status for a client that left: nobody reads it but the metrics."""


def build_app(ports: ApiPorts) -> ASGIApp:
    """The whole API over ``ports``."""
    rooms = (OpenAi(ports), Embeddings(ports), Pipelines(ports), Admin(ports))
    app = Starlette(
        routes=[route for room in rooms for route in room.routes()],
        exception_handlers={
            ApiError: _api_error,
            ClientGone: _client_gone,
            HTTPException: _http_error,
            Exception: _our_error,
        },
    )
    app.router.redirect_slashes = False
    return _Edge(app, ports.metrics)


async def _api_error(_request: Request, fault: Exception) -> Response:
    assert isinstance(fault, ApiError)
    return fault.response()


async def _client_gone(_request: Request, _fault: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED)


async def _http_error(request: Request, fault: Exception) -> Response:
    """What the router itself refuses: an unknown path, or a method a path does not have."""
    assert isinstance(fault, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {fault.detail}"
    return ApiError(fault.status_code, message, headers=fault.headers).response()


async def _our_error(_request: Request, _fault: Exception) -> Response:
    """A mistake of ours. The server logs the trace; the client learns only that it was not theirs."""
    return ApiError(500, "Internal error.", SERVER, code="internal_error").response()


class _Edge:
    """Wraps the application: request ids in and out, and a count of every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = scope[REQUEST_ID] = request_id_of(Headers(scope=scope).get("x-request-id", ""))

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id.text
                route = scope.get("route")
                self._metrics.answered(getattr(route, "path", "other"), message["status"])
            await send(message)

        await self._app(scope, receive, send_marked)
