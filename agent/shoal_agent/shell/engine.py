"""Sessions on this machine: runs them, copies their KV and frees it, off the event loop.

*Runs* go through lanes: one hop per stage run, never one per block (a hop costs 0.1 to 0.2 ms, a block's run 3 us
besides its arithmetic). A lane is one run at a time, first come first served; more lanes help only where one run
leaves cores idle. A session's buffers are made by its first run and dropped again in a lane: both touch much memory.

*Copies* of KV go through the same lanes. A session's imports are done one after the other and before any run that was
asked behind them, so nobody needs to wait for an answer to go on. An export waits for nothing: it reads positions that
nobody writes any more, beside a run if there is a lane. A session that never ran is mapped by its first import.

*Closing* a session terminates its run, and its KV is given back only when all that was asked of it is answered: native
code still writes there. Whatever happens, each run and each copy is answered exactly once. What the model or a peer got
wrong is the answer's reason; any other exception is a mistake of ours, and the lanes raise it on the loop.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Final

from shoal_agent.core.effects import ExportKv, ImportKv, RunStage
from shoal_agent.core.events import KvExported, KvImported, StageFailed, StageFinished
from shoal_agent.core.facts import LeftOut, StageSpan
from shoal_agent.shell.blocks import Blocks
from shoal_agent.shell.lanes import Lanes
from shoal_agent.shell.ort import Cancel, EngineError
from shoal_agent.shell.ports import Array, Post, TensorTable
from shoal_agent.shell.stage import OpenBlock, Stage
from shoal_protocol.ids import SessionId

StageKey = tuple[SessionId, int]
Tensor = Array | bytes | memoryview
Copy = ExportKv | ImportKv

_NOT_OURS: Final = (EngineError, OSError, MemoryError)
"""What a package, a peer or a full memory may provoke."""
_UNKNOWN: Final = "no such session is open here"
_CLOSED: Final = "the session was closed"


@dataclass(slots=True)
class _Session:
    """One session on one stage. ``stage`` is made by the first run or import, in a lane."""

    blocks: tuple[OpenBlock, ...]
    span: StageSpan
    vocabulary: int
    tokens_max: int
    kv_bytes: int
    left_out: range
    """Places of blocks that are not run."""
    cancel: Cancel = field(default_factory=Cancel)
    stage: Stage | None = None
    imported: Event | None = None
    """Set when the import asked last is over; a lane that took up what was asked behind it waits for that."""
    running: bool = False
    closed: bool = False
    owed: int = 0
    """Answers that are due."""

    def places(self, copy: Copy) -> range:
        """Where the blocks of ``copy`` stand in the stage."""
        return range(copy.first_block - self.span.first_block, copy.last_block - self.span.first_block + 1)

    def made(self) -> Stage:
        """In a lane: the stage, from now on."""
        if self.stage is None:
            span = self.span
            self.stage = Stage(self.blocks, self.vocabulary, self.tokens_max, span.takes, span.gives, self.left_out)
        return self.stage

    def free(self) -> None:
        """Let go of KV, buffers and blocks."""
        self.stage = None
        self.blocks = ()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a lane made of a run; failed if there is a ``reason``."""

    output: Array | None
    took_s: float
    reason: str


