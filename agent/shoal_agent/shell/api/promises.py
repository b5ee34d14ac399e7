"""How much time a request has: what its client says in the headers, and what its class was promised.

``X-Shoal-Class`` names a class that the operator defined, ``X-Deadline-S`` asks for less time than everybody has.

How a chat kept the promise of its class, its ingress sees. What the API itself puts together from several calls, it has
to say: one request ended, and whether it was late.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from shoal_agent.core.service_classes import RequestClass, counts
from shoal_agent.shell.api.errors import ApiError, invalid
from shoal_agent.shell.ports import Ingress
from shoal_protocol.limits import REQUEST_DEADLINE_S_MAX

CLASS_HEADER: Final = "x-shoal-class"
DEADLINE_HEADER: Final = "x-deadline-s"
DEADLINE_S: Final = 60.0
"""Of a request that names none, and is no chat: an embedding takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What holds for one request. ``kind``: its class; empty: none. ``until``: by ``time.monotonic``."""

    kind: str
    until: float

    @property
    def left_s(self) -> float:
        """What is left of its time."""
        return max(0.0, self.until - time.monotonic())


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


def promise_of(request: Request, classes: Iterable[RequestClass], default: str = "") -> Promise:
    """The deadline of its class, or its client's if that is sooner; with neither, a minute from now."""
    kind = class_of(request, classes, default)
    most_s = REQUEST_DEADLINE_S_MAX if kind is None else kind.deadline_ms / 1000
    unasked_s = DEADLINE_S if kind is None else most_s
    text = request.headers.get(DEADLINE_HEADER, "")
    deadline_s = min(_seconds(text), most_s) if text else unasked_s
    return Promise("" if kind is None else kind.name, time.monotonic() + deadline_s)


@contextmanager
def kept(ingress: Ingress, promise: Promise) -> Iterator[None]:
    """Count what is done within as one request of its class, as ``core/service_classes.py`` counts.

    Whose client leaves, and who is of no class, counts for nobody.
    """
    try:
        yield
    except ApiError as fault:
        if promise.kind and counts(fault.reject):
            ingress.ended(promise.kind, late=True)
        raise
    if promise.kind:
        ingress.ended(promise.kind, late=not promise.left_s)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= REQUEST_DEADLINE_S_MAX:
        raise invalid("X-Deadline-S", f"X-Deadline-S: more than 0 and at most {REQUEST_DEADLINE_S_MAX:g} seconds")
    return seconds
