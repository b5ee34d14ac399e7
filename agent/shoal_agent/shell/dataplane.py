"""The data plane: TLS links between nodes that the roster knows, one per pair and direction.

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
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerMisbehaved
from shoal_agent.core.facts import LinkFault
from shoal_agent.shell.faults import Fault, link_fault_of
from shoal_agent.shell.links import Here, Link, Pace
from shoal_agent.shell.ports import ContentHeader, ContentPeer, Post, TensorTable
from shoal_agent.shell.sockets import port_of
from shoal_agent.shell.tls import DataTls
from shoal_protocol.frames import Frame, Payload
from shoal_protocol.headers import Activation, ContentRequested, ContentServed, KvRows
from shoal_protocol.ids import Incarnation, NodeId
from shoal_protocol.limits import (
    LINK_CLOSE_S_MAX,
    LINK_CONNECT_S_MAX,
    LINK_HANDSHAKE_S_MAX,
    LINK_HANDSHAKES_MAX,
)
from shoal_protocol.messages import Endpoint
from shoal_protocol.tensors import payload_of

ACCEPT_PAUSE_S: Final = 0.2
"""The process is out of descriptors: wait for some to come back instead of spinning."""

SLEPT_TICKS: Final = 2
"""A look at the clock that comes so late says that this process slept, not that its peers were silent."""

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
    ) -> None:
        self._here = Here(node, incarnation, tls.members.get)
        self._tls = tls
        self._listener = listener
        self._tensors = tensors
        self._resolve = resolve
        self._post = post
        self._content: ContentPeer | None = None
        self._pace = pace if pace is not None else Pace()
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[NodeId, Link] = {}
        self._incoming: dict[NodeId, Link] = {}
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
        """The link to ``peer``, dialled if there is none yet."""
        assert peer != self._here.node, "frames to ourselves never leave the core"
        link = self._outgoing.get(peer)
        if link is None:
            link = Link(self._here, self, peer)
            self._outgoing[peer] = link
            self._spawn(self._dial(link, peer))
        return link

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

    async def _dial(self, link: Link, peer: NodeId) -> None:
        endpoint = self._resolve(peer)
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
        """A handshake succeeded; whoever called again replaces what it had."""
        if link.dialled is not None:
            return
        assert link.peer is not None
        older = self._incoming.get(link.peer)
        if older is not None:
            older.end("replaced by a newer connection")
        self._incoming[link.peer] = link

    def opened(self, link: Link) -> None:
        """A link stands."""
        assert link.peer is not None
        self._post(PeerConnected(link.peer))

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

    def misbehaved(self, link: Link, fault: str) -> None:
        """Somebody broke the protocol."""
        self._post(PeerMisbehaved(link.peer, fault))

    def ended(self, link: Link, reason: str, fault: LinkFault) -> None:
        """A link is over; only links the node could know of are told as lost."""
        table, peer = (self._incoming, link.peer) if link.dialled is None else (self._outgoing, link.dialled)
        if peer is None or table.get(peer) is not link:
            return
        del table[peer]
        if link.dialled is not None or link.was_open:
            if self._content is not None:
                self._content.lost(peer, reason)
            self._post(PeerLost(peer, reason, fault))
