"""Kinds of requests, each with a deadline and the share that may miss it.

A class is a promise of its ingress: of the requests of this class that came to me, at most ``epsilon`` end later than
``deadline_ms``. How well it is kept is one number per class, Z (see ``queues``). It lives at the ingress, and nowhere
else: only there the whole trip of a request is seen, from its arrival to its last byte. What a service further on needs
of it rides in the header of each call (``movers``).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal_agent.core.quantities import fraction, positive
from shoal_agent.core.queues import DeadlineQueue


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A promise."""

    name: str
    deadline_ms: float
    epsilon: float

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a request class needs a name")
        positive(f"deadline_ms of class {self.name!r}", self.deadline_ms)
        fraction(f"epsilon of class {self.name!r}", self.epsilon)


class Classes:
    """The classes that this ingress knows, and how each promise is kept."""

    def __init__(self, classes: Iterable[RequestClass]) -> None:
        self._classes: dict[str, RequestClass] = {}
        self._queues: dict[str, DeadlineQueue] = {}
        for one in classes:
            if one.name in self._classes:
                raise ValueError(f"request class {one.name!r} is defined twice")
            self._classes[one.name] = one
            self._queues[one.name] = DeadlineQueue(one.epsilon)

    def of(self, name: str) -> RequestClass | None:
        """The class of that name; None if there is none."""
        return self._classes.get(name)

    def names(self) -> tuple[str, ...]:
        """In the order of their definition."""
        return tuple(self._classes)

    def ended(self, name: str, *, late: bool) -> None:
        """A request is over; refused and failed ones are late. One of no class was promised nothing."""
        if name in self._queues:
            self._queues[name].step(late=float(late), ended=1.0)

    def level(self, name: str) -> float:
        """Z of a known class."""
        return self._queues[name].level

    def owed(self, name: str) -> float:
        """Z of the class of that name, for the calls of a request of it; 0 if there is none."""
        return self._queues[name].level if name in self._queues else 0.0
