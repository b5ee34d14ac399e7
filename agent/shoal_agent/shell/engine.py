"""Blocks and sessions on this machine: opens, runs and frees them, off the event loop.

Blocks are opened once, however many epochs or stages use them (a re-split opens only what changed), by a thread of
its own, so that loading never delays a token. Runs go through a small executor: one hop per stage run, never one per
block (a hop costs as much as two layers). A lane is one run at a time; more lanes help only where one run leaves
cores idle.

A session that is closed while it runs is terminated and its KV is freed when the run has ended: buffers that native
code still writes must not be given back. Every run is answered exactly once, also a terminated one.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from shoal_agent.core.effects import RunStage
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, Event, StageFailed, StageFinished
from shoal_agent.core.facts import StageSpan
from shoal_agent.shell.ort import Cancel, EngineError, open_block
from shoal_agent.shell.ports import Array, Post, TensorTable
from shoal_agent.shell.stage import OpenBlock, Stage
from shoal_models.errors import ModelError
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.ids import Digest, SessionId

T = TypeVar("T")

StageKey = tuple[SessionId, int]
BlockKey = tuple[Digest, int]


@dataclass(slots=True)
class _Shared:
    """An open block and how many spans hold it."""

    block: OpenBlock
    holders: int = 1


@dataclass(slots=True)
class _Session:
    """One session on one stage; its buffers are made by its first run, in the lane."""

    span: StageSpan
    tokens_max: int
    cancel: Cancel = field(default_factory=Cancel)
    stage: Stage | None = None
    under_way: int = 0
    closed: bool = False


class Engine:
    """All blocks of this node. Create it inside the loop; ``close`` it at the end."""

    def __init__(self, store: Store, tensors: TensorTable, post: Post, lanes: int = 1) -> None:
        self._store = store
        self._tensors = tensors
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._lanes = ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane")
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._blocks: dict[BlockKey, _Shared] = {}
        self._spans: dict[StageSpan, Manifest] = {}
        self._sessions: dict[StageKey, _Session] = {}
        self._closing: list[_Session] = []

    # --- blocks -----------------------------------------------------------------------------------------------------

    def load(self, span: StageSpan) -> None:
        """Open what is not open yet; answered by BlocksLoaded or BlocksFailed."""
        have = {key: self._blocks[key].block for key in _keys(span) if key in self._blocks}
        self._submit(self._loader, partial(self._open, span, have), partial(self._opened, span))

    def _open(self, span: StageSpan, have: dict[BlockKey, OpenBlock]) -> tuple[Manifest, dict[BlockKey, OpenBlock]]:
        """In the loader: open, verify and warm the blocks of ``span``."""
        manifest = self._store.find(span.model)
        blocks = dict(have)
        for model, index in _keys(span):
            if (model, index) not in blocks:
                opened = self._store.open_block(manifest, index)
                blocks[model, index] = OpenBlock(opened.block, open_block(opened.graph, opened.blobs))
        warm = Stage(manifest, [blocks[key] for key in _keys(span)], tokens_max=2)
        for count in (1, 2):
            warm.run(_zeros(manifest, span, count), 0, want_logits=True, cancel=Cancel())
        return manifest, blocks

    def _opened(self, span: StageSpan, future: Future[tuple[Manifest, dict[BlockKey, OpenBlock]]]) -> Event:
        fault = future.exception()
        if fault is not None:
            if isinstance(fault, ModelError | EngineError | OSError | MemoryError):
                return BlocksFailed(span, str(fault) or type(fault).__name__)
            raise fault
        manifest, blocks = future.result()
        assert span not in self._spans, "a span is loaded once"
        self._spans[span] = manifest
        for key, block in blocks.items():
            if key in self._blocks:
                self._blocks[key].holders += 1
            else:
                self._blocks[key] = _Shared(block)
        return BlocksLoaded(span, sum(block.block.shard_bytes for block in blocks.values()))

    def unload(self, span: StageSpan) -> None:
        """Close the blocks of ``span`` that no other span holds."""
        del self._spans[span]
        for key in _keys(span):
            shared = self._blocks[key]
            shared.holders -= 1
            if shared.holders == 0:
                del self._blocks[key]

    # --- sessions ---------------------------------------------------------------------------------------------------

    def open_stage(self, session: SessionId, stage: int, span: StageSpan, tokens_max: int) -> None:
        """Begin a session on one stage."""
        assert (session, stage) not in self._sessions, "a session opens once per stage"
        assert span in self._spans, "a session opens on loaded blocks"
        self._sessions[session, stage] = _Session(span, tokens_max)

    def run_stage(self, effect: RunStage) -> None:
        """Run; answered by StageFinished or StageFailed."""
        payload = effect.payload
        data = payload if isinstance(payload, bytes) else self._tensors.take(payload)
        session = self._sessions.get((effect.session, effect.stage))
        if session is None:
            self._post(StageFailed(effect.session, effect.stage, effect.position, "the session is closed"))
            return
        session.under_way += 1
        blocks = [self._blocks[key].block for key in _keys(session.span)]
        manifest = self._spans[session.span]
        work = partial(_run, session, manifest, blocks, effect, data)
        self._submit(self._lanes, work, partial(self._ran, session, effect))

    def _ran(self, session: _Session, effect: RunStage, future: Future[tuple[Array | None, float]]) -> Event:
        session.under_way -= 1
        if session.closed and session.under_way == 0:
            self._closing.remove(session)
        fault = future.exception()
        if fault is not None:
            if not isinstance(fault, EngineError | ValueError | MemoryError):
                raise fault
            reason = "the session was closed" if session.closed else str(fault) or type(fault).__name__
            return StageFailed(effect.session, effect.stage, effect.position, reason)
        output, took_s = future.result()
        handle = None if output is None else self._tensors.put(output)
        shape = () if output is None else output.shape
        return StageFinished(effect.session, effect.stage, effect.position, handle, shape, took_s)

    def close_stage(self, session: SessionId, stage: int) -> None:
        """End a session on one stage: terminate its run and free its KV as soon as nothing writes to it."""
        held = self._sessions.pop((session, stage))
        held.closed = True
        if held.under_way:
            held.cancel.set()
            self._closing.append(held)

    # --- looking in, and the end --------------------------------------------------------------------------------------

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV buffers that exist now, those of terminated runs included."""
        held = [*self._sessions.values(), *self._closing]
        return sum(session.stage.kv_bytes for session in held if session.stage is not None)

    @property
    def block_count(self) -> int:
        """Blocks open now."""
        return len(self._blocks)

    async def close(self) -> None:
        """Terminate what runs and wait for it."""
        for session, stage in list(self._sessions):
            self.close_stage(session, stage)
        for executor in (self._lanes, self._loader):
            await asyncio.to_thread(executor.shutdown, wait=True, cancel_futures=True)

    def _submit(
        self, executor: ThreadPoolExecutor, work: Callable[[], T], answer: Callable[[Future[T]], Event]
    ) -> None:
        """Do ``work`` in ``executor`` and post what ``answer`` makes of it, on the loop."""
        future = executor.submit(work)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(lambda: None if done.cancelled() else self._post(answer(done)))
        )


