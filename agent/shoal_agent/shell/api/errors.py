"""Everything that can go wrong, as the OpenAI API says it.

The body is ``{"error": {"message", "type", "param", "code"}}``; clients switch on the status and on ``code``. One table
maps the cluster's own words (``RejectCode``) to a status, so an answer means the same whichever node gave it.
"""

import math
from collections.abc import Mapping
from itertools import takewhile
from typing import Final

from pydantic import ValidationError
from starlette.responses import JSONResponse

from shoal_agent.core.effects import Finish, Reject
from shoal_agent.core.facts import FinishReason, RejectCode

INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"
RATE: Final = "rate_limit_error"

_STATUS: Final[Mapping[RejectCode, tuple[int, str]]] = {
    RejectCode.UNKNOWN_MODEL: (404, INVALID),
    RejectCode.BAD_PROMPT: (400, INVALID),
    RejectCode.CONTEXT_EXCEEDED: (400, INVALID),
    RejectCode.CONFLICT: (409, INVALID),
    RejectCode.NOTHING_KEPT: (404, INVALID),
    RejectCode.OVERLOADED: (429, RATE),
    RejectCode.STOPPING: (429, RATE),
    RejectCode.STARTING: (429, RATE),
    RejectCode.NOT_READY: (503, SERVER),
    RejectCode.STAGE_LOST: (503, SERVER),
    RejectCode.DEADLINE: (504, SERVER),
    RejectCode.INTERNAL: (500, SERVER),
}
_TYPE_NAMES: Final = frozenset({"str", "int", "float", "bool"})
_PARAM: Final[Mapping[RejectCode, str]] = {
    RejectCode.UNKNOWN_MODEL: "model",
    RejectCode.CONFLICT: "X-Request-Id",
    RejectCode.NOTHING_KEPT: "X-Request-Id",
}


class ApiError(Exception):
    """An answer that is an error. ``param`` names the field at fault, ``code`` is for machines.

    ``reject``: what the cluster said, if it was asked.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        reject: RejectCode | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.reject = reject

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of a response, or of the last event of a broken stream."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def unauthorized() -> ApiError:
    """No key, or not one of ours: the two are not told apart."""
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, "Incorrect or missing API key.", code="invalid_api_key", headers=headers)


def unknown_model(name: str) -> ApiError:
    """This node serves no such deployment."""
    message = f"The model {name[:100]!r} does not exist."
    return ApiError(404, message, param="model", code=RejectCode.UNKNOWN_MODEL.value)


def invalid(param: str, message: str) -> ApiError:
    """A parameter of the address is not what it should be."""
    return ApiError(400, message, param=param, code="invalid_value")


def unknown_plan(message: str) -> ApiError:
    """This node knows no such plan."""
    return ApiError(404, message, code="plan_not_found")


def invalid_body(fault: ValidationError) -> ApiError:
    """The first fault of a body, with the path of its field."""
    first = fault.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(str(part) for part in takewhile(_is_field, first["loc"]))
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON. {first['msg']}", code="invalid_json")
    return ApiError(400, f"{path or 'body'}: {first['msg']}", param=path or None, code="invalid_value")


def _is_field(part: int | str) -> bool:
    """Where a field may be one of several types, its path goes on with a type's name, which no client knows."""
    return isinstance(part, int) or (part.isidentifier() and part not in _TYPE_NAMES)


def refused(code: RejectCode, detail: str, retry_after_s: float | None = None) -> ApiError:
    """The cluster did not begin something, or could not go on with it."""
    status, kind = _STATUS[code]
    headers = {}
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return ApiError(status, detail, kind, param=_PARAM.get(code), code=code.value, headers=headers, reject=code)


def rejected(answer: Reject) -> ApiError:
    """The same of a generation."""
    return refused(answer.code, answer.detail, answer.retry_after_s)


def broken(answer: Finish) -> ApiError | None:
    """What a stream that did not end well says; None if it did."""
    match answer.reason:
        case FinishReason.STOP | FinishReason.LENGTH:
            return None
        case FinishReason.DEADLINE:
            return ApiError(504, answer.detail, SERVER, code=RejectCode.DEADLINE.value)
        case FinishReason.CANCELLED:
            return ApiError(503, answer.detail or "the request was cancelled", SERVER, code="cancelled")
        case FinishReason.FAILED:
            return ApiError(503, answer.detail, SERVER, code=RejectCode.STAGE_LOST.value)
