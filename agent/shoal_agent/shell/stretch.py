"""How fast a peer's bytes come in: measured on what flows anyway, no byte is sent for it.

While one large frame is under way (a piece of a shard, rows of KV, the activations of a prompt), its sender has all of
it and writes as fast as the way allows. So the rate of a link is that *within* a frame: what came after the chunk it
began in, over the time since. Between two frames nobody knows whether the way was slow or the sender had nothing.

A chunk may have waited in this machine's buffers while the loop was busy, and then the rest looks faster than any link;
or the sender's loop was busy, and it looks slower. Neither lasts, so the rate of a peer is the median of its last
``KEPT`` frames, of ``KNOWN`` at least, none older than ``FRESH_S``.
"""

from collections import deque
from statistics import median_low
from typing import Final

from shoal_protocol.ids import NodeId

BYTES_MIN: Final = 64 * 1024
"""A shorter frame comes in a chunk or two, and tells about chunks."""
SPAN_S_MIN: Final = 0.0005
"""What came in less did not come over a link that anybody plans around: 128 MB/s of the shortest frame."""
KEPT: Final = 31
KNOWN: Final = 3
FRESH_S: Final = 900.0
"""A link may have been mended since."""


class Stretch:
    """One connection, as its chunks arrive."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._bytes = 0

    def came(self, count: int, now: float, *, completed: bool, midway: bool) -> int | None:
        """A chunk of ``count`` bytes came that ``completed`` a frame, and ended ``midway`` in one.

        Bytes a second of the frame that is complete, if it was long enough to tell.
        """
        rate = None
        if self._begun is not None:
            self._bytes += count
            if completed and self._bytes >= BYTES_MIN:
                rate = round(self._bytes / max(now - self._begun, SPAN_S_MIN))
        if not midway:
            self._begun = None
        elif completed or self._begun is None:
            self._begun, self._bytes = now, 0
        return rate


class Rates:
    """What was measured of every peer."""

    def __init__(self) -> None:
        self._known: dict[NodeId, deque[tuple[float, int]]] = {}

    def add(self, peer: NodeId, rate: int, now: float) -> None:
        """A frame of ``peer`` came at ``rate``."""
        self._known.setdefault(peer, deque(maxlen=KEPT)).append((now, rate))

    def told(self, now: float) -> dict[NodeId, int]:
        """Bytes a second, by peer, of whom enough is known."""
        found = {}
        for peer, rates in list(self._known.items()):
            while rates and rates[0][0] < now - FRESH_S:
                rates.popleft()
            if not rates:
                del self._known[peer]
            elif len(rates) >= KNOWN:
                found[peer] = median_low(rate for _, rate in rates)
        return found