class Engine:
    """All sessions of this node, on the open ``blocks``. Create it inside the loop; ``close`` it at the end."""

    def __init__(self, blocks: Blocks, tensors: TensorTable, post: Post, lanes: int = 1) -> None:
        self._blocks = blocks
        self._tensors = tensors
        self._post = post
        self._lanes = Lanes("lane", lanes)
        self._sessions: dict[StageKey, _Session] = {}
        self._ending: dict[StageKey, _Session] = {}
        self._shut = False

    def open_stage(
        self, session: SessionId, stage: int, span: StageSpan, tokens_max: int, left_out: LeftOut | None = None
    ) -> None:
        """Begin a session of at most ``tokens_max`` positions on one stage, without what is ``left_out``."""
        key = (session, stage)
        assert key not in self._sessions, "a session opens once per stage"
        assert key not in self._ending, "and not again before its last answer"
        held, without = self._blocks.of(span), _places(span, left_out)
        run = [each.block for place, each in enumerate(held.blocks) if place not in without]
        kv_bytes = tokens_max * sum(block.kv_bytes_per_token for block in run)
        self._sessions[key] = _Session(held.blocks, span, held.vocabulary, tokens_max, kv_bytes, without)

    # --- runs -------------------------------------------------------------------------------------------------------

    def run_stage(self, effect: RunStage) -> None:
        """Run; answered by StageFinished or StageFailed."""
        payload = effect.payload
        data = payload if isinstance(payload, bytes) else self._tensors.take(payload)
        session = self._sessions.get((effect.session, effect.stage))
        if session is None:
            self._post(StageFailed(effect.session, effect.stage, effect.position, _UNKNOWN))
            return
        assert not session.running, "a session's chunks run one after the other"
        assert effect.position + effect.token_count <= session.tokens_max, "the session was opened for fewer positions"
        session.running = True
        session.owed += 1
        run = partial(_run, session, effect, data, session.imported)
        self._lanes.submit(run, partial(self._ran, session, effect))

    def _ran(self, session: _Session, effect: RunStage, outcome: _Outcome) -> None:
        """On the loop: answer."""
        session.running = False
        reason = outcome.reason if self._stays(session, effect) else _CLOSED
        if reason:
            self._post(StageFailed(effect.session, effect.stage, effect.position, reason))
            return
        output = outcome.output
        handle = None if output is None else self._tensors.put(output)
        shape = () if output is None else output.shape
        self._post(StageFinished(effect.session, effect.stage, effect.position, handle, shape, outcome.took_s))

    # --- copies of KV -----------------------------------------------------------------------------------------------

    def export_kv(self, effect: ExportKv) -> None:
        """Copy rows out; answered by KvExported."""
        session = self._copied(effect)
        if session is None:
            self._post(KvExported(*_named(effect), None, 0, _UNKNOWN))
            return
        self._lanes.submit(partial(_export, session, effect), partial(self._exported, session, effect))

    def _exported(self, session: _Session, effect: ExportKv, rows: memoryview | str) -> None:
        """On the loop: answer."""
        if not self._stays(session, effect):
            rows = _CLOSED
        if isinstance(rows, str):
            self._post(KvExported(*_named(effect), None, 0, rows))
        else:
            self._post(KvExported(*_named(effect), self._tensors.put(rows), rows.nbytes))

    def import_kv(self, effect: ImportKv) -> None:
        """Copy rows in; answered by KvImported."""
        rows = effect.rows if isinstance(effect.rows, bytes) else self._tensors.take(effect.rows)
        session = self._copied(effect)
        if session is None:
            self._post(KvImported(*_named(effect), _UNKNOWN))
            return
        before, session.imported = session.imported, Event()
        work = partial(_import, session, effect, rows, before, session.imported)
        self._lanes.submit(work, partial(self._imported, session, effect))

    def _imported(self, session: _Session, effect: ImportKv, reason: str) -> None:
        """On the loop: answer."""
        if not self._stays(session, effect):
            reason = _CLOSED
        self._post(KvImported(*_named(effect), reason))

    def _copied(self, copy: Copy) -> _Session | None:
        """The session that ``copy`` is about, which owes one answer more; None if it is not open."""
        session = self._sessions.get((copy.session, copy.stage))
        if session is None:
            return None
        places = session.places(copy)
        assert 0 <= places.start < places.stop <= len(session.blocks), "only blocks of the stage's span are copied"
        assert copy.token_count > 0, "a copy has rows"
        assert 0 <= copy.position <= session.tokens_max - copy.token_count, "the session was opened for fewer positions"
        assert isinstance(copy, ExportKv) or not session.running, "a session that runs takes no rows"
        session.owed += 1
        return session

    # --- closing ----------------------------------------------------------------------------------------------------

    def close_stage(self, session: SessionId, stage: int) -> None:
        """End a session on one stage: terminate its run, and free its KV as soon as nothing is owed."""
        closed = self._sessions.pop((session, stage))
        closed.closed = True
        if closed.owed:
            closed.cancel.set()
            self._ending[session, stage] = closed
        else:
            self._free(closed)

    def _stays(self, session: _Session, effect: RunStage | Copy) -> bool:
        """One answer is given: whether the session is still open. A closed one goes with its last answer."""
        session.owed -= 1
        if session.closed and not session.owed:
            del self._ending[effect.session, effect.stage]
            self._free(session)
        return not session.closed

    def _free(self, session: _Session) -> None:
        """Unmapping memory takes milliseconds: in a lane, while there are lanes."""
        if self._shut:
            session.free()
        else:
            self._lanes.submit(session.free, _nothing)

    async def close(self) -> None:
        """Terminate what runs and wait for it: a node of the graph, at the longest."""
        if self._shut:
            return
        for session, stage in list(self._sessions):
            self.close_stage(session, stage)
        self._shut = True
        await self._lanes.close()

    @property
    def kv_bytes(self) -> int:
        """KV kept for sessions, those that are being ended included."""
        held = [*self._sessions.values(), *self._ending.values()]
        return sum(session.kv_bytes for session in held)


def _named(copy: Copy) -> tuple[SessionId, int, int, int, int, int]:
    """What the answer to ``copy`` is about."""
    return copy.session, copy.stage, copy.first_block, copy.last_block, copy.position, copy.token_count


def _places(span: StageSpan, left_out: LeftOut | None) -> range:
    """Where the blocks that are left out stand in the stage."""
    if left_out is None:
        return range(0)
    first, last = max(left_out[0], span.first_block), min(left_out[1], span.last_block)
    return range(first - span.first_block, last - span.first_block + 1)


def _nothing(_: None) -> None:
    """Nobody waits for this job."""


# --- in a lane ------------------------------------------------------------------------------------------------------


def _run(session: _Session, effect: RunStage, data: Tensor, before: Event | None) -> _Outcome:
    _follow(before)
    begun = time.perf_counter()
    try:
        output = session.made().run(
            data, effect.position, effect.token_count, want_logits=effect.want_logits, cancel=session.cancel
        )
    except _NOT_OURS as fault:
        return _Outcome(None, time.perf_counter() - begun, _reason(fault))
    return _Outcome(output, time.perf_counter() - begun, "")


def _export(session: _Session, effect: ExportKv) -> memoryview | str:
    """The rows, or why not."""
    if session.stage is None:
        return "the session has no KV yet"
    try:
        return session.stage.kv.read(session.places(effect), effect.position, effect.token_count)
    except _NOT_OURS as fault:
        return _reason(fault)


def _import(session: _Session, effect: ImportKv, rows: Tensor, before: Event | None, over: Event) -> str:
    """Why not, or nothing."""
    _follow(before)
    try:
        if session.closed:
            return _CLOSED
        session.made().kv.write(session.places(effect), effect.position, effect.token_count, rows)
    except _NOT_OURS as fault:
        return _reason(fault)
    finally:
        over.set()
    return ""


def _follow(before: Event | None) -> None:
    """Wait for an import that was asked earlier: another lane has it in hand, because lanes take jobs in order."""
    if before is not None:
        before.wait()


def _reason(fault: Exception) -> str:
    return str(fault) or type(fault).__name__
