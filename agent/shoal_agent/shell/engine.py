"""Blocks and sessions on this machine: opens, runs and frees them, off the event loop.

*Blocks* are opened, verified and warmed by one thread, the loader, one after the other, so that loading never stands
in the line of the runs. A block is opened once, however many spans (epochs, deployments) hold it, and closed when the
last of them lets go: a re-split opens only what changed. Only the loader touches the table of open blocks.

*Runs* go through lanes: one hop per stage run, never one per block (a hop costs 0.1 to 0.2 ms, a block's run 3 us
besides its arithmetic). A lane is one run at a time, first come first served; more lanes help only where one run
leaves cores idle. A session's buffers are made by its first run and dropped again in a lane: both touch much memory.

*Closing* a session terminates its run, and its KV is given back only when that run has ended: native code still
writes there. Whatever happens, each load and each run is answered exactly once. What the model, the disk or a peer
got wrong is the answer's reason; any other exception is a mistake of ours, and the lanes raise it on the loop.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from shoal_agent.core.effects import RunStage
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, StageFailed, StageFinished
from shoal_agent.core.facts import StageSpan
from shoal_agent.shell import heap
from shoal_agent.shell.lanes import Lanes
from shoal_agent.shell.ort import Cancel, EngineError, open_block
from shoal_agent.shell.ports import Array, Post, TensorTable
from shoal_agent.shell.stage import OpenBlock, Stage
from shoal_models.errors import ModelError
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.ids import Digest, SessionId

StageKey = tuple[SessionId, int]
BlockKey = tuple[Digest, int]
Tensor = Array | bytes | memoryview

_NOT_OURS: Final = (EngineError, ModelError, OSError, MemoryError)
"""What a package, a disk, a peer or a full memory may provoke."""
_WARM_UP_TOKENS: Final = (1, 2)
"""One position and several take different paths through the kernels."""


@dataclass(slots=True)
class _Shared:
    """An open block and how many spans hold it."""

    block: OpenBlock
    holders: int = 0


@dataclass(slots=True)
class _Span:
    """A span the node asked for. ``blocks`` is empty until all of them are open."""

    blocks: tuple[OpenBlock, ...] = ()
    vocabulary: int = 0
    abandoned: bool = False


@dataclass(slots=True)
class _Session:
    """One session on one stage. ``stage`` is made by the first run, in a lane."""

    blocks: tuple[OpenBlock, ...]
    vocabulary: int
    tokens_max: int
    kv_bytes: int
    cancel: Cancel = field(default_factory=Cancel)
    stage: Stage | None = None
    running: bool = False
    closed: bool = False

    def free(self) -> None:
        """Let go of KV, buffers and blocks."""
        self.stage = None
        self.blocks = ()


@dataclass(frozen=True, slots=True)
class _Opened:
    """What the loader made of a span: its blocks, or the ``reason`` why not."""

    blocks: tuple[OpenBlock, ...]
    vocabulary: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a lane made of a run; failed if there is a ``reason``."""

    output: Array | None
    took_s: float
    reason: str


