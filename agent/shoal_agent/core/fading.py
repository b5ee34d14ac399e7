"""A figure that was measured, and is believed less and less.

    measured   the mean moves by WEIGHT towards it, and by more the older the mean is
    believed   half of the mean after every half-life without a measurement

What took long some time ago may be quick again, and whoever is avoided because it took long gives no measurement by
which to learn that. A figure that fades ends this by itself: sooner or later what was slow is tried once more.
"""

from dataclasses import dataclass
from typing import Final

from shoal_protocol.ids import Instant

WEIGHT: Final = 0.3
"""Of one measurement: three tell most of a change."""
FADE_S: Final = 4.0
"""Half-life of paces: a device that was four times as slow is tried again every eight seconds."""
BEGINNING: Final = Instant(0.0)
NAMES_MAX: Final = 256
"""FadingByName that are kept by name: many times the services of any cluster, and peers may make names up."""


@dataclass(slots=True)
class Fading:
    """One figure; 0: never measured."""

    half_life_s: float
    mean: float = 0.0
    """As of its last measurement."""
    at: Instant = BEGINNING

    def measured(self, value: float, now: Instant) -> None:
        """It was ``value`` just now."""
        kept = 0.0 if self.mean == 0 else (1 - WEIGHT) * self.believed(now) / self.mean
        self.mean = value + kept * (self.mean - value)
        self.at = now

    def believed(self, now: Instant) -> float:
        """What is left of it."""
        return float(self.mean * 2 ** (-(now - self.at) / self.half_life_s))


class FadingByName:
    """FadingByName of the same kind by name, the newest names of them."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._by_name: dict[str, Fading] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def measured(self, name: str, value: float, now: Instant) -> None:
        """That of ``name`` was ``value``."""
        figure = self._by_name.pop(name, None) or Fading(self._half_life_s)
        figure.measured(value, now)
        self._by_name[name] = figure
        if len(self._by_name) > NAMES_MAX:
            del self._by_name[next(iter(self._by_name))]

    def believed(self, name: str, now: Instant) -> float:
        """What is left of that of ``name``; 0: nothing, or it was never measured."""
        figure = self._by_name.get(name)
        return 0.0 if figure is None else figure.believed(now)
