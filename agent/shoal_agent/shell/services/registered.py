"""Light services that other packages bring along, found by their entry points.

In the package that brings one::

    [project.entry-points."shoal.services"]
    turn = "my_package:Turn"

``Turn`` is a class (or anything that is called without arguments) whose instances are a :class:`LightService`. It is
installed beside the agent, and from then on this node runs it: others see its name in this node's record, calls go
where they are quickest, instances come and go as for any other light service, and clients reach it by
``POST /shoal/v1/services/{name}/{method}``.

A service keeps nothing between calls: two calls may run on two nodes. What it is sent may come from any member of the
cluster. A package that cannot be loaded is left out and named in the log; the node runs without it.
"""

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from shoal_agent.core.services import ServiceKind
from shoal_agent.shell.services.sessions import ServiceError
from shoal_protocol.limits import API_BODY_BYTES_MAX

GROUP: Final = "shoal.services"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}(:[a-z0-9][a-z0-9.-]{0,31})?")
_OURS: Final = tuple(kind.value for kind in ServiceKind)

Answers = Callable[[str, bytes], bytes]
"""Takes a method and a request, gives the answer. ValueError refuses a request that is wrong; called from threads."""


class LightService(Protocol):
    """What an entry point brings."""

    @property
    def name(self) -> str:
        """Lower case, digits and dashes, and perhaps a colon and what it is for: ``turn`` or ``turn:around``."""

    @property
    def methods(self) -> tuple[str, ...]:
        """What may be asked of it."""

    def build(self) -> Answers:
        """Make it ready; called in a thread, before the first call and again after the last instance was stopped."""


@dataclass(frozen=True, slots=True)
class Registered:
    """One of them, built."""

    name: str
    methods: tuple[str, ...]
    answers: Answers

    def answer(self, method: str, request: object) -> bytes:
        """Its answer; ServiceError if the request is wrong."""
        if method not in self.methods:
            raise ServiceError(f"{self.name!r} has no method {method!r}")
        assert isinstance(request, bytes), "what is no message of ours travels as bytes"
        try:
            answer = self.answers(method, request)
        except ValueError as fault:
            raise ServiceError(str(fault)) from None
        if not isinstance(answer, bytes) or len(answer) > API_BODY_BYTES_MAX:
            raise TypeError(f"an answer is at most {API_BODY_BYTES_MAX} bytes, and bytes")
        return answer


def discover(entries: Iterable[EntryPoint] | None = None) -> tuple[tuple[LightService, ...], tuple[str, ...]]:
    """Every service that installed packages bring, by name, and what is wrong with those that are left out."""
    found: dict[str, LightService] = {}
    faults = []
    for entry in entry_points(group=GROUP) if entries is None else entries:
        try:
            service = _checked(entry.load()(), found)
            found[service.name] = service
        except Exception as fault:  # noqa: BLE001 - somebody else's module may raise anything while it is loaded
            faults.append(f"{entry.name} ({entry.value}): {type(fault).__name__}: {fault}")
    return tuple(found[name] for name in sorted(found)), tuple(faults)


def _checked(service: LightService, found: Container[str]) -> LightService:
    if service.name in found:
        raise ValueError(f"{service.name!r} is there already")
    if not _NAME.fullmatch(service.name) or service.name.partition(":")[0] in _OURS:
        raise ValueError(f"a service cannot be called {service.name!r}")
    if not service.methods or not all(isinstance(method, str) for method in service.methods):
        raise ValueError("a service has methods")
    return service
