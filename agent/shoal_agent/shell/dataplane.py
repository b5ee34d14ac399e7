"""The data plane: links between nodes that the roster knows, one per pair and direction.

A link is a TLS connection, or a circuit through the brokers where there is no direct way (``ways``, ``relay``).

``send`` finds the link to a peer or dials one, ``run`` accepts the others'. Whoever calls us again replaces the link
it had: a node has one process, so the older connection is a leftover of a crash or of a network that forgot it.

Handshakes happen in tasks of their own, a bounded number at a time; a link that stands costs no task, only a look at
the clock once a second. Bytes of strangers get no further than their handshake.

Events, in this order for each link: PeerConnected, FrameReceived ..., PeerLost. A peer that could not be dialled gives
PeerLost alone. Misbehaviour gives PeerMisbehaved first.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Final

import numpy as np

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerMisbehaved, PeerRelayed
from shoal_agent.core.facts import LinkFault
from shoal_agent.shell.faults import Fault, link_fault_of
from shoal_agent.shell.link_ends import Here, Pace
from shoal_agent.shell.links import Link
from shoal_agent.shell.ports import ContentPeer, Post, Relays, TensorTable
from shoal_agent.shell.sockets import port_of
from shoal_agent.shell.stretch import Rates
from shoal_agent.shell.tls import DataTls
from shoal_agent.shell.ways import PATIENCE_S, Way
from shoal_protocol.content import ContentHeader, ContentRequested, ContentServed
from shoal_protocol.frames import Frame, Payload
from shoal_protocol.headers import Activation, KvRows
from shoal_protocol.ids import Incarnation, NodeId
from shoal_protocol.limits import (
    LINK_CLOSE_S_MAX,
    LINK_CONNECT_S_MAX,
    LINK_HANDSHAKE_S_MAX,
    LINK_HANDSHAKES_MAX,
    RELAY_CREDIT_BYTES,
)
from shoal_protocol.messages import Endpoint
from shoal_protocol.tensors import payload_of

ACCEPT_PAUSE_S: Final = 0.2
"""The process is out of descriptors: wait for some to come back instead of spinning."""

SLEPT_TICKS: Final = 2
"""A look at the clock that comes so late says that this process slept, not that its peers were silent."""

Lane = tuple[NodeId, bool]
"""A peer, and whether the link to it is relayed."""

Resolve = Callable[[NodeId], Endpoint | None]
"""Where a node says its data plane listens; None while it has not said."""


class DataPlane:
    """All links of one node. Create and use it inside the loop; ``run`` ends only by cancellation."""

    def __init__(
        self,
        node: NodeId,
        incarnation: Incarnation,
        tls: DataTls,
        listener: socket.socket,
        tensors: TensorTable,
        resolve: Resolve,
        post: Post,
        pace: Pace | None = None,
        relays: Relays | None = None,
    ) -> None:
        self._here = Here(node, incarnation, tls.members.get)
        self._here_relayed = Here(node, incarnation, tls.members.get, RELAY_CREDIT_BYTES)
        self._tls = tls
        self._listener = listener
        self._tensors = tensors
        self._resolve = resolve
        self._post = post
        self._content: ContentPeer | None = None
        self._pace = pace if pace is not None else Pace()
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[Lane, Link] = {}
        self._incoming: dict[Lane, Link] = {}
        self._ways: dict[NodeId, Way] = {}
        self._relays = relays
        if relays is not None:
            relays.attach(lambda _: Link(self._here_relayed, self, None, relayed=True))
        self._rates = Rates()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = 0
        self._broken: asyncio.Future[None] = self._loop.create_future()

    @property
    def port(self) -> int:
        """The port peers reach this node on."""
        return port_of(self._listener)

    @property
    def link_count(self) -> int:
        """Links in either direction, also those that are being dialled."""
        return len(self._outgoing) + len(self._incoming)

    def rates(self) -> tuple[tuple[NodeId, int], ...]:
        """How many bytes a second come in from peers, while they come; by peer."""
        return tuple(sorted(self._rates.told(self._loop.time()).items()))

    def divert(self, content: ContentPeer) -> None:
        """From now on content frames go to ``content``; without it they are dropped."""
        self._content = content

    # --- the port of the runtime -------------------------------------------------------------------------------------

    def send(self, effect: SendFrame) -> None:
        """Send one frame, dialling if there is no link yet. A tensor leaves the table, unless the node keeps it."""
        payload, link = self._payload(effect), self._link(effect.peer)
        if payload is not None and isinstance(effect.header, KvRows):
            link.send_bulk(effect.header, payload)
        else:
            link.send(effect.header, payload)

    def send_content(self, peer: NodeId, header: ContentHeader, payload: bytes | None) -> None:
        """Send what the content driver says: pieces when nothing else wants to leave, the rest at once."""
        link = self._link(peer)
        if payload is None:
            link.send(header, None)
        else:
            link.send_bulk(header, payload)

    def _link(self, peer: NodeId) -> Link:
        """The link to ``peer`` that frames go by now; dialled if there is none yet."""
        assert peer != self._here.node, "frames to ourselves never leave the core"
        relayed, direct = self._outgoing.get((peer, True)), self._outgoing.get((peer, False))
        if relayed is not None and relayed.was_open:
            if direct is None or not direct.was_open or not self._drained(relayed):
                return relayed
            relayed.end("the direct way is open")
        return direct if direct is not None else self._dial(peer)

    def _dial(self, peer: NodeId) -> Link:
        """Begin to connect directly."""
        link = self._outgoing[peer, False] = Link(self._here, self, peer)
        self._spawn(self._connect(link, peer))
        if self._relays is not None:
            self._loop.call_later(PATIENCE_S, self._look_round, link)
        return link

    # --- the way through the brokers ---------------------------------------------------------------------------------

    def _look_round(self, link: Link) -> None:
        """``link`` was dialled a while ago."""
        assert link.dialled is not None
        if self._outgoing.get((link.dialled, False)) is link and not link.was_open:
            self._detour(link.dialled)

    def _detour(self, peer: NodeId) -> None:
        """Open a link to ``peer`` through the brokers, unless there is one."""
        if self._relays is not None and (peer, True) not in self._outgoing and not self._broken.done():
            link = self._outgoing[peer, True] = Link(self._here_relayed, self, peer, relayed=True)
            self._relays.dial(link, peer)

    def _drained(self, relayed: Link) -> bool:
        assert self._relays is not None
        return relayed.idle and self._relays.drained(relayed)

    def _reconsider(self, now: float) -> None:
        """Try the direct way to those who have none, and take it where it is open and nothing is under way."""
        for peer in [peer for peer, relayed in self._outgoing if relayed]:
            if (peer, False) in self._outgoing:
                self._link(peer)
            elif self._outgoing[peer, True].was_open and self._is_worth_a_try(self._ways[peer], peer, now):
                self._dial(peer)

    def _is_worth_a_try(self, way: Way, peer: NodeId, now: float) -> bool:
        return now >= way.retry_at or way.tried != self._resolve(peer)

    async def run(self) -> None:
        """Accept links and watch over them until cancelled; then close all of them."""
        self._spawn(self._accept())
        self._spawn(self._watch())
        try:
            await self._broken
        finally:
            await self._close()

    def _payload(self, effect: SendFrame) -> Payload | None:
        if effect.payload is None or isinstance(effect.payload, bytes):
            return effect.payload
        value = self._tensors.peek(effect.payload) if effect.keep else self._tensors.take(effect.payload)
        return payload_of(value) if isinstance(value, np.ndarray) else memoryview(value).cast("B")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or self._broken.done():
            return
        fault = task.exception()
        if fault is not None:
            self._broken.set_exception(fault)

    # --- connections -------------------------------------------------------------------------------------------------

    async def _connect(self, link: Link, peer: NodeId) -> None:
        endpoint = self._resolve(peer)
        self._ways.setdefault(peer, Way()).tried = endpoint
        if endpoint is None:
            link.end("no address is known")
            return
        try:
            async with asyncio.timeout(LINK_CONNECT_S_MAX):
                await self._loop.create_connection(
                    lambda: link,
                    endpoint.host,
                    endpoint.port,
                    ssl=self._tls.client,
                    server_hostname="",
                    ssl_handshake_timeout=LINK_HANDSHAKE_S_MAX,
                    ssl_shutdown_timeout=LINK_CLOSE_S_MAX,
                )
        except ssl.SSLError as fault:
            self._refuse(fault)
            link.end(f"handshake failed: {fault.reason}")
        except (OSError, ValueError, OverflowError) as fault:
            # The address is the peer's word: it may name no host, no port, or nobody.
            reason = f"{endpoint.host}:{endpoint.port}: {str(fault) or type(fault).__name__}"
            link.end(reason, link_fault_of(fault))

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if self._handshakes >= LINK_HANDSHAKES_MAX:
                sock.close()
                continue
            self._handshakes += 1
            self._spawn(self._welcome(sock))

    async def _welcome(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: Link(self._here, self, None),
                sock,
                ssl=self._tls.server,
                ssl_handshake_timeout=LINK_HANDSHAKE_S_MAX,
                ssl_shutdown_timeout=LINK_CLOSE_S_MAX,
            )
        except OSError as fault:
            self._refuse(fault)
        finally:
            self._handshakes -= 1

    def _refuse(self, fault: OSError) -> None:
        """Count a handshake that failed; whose it was nobody can tell."""
        unknown = isinstance(fault, ssl.SSLError) and "CERTIFICATE" in str(fault.reason)
        self._post(PeerMisbehaved(None, Fault.CERTIFICATE if unknown else Fault.HANDSHAKE))

    async def _watch(self) -> None:
        before = self._loop.time()
        while True:
            await asyncio.sleep(self._pace.tick_s)
            now = self._loop.time()
            slept = now - before > SLEPT_TICKS * self._pace.tick_s
            before = now
            for link in [*self._outgoing.values(), *self._incoming.values()]:
                if slept:
                    link.excuse(now)
                link.tick(now, self._pace)
            self._reconsider(now)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self._listener.close()
        links = [*self._outgoing.values(), *self._incoming.values()]
        self._outgoing.clear()
        self._incoming.clear()
        await asyncio.gather(*(link.close(LINK_CLOSE_S_MAX) for link in links))

    # --- what links tell ---------------------------------------------------------------------------------------------

    def identified(self, link: Link) -> None:
        """A handshake succeeded; whoever called again by the same way replaces what it had."""
        if link.dialled is not None:
            return
        assert link.peer is not None
        older = self._incoming.get((link.peer, link.relayed))
        if older is not None:
            older.end("replaced by a newer connection")
        self._incoming[link.peer, link.relayed] = link

    def opened(self, link: Link) -> None:
        """A link stands. It is news to the node if it is the only one of its direction."""
        peer, other = link.peer, self._other(link)
        assert peer is not None
        # Nobody resets a circuit in the name of a process that is gone.
        for old in (self._outgoing.get((peer, True)), self._incoming.get((peer, True))):
            if old is not None and self._stands(old) and old.incarnation != link.incarnation:
                old.end("the peer lives again", LinkFault.BROKEN)
        if link.dialled is not None:
            self._ways[peer] = self._ways.get(peer, Way()) if link.relayed else Way()
            if other is not None and not other.was_open:
                link.take_over(other.waiting)
                other.end("there is another way")
            if link.relayed:
                self._post(PeerRelayed(peer, relayed=True))
        if not self._stands(other):
            self._post(PeerConnected(peer))

    def _table(self, link: Link) -> dict[Lane, Link]:
        return self._incoming if link.dialled is None else self._outgoing

    def _other(self, link: Link) -> Link | None:
        """The link of the same direction that goes the other way."""
        peer = link.dialled or link.peer
        return None if peer is None else self._table(link).get((peer, not link.relayed))

    def _stands(self, link: Link | None) -> bool:
        """Whether ``link`` carries frames still."""
        if link is None or link.peer is None or not link.was_open:
            return False
        return self._table(link).get((link.peer, link.relayed)) is link

    def received(self, link: Link, frame: Frame) -> None:
        """A frame for the node."""
        peer, header, payload = link.peer, frame.header, frame.payload
        assert peer is not None
        if isinstance(header, ContentRequested | ContentServed):
            if self._content is not None:
                self._content.received(peer, header, payload)
        elif payload is None:
            self._post(FrameReceived(peer, header, None))
        elif isinstance(header, Activation | KvRows):
            # The view keeps the buffer alive that the socket filled, and nothing else knows that buffer.
            self._post(FrameReceived(peer, header, self._tensors.put(payload)))
        else:
            self._post(FrameReceived(peer, header, bytes(payload)))

    def timed(self, link: Link, rate: int) -> None:
        """A large frame came in."""
        if link.peer is not None:
            self._rates.add(link.peer, rate, self._loop.time())

    def misbehaved(self, link: Link, fault: str) -> None:
        """Somebody broke the protocol."""
        self._post(PeerMisbehaved(link.peer, fault))

    def ended(self, link: Link, reason: str, fault: LinkFault) -> None:
        """A link is over. The node hears of the last one of a direction, if it could know of it."""
        table, peer = self._table(link), link.dialled or link.peer
        if peer is None or table.get((peer, link.relayed)) is not link:
            return
        del table[peer, link.relayed]
        other = self._other(link)
        same = other is not None and (not link.was_open or other.incarnation == link.incarnation)
        stands = same and self._stands(other)
        if link.dialled is not None and link.relayed and link.was_open:
            self._post(PeerRelayed(peer, relayed=False))
        if not stands and (link.was_open or (link.dialled is not None and not link.relayed)):
            if self._content is not None:
                self._content.lost(peer, reason)
            self._post(PeerLost(peer, reason, fault))
        if link.dialled is not None and not link.relayed and not link.was_open:
            way = self._ways.setdefault(peer, Way())
            way.failed(self._loop.time())
            if way.blocked and not stands:
                self._detour(peer)
