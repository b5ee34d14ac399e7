"""Blobs from peers: several peers at once, piece by piece, each piece judged when it arrives.

One loop hands out work: every peer in play has up to ``CONTENT_ORDERS_MAX`` pieces on order, taken from the front of
one list, so the fastest peer takes most and nobody waits for the slowest. Blobs are opened as the list runs low and
finished when their last piece is in, so few files are open at a time.

What can go wrong with a piece, and what follows:

    not what the manifest says   the peer is accused and out; the piece goes back
    the peer has not got it      it is not asked for that blob again
    the peer is busy             it is left alone for a moment, twice as long each time
    no answer, link broken       the piece goes back; after so many in a row, the peer is out

Whoever is out is replaced by the next source. When nobody is left, what has arrived stays in the partial files.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from shoal_agent.shell.content_orders import (
    CountContent,
    Offload,
    Order,
    OrderFailed,
    Orders,
    PeerBusy,
    PeerLacks,
)
from shoal_agent.shell.rate import Rate
from shoal_models.errors import FetchFailed, StoreBusy
from shoal_models.manifest import BlobRef, Manifest
from shoal_models.package import Store
from shoal_models.partial import PartialBlob
from shoal_models.pieces import piece_span
from shoal_protocol.content import ContentKind
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.limits import CONTENT_BUSY_MAX, CONTENT_ORDERS_MAX, CONTENT_PEERS_MAX, CONTENT_STRIKES_MAX

AHEAD_PIECES: Final = 2 * CONTENT_PEERS_MAX * CONTENT_ORDERS_MAX
"""The next blob is opened when fewer pieces than two rounds of orders are left."""
PAUSE_S: Final = 0.25
"""A busy peer is left alone so long, doubled each time it says so again, up to ``PAUSE_S_MAX``."""
PAUSE_S_MAX: Final = 8.0
HELD_S: Final = 0.5
"""Another process fills the same blob: look again after so long ..."""
HELD_TRIES: Final = 240
"""... and so often: two minutes."""


@dataclass(frozen=True, slots=True)
class Means:
    """What fetching needs of its surroundings. ``accuse`` takes the peer whose piece was wrong, ``book`` what came."""

    store: Store
    orders: Orders
    rate: Rate
    offload: Offload
    count: CountContent
    accuse: Callable[[NodeId], None]
    book: Callable[[int], None]


@dataclass(slots=True)
class _Peer:
    """One source."""

    node: NodeId
    orders: int = 0
    strikes: int = 0
    busy: int = 0
    resumes_at: float = 0.0
    out: str = ""
    """Why it is asked no more."""
    lacks: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Task:
    """One piece to get."""

    blob: PartialBlob
    index: int


class Pull:
    """One job: the blobs ``refs`` of ``manifest`` from ``sources``, best first."""

    def __init__(self, means: Means, manifest: Manifest, refs: Sequence[BlobRef], sources: Sequence[NodeId]) -> None:
        self._means = means
        self._manifest = manifest
        self._waiting = deque(refs)
        self._peers = [_Peer(node) for node in dict.fromkeys(sources)]
        self._open: dict[str, PartialBlob] = {}
        self._todo: deque[_Task] = deque()
        self._running: dict[asyncio.Task[None], _Peer] = {}
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Return when every blob is in the store. FetchFailed says who was asked and why it was not enough."""
        try:
            await self._supply()
            while self._open or self._todo:
                self._assign()
                if not self._running:
                    raise FetchFailed(self._reasons())
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in self._running if task.done()]:
                    self._running.pop(task).orders -= 1
                    task.result()
                await self._finish()
                await self._supply()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            for blob in self._open.values():
                blob.close()

    async def _supply(self) -> None:
        """Open blobs until there is work ahead."""
        while self._waiting and len(self._todo) < AHEAD_PIECES:
            ref = self._waiting.popleft()
            blob = await self._claim(ref)
            if blob is not None:
                self._open[ref.digest] = blob
                self._todo.extend(_Task(blob, index) for index in sorted(blob.missing))
        await self._finish()

    async def _claim(self, ref: BlobRef) -> PartialBlob | None:
        """The unfinished blob; None if somebody else finished it meanwhile."""
        store, digests = self._means.store, self._manifest.piece_digests(ref)
        for _ in range(HELD_TRIES):
            try:
                return await self._means.offload(partial(_claimed, store, ref, digests))
            except StoreBusy:
                await asyncio.sleep(HELD_S)
        raise FetchFailed(f"another process has been filling {ref.digest[:16]} for {HELD_S * HELD_TRIES:g} s")

    async def _finish(self) -> None:
        """Publish every blob whose last piece is in."""
        for digest, blob in [(digest, blob) for digest, blob in self._open.items() if not blob.missing]:
            await self._means.offload(partial(blob.finish, self._means.store.blob_path(blob.ref.id)))
            blob.close()
            del self._open[digest]

    # --- handing out --------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Give the first peers that can use it as many orders as they may have, in turn."""
        for so_far in range(CONTENT_ORDERS_MAX):
            for peer in self._peers:
                if peer.out or peer.orders > so_far or (not peer.orders and self._in_play() >= CONTENT_PEERS_MAX):
                    continue
                if peer.resumes_at > self._loop.time():
                    if not peer.orders:
                        self._spawn(peer, asyncio.sleep(peer.resumes_at - self._loop.time()))
                elif (work := self._work_for(peer)) is not None:
                    self._spawn(peer, self._fetch(peer, work))

    def _in_play(self) -> int:
        return sum(bool(peer.orders) for peer in self._peers)

    def _spawn(self, peer: _Peer, work: Coroutine[None, None, None]) -> None:
        peer.orders += 1
        self._running[self._loop.create_task(work)] = peer

    def _work_for(self, peer: _Peer) -> _Task | None:
        for at, work in enumerate(self._todo):
            if work.blob.ref.digest not in peer.lacks:
                del self._todo[at]
                return work
        return None

    async def _fetch(self, peer: _Peer, work: _Task) -> None:
        """One order, and what becomes of it."""
        means, ref = self._means, work.blob.ref
        offset, size = piece_span(work.index, ref.bytes)
        await asyncio.sleep(means.rate.take(size, self._loop.time()))
        try:
            piece = await means.orders.place(peer.node, Order(ContentKind.BLOB, ref.id, offset, size))
        except OrderFailed as fault:
            self._todo.appendleft(work)
            self._failed(peer, ref, fault)
            return
        if not await means.offload(partial(work.blob.put, work.index, piece.data)):
            self._todo.appendleft(work)
            peer.out = "sent a piece that is not what the manifest says"
            means.count("content_pieces_rejected", "digest", 1)
            means.accuse(peer.node)
            return
        peer.strikes = peer.busy = 0
        means.count("content_bytes", "in", size)
        means.book(size)

    def _failed(self, peer: _Peer, ref: BlobRef, fault: OrderFailed) -> None:
        if isinstance(fault, PeerLacks):
            peer.lacks.add(ref.digest)
        elif isinstance(fault, PeerBusy):
            peer.busy += 1
            peer.resumes_at = self._loop.time() + min(PAUSE_S_MAX, PAUSE_S * 2**peer.busy)
            if peer.busy >= CONTENT_BUSY_MAX:
                peer.out = "is busy"
        else:
            peer.strikes += 1
            if peer.strikes >= CONTENT_STRIKES_MAX:
                peer.out = str(fault)

    def _reasons(self) -> str:
        """Who was asked, and why that was not enough."""
        told = [f"{peer.node[:8]}: {peer.out or 'has not got all of it'}" for peer in self._peers]
        return "; ".join(told) or "no peer is known to have it"


def _claimed(store: Store, ref: BlobRef, digests: Sequence[Digest]) -> PartialBlob | None:
    """The unfinished blob, held; None if it is whole: whoever filled it may finish between a look and our opening."""
    blob = PartialBlob.open(store.partial_path(ref.id), ref, digests)
    if store.lacking((ref,)):
        return blob
    blob.discard()
    return None
