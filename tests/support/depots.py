"""Nodes that serve and fetch packages: a real data plane, store and content driver each, and a loader that tells."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shoal_agent.core.events import BlocksLoaded
from shoal_agent.core.facts import StageSpan
from shoal_agent.shell.catalog_source import CatalogSource
from shoal_agent.shell.content import Content, ContentSettings
from shoal_agent.shell.packages import Packages
from shoal_agent.shell.services.host import ServiceHost
from shoal_models.importing import import_gguf
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_protocol.content import ContentHeader, ContentServed
from shoal_protocol.ids import DeploymentId, Epoch, NodeId
from tests.support.links import Person, Station, station
from tests.support.models import measurement
from tests.support.tiny_model import TinyLlama, write_tiny_llama

NAME = "wide"
WIDE = TinyLlama(layers=3, hidden=256, heads=4, kv_heads=2, feed_forward=1024, seed=3)
"""Layers of a megabyte: several pieces each."""


def wide_store(folder: Path, seed: int = WIDE.seed) -> Store:
    store = Store(folder / "store")
    gguf = write_tiny_llama(folder / "wide.gguf", replace(WIDE, seed=seed))
    import_gguf(gguf, store, NAME, "int8", "Apache-2.0", measurement(), no_progress)
    return store


def span_of(manifest: Manifest, first: int = 0, last: int | None = None, epoch: int = 0) -> StageSpan:
    after = len(manifest.blocks) - 1 if last is None else last
    return StageSpan(DeploymentId(manifest.name), Epoch(epoch), manifest.digest, first, after)


@dataclass
class Depot:
    """One node. ``said`` are the pieces it sent, by peer; ``bend`` may change or drop one on its way out."""

    station: Station
    store: Store
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    log: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    said: Counter[NodeId] = field(default_factory=Counter)
    opened: list[StageSpan] = field(default_factory=list)
    closed: list[StageSpan] = field(default_factory=list)
    bend: Any = None
    content: Content = field(init=False)
    services: ServiceHost = field(init=False)

    @property
    def node(self) -> NodeId:
        return self.station.one.node

    def load(self, span: StageSpan) -> None:
        """As an engine: everything must be there by now."""
        manifest = self.store.find(span.model)
        for index in range(span.first_block, span.last_block + 1):
            self.store.open_block(manifest, index)
        self.opened.append(span)
        self.content.from_blocks(BlocksLoaded(span, 1))

    def unload(self, span: StageSpan) -> None:
        self.closed.append(span)

    def send(self, peer: NodeId, header: ContentHeader, payload: bytes | None) -> None:
        if isinstance(header, ContentServed) and payload is not None:
            if self.bend is not None:
                payload = self.bend(header, payload)
                if payload is None:
                    return
            self.said[peer] += 1
        self.station.plane.send_content(peer, header, payload)

    def count(self, name: str, label: str, amount: int = 1) -> None:
        self.counts[name, label] += amount

    def say(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.log.append((level, text, fields))


@contextlib.asynccontextmanager
async def depot(
    one: Person,
    *roster: Person,
    store: Store,
    bytes_per_s_max: int = 0,
    disk_bytes_max: int = 0,
    catalog: CatalogSource | None = None,
    patience_s: float = 0.0,
    moved_bytes_per_s: int = 0,
) -> AsyncIterator[Depot]:
    """A node; afterwards nothing of it is left."""
    async with station(one, *(other for other in roster if other != one)) as running:
        made = Depot(running, store)
        made.services = ServiceHost(running.tensors, running.post)
        settings = ContentSettings(bytes_per_s_max, disk_bytes_max, patience_s, moved_bytes_per_s)
        packages = Packages(store, made.services, running.post)
        made.content = Content(
            settings, store, packages.announce, made, catalog, made.send, running.post, made.count, made.say
        )
        running.plane.divert(made.content)
        task = asyncio.create_task(made.content.run())
        await asyncio.sleep(0)
        try:
            yield made
            assert not task.done(), "content lives through everything a peer does"
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await made.services.shut_down()


def introduce(depots: Sequence[Depot]) -> None:
    """Everybody knows everybody's address."""
    for each in depots:
        each.station.addresses.update({other.node: other.station.endpoint for other in depots})


def poison(_header: ContentServed, payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])


class Dies:
    """Says nothing any more after so many pieces, and rings."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.dead = asyncio.Event()

    def __call__(self, _header: ContentServed, payload: bytes) -> bytes | None:
        self.left -= 1
        if self.left >= 0:
            return payload
        self.dead.set()
        return None
