"""What an experiment found: rows, pass bands, figures, and every assumption beside them.

A number without its assumptions cannot be checked, so a report carries both, and the digest of the trace that all
methods of it shared. Every arrival stands in the denominator of every rate: a request that failed or never ended is
late. ``None`` means that a figure has no meaning for a method, never that it was not looked at.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

FIGURES: Final = ("on_time", "qos", "failed", "incidents_per_h", "p95_ms", "cost")
"""The columns that all reports share, in their order."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one load, over all seeds."""

    method: str
    load: float | None = None
    on_time: float | None = None
    """Share of all arrivals that ended by their deadline."""
    qos: float | None = None
    """Share of all arrivals that were served as their class asks (deadline, privacy, accuracy)."""
    failed: float | None = None
    incidents_per_h: float | None = None
    p95_ms: float | None = None
    cost: float | None = None
    ci: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    """95 % intervals by name of the figure."""
    extra: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further columns of this experiment."""

    def figure(self, name: str) -> float | None:
        """A column by its name, shared or further."""
        return getattr(self, name) if name in FIGURES else self.extra.get(name)


@dataclass(frozen=True, slots=True)
class Band:
    """A figure and where it must lie for the claim to hold; ``None`` leaves a side open."""

    name: str
    figure: float
    low: float | None = None
    high: float | None = None

    @property
    def passed(self) -> bool:
        """No comparison holds for NaN, so what could not be measured does not pass."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return low <= self.figure <= high


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw: lines through points, or (``violin``) how values spread."""

    name: str
    """Also of its file."""
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict[str, Sequence[tuple[float, float]]])
    violins: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All of one run of an experiment."""

    name: str
    trace_hash: str
    assumptions: Sequence[str]
    rows: Sequence[Row]
    bands: Sequence[Band]
    charts: Sequence[Chart] = ()

    @property
    def passed(self) -> bool:
        return all(band.passed for band in self.bands)

    def as_json(self) -> dict[str, Any]:
        """The one object for scripts."""
        return {
            "trace_hash": self.trace_hash,
            "assumptions": list(self.assumptions),
            "rows": [_row(row) for row in self.rows],
            "bands": [_band(band) for band in self.bands],
        }

    def as_markdown(self) -> str:
        """For people: table, bands, assumptions."""
        parts = [f"# {self.name}", f"Trace `{self.trace_hash}`.", _table(self.rows)]
        if self.bands:
            parts.append("## Pass bands\n\n" + "\n".join(_told(band) for band in self.bands))
        parts.append("## Assumptions\n\n" + "\n".join(f"- {line}" for line in self.assumptions))
        return "\n\n".join(parts) + "\n"


def _row(row: Row) -> dict[str, Any]:
    shared = {name: _number(row.figure(name)) for name in FIGURES}
    ci = {name: [_number(low), _number(high)] for name, (low, high) in row.ci.items()}
    further = {name: _number(value) for name, value in row.extra.items()}
    return {"method": row.method, "load": row.load, **shared, "ci": ci, **further}


def _band(band: Band) -> dict[str, Any]:
    figure = _number(band.figure)
    return {"name": band.name, "figure": figure, "low": band.low, "high": band.high, "passed": band.passed}


def _number(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None


def _table(rows: Sequence[Row]) -> str:
    """Columns nobody filled are left out."""
    further = dict.fromkeys(name for row in rows for name in row.extra)
    columns = [name for name in ("load", *FIGURES, *further) if any(_value(row, name) is not None for row in rows)]
    lines = ["| method | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    lines += [f"| {row.method} | " + " | ".join(_cell(row, name) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _value(row: Row, name: str) -> float | None:
    return row.load if name == "load" else row.figure(name)


def _cell(row: Row, name: str) -> str:
    value = _value(row, name)
    if value is None:
        return ""
    if name not in row.ci:
        return f"{value:.4g}"
    low, high = row.ci[name]
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _told(band: Band) -> str:
    sides = [f">= {band.low:.4g}"] if band.low is not None else []
    sides += [f"<= {band.high:.4g}"] if band.high is not None else []
    return f"- {'pass' if band.passed else 'FAIL'}: {band.name}: {band.figure:.4g} (must be {' and '.join(sides)})"
