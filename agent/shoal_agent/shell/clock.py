"""The two clocks of a node.

``Clock`` counts seconds that never go back: every deadline and every waiting time is judged by it, and its zero means
nothing. Kernels promise that much for CLOCK_MONOTONIC and have broken the promise (virtual machines moved between
hosts, old drivers), so the guard holds the last instant rather than handing a step back to a core that asserts order.

Wall time is only ever written on envelopes and compared with a generous allowance; it may jump when it is set.
"""

import time
from collections.abc import Callable

from shoal_protocol.ids import Instant


class Clock:
    """A monotonic clock; ``read`` gives seconds."""

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._last = read()

    def now(self) -> Instant:
        """Seconds; never less than the call before gave."""
        self._last = max(self._last, self._read())
        return Instant(self._last)


def wall_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def unix_s() -> int:
    """Unix time in whole seconds."""
    return time.time_ns() // 1_000_000_000
