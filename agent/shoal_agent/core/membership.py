"""Who is here, and what they say they can carry.

Each node owns one capacity record, versioned by itself; merging is "the higher (incarnation, version) wins", so
records may arrive in any order, twice, or through several brokers. A heartbeat only refreshes the moment its sender
was last heard. Nothing that moves a block is decided from this table: it is what everybody *believes*.

How a node stands (alive, slow, dead, ...) is the watch's finding and only kept here, for whoever must choose a peer. A
node nobody watches, of another share of the cluster, counts as present while it was heard within ``SILENCE_S``: five
heartbeats, so that a lost packet, a broker restart or a pause of the Python process does not blink. A record alone
makes nobody present: it tells something of its owner's past.
"""

from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import Standing
from shoal_protocol.ids import Digest, Incarnation, Instant, NodeId
from shoal_protocol.messages import Heartbeat, NodePhase, NodeState

SILENCE_S: Final = 5.0
"""Unheard for this long: no longer counted as present."""
HEARSAY_S: Final = 3600.0
"""A node known only by what others keep of it counts as silent for so long."""
PRESENT: Final = (Standing.ALIVE, Standing.SLOW, Standing.MQTT_LOST)
"""Standings of those whom a frame reaches."""


@dataclass(slots=True)
class Peer:
    """One node as this node knows it."""

    node: NodeId
    incarnation: Incarnation
    state: NodeState
    heard: Instant


class Membership:
    """The table of nodes that spoke, this one not included."""

    def __init__(self) -> None:
        self._peers: dict[NodeId, Peer] = {}
        self._standings: dict[NodeId, Standing] = {}
        self._restood: list[NodeId] = []

    def merge(
        self, node: NodeId, incarnation: Incarnation, state: NodeState, now: Instant, *, fresh: bool = True
    ) -> bool:
        """Take in a record; True if it told something new. Unless ``fresh``, others kept it: it was not heard now."""
        known = self._peers.get(node)
        if known is not None and (incarnation, state.version) <= (known.incarnation, known.state.version):
            return False
        heard = now if fresh else Instant(now - HEARSAY_S) if known is None else known.heard
        self._peers[node] = Peer(node, incarnation, state, heard)
        return True

    def forget(self, node: NodeId) -> None:
        """``node`` is no concern of ours any more."""
        self._peers.pop(node, None)

    def heard(self, node: NodeId, incarnation: Incarnation, beat: Heartbeat, now: Instant) -> bool:
        """Refresh ``node``; True if its record here is older than what it says it published."""
        known = self._peers.get(node)
        if known is None or incarnation > known.incarnation:
            return True
        if incarnation < known.incarnation:
            return False
        known.heard = now
        return beat.version > known.state.version

    def stand(self, node: NodeId, standing: Standing) -> None:
        """The watch found this about ``node``; UNKNOWN: it does not watch it."""
        self._restood.append(node)
        if standing is Standing.UNKNOWN:
            self._standings.pop(node, None)
        else:
            self._standings[node] = standing

    def restood(self) -> list[NodeId]:
        """Those of whom something was found since this was asked last, in that order."""
        found, self._restood = self._restood, []
        return found

    def standing(self, node: NodeId) -> Standing:
        """How ``node`` stands."""
        return self._standings.get(node, Standing.UNKNOWN)

    def peer(self, node: NodeId) -> Peer | None:
        """What is known of ``node``."""
        return self._peers.get(node)

    def peers(self) -> tuple[Peer, ...]:
        """Everybody who ever spoke, by node id."""
        return tuple(self._peers[node] for node in sorted(self._peers))

    def holders(self, model: Digest) -> list[NodeId]:
        """Who says that it has the package of ``model``, by node id."""
        return [peer.node for peer in self.peers() if model in peer.state.models]

    def present(self, node: NodeId, now: Instant) -> bool:
        """Whether a frame to ``node`` may be expected to arrive."""
        peer = self._peers.get(node)
        if peer is None or peer.state.phase == NodePhase.DISCONNECTED:
            return False
        standing = self.standing(node)
        return now - peer.heard <= SILENCE_S if standing is Standing.UNKNOWN else standing in PRESENT
