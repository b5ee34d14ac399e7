"""What other nodes last said of how busy their light services are.

Only the newest word of a node counts: by its life and number, for two brokers reorder. What a probe answered is newer
than any digest, until the next one comes. Nothing is forgotten by age: how old a word is, is for whoever uses it to
weigh. A digest can only steer work, so a lie costs its believers a detour and never a wrong answer: what they send
there comes back refused, or late, and goes elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from shoal_agent.core.fading import FADE_S
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.light import DigestTold, ServiceLoad


@dataclass(frozen=True, slots=True)
class Told:
    """How busy one service of ``node`` is, as it said at ``at`` of our clock."""

    node: NodeId
    load: ServiceLoad
    at: Instant


@dataclass(slots=True)
class Digests:
    """The newest word of every node."""

    _stamps: dict[NodeId, tuple[Incarnation, Sequence]] = field(default_factory=dict)
    _loads: dict[NodeId, dict[str, Told]] = field(default_factory=dict)
    _prices: dict[NodeId, tuple[float, Instant]] = field(default_factory=dict)

    def heard(
        self, node: NodeId, incarnation: Incarnation, sequence: Sequence, digest: DigestTold, now: Instant
    ) -> None:
        """A digest; one that was overtaken is dropped. What it no longer tells of is not busy."""
        stamp = (incarnation, sequence)
        if self._stamps.get(node, (-1, -1)) >= stamp:
            return
        self._stamps[node] = stamp
        self._loads[node] = {load.service: Told(node, load, now) for load in digest.loads}
        self._prices[node] = (digest.price_milli / 1000, now)

    def answered(self, node: NodeId, load: ServiceLoad, price_milli: int, now: Instant) -> Told:
        """A probe was answered."""
        self._prices[node] = (price_milli / 1000, now)
        told = self._loads.setdefault(node, {})[load.service] = Told(node, load, now)
        return told

    def of(self, node: NodeId, service: str) -> Told | None:
        """What ``node`` last said of ``service``; None: nothing."""
        return self._loads.get(node, {}).get(service)

    def price(self, node: NodeId, now: Instant) -> float:
        """What a slot of a processor of ``node`` costs there, in levels; half as much after each ``FADE_S``.

        Budgets recover while a node is left alone, and who is left alone says nothing.
        """
        told, at = self._prices.get(node, (0.0, now))
        return float(told * 2 ** (-(now - at) / FADE_S))

    def forget(self, node: NodeId) -> None:
        """``node`` is out of reach."""
        self._loads.pop(node, None)
        self._prices.pop(node, None)

    def __iter__(self) -> Iterator[Told]:
        for node in sorted(self._loads):
            yield from self._loads[node].values()
