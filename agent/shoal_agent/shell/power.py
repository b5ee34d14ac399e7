"""What the machine draws: counted where it counts itself, else by the power model of its configuration.

Intel's and AMD's processors count their energy (RAPL); Linux shows the counters of each package in micro-joules under
``/sys/class/powercap``, to root alone unless an administrator lets others read them. They run over after
``max_energy_range_uj``, at most once in several minutes; the sensors read every five seconds. Where there is no counter
that can be read, ``idle_w`` and ``busy_w`` and the share of busy processors stand in. Without either nothing is known
of what it draws; the time that passed is told all the same, for money is counted by the hour.
"""

from pathlib import Path
from typing import Final

from shoal_agent.core.budgets import PowerModel

POWERCAP: Final = Path("/sys/class/powercap")
PACKAGES: Final = "intel-rapl:?"
"""Whole packages; what is below them (cores, memory) is counted in them."""
JOULES_PER_MICROJOULE: Final = 1e-6


class Meter:
    """Reads the counters, or calculates; ``busy`` is the share of the processors at work since the last reading."""

    def __init__(self, model: PowerModel | None, now_s: float, powercap: Path = POWERCAP) -> None:
        self._model = model
        self._packages = [package for package in sorted(powercap.glob(PACKAGES)) if _counter(package) is not None]
        self._last = {package: _counter(package) for package in self._packages}
        self._last_s = now_s

    def read(self, busy: float, now_s: float) -> tuple[float | None, float]:
        """Joules and seconds since the last reading; None for joules if nothing counts and there is no model."""
        seconds, self._last_s = max(now_s - self._last_s, 0.0), now_s
        counted = [self._since(package) for package in self._packages]
        if counted and None not in counted:
            return sum(joules for joules in counted if joules is not None), seconds
        if self._model is None:
            return None, seconds
        return self._model.joules(busy, seconds), seconds

    def _since(self, package: Path) -> float | None:
        """Joules of one package since the last reading; None if it cannot be read any more, or ran over unseen."""
        last, self._last[package] = self._last[package], _counter(package)
        now = self._last[package]
        if last is None or now is None:
            return None
        if now < last:
            around = _number(package / "max_energy_range_uj")
            if around is None or around < last:
                return None
            now += around
        return (now - last) * JOULES_PER_MICROJOULE


def _counter(package: Path) -> int | None:
    return _number(package / "energy_uj")


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None
