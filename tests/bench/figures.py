"""From samples to figures: medians, minima, ratios.

A bare time says as much about the machine and its other guests as about the code, so what is judged is a *ratio*:
in each round every variant is measured within a few seconds of the others, the ratio of their medians is taken within
the round, and the figure is the median of these ratios over the rounds. A disturbance of one round moves one of them.
The ratio of the minima over all rounds stands beside it: the least disturbed sample of each.

A process keeps the memory it got, and pages that lie scattered make it up to a quarter slower for its whole life. So
everything is started anew several times (sittings), in another order each time, and the median runs over all rounds.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

BASE: Final = "whole"
"""What every other variant is divided by."""
BARS: Final[Mapping[str, float]] = {"two": 1.15, "three": 1.25}
"""What splitting may cost, at most."""
KINDS: Final = ("decode_ms", "prefill_ms")

Round = Mapping[str, Mapping[str, Sequence[float]]]
"""Variant -> kind -> samples in milliseconds: gaps between tokens, times to the first token."""


def spread(samples: Sequence[float]) -> dict[str, float]:
    """What a reader wants to know of a row of samples, in their unit."""
    ordered = sorted(samples)
    return {
        "count": len(ordered),
        "min": round(ordered[0], 3),
        "p25": round(quantile(ordered, 0.25), 3),
        "median": round(median(ordered), 3),
        "p95": round(quantile(ordered, 0.95), 3),
        "max": round(ordered[-1], 3),
        "mean": round(sum(ordered) / len(ordered), 3),
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The sample below which ``share`` of the ``ordered`` ones lie, the nearest one."""
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def ratios(rounds: Sequence[Round], kind: str, variant: str, base: str = BASE) -> dict[str, Any]:
    """``variant`` over ``base``: per round, their median and range, and the ratio of the minima."""
    each = [median(one[variant][kind]) / median(one[base][kind]) for one in rounds]
    best = min(min(one[variant][kind]) for one in rounds) / min(min(one[base][kind]) for one in rounds)
    return {
        "median": round(median(each), 4),
        "min": round(min(each), 4),
        "max": round(max(each), 4),
        "of_minima": round(best, 4),
        "per_round": [round(ratio, 4) for ratio in each],
    }


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Kind -> the spread of every variant over all rounds, its ratios, and whether it kept its bar."""
    variants = list(rounds[0])
    found: dict[str, Any] = {}
    for kind in KINDS:
        found[kind] = {
            variant: {
                **spread([sample for one in rounds for sample in one[variant][kind]]),
                "ratio": ratios(rounds, kind, variant),
            }
            for variant in variants
        }
        for variant, bar in BARS.items():
            if variant in found[kind]:
                entry = found[kind][variant]
                entry["bar"] = bar
                entry["kept"] = entry["ratio"]["median"] <= bar
    return found
