"""Pings under way: which question an answer belongs to, how long it took, and who else waits for it.

A ping is answered by the peer's node itself, over the data plane, and goes both ways on links of their own: an answer
proves that the process handles events, that we reach it and that it reaches us. The last few questions to a peer stay
open, so that an answer that comes too late is still recognised: late is slow, not dead.

The round trip is the best of the last eight: everything that disturbs a measurement makes it longer, nothing shorter.

Others ask us to ping for them (``PingRequested``). That is work at a stranger's word, hence the bounds: so many under
way in all and for each asker; what is beyond them is not answered, and costs the asker one opinion.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from shoal_protocol.ids import Instant, NodeId

OPEN_MAX: Final = 8
"""Questions to one peer that may still be answered: four seconds of asking twice a second."""
ROUND_TRIPS: Final = 8
"""Measurements of one link that are remembered."""
RELAYS_MAX: Final = 64
"""Pings under way for others: a dead host has no more watchers than that in its shard."""
RELAYS_PER_ASKER_MAX: Final = 8
"""For one of them: as many as it may find silent at once."""


@dataclass(slots=True)
class _Line:
    """What is open with one peer."""

    open: dict[int, Instant] = field(default_factory=dict)
    round_trips_us: deque[int] = field(default_factory=lambda: deque(maxlen=ROUND_TRIPS))


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who waits to hear whether a peer answers us; ``nonce`` is its own."""

    node: NodeId
    nonce: int


class Pings:
    """All pings of one node."""

    def __init__(self) -> None:
        self._lines: dict[NodeId, _Line] = {}
        self._relays: dict[NodeId, list[Asker]] = {}
        self._nonce = 0
        self._excused = 0
        """The last ping before this process overslept."""

    def ask(self, target: NodeId, now: Instant) -> int:
        """A ping leaves; the nonce it must carry."""
        self._nonce += 1
        line = self._lines.setdefault(target, _Line())
        line.open[self._nonce] = now
        if len(line.open) > OPEN_MAX:
            del line.open[next(iter(line.open))]
        return self._nonce

    def answered(self, target: NodeId, nonce: int, now: Instant) -> float | None:
        """``target`` answered: how many seconds that took. None if it was not asked, or answered already.

        0 if we slept since: the answer waited for us, nobody knows how long.
        """
        line = self._lines.get(target)
        if line is None or nonce not in line.open:
            return None
        took_s = now - line.open[nonce]
        # Links keep order: what was asked before this and not answered never will be.
        line.open = {number: at for number, at in line.open.items() if number > nonce}
        if nonce <= self._excused:
            return 0.0
        line.round_trips_us.append(max(1, int(took_s * 1_000_000)))
        return took_s

    def overslept(self) -> None:
        """This process did not run for a while: what is open was perhaps answered long ago."""
        self._excused = self._nonce

    def rtt_us(self, target: NodeId) -> int | None:
        """The best of the last round trips."""
        line = self._lines.get(target)
        return min(line.round_trips_us, default=None) if line is not None else None

    def anew(self, target: NodeId) -> None:
        """The link to ``target`` is another one: measure it from the beginning."""
        line = self._lines.get(target)
        if line is not None:
            line.round_trips_us.clear()

    def forget(self, target: NodeId) -> None:
        """Nothing about ``target`` is of interest any more."""
        self._lines.pop(target, None)

    # --- for others ----------------------------------------------------------------------------------------------

    def relay(self, target: NodeId, node: NodeId, nonce: int) -> bool:
        """``node`` waits for ``target``; False if too many wait already."""
        asker = Asker(node, nonce)
        waiting = [one for askers in self._relays.values() for one in askers]
        if len(waiting) >= RELAYS_MAX or sum(one.node == asker.node for one in waiting) >= RELAYS_PER_ASKER_MAX:
            return False
        self._relays.setdefault(target, []).append(asker)
        return True

    def settle(self, target: NodeId) -> list[Asker]:
        """Who waited for ``target``; they are told by the caller, and wait no longer."""
        return self._relays.pop(target, [])
