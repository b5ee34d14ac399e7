"""Virtual time: what happens next, and when.

A heap of (instant, tie). The tie counts up, so two things of one instant happen in the order in which they were
asked for, whatever they are. Time moves only from one thing to the next; nothing waits.
"""

import heapq
import itertools
from collections.abc import Callable

Act = Callable[[], None]


class Agenda:
    """Everything that will happen in one world; ``now`` is its time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        """Things that happened."""
        self._heap: list[tuple[float, int, Act]] = []
        self._ties = itertools.count()

    def at(self, instant_s: float, act: Act) -> None:
        """``act`` happens at ``instant_s``, now if that has passed."""
        heapq.heappush(self._heap, (max(instant_s, self.now), next(self._ties), act))

    def after(self, delay_s: float, act: Act) -> None:
        """``act`` happens ``delay_s`` from now, after all that was asked for that instant before."""
        self.at(self.now + delay_s, act)

    def run_to(self, instant_s: float) -> None:
        """Let everything happen up to ``instant_s``, which is ``now`` afterwards."""
        while self._heap and self._heap[0][0] <= instant_s:
            self.now, _, act = heapq.heappop(self._heap)
            self.done += 1
            act()
        self.now = max(self.now, instant_s)
