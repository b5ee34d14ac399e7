"""Packages between nodes: serves what this node has, fetches what it lacks.

*Fetching a model* takes its manifest by the model's digest from the first source whose bytes hash to it, keeps it, and
then gets its texts: tokenizer, template, graphs. After that a node can plan for the model and serve it light services.
*Loading blocks* gets the weights of a span first, if they are not here, and then lets the engine open them. Either way
peers are asked first; the catalog is tried when no peer could give everything, because it means a download and minutes
of converting. It is left as soon as a peer is named that was not asked yet.

Nothing that a peer sends is believed: a manifest is decoded strictly and must hash to the model's digest, a piece must
be what the manifest says. A blob is visible when it is whole. Whatever is received stays in the store, so a restart
goes on where the last life stopped.

At most one job fetches texts and one fetches weights at a time. Each load and each fetch of a model is answered once.

*What is moved has a budget* on average, B of ``core/budgets.py``. What somebody waits for never waits for it, and is
counted. Weights that are fetched ahead, which nobody waits for, are not begun before what was moved is paid off.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from shoal_agent.core.events import BlocksFailed, Event, ModelMissing, PeerMisbehaved
from shoal_agent.core.facts import StageSpan
from shoal_agent.shell.catalog_source import CatalogSource
from shoal_agent.shell.content_orders import CountContent, Delivery, Order, OrderFailed, Orders, PeerLacks, SendContent
from shoal_agent.shell.content_pull import PAUSE_S, Means, Pull
from shoal_agent.shell.content_server import ContentServer
from shoal_agent.shell.content_sources import Sources
from shoal_agent.shell.ports import Loader, Post
from shoal_agent.shell.rate import Rate
from shoal_models.budget import make_room, touch
from shoal_models.errors import CorruptShard, FetchFailed, ManifestInvalid, ModelError, PackageNotFound
from shoal_models.manifest import BlobRef, Manifest
from shoal_models.package import Store
from shoal_models.pieces import PIECE_BYTES
from shoal_protocol.content import ContentHeader, ContentKind, ContentRequested
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.limits import CONTENT_STRIKES_MAX, MANIFEST_BYTES_MAX

R = TypeVar("R")
_WORKERS: Final = 3
"""One reads for peers, one writes what arrives, one hashes a large file."""
_NOT_OURS: Final = (ModelError, OSError)
"""What a peer, a disk or a package may provoke."""
ACCUSATION: Final = "content"
"""What a peer is accused of whose pieces or manifests are wrong."""

Say = Callable[[str, str, dict[str, str | int | float]], None]
"""Level, text, fields: to the log."""
Announce = Callable[[Manifest], Awaitable[None]]
"""Makes a package known to the node: answers FetchModel with ModelAvailable. ModelError, OSError."""


@dataclass(frozen=True, slots=True)
class ContentSettings:
    """What an operator may set."""

    bytes_per_s_max: int
    disk_bytes_max: int
    patience_s: float = 0.0
    """How long one who names no source waits to hear of one."""
    moved_bytes_per_s: int = 0
    """What may be fetched on average; 0: no budget."""


class Content:
    """The packages of one node. Create it inside the loop; ``run`` ends only by cancellation."""

    def __init__(
        self,
        settings: ContentSettings,
        store: Store,
        announce: Announce,
        loader: Loader,
        catalog: CatalogSource | None,
        send: SendContent,
        post: Post,
        count: CountContent,
        say: Say,
    ) -> None:
        self._settings = settings
        self._store = store
        self._announce = announce
        self._loader = loader
        self._catalog = catalog
        self._post = post
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._workers = ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="content")
        self._orders = Orders(send, count)
        self._server = ContentServer(store, send, Rate(settings.bytes_per_s_max), self._offload, count)
        rate = Rate(settings.bytes_per_s_max)
        self._means = Means(store, self._orders, rate, self._offload, count, self._accuse, self._book)
        self._budget, self._moved_bytes = Rate(settings.moved_bytes_per_s), 0
        self._sources = Sources(settings.patience_s)
        self._one_of_texts, self._one_of_weights = asyncio.Lock(), asyncio.Lock()
        self._models: set[Digest] = set()
        self._ahead: set[StageSpan] = set()
        self._held: dict[StageSpan, asyncio.Task[None] | None] = {}
        """Spans the node holds; None once the engine has them."""
        self._fetching: list[frozenset[str]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Serve peers until cancelled, then stop everything that is under way."""
        self._spawn(self._server.run())
        try:
            await self._broken
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._workers.shutdown(wait=False, cancel_futures=True)

    # --- the port of the data plane ----------------------------------------------------------------------------------

    def received(self, peer: NodeId, header: ContentHeader, payload: memoryview | None) -> None:
        """A peer asks, or answers."""
        if isinstance(header, ContentRequested):
            self._server.asked(peer, header)
        else:
            self._orders.served(peer, header, payload)

    def lost(self, peer: NodeId, reason: str) -> None:
        """A link to or from ``peer`` broke."""
        self._server.lost(peer)
        self._orders.lost(peer, reason)

    # --- the port of the runtime -------------------------------------------------------------------------------------

    def load(self, span: StageSpan, sources: tuple[NodeId, ...]) -> None:
        """Have the blocks of ``span`` opened; answered by BlocksLoaded or BlocksFailed."""
        assert self._held.get(span) is None, "a span is loaded once"
        self._sources.told(span.model, sources)
        self._held[span] = self._spawn(self._load(span, sources))

    def unload(self, span: StageSpan) -> None:
        """Let go of ``span``. One that is still being fetched has failed."""
        fetching = self._held.pop(span, None)
        if fetching is None:
            self._loader.unload(span)
            return
        fetching.cancel()
        self._post(BlocksFailed(span, "unloaded while it was being fetched"))

    def moved(self) -> int:
        """Bytes that were fetched from peers since this was asked before."""
        moved, self._moved_bytes = self._moved_bytes, 0
        return moved

    def _book(self, size: int) -> None:
        self._moved_bytes += size
        self._budget.take(size, self._loop.time())

    def from_blocks(self, event: Event) -> None:
        """The blocks' Post: a span that could not be opened keeps nothing on the disk; the rest is passed on."""
        if isinstance(event, BlocksFailed):
            self._held.pop(event.span, None)
        self._post(event)

    def fetch_blocks(self, span: StageSpan, sources: tuple[NodeId, ...]) -> None:
        """Have the weights of ``span``, and open nothing. Nobody waits for it: what cannot be had is only told."""
        self._sources.told(span.model, sources)
        if span not in self._ahead:
            self._ahead.add(span)
            self._spawn(self._fetch_blocks(span, sources))

    def fetch_model(self, model: Digest, sources: tuple[NodeId, ...]) -> None:
        """Have the texts of ``model``; answered by ModelAvailable or ModelMissing. Tells every job whom to ask, too."""
        self._sources.told(model, sources)
        if model not in self._models:
            self._models.add(model)
            self._spawn(self._fetch_model(model, sources))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def _load(self, span: StageSpan, sources: Sequence[NodeId]) -> None:
        try:
            await self._weights(span, sources)
        except _NOT_OURS as fault:
            del self._held[span]
            self._post(BlocksFailed(span, str(fault) or type(fault).__name__))
            return
        self._held[span] = None
        self._loader.load(span)

    async def _fetch_blocks(self, span: StageSpan, sources: Sequence[NodeId]) -> None:
        try:
            while (wait_s := self._budget.wait_s(0, self._loop.time())) > 0:  # noqa: ASYNC110 - more is moved meanwhile
                await asyncio.sleep(wait_s)
            await self._weights(span, sources)
        except _NOT_OURS as fault:
            blocks, reason = f"{span.first_block}-{span.last_block}", str(fault) or type(fault).__name__
            self._say("warning", "weights not cached", {"deployment": span.deployment, "blocks": blocks, "why": reason})
        finally:
            self._ahead.discard(span)

    async def _weights(self, span: StageSpan, sources: Sequence[NodeId]) -> None:
        """Return when the weights of ``span`` are in the store, and the last to leave it."""
        manifest = await self._manifest(span.model, sources)
        blocks = manifest.blocks[span.first_block : span.last_block + 1]
        refs = tuple({ref.digest: ref for block in blocks for ref in block.blobs}.values())
        await self._have(manifest, refs, sources, self._one_of_weights)
        await self._offload(partial(touch, self._store, refs, time.time_ns()))

    async def _fetch_model(self, model: Digest, sources: Sequence[NodeId]) -> None:
        try:
            manifest = await self._manifest(model, sources)
            await self._have(manifest, manifest.texts, sources, self._one_of_texts)
            await self._announce(manifest)
        except _NOT_OURS as fault:
            reason = str(fault) or type(fault).__name__
            self._say("warning", "package not fetched", {"model": model.hex()[:16], "why": reason})
            self._post(ModelMissing(model, reason))
        finally:
            self._models.discard(model)

    async def _manifest(self, model: Digest, sources: Sequence[NodeId]) -> Manifest:
        """The manifest of ``model``, from the store or a source; FetchFailed."""
        try:
            return await self._offload(partial(self._store.find, model))
        except PackageNotFound:
            pass
        sources = await self._sources.of(model, sources)
        await self._obtained(model, sources, partial(self._manifest_fetched, model))
        return await self._offload(partial(self._store.find, model))

    async def _manifest_fetched(self, model: Digest, sources: Sequence[NodeId]) -> str:
        """Have the manifest of ``model`` from one of ``sources``; empty, or why that failed."""
        reasons = []
        async with self._one_of_texts:
            for peer in dict.fromkeys(sources):
                try:
                    manifest = await self._manifest_of(peer, model)
                except (OrderFailed, ManifestInvalid) as fault:
                    reasons.append(f"{peer[:8]}: {fault}")
                    continue
                await self._offload(partial(self._store.adopt, manifest))
                self._say("info", "manifest fetched", {"model": manifest.name, "peer": peer})
                return ""
        return "; ".join(reasons) or "no peer is known to have it"

    async def _manifest_of(self, peer: NodeId, model: Digest) -> Manifest:
        """What ``peer`` says the manifest is, verified. OrderFailed, ManifestInvalid."""
        first = await self._place(peer, Order(ContentKind.MANIFEST, model, 0, PIECE_BYTES))
        data, total = bytearray(first.data), first.total_bytes
        if not len(data) == min(PIECE_BYTES, total) <= total <= MANIFEST_BYTES_MAX:
            raise OrderFailed(f"a manifest of {total} bytes")
        while len(data) < total:
            size = min(PIECE_BYTES, total - len(data))
            piece = await self._place(peer, Order(ContentKind.MANIFEST, model, len(data), size))
            if piece.data.nbytes != size:
                raise OrderFailed(f"{piece.data.nbytes} bytes of {size}")
            data += piece.data
        try:
            return await self._offload(partial(_verified, bytes(data), model))
        except ManifestInvalid:
            self._accuse(peer)
            raise

    async def _place(self, peer: NodeId, order: Order) -> Delivery:
        """One order, repeated if the peer is busy or its link breaks. OrderFailed."""
        for attempt in range(CONTENT_STRIKES_MAX - 1):
            try:
                return await self._orders.place(peer, order)
            except PeerLacks:
                raise
            except OrderFailed:
                await asyncio.sleep(PAUSE_S * 2**attempt)
        return await self._orders.place(peer, order)

    async def _have(
        self, manifest: Manifest, refs: Sequence[BlobRef], sources: Sequence[NodeId], one_at_a_time: asyncio.Lock
    ) -> None:
        """Return when all of ``refs`` are in the store. FetchFailed, StoreFull."""
        if not await self._offload(partial(self._store.lacking, refs)):
            return
        sources = await self._sources.of(manifest.digest, sources)
        async with one_at_a_time:
            lacking = await self._offload(partial(self._store.lacking, refs))
            wanted = frozenset(ref.digest for ref in refs)
            self._fetching.append(wanted)
            try:
                if lacking:
                    await self._fetch(manifest, lacking, sources)
            finally:
                self._fetching.remove(wanted)

    async def _fetch(self, manifest: Manifest, refs: Sequence[BlobRef], sources: Sequence[NodeId]) -> None:
        size, begun = sum(ref.bytes for ref in refs), self._loop.time()
        in_use = await self._offload(self._in_use)
        freed = await self._offload(partial(make_room, self._store, refs, self._settings.disk_bytes_max, in_use))
        fields: dict[str, str | int | float] = {"model": manifest.name, "blobs": len(refs), "bytes": size}
        self._say("info", "fetching", {**fields, "peers": len(sources), "evicted_bytes": freed})
        await self._obtained(manifest.digest, sources, partial(self._pulled, manifest, refs))
        self._say("info", "fetched", {**fields, "took_s": round(self._loop.time() - begun, 3)})

    async def _pulled(self, manifest: Manifest, refs: Sequence[BlobRef], sources: Sequence[NodeId]) -> str:
        """Have ``refs`` from ``sources``; empty, or why that failed."""
        try:
            await Pull(self._means, manifest, refs, sources).run()
        except FetchFailed as fault:
            return f"{await self._offload(partial(_first_harm, self._store, manifest, refs))}; {fault}"
        return ""

    async def _obtained(
        self, model: Digest, sources: Sequence[NodeId], ask: Callable[[Sequence[NodeId]], Awaitable[str]]
    ) -> None:
        """``ask`` the sources, then the catalog, then whoever is named while that is at work; FetchFailed.

        Every one is asked once, so this ends however often they are named.
        """
        asked: set[NodeId] = set()
        while reason := await ask(sources):
            asked.update(sources)
            sources = await self._sources.unless_named(model, asked, self._from_catalog(model, reason))
            if not sources:
                return

    async def _from_catalog(self, model: Digest, reason: str) -> None:
        """Import ``model`` here; FetchFailed, with the ``reason`` why no peer could give it, if that fails too."""
        why = "the catalog is not asked"
        if self._catalog is not None:
            try:
                return await self._catalog.obtain(model)
            except FetchFailed as fault:
                why = str(fault)
        raise FetchFailed(
            f"package {model.hex()[:16]}: {reason}; {why}; import it on one of the nodes: shoal model import"
        )

    def _in_use(self) -> frozenset[str]:
        """In a thread: every blob that a span holds or a job wants."""
        used = set().union(*self._fetching)
        for span in tuple(self._held):
            try:
                manifest = self._store.find(span.model)
            except PackageNotFound:
                continue
            for block in manifest.blocks[span.first_block : span.last_block + 1]:
                used |= {ref.digest for ref in block.blobs}
        return frozenset(used)

    # --- threads, tasks -----------------------------------------------------------------------------------------------

    def _accuse(self, peer: NodeId) -> None:
        self._post(PeerMisbehaved(peer, ACCUSATION))

    async def _offload(self, work: Callable[[], R]) -> R:
        return await self._loop.run_in_executor(self._workers, work)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        """A task that raised found a mistake of ours."""
        self._tasks.discard(task)
        if not task.cancelled() and not self._broken.done() and (fault := task.exception()) is not None:
            self._broken.set_exception(fault)


def _first_harm(store: Store, manifest: Manifest, refs: Sequence[BlobRef]) -> str:
    """In a thread: what is wrong with the first of ``refs`` that is still not right, and whose it is."""
    owners = {ref.digest: block.name for block in manifest.blocks for ref in block.blobs}
    for ref in refs:
        try:
            store.check(ref, owners.get(ref.digest, "texts"))
        except CorruptShard as fault:
            return str(fault)
    return "nothing is wrong any more"


def _verified(data: bytes, model: Digest) -> Manifest:
    """The manifest of ``model`` in ``data``, or ManifestInvalid."""
    manifest = Manifest.parse(data)
    if manifest.digest != model:
        raise ManifestInvalid((("", f"it is the manifest of {manifest.digest.hex()[:16]}"),))
    return manifest
