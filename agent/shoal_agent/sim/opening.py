"""Envelopes of one world, each opened once.

Whether bytes are a member's word follows from the bytes, the roster and the cluster, and a world has one of each of the
latter two; so what one node verified, every node has verified. The codec, the signature and the topic are checked for
real, once; after that the exact bytes on the exact topic are known. What is refused is not kept: it is rare, and its
reason must be told every time.

The memo is two generations of a dict, as the gate's memory of copies is: when the young one is full it becomes the old
one. An envelope is needed for as long as it travels, which is seconds.
"""

from typing import Final

from shoal_agent.core.gate import open_addressed
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import ClusterId
from shoal_protocol.roster import TrustedRoster

OPENED_MAX: Final = 1 << 17
"""Envelopes kept, both generations together: 10,000 nodes say so much in a dozen seconds; some 100 MB then."""


class Openings:
    """Opens envelopes for all nodes of a world; ``open`` is their ``Opener``."""

    def __init__(self) -> None:
        self._young: dict[bytes, tuple[str, Envelope]] = {}
        self._old: dict[bytes, tuple[str, Envelope]] = {}
        self._roster: TrustedRoster | None = None

    def open(self, wire: bytes, topic: str | None, roster: TrustedRoster, cluster: ClusterId) -> Envelope:
        """As :func:`open_addressed`."""
        if roster is not self._roster:
            self._roster, self._young, self._old = roster, {}, {}
        known = self._young.get(wire) or self._old.get(wire)
        if known is not None and (topic is None or topic == known[0]):
            return known[1]
        envelope = open_addressed(wire, topic, roster, cluster)
        if topic is not None:
            if len(self._young) >= OPENED_MAX // 2:
                self._old, self._young = self._young, {}
            self._young[wire] = topic, envelope
        return envelope
