"""Where each stage must begin so that a session goes on as if nothing had happened, and what that costs.

A stage's KV reaches to its ``position``: it has computed, or was given, everything before. Of its outputs it can send
those from ``retained_from`` to ``position`` once more. The token that stands at ``wanted`` is drawn from the run that
ends there, so the last stage runs at least that one again. From the last stage to the first::

    start[last] = min(position[last], first position of the run whose token is wanted)
    start[j]    = position[j]                        if retained_from[j] <= start[j+1] <= position[j]: j sends again
                = min(position[j], start[j+1])       otherwise: j runs again from there

each cut down to the beginning of a run (``runs``): rows that others sent may end within a prompt's chunk. No start
could be later: a stage cannot skip what it lacks, nor what the stage after it lacks and nobody else can give. So every
position is computed at most once from here on, by each stage that must, and what comes before its start is dropped
there as a repetition.

======== ===================================================================== ========================================
way      what is run again                                                      exact
======== ===================================================================== ========================================
kv       only what a stage's copy of the KV lacks; whoever has more sends again yes
replay   more: a stage without a copy, or stages that have to produce it again  yes
prefill  the text in chunks through all stages, from where all of them are      no: int8 rounds differently in chunks
======== ===================================================================== ========================================

Prefill is chosen only if the exact way would end too late, and prefill ends sooner. The prediction adds up the stages'
own times, which is exact for a stage that runs alone and too long for several, which overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shoal_agent.core.runs import Runs

RESERVE: Final = 0.25
"""Of the time to the deadline, this share stays for the rest of the answer."""


class Way(StrEnum):
    """How a session comes back."""

    KV = "kv"
    REPLAY = "replay"
    PREFILL = "prefill"


@dataclass(frozen=True, slots=True)
class Reach:
    """What one stage has: KV before ``position``, and its outputs from ``retained_from`` on."""

    position: int
    retained_from: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where one stage begins, and from where on it sends again what it had before."""

    position: int
    replay_from: int


@dataclass(frozen=True, slots=True)
class Speed:
    """What one stage takes for a position alone, and for each position of a chunk."""

    single_s: float
    chunked_s: float


@dataclass(frozen=True, slots=True)
class Restart:
    """How a session goes on: ``runs`` are those from now on, ``cost_s`` what is computed once more."""

    way: Way
    starts: tuple[Start, ...]
    runs: Runs
    cost_s: float


def starts_of(reaches: Sequence[Reach], runs: Runs, wanted: int) -> tuple[Start, ...]:
    """Where each stage begins, exactly and as late as possible."""
    have = [wanted if reach.position >= wanted else runs.floor(reach.position) for reach in reaches]
    last = min(have[-1], runs.floor(wanted - 1))
    found = [Start(last, last)]
    for reach, position in zip(reaches[-2::-1], have[-2::-1], strict=True):
        after = found[-1].position
        if reach.retained_from <= after <= position:
            found.append(Start(position, after))
        else:
            begin = min(position, after)
            found.append(Start(begin, begin))
    return tuple(reversed(found))


def restart_of(reaches: Sequence[Reach], runs: Runs, wanted: int, speeds: Sequence[Speed], left_s: float) -> Restart:
    """How to go on; ``wanted`` is where the next token stands, ``left_s`` the time to the deadline."""
    starts = starts_of(reaches, runs, wanted)
    fresh = runs.floor(wanted - 1)
    exact_s = sum(_cost_s(runs, start.position, fresh, speed) for start, speed in zip(starts, speeds, strict=True))
    lacking = fresh > 0 and any(reach.position == 0 for reach in reaches)
    produced = any(
        start.position < runs.floor(min(reach.position, fresh)) for start, reach in zip(starts, reaches, strict=True)
    )
    exact = Restart(Way.REPLAY if lacking or produced else Way.KV, starts, runs, exact_s)
    begin = runs.floor(min(fresh, *(reach.position for reach in reaches)))
    anew_s = sum(speed.chunked_s for speed in speeds) * (wanted - begin)
    if exact_s <= left_s * (1 - RESERVE) or anew_s >= exact_s:
        return exact
    return Restart(Way.PREFILL, (Start(begin, begin),) * len(reaches), runs.prefilled(begin, wanted), anew_s)


def _cost_s(runs: Runs, begin: int, end: int, speed: Speed) -> float:
    single, chunked = runs.amount(begin, end)
    return single * speed.single_s + chunked * speed.chunked_s
