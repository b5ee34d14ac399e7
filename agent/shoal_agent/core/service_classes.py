"""Kinds of requests, each with a deadline and the share that may miss it.

A class is a promise of its ingress: of the requests of this class that came to me, at most ``epsilon`` end later than
``deadline_ms``. How well it is kept is one number per class, Z (see ``queues``). It lives at the ingress, and nowhere
else: only there the whole trip of a request is seen, from its arrival to its last byte. What a service further on needs
of it rides in the header of each call (``movers``).

**What counts.** Every request that ends, once, as its client sees it: a chat, a run of a pipeline, a call for vectors.
It is late if it is done after its deadline, or never: refused for want of room, lost with a machine, given up. Three
kinds count for nobody, for nothing that this ingress could do was at fault: who asked for what cannot be (a bad prompt,
a model that is not there, an id that is taken: ``counts``), who left, and who came to a node that is stopping, which
promises nothing any more.

**Quality.** A class may tolerate that its answers lose some, on average over their tokens (``loss_micronats``), where
that helps (``shortening``). A, which keeps that account, lives beside Z.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.quantities import amount, fraction, positive
from shoal_agent.core.queues import DeadlineQueue, QualityQueue

LEVEL_TOKENS: Final = 1024.0
"""What so many tokens may lose is a level of A: some answers, so that one alone hardly moves it."""

_COUNT_FOR_NOBODY: Final = frozenset(
    {
        RejectCode.BAD_PROMPT,
        RejectCode.CONFLICT,
        RejectCode.CONTEXT_EXCEEDED,
        RejectCode.NOTHING_KEPT,
        RejectCode.STOPPING,
        RejectCode.UNKNOWN_MODEL,
    }
)


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A promise."""

    name: str
    deadline_ms: float
    epsilon: float
    loss_micronats: float = 0.0
    """What a token may lose of its quality on average; 0: nothing, ever."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a request class needs a name")
        positive(f"deadline_ms of class {self.name!r}", self.deadline_ms)
        fraction(f"epsilon of class {self.name!r}", self.epsilon)
        amount(f"loss_micronats of class {self.name!r}", self.loss_micronats)


def counts(code: RejectCode | None) -> bool:
    """Whether a request counts for its class that was answered (None), or refused or given up for ``code``."""
    return code not in _COUNT_FOR_NOBODY


class Classes:
    """The classes that this ingress knows, and how each promise is kept."""

    def __init__(self, classes: Iterable[RequestClass]) -> None:
        self._classes: dict[str, RequestClass] = {}
        self._queues: dict[str, DeadlineQueue] = {}
        self._quality: dict[str, QualityQueue] = {}
        for one in classes:
            if one.name in self._classes:
                raise ValueError(f"request class {one.name!r} is defined twice")
            self._classes[one.name] = one
            self._queues[one.name] = DeadlineQueue(one.epsilon)
            if one.loss_micronats > 0:
                self._quality[one.name] = QualityQueue(one.loss_micronats, LEVEL_TOKENS)

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

    def quality(self, name: str) -> QualityQueue | None:
        """A of the class of that name; None if it tolerates no loss, or there is none."""
        return self._quality.get(name)
