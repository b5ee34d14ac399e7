"""When to try again: exponential backoff with full jitter.

After the n-th failure in a row the next attempt comes at a uniformly random moment within

    min(most, first * 2**n)        seconds

so a thousand nodes that lost the same broker come back spread over the window, not in waves. A link that lasted is
forgiven its past. Being refused is not a matter of load: whoever is not let in waits long, whatever came before.
"""

from random import Random

from shoal_protocol.limits import BROKER_REFUSED_S, BROKER_RETRY_S_MAX, BROKER_RETRY_S_MIN, BROKER_STABLE_S


class Backoff:
    """The waiting times of one link."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures = 0

    def failed(self, lasted_s: float, *, refused: bool) -> float:
        """Seconds to wait after an attempt whose link stood for ``lasted_s`` (0: never)."""
        if lasted_s >= BROKER_STABLE_S:
            self._failures = 0
        ceiling_s = min(BROKER_RETRY_S_MAX, BROKER_RETRY_S_MIN * 2.0**self._failures)
        if ceiling_s < BROKER_RETRY_S_MAX:
            self._failures += 1
        if refused:
            return self._rng.uniform(BROKER_REFUSED_S / 2, BROKER_REFUSED_S)
        return self._rng.uniform(0.0, ceiling_s)
