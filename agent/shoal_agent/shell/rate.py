"""A rate that is kept: a token bucket, written as the time at which the next byte may leave.

Each taker is told how long to wait and is booked in at once, so takers that ask together leave one after the other, in
the order in which they asked, and no task has to refill anything. With b bytes booked so far, the next ones may leave
at ``max(now - BURST_S, free_at)``: an idle bucket saves up ``BURST_S`` worth of bytes, and never more.
"""

from typing import Final

BURST_S: Final = 0.1
"""What may leave at once after a pause: long enough that a piece does not wait for itself, too short to be felt."""


class Rate:
    """``bytes_per_s`` of 0 is no limit."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = float("-inf")

    def take(self, count: int, now: float) -> float:
        """Book ``count`` bytes; the seconds to wait before they leave."""
        if not self._bytes_per_s:
            return 0.0
        self._free_at = max(self._free_at, now - BURST_S) + count / self._bytes_per_s
        return max(0.0, self._free_at - now)

    def wait_s(self, count: int, now: float) -> float:
        """How long ``count`` bytes would take to leave, behind what is booked."""
        return max(0.0, self._free_at - now) + count / self._bytes_per_s if self._bytes_per_s else 0.0
