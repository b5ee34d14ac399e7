"""The data-plane links between nodes: one ordered connection per pair, made when somebody first sends.

TCP does not lose a frame, it loses the connection; so a lost frame ends the link, both sides hear ``PeerLost``, and
what was under way is gone. Where nothing passes in one direction (a partition, a paused or vanished peer) frames wait,
until either it heals and they arrive, or the silence lasts ``LINK_SILENCE_S_MAX`` and both sides give up.
What a peer is told of a lost link is what its system could know: a reset and a refusal need a path back.
Every frame goes through the real framing and codec.
"""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Protocol

from shoal_agent.core.events import PeerConnected, PeerLost
from shoal_agent.core.facts import LinkFault
from shoal_agent.sim.agenda import Agenda
from shoal_agent.sim.weather import Weather
from shoal_protocol.frames import FrameReader, encode_frame
from shoal_protocol.headers import Activation, Header, Token
from shoal_protocol.ids import Epoch, NodeId
from shoal_protocol.limits import LINK_CONNECT_S_MAX, LINK_SILENCE_S_MAX

REFUSED_S: Final = 0.001
"""A machine that is up and has no process answers a connection attempt at once: no."""


class Peer(Protocol):
    """A node, as links know it."""

    @property
    def alive(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    def post(self, event: PeerConnected | PeerLost) -> None: ...

    def frame(self, peer: NodeId, header: Header, data: bytes | None) -> None: ...


@dataclass
class _Link:
    """One pair; a new ``number`` is a new connection, to which nothing of the old one belongs."""

    ends: tuple[NodeId, NodeId]
    number: int = 0
    up: bool = False
    waiting: list[tuple[NodeId, NodeId, bytes, Header, bytes | None]] = field(default_factory=list)
    last_s: dict[NodeId, float] = field(default_factory=dict)
    """When the newest frame from each end arrives: frames never overtake."""


class Links:
    """All links of one world."""

    def __init__(self, agenda: Agenda, weather: Weather, rng: Random) -> None:
        self._agenda = agenda
        self._weather = weather
        self._rng = rng
        self._peers: dict[NodeId, Peer] = {}
        self._links: dict[tuple[NodeId, NodeId], _Link] = {}
        self._blocked: dict[tuple[NodeId, NodeId], bool] = {}
        self._vanished: dict[NodeId, bool] = {}
        self.carried = 0
        """Frames delivered."""
        self.carried_bytes = 0

    def attach(self, node: NodeId, peer: Peer) -> None:
        """A life of ``node`` begins; what was connected to an earlier one is reset."""
        self._peers[node] = peer
        self._vanished.pop(node, None)
        self._reset_all(node)

    def detach(self, node: NodeId, *, silent: bool) -> None:
        """``node`` is gone: its system says so to the peers, or nobody does (``silent``: the power went)."""
        if silent:
            self._vanished[node] = True
            self.watch(node)
        else:
            self._reset_all(node)

    def _reset_all(self, node: NodeId) -> None:
        for link in list(self._links.values()):
            if node not in link.ends or not link.up:
                continue
            if self._is_blocked(link):
                self._watch(link, LINK_SILENCE_S_MAX)
            else:
                self._reset(link, "reset", LinkFault.BROKEN)

    # --- partitions -----------------------------------------------------------------------------------------------

    def block(self, source: NodeId, target: NodeId) -> None:
        """Nothing passes from ``source`` to ``target``; the other direction is not touched."""
        self._blocked[source, target] = True
        link = self._links.get(_pair(source, target))
        if link is not None and link.up:
            self._watch(link, LINK_SILENCE_S_MAX)

    def unblock(self, source: NodeId, target: NodeId) -> None:
        """It passes again; what waited goes on if the connection lived so long."""
        if self._blocked.pop((source, target), None) is None:
            return
        link = self._links.get(_pair(source, target))
        if link is None:
            return
        waiting, link.waiting = link.waiting, []
        for frame in waiting:
            if frame[0] == source:
                self._carry(link, *frame)
            else:
                link.waiting.append(frame)

    def watch(self, node: NodeId) -> None:
        """``node`` stopped answering: its peers give up if that lasts."""
        for link in self._links.values():
            if node in link.ends and link.up:
                self._watch(link, LINK_SILENCE_S_MAX)

    def _watch(self, link: _Link, limit_s: float) -> None:
        number = link.number
        self._agenda.after(limit_s, lambda: self._give_up(link, number))

    def _give_up(self, link: _Link, number: int) -> None:
        if link.number == number and self._silent(link):
            self._reset(link, "no answer", LinkFault.SILENT)

    def _is_blocked(self, link: _Link) -> bool:
        one, other = link.ends
        return (one, other) in self._blocked or (other, one) in self._blocked

    def _silent(self, link: _Link) -> bool:
        if self._is_blocked(link):
            return True
        return any(end in self._vanished or self._peers[end].paused for end in link.ends)

    def _reset(self, link: _Link, reason: str, fault: LinkFault) -> None:
        link.number += 1
        link.up = False
        link.waiting.clear()
        link.last_s.clear()
        one, other = link.ends
        self._tell(one, PeerLost(other, reason, fault))
        self._tell(other, PeerLost(one, reason, fault))

    def _tell(self, node: NodeId, event: PeerConnected | PeerLost) -> None:
        # Asked for now, so it comes before any frame of the next connection, and not within the sender's own step.
        there = self._peers[node]
        self._agenda.after(0.0, lambda: there.post(event))

    # --- frames ---------------------------------------------------------------------------------------------------

    def send(self, source: NodeId, target: NodeId, header: Header, data: bytes | None) -> None:
        """``source`` sends a frame to ``target``."""
        link = self._links.setdefault(_pair(source, target), _Link(_pair(source, target)))
        if not self._peers[target].alive and target not in self._vanished and not self._is_blocked(link):
            here = self._peers[source]
            self._agenda.after(REFUSED_S, lambda: here.post(PeerLost(target, "refused", LinkFault.REFUSED)))
            return
        if self._rng.random() < self._weather.frame_loss:
            self._reset(link, "reset", LinkFault.BROKEN)
            return
        if self._silent(link):
            self._watch(link, LINK_SILENCE_S_MAX if link.up else LINK_CONNECT_S_MAX)
        header = self._confused(header)
        head, _ = encode_frame(header, data)
        copies = 2 if self._rng.random() < self._weather.repeat_frame else 1
        for _ in range(copies):
            self._carry(link, source, target, bytes(head), header, data)

    def _confused(self, header: Header) -> Header:
        wrong = self._rng.random() < self._weather.wrong_epoch
        if wrong and isinstance(header, Activation | Token):
            return replace(header, epoch=Epoch(header.epoch + 1))
        return header

    def _carry(
        self, link: _Link, source: NodeId, target: NodeId, head: bytes, header: Header, data: bytes | None
    ) -> None:
        if (source, target) in self._blocked:
            link.waiting.append((source, target, head, header, data))
            return
        if not link.up:
            link.up = True
            self._tell(source, PeerConnected(target))
            self._tell(target, PeerConnected(source))
        number = link.number
        delay_s = self._rng.uniform(*self._weather.link_s) + self._weather.clog_s
        at_s = max(self._agenda.now + delay_s, link.last_s.get(source, 0.0))
        link.last_s[source] = at_s
        wire = head + (data or b"")
        self._agenda.at(at_s, lambda: self._arrive(link, number, source, target, wire))

    def _arrive(self, link: _Link, number: int, source: NodeId, target: NodeId, wire: bytes) -> None:
        peer = self._peers[target]
        if link.number != number or not peer.alive:
            return
        self.carried += 1
        self.carried_bytes += len(wire)
        for frame in FrameReader().feed(wire):
            payload = bytes(frame.payload) if frame.payload else None
            peer.frame(source, frame.header, payload)


def _pair(one: NodeId, other: NodeId) -> tuple[NodeId, NodeId]:
    return (one, other) if one < other else (other, one)
