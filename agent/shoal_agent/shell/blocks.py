"""Blocks that are open on this machine: opened, verified, warmed and closed off the event loop.

One thread does it, the loader, one block after the other, so that loading never stands in the line of the runs. A block
is opened once, however many spans (epochs, deployments) hold it, and closed when the last of them lets go: a re-split
opens only what changed. Only the loader touches the table of open blocks.

Whatever happens, each load is answered exactly once. What the model or the disk got wrong is the answer's reason; any
other exception is a mistake of ours, and the lanes raise it on the loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from shoal_agent.core.events import BlocksFailed, BlocksLoaded
from shoal_agent.core.facts import StageSpan
from shoal_agent.shell import heap
from shoal_agent.shell.lanes import Lanes
from shoal_agent.shell.ort import Cancel, EngineError, open_block
from shoal_agent.shell.ports import Post
from shoal_agent.shell.stage import OpenBlock, Stage
from shoal_models.errors import ModelError
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.ids import Digest

BlockKey = tuple[Digest, int]

_NOT_OURS: Final = (EngineError, ModelError, OSError, MemoryError)
"""What a package, a disk or a full memory may provoke."""
_WARM_UP_TOKENS: Final = (1, 2)
"""One position and several take different paths through the kernels."""


@dataclass(slots=True)
class _Shared:
    """An open block and how many spans hold it."""

    block: OpenBlock
    holders: int = 0


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """All blocks of a span, and the number of tokens of their model."""

    blocks: tuple[OpenBlock, ...]
    vocabulary: int


@dataclass(slots=True)
class _Wanted:
    """A span the node asked for. ``opened`` is None until all of its blocks are open."""

    opened: OpenSpan | None = None
    fresh: int = 0
    """Blocks that had to be opened for it."""
    abandoned: bool = False


class Blocks:
    """All blocks of this node. Create it inside the loop; ``close`` it at the end, after the engine that runs them."""

    def __init__(self, store: Store, post: Post) -> None:
        self._store = store
        self._post = post
        heap.keep_together()
        self._loader = Lanes("loader", 1)
        self._open: dict[BlockKey, _Shared] = {}
        self._spans: dict[StageSpan, _Wanted] = {}
        self._shut = False

    def load(self, span: StageSpan) -> None:
        """Open what is not open yet; answered by BlocksLoaded or BlocksFailed."""
        assert span not in self._spans, "a span is loaded once"
        wanted = self._spans[span] = _Wanted()
        self._loader.submit(partial(self._load, span, wanted), partial(self._loaded, span, wanted))

    def unload(self, span: StageSpan) -> None:
        """Let go of the blocks of ``span``; those that no other span holds are closed. A failed span holds none."""
        wanted = self._spans.pop(span, None)
        if wanted is None:
            return
        wanted.abandoned = True
        if wanted.opened is not None:
            self._release(span, wanted)

    def of(self, span: StageSpan) -> OpenSpan:
        """The blocks of a span that was loaded and not let go."""
        wanted = self._spans.get(span)
        assert wanted is not None, "a session opens on a span that was loaded"
        assert wanted.opened is not None, "and whose load has been answered"
        return wanted.opened

    @property
    def count(self) -> int:
        """Blocks open now."""
        return len(self._open)

    async def close(self) -> None:
        """Let go of everything and wait: for the opening of one block, at the longest."""
        if self._shut:
            return
        for span in list(self._spans):
            self.unload(span)
        self._shut = True
        await self._loader.close()

    # --- in the loader ------------------------------------------------------------------------------------------------

    def _load(self, span: StageSpan, wanted: _Wanted) -> OpenSpan | str:
        """The open blocks, or why not."""
        held: list[OpenBlock] = []
        try:
            manifest = self._store.find(span.model)
            self._hold(manifest, span, wanted, held)
            _warm_up(held, manifest.dimensions.vocabulary)
            heap.use_huge_pages()
        except _NOT_OURS as fault:
            self._give_back(span, held)
            return str(fault) or type(fault).__name__
        return OpenSpan(tuple(held), manifest.dimensions.vocabulary)

    def _hold(self, manifest: Manifest, span: StageSpan, wanted: _Wanted, held: list[OpenBlock]) -> None:
        """Append every block of ``span`` to ``held``, opening what is not open."""
        if span.last_block >= len(manifest.blocks):
            raise EngineError(f"{manifest.name} has {len(manifest.blocks)} blocks, block {span.last_block} is wanted")
        for key in _keys(span):
            if wanted.abandoned:
                raise EngineError("unloaded while it was being loaded")
            shared = self._open.get(key)
            if shared is None:
                opened = self._store.open_block(manifest, key[1])
                try:
                    block = OpenBlock(opened.block, open_block(opened.graph, opened.blobs))
                except EngineError as fault:
                    raise EngineError(f"block {opened.block.name}: {fault}") from fault
                shared = self._open[key] = _Shared(block)
                wanted.fresh += 1
            shared.holders += 1
            held.append(shared.block)

    def _give_back(self, span: StageSpan, held: Sequence[OpenBlock]) -> None:
        """The first ``len(held)`` blocks of ``span`` have one holder less."""
        for key in _keys(span)[: len(held)]:
            self._open[key].holders -= 1
            if self._open[key].holders == 0:
                del self._open[key]

    def _close(self, span: StageSpan, wanted: _Wanted) -> None:
        """``span`` lets go, and what nobody else holds closes here."""
        assert wanted.opened is not None, "only what was opened is let go"
        self._give_back(span, wanted.opened.blocks)
        wanted.opened = None
        heap.trim()

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _loaded(self, span: StageSpan, wanted: _Wanted, opened: OpenSpan | str) -> None:
        """Answer."""
        if isinstance(opened, str):
            if not wanted.abandoned:
                del self._spans[span]
            self._post(BlocksFailed(span, opened))
            return
        wanted.opened = opened
        if wanted.abandoned:
            self._release(span, wanted)
            self._post(BlocksFailed(span, "unloaded when it had just been loaded"))
            return
        self._post(BlocksLoaded(span, sum(each.block.shard_bytes for each in opened.blocks), wanted.fresh))

    def _release(self, span: StageSpan, wanted: _Wanted) -> None:
        """Closing blocks takes milliseconds: in the loader, while there is one."""
        if self._shut:
            self._close(span, wanted)
        else:
            self._loader.submit(partial(self._close, span, wanted), _nothing)


def _keys(span: StageSpan) -> list[BlockKey]:
    return [(span.model, index) for index in range(span.first_block, span.last_block + 1)]


def _nothing(_: None) -> None:
    """Nobody waits for this job."""


def _warm_up(blocks: Sequence[OpenBlock], vocabulary: int) -> None:
    """Run the chain once for each path: what cannot run is found now, and first-run costs are paid now."""
    stage = Stage(blocks, vocabulary, max(_WARM_UP_TOKENS))
    cancel = Cancel()
    for token_count in _WARM_UP_TOKENS:
        stage.run(stage.blank(token_count), 0, token_count, want_logits=True, cancel=cancel)
