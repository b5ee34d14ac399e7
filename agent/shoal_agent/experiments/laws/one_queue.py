"""One queue, first come first served, simulated exactly and at once: a million slots in a tenth of a second.

With ``X`` the running sum of work that came minus what could be served, the work that waits is
``X - min(0, least X so far)`` (Lindley 1952, reflected at 0), so what has left by a slot is what came minus that. A
task ends in the slot in which as much has left as had come when it was the last in line: a search in a rising
sequence. Its delay is counted in slots from the one it came in; 0: served in that same slot.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Kind:
    """One instance: Gamma service of mean 1 a slot, perhaps in a weather."""

    name: str
    shape: float
    slow: float = 1.0
    """Factor in the bad half of the time; in the good half it is as far above 1."""
    slow_slots: float = 1.0
    """How long either lasts, on average."""


def served(kind: Kind, slots: int, instances: int, chance: np.random.Generator) -> NDArray[np.float64]:
    """What ``instances`` together can serve in each slot; they share their weather."""
    work = chance.gamma(kind.shape * instances, 1 / kind.shape, slots)
    if kind.slow == 1.0:
        return work
    bad = (np.cumsum(chance.random(slots) < 1 / kind.slow_slots) + chance.integers(2)) % 2 == 1
    return np.where(bad, kind.slow, 2.0 - kind.slow) * work


def delays(tasks: NDArray[np.int64], work: float, service: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of every task that ended: ``tasks`` arrive in each slot, of ``work`` each."""
    net = np.cumsum(tasks * work - service)
    waiting = net - np.minimum(np.minimum.accumulate(net), 0.0)
    left = np.cumsum(tasks) * work - waiting
    came = np.repeat(np.arange(len(tasks)), tasks)
    ended = np.searchsorted(left, (np.arange(len(came)) + 1) * work - ROUNDING)
    result: NDArray[np.int64] = (ended - came)[ended < len(tasks)]
    return result
