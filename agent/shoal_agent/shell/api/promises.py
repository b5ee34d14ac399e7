"""How much time a request has: what its client says in the headers, and what its class was promised.

``X-Shoal-Class`` names a class that the operator defined, ``X-Deadline-S`` asks for less time than everybody has.
"""

from collections.abc import Iterable
from typing import Final

from starlette.requests import Request

from shoal_agent.core.service_classes import RequestClass
from shoal_agent.shell.api.errors import ApiError, invalid
from shoal_protocol.limits import REQUEST_DEADLINE_S_MAX

CLASS_HEADER: Final = "x-shoal-class"
DEADLINE_HEADER: Final = "x-deadline-s"
DEADLINE_S: Final = 60.0
"""Of a request that names none, and is no chat: an embedding takes milliseconds."""


def class_of(request: Request, classes: Iterable[RequestClass], default: str = "") -> RequestClass | None:
    """The class that the client names, else the one called ``default``; None: no class, nothing promised."""
    known = {kind.name: kind for kind in classes}
    name = request.headers.get(CLASS_HEADER, default)
    if not name and CLASS_HEADER not in request.headers:
        return None
    if name in known:
        return known[name]
    raise ApiError(
        400,
        f"There is no request class {name[:100]!r} here. Known: {', '.join(known) or 'none'}.",
        param="X-Shoal-Class",
        code="unknown_class",
    )


def deadline_of(request: Request, most_s: float = REQUEST_DEADLINE_S_MAX, default_s: float = DEADLINE_S) -> float:
    """Seconds that the client gives it, ``most_s`` at most; ``default_s`` if it does not say."""
    text = request.headers.get(DEADLINE_HEADER, "")
    if not text:
        return min(default_s, most_s)
    try:
        deadline_s = float(text)
    except ValueError:
        deadline_s = 0.0
    if not 0.0 < deadline_s <= REQUEST_DEADLINE_S_MAX:
        raise invalid("X-Deadline-S", f"X-Deadline-S: more than 0 and at most {REQUEST_DEADLINE_S_MAX:g} seconds")
    return min(deadline_s, most_s)
