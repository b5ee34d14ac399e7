"""Admission: a request comes in if it will probably be in time.

The finish of a request is predicted along its pipeline, a step after those it waits for (paper (a), formula (4))::

    finish(step) = max over the steps before it of finish + transfer + wait + service

A request that will be late anyway is refused at the door: it would take service from others and bring nothing. So is
one whose chance to be in time is not worth the wait it causes::

    (V worth + Z) (1 - chance to be late)  <  pressure * work

This is flow control by drift-plus-penalty: Z is what the class is owed, pressure what its services are owed. A refusal
counts as late, so Z rises with it, and a class that is refused for long gets its turn. It says when to come again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from shoal_agent.core.quantities import amount
from shoal_agent.core.service_classes import RequestClass

RETRY_S_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One service on a request's way."""

    after: tuple[int, ...]
    """The indices of the steps whose output it needs; all smaller than its own."""
    transfer_ms: float
    wait_ms: float
    service_ms: float

    def __post_init__(self) -> None:
        for name in ("transfer_ms", "wait_ms", "service_ms"):
            amount(name, getattr(self, name))


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


def finish_ms(steps: Sequence[Step]) -> float:
    """When the last step ends, from now."""
    ends: list[float] = []
    for index, step in enumerate(steps):
        if any(not 0 <= before < index for before in step.after):
            raise ValueError(f"step {index} can only come after earlier ones, not after {step.after}")
        begun = max((ends[before] for before in step.after), default=0.0)
        ends.append(begun + step.transfer_ms + step.wait_ms + step.service_ms)
    return max(ends, default=0.0)


def judge(
    kind: RequestClass,
    steps: Sequence[Step],
    *,
    level: float,
    late_chance: float,
    pressure: float,
    work: float,
    worth: float,
) -> Admitted | Refused:
    """Whether a request of ``kind`` may come in. ``level`` is its Z, ``worth`` V times what answering it is worth."""
    for name, value in (("level", level), ("pressure", pressure), ("work", work), ("worth", worth)):
        amount(name, value)
    if amount("late_chance", late_chance) > 1:
        raise ValueError(f"late_chance must be at most 1, not {late_chance}")
    finish = finish_ms(steps)
    over_ms = finish - kind.deadline_ms
    retry_s = min(max(ceil(over_ms / 1000.0), 1), RETRY_S_MAX)
    if over_ms > 0:
        return Refused(finish, retry_s, f"it would take {finish:.0f} ms, and has {kind.deadline_ms:.0f} ms")
    if (worth + level) * (1.0 - late_chance) < pressure * work:
        return Refused(finish, retry_s, "its services are too far behind")
    return Admitted(finish)
