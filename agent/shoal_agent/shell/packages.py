"""A package becomes known to a node: its texts become light services, its facts an event.

The same at the start, for every package the store holds, and later, when one has been fetched.
"""

import asyncio
from functools import partial

from shoal_agent.core.events import ModelAvailable, ServicesAvailable
from shoal_agent.shell import ort
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.ports import Post
from shoal_agent.shell.services.embedder import Opened
from shoal_agent.shell.services.host import ModelAssets, ServiceHost
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.limits import TOKENIZER_BYTES_MAX


class Packages:
    """What the store holds, as far as the node knows."""

    def __init__(self, store: Store, services: ServiceHost, post: Post) -> None:
        self._store = store
        self._services = services
        self._post = post

    async def announce(self, manifest: Manifest) -> None:
        """Tell the node about a package; its texts are read off the loop. CorruptShard, OSError."""
        self._offer(manifest, await asyncio.to_thread(self._read, manifest))

    def announce_now(self, manifest: Manifest) -> None:
        """As :meth:`announce`, before the loop has anything else to do."""
        self._offer(manifest, self._read(manifest))

    def _read(self, manifest: Manifest) -> ModelAssets:
        """The texts, verified."""
        store = self._store
        tokenizer = store.read(manifest.tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)
        template = None
        if manifest.chat_template is not None:
            template = store.read(manifest.chat_template, "chat template", TOKENIZER_BYTES_MAX).decode()
        special = manifest.special_tokens
        vocabulary = manifest.dimensions.vocabulary
        first = manifest.blocks[0]
        whole = all(store.blob_path(ref.id).exists() for ref in (first.graph, *first.shards))
        embedding = partial(_open_first, store, manifest) if whole else None
        return ModelAssets(manifest.digest, tokenizer, template, vocabulary, special.bos, special.eos, embedding)

    def _offer(self, manifest: Manifest, assets: ModelAssets) -> None:
        self._services.add(assets)
        self._post(ModelAvailable(facts_of(manifest)))
        self._post(ServicesAvailable(self._services.names))


def _open_first(store: Store, manifest: Manifest) -> Opened:
    """The block that turns ids into vectors, verified. CorruptShard, EngineError."""
    opened = store.open_block(manifest, 0)
    return opened.block, ort.open_block(opened.graph, opened.blobs)
