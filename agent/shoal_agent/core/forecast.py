"""Admission: a request comes in if it will probably be in time.

The finish of a request is predicted along its graph, a step after those it waits for (paper (a), formula (4))::

    finish(step) = max over the steps before it of finish + transfer + wait + service

so branches count only once, and the longest way through is the finish. Where no more than so many steps run at a time
(a pipeline's run begins those named first, first: ``pipeline_run``), a step that could begin waits for one that ends.

A request that will be late anyway is refused at the door: it would take service from others and bring nothing. So is
one whose chance to be in time is not worth the wait it causes::

    (V worth + Z) (1 - chance to be late)  <  pressure * work

This is flow control by drift-plus-penalty: Z is what the class is owed, pressure what its services are owed. A refusal
counts as late, so Z rises with it, and a class that is refused for long gets its turn. It says when to come again.
One rule for all: a single generation is a graph of one step (``welcome``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil
from typing import Final

from shoal_agent.core.quantities import amount, positive

RETRY_S_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One service on a request's way."""

    after: tuple[int, ...]
    """The indices of the steps whose output it needs."""
    transfer_ms: float
    wait_ms: float
    service_ms: float

    def __post_init__(self) -> None:
        for name in ("transfer_ms", "wait_ms", "service_ms"):
            amount(name, getattr(self, name))

    @property
    def took_ms(self) -> float:
        """From its beginning to its end."""
        return self.transfer_ms + self.wait_ms + self.service_ms


@dataclass(frozen=True, slots=True)
class Admitted:
    """Welcome."""

    finish_ms: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Not now."""

    finish_ms: float
    retry_after_s: int
    reason: str


def finish_ms(steps: Sequence[Step], at_once: int | None = None) -> float:
    """When the last step ends, from now, if ``at_once`` of them run at a time (None: as many as can)."""
    waiting, ended, now_ms = list(range(len(steps))), set[int](), 0.0
    running: list[tuple[float, int, int]] = []
    while True:
        for index in [index for index in waiting if ended.issuperset(steps[index].after)]:
            if at_once is not None and len(running) >= at_once:
                break
            waiting.remove(index)
            # Of steps that end together, that which began first is heard of first.
            heappush(running, (now_ms + steps[index].took_ms, len(steps) - len(waiting), index))
        if not running:
            break
        now_ms, _, index = heappop(running)
        ended.add(index)
    if waiting:
        raise ValueError(f"step {waiting[0]} can only come after others that end, not after {steps[waiting[0]].after}")
    return now_ms


def judge(
    finish: float, deadline: float, *, level: float, late_chance: float, pressure: float, work: float, worth: float
) -> Admitted | Refused:
    """Whether a request may come in that will end after ``finish`` and should after ``deadline`` milliseconds.

    ``level`` is Z of its class, ``worth`` V times what answering it is worth.
    """
    figures = {"finish": finish, "level": level, "pressure": pressure, "work": work, "worth": worth}
    for name, value in figures.items():
        amount(name, value)
    positive("deadline", deadline)
    if amount("late_chance", late_chance) > 1:
        raise ValueError(f"late_chance must be at most 1, not {late_chance}")
    over_ms = finish - deadline
    retry_s = min(max(ceil(over_ms / 1000.0), 1), RETRY_S_MAX)
    if over_ms > 0:
        return Refused(finish, retry_s, f"it would take {finish:.0f} ms, and has {deadline:.0f} ms")
    if (worth + level) * (1.0 - late_chance) < pressure * work:
        return Refused(finish, retry_s, "its services are too far behind")
    return Admitted(finish)