class Engine:
    """All blocks of this node. Create it inside the loop; ``close`` it at the end."""

    def __init__(self, store: Store, tensors: TensorTable, post: Post, lanes: int = 1) -> None:
        self._store = store
        self._tensors = tensors
        self._post = post
        heap.keep_together()
        self._lanes = Lanes("lane", lanes)
        self._loader = Lanes("loader", 1)
        self._open: dict[BlockKey, _Shared] = {}
        self._spans: dict[StageSpan, _Span] = {}
        self._sessions: dict[StageKey, _Session] = {}
        self._ending: dict[StageKey, _Session] = {}
        self._shut = False

    # --- blocks -----------------------------------------------------------------------------------------------------

    def load(self, span: StageSpan) -> None:
        """Open what is not open yet; answered by BlocksLoaded or BlocksFailed."""
        assert span not in self._spans, "a span is loaded once"
        wanted = self._spans[span] = _Span()
        self._loader.submit(partial(self._load, span, wanted), partial(self._loaded, span, wanted))

    def unload(self, span: StageSpan) -> None:
        """Let go of the blocks of ``span``; those that no other span holds are closed. A failed span holds none."""
        held = self._spans.pop(span, None)
        if held is None:
            return
        held.abandoned = True
        if held.blocks:
            self._release(span, held)

    def _load(self, span: StageSpan, wanted: _Span) -> _Opened:
        """In the loader."""
        held: list[OpenBlock] = []
        try:
            manifest = self._store.find(span.model)
            self._hold(manifest, span, wanted, held)
            _warm_up(held, manifest.dimensions.vocabulary)
            heap.use_huge_pages()
        except _NOT_OURS as fault:
            self._give_back(span, held)
            return _Opened((), 0, str(fault) or type(fault).__name__)
        return _Opened(tuple(held), manifest.dimensions.vocabulary, "")

    def _hold(self, manifest: Manifest, span: StageSpan, wanted: _Span, held: list[OpenBlock]) -> None:
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
            shared.holders += 1
            held.append(shared.block)

    def _give_back(self, span: StageSpan, held: Sequence[OpenBlock]) -> None:
        """In the loader: the first ``len(held)`` blocks of ``span`` have one holder less."""
        for key in _keys(span)[: len(held)]:
            self._open[key].holders -= 1
            if self._open[key].holders == 0:
                del self._open[key]

    def _close(self, span: StageSpan, held: _Span) -> None:
        """In the loader: ``span`` lets go, and what nobody else holds closes here."""
        self._give_back(span, held.blocks)
        held.blocks = ()
        heap.trim()

    def _loaded(self, span: StageSpan, wanted: _Span, opened: _Opened) -> None:
        """On the loop: answer."""
        reason = opened.reason
        if not reason and wanted.abandoned:
            wanted.blocks = opened.blocks
            self._release(span, wanted)
            reason = "unloaded when it had just been loaded"
        elif reason and not wanted.abandoned:
            del self._spans[span]
        if reason:
            self._post(BlocksFailed(span, reason))
            return
        wanted.blocks, wanted.vocabulary = opened.blocks, opened.vocabulary
        self._post(BlocksLoaded(span, sum(each.block.shard_bytes for each in opened.blocks)))

    # --- sessions ---------------------------------------------------------------------------------------------------

    def open_stage(self, session: SessionId, stage: int, span: StageSpan, tokens_max: int) -> None:
        """Begin a session of at most ``tokens_max`` positions on one stage."""
        key = (session, stage)
        assert key not in self._sessions, "a session opens once per stage"
        assert key not in self._ending, "and not again before its last run has ended"
        held = self._spans.get(span)
        assert held is not None, "a session opens on a span that was loaded"
        assert held.blocks, "and whose load has been answered"
        kv_bytes = tokens_max * sum(each.block.kv_bytes_per_token for each in held.blocks)
        self._sessions[key] = _Session(held.blocks, held.vocabulary, tokens_max, kv_bytes)

    def run_stage(self, effect: RunStage) -> None:
        """Run; answered by StageFinished or StageFailed."""
        payload = effect.payload
        data = payload if isinstance(payload, bytes) else self._tensors.take(payload)
        session = self._sessions.get((effect.session, effect.stage))
        if session is None:
            self._post(StageFailed(effect.session, effect.stage, effect.position, "no such session is open here"))
            return
        assert not session.running, "a session's chunks run one after the other"
        assert effect.position + effect.token_count <= session.tokens_max, "the session was opened for fewer positions"
        session.running = True
        self._lanes.submit(partial(_run, session, effect, data), partial(self._ran, session, effect))

    def _ran(self, session: _Session, effect: RunStage, outcome: _Outcome) -> None:
        """On the loop: answer."""
        session.running = False
        reason = outcome.reason
        if session.closed:
            del self._ending[effect.session, effect.stage]
            self._free(session)
            reason = "the session was closed"
        if reason:
            self._post(StageFailed(effect.session, effect.stage, effect.position, reason))
            return
        output = outcome.output
        handle = None if output is None else self._tensors.put(output)
        shape = () if output is None else output.shape
        self._post(StageFinished(effect.session, effect.stage, effect.position, handle, shape, outcome.took_s))

    def close_stage(self, session: SessionId, stage: int) -> None:
        """End a session on one stage: terminate its run, and free its KV as soon as nothing writes to it."""
        closed = self._sessions.pop((session, stage))
        closed.closed = True
        if closed.running:
            closed.cancel.set()
            self._ending[session, stage] = closed
        else:
            self._free(closed)

    # --- looking in, and the end --------------------------------------------------------------------------------------

    @property
    def kv_bytes(self) -> int:
        """KV kept for sessions, those whose last run is being terminated included."""
        held = [*self._sessions.values(), *self._ending.values()]
        return sum(session.kv_bytes for session in held)

    @property
    def block_count(self) -> int:
        """Blocks open now."""
        return len(self._open)

    async def close(self) -> None:
        """Terminate what runs and wait for it: a node of the graph, or the opening of one block, at the longest."""
        if self._shut:
            return
        for session, stage in list(self._sessions):
            self.close_stage(session, stage)
        for span in list(self._spans):
            self.unload(span)
        self._shut = True
        await self._lanes.close()
        await self._loader.close()

    def _free(self, session: _Session) -> None:
        """Unmapping memory takes milliseconds: in a lane, while there are lanes."""
        if self._shut:
            session.free()
        else:
            self._lanes.submit(session.free, _nothing)

    def _release(self, span: StageSpan, held: _Span) -> None:
        """Closing blocks takes milliseconds: in the loader, while there is one."""
        if self._shut:
            self._close(span, held)
        else:
            self._loader.submit(partial(self._close, span, held), _nothing)


def _keys(span: StageSpan) -> list[BlockKey]:
    return [(span.model, index) for index in range(span.first_block, span.last_block + 1)]


def _run(session: _Session, effect: RunStage, data: Tensor) -> _Outcome:
    """In a lane."""
    begun = time.perf_counter()
    try:
        if session.stage is None:
            session.stage = Stage(session.blocks, session.vocabulary, session.tokens_max)
        output = session.stage.run(
            data, effect.position, effect.token_count, want_logits=effect.want_logits, cancel=session.cancel
        )
    except _NOT_OURS as fault:
        return _Outcome(None, time.perf_counter() - begun, str(fault) or type(fault).__name__)
    return _Outcome(output, time.perf_counter() - begun, "")


def _nothing(_: None) -> None:
    """Nobody waits for this job."""


def _warm_up(blocks: Sequence[OpenBlock], vocabulary: int) -> None:
    """Run the chain once for each path: what cannot run is found now, and first-run costs are paid now."""
    stage = Stage(blocks, vocabulary, max(_WARM_UP_TOKENS))
    cancel = Cancel()
    for token_count in _WARM_UP_TOKENS:
        stage.run(stage.blank(token_count), 0, token_count, want_logits=True, cancel=cancel)
