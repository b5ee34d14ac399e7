"""How sure a mean is, and how straight a line.

Bootstrap [Efron 1979]: draw as many values again, with replacement, from those there are, a thousand times; the middle
95 % of the means so found is the interval. It assumes no distribution, which suits shares of 10 to 30 seeds. What is
drawn follows from a seed, so that the same run prints the same interval.

Paired: methods ran on the same traces, so the interval of a *difference* is drawn over the seeds' differences; the
spread that all methods share then cancels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

DRAWS: Final = 2000
"""The ends of the interval move by less than 2 % of its width from seed to seed."""
TAIL_PERCENT: Final = 2.5
POINTS_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class Line:
    """Least squares: ``y = intercept + slope x``."""

    slope: float
    intercept: float
    r2: float


def mean(values: Sequence[float]) -> float:
    """NaN of nothing: no band passes on it."""
    return float(np.mean(values)) if len(values) else float("nan")


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The bootstrap 95 % interval of the mean."""
    if not len(values):
        return float("nan"), float("nan")
    sample = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(sample), size=(DRAWS, len(sample)))
    low, high = np.percentile(sample[drawn].mean(axis=1), [TAIL_PERCENT, 100 - TAIL_PERCENT])
    return float(low), float(high)


def percentile(values: Sequence[float], percent: float) -> float:
    """NaN of nothing."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    """The straight line of least squares, with the share of the variance that it explains."""
    if len(x) != len(y) or len(x) < POINTS_MIN:
        raise ValueError("a line needs two points at least, each with an x and a y")
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    spread = float(((across - across.mean()) ** 2).sum())
    if spread == 0:
        raise ValueError("all x are the same: no line")
    slope = float(((across - across.mean()) * (up - up.mean())).sum()) / spread
    intercept = float(up.mean()) - slope * float(across.mean())
    total = float(((up - up.mean()) ** 2).sum())
    rest = float(((up - intercept - slope * across) ** 2).sum())
    return Line(slope, intercept, 1.0 if total == 0 else 1.0 - rest / total)
