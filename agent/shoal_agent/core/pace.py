"""How long this node's stages really take, over what its profile predicts.

A profile was measured elsewhere, alone, on a cool machine; here other programs run, processors get hot, and memory is
slower or faster than arithmetic suggests. So every decode run is compared with its prediction, per multiply-accumulate,
and an exponential mean over some fifty runs is kept. Prompts are left out: they come in chunks of all lengths.

The figure is news while stages run. ``FRESH_S`` after the last run a host says nothing; a node that hosts nothing any
more keeps saying what it measured, less and less: half of the deviation is gone after ``HALF_LIFE_S``. Without that
memory it would look as good as its profile again the moment it is relieved, and the blocks would come back.
"""

from typing import Final

from shoal_protocol.ids import Instant

RUNS_MIN: Final = 32
"""Before so many runs the mean is mostly the first ones, which are cold."""
WEIGHT: Final = 0.04
"""Of a new run: a mean over about fifty."""
FRESH_S: Final = 60.0
HALF_LIFE_S: Final = 600.0
STEP_PERMILLE: Final = 50
PERMILLE_MAX: Final = 20_000
"""Twenty times slower than predicted: slower than that makes no difference to any plan."""


class Pace:
    """The mean, and how old it is."""

    def __init__(self) -> None:
        self._s_per_mac = 0.0
        self._runs = 0
        self._last = Instant(0.0)

    def ran(self, took_s: float, predicted_macs: float, now: Instant) -> None:
        """One token went through blocks that take ``predicted_macs``."""
        if predicted_macs <= 0:
            return
        measured = took_s / predicted_macs
        self._runs += 1
        weight = max(WEIGHT, 1 / self._runs)
        self._s_per_mac += weight * (measured - self._s_per_mac)
        self._last = now

    def permille(self, macs_per_s: int, now: Instant, *, hosting: bool) -> int:
        """The ratio on a device of ``macs_per_s``, in steps; 0 if there is nothing to say."""
        if self._runs < RUNS_MIN:
            return 0
        age_s = now - self._last
        if hosting and age_s > FRESH_S:
            return 0
        ratio = 1000 * self._s_per_mac * macs_per_s
        if not hosting:
            ratio = 1000 + (ratio - 1000) * 0.5 ** (age_s / HALF_LIFE_S)
        stepped = round(ratio / STEP_PERMILLE) * STEP_PERMILLE
        return min(max(stepped, STEP_PERMILLE), PERMILLE_MAX)