def _keys(span: StageSpan) -> list[BlockKey]:
    return [(span.model, index) for index in range(span.first_block, span.last_block + 1)]


def _run(
    session: _Session,
    manifest: Manifest,
    blocks: list[OpenBlock],
    effect: RunStage,
    data: Array | bytes | memoryview,
) -> tuple[Array | None, float]:
    """In a lane: one stage run."""
    if session.closed:
        raise EngineError("the session was closed before its run began")
    begun = time.perf_counter()
    if session.stage is None:
        session.stage = Stage(manifest, blocks, session.tokens_max)
    inputs = _shaped(data, manifest, session.span, effect.token_count)
    output = session.stage.run(inputs, effect.position, effect.want_logits, session.cancel)
    return output, time.perf_counter() - begun


def _shaped(data: Array | bytes | memoryview, manifest: Manifest, span: StageSpan, count: int) -> Array:
    """The input of a run as the first block wants it; ValueError if it is not that many positions."""
    from_tokens = span.first_block == 0
    shape = (1, count) if from_tokens else (1, count, manifest.dimensions.hidden)
    if isinstance(data, np.ndarray):
        return data.reshape(shape)
    inputs = np.frombuffer(data, np.dtype("<i8") if from_tokens else np.dtype("<f4")).reshape(shape)
    if from_tokens and not (inputs.min() >= 0 and inputs.max() < manifest.dimensions.vocabulary):
        raise ValueError("a token is outside the vocabulary")
    return inputs


def _zeros(manifest: Manifest, span: StageSpan, count: int) -> Array:
    if span.first_block == 0:
        return np.zeros((1, count), np.int64)
    return np.zeros((1, count, manifest.dimensions.hidden), np.float32)
