"""What a method may know of its world: what machines tell of themselves, and how many requests come.

Machines tell of their load and links as the agent's records do: a change at once, but at most one word every
``DRIFT_SPACING_S``. Requests are counted where they come. Both are rounded, so that questions repeat.
"""

from collections import deque
from typing import Final

from shoal_agent.core.gossip import DRIFT_SPACING_S
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.trace import Trace, delayed

RATE_WINDOW_S: Final = 60.0
RATE_STEP_MILLI: Final = 1000
"""Arrivals a second are told in whole ones."""


class Demand:
    """Requests a second, over the last minute."""

    def __init__(self, expected_milli: int) -> None:
        self._expected = expected_milli
        self._times: deque[float] = deque()

    def arrived(self, now: float) -> None:
        self._times.append(now)

    def rate_milli(self, now: float) -> int:
        """In steps, so that questions repeat."""
        if now < RATE_WINDOW_S:
            return _stepped(self._expected)
        while self._times and self._times[0] <= now - RATE_WINDOW_S:
            self._times.popleft()
        return _stepped(round(1000 * len(self._times) / RATE_WINDOW_S))


def _stepped(milli: int) -> int:
    return max(RATE_STEP_MILLI, (milli + RATE_STEP_MILLI // 2) // RATE_STEP_MILLI * RATE_STEP_MILLI)


class Sight:
    """What is known of load and links."""

    def __init__(self, trace: Trace, *, fresh: bool) -> None:
        spacing_s = 0.0 if fresh else DRIFT_SPACING_S
        self._busy = tuple(delayed(steps, spacing_s) for steps in trace.busy)
        self._link = tuple(delayed(steps, spacing_s) for steps in trace.link)

    def conditions(self, now: float, nodes: tuple[int, ...], rate_milli: int) -> cluster.Conditions:
        """As they were told last."""
        busy = tuple(round(1000 * steps.at(now)) for steps in self._busy)
        return cluster.Conditions(nodes, busy, tuple(round(1000 * steps.at(now)) for steps in self._link), rate_milli)
