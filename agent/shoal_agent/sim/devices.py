"""The machine below a node: its memory, its arithmetic, its light services.

Time of a run: the sum over the stage's blocks of what the package measured (``decode_us`` for one token,
``prefill_us`` per 128), times how much slower this device is than the one that measured. What comes out is the toy
model's, so tokens tell whether every block saw every position once and in order.

It keeps the contract of the real engine and asserts that the node keeps its side: a session opens once per stage, on
blocks that are open, and not before everything asked of its namesake was answered; one run of a session and stage at a
time, and no import beside it; runs and exports only where KV is; a tensor is taken once.
"""

import itertools
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.effects import (
    CallService,
    ExportKv,
    FetchModel,
    ImportKv,
    LoadBlocks,
    OpenStage,
    RunStage,
    SendFrame,
)
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    KvExported,
    KvImported,
    ModelAvailable,
    ModelMissing,
    ServiceFailed,
    ServiceReturned,
    StageFailed,
    StageFinished,
)
from shoal_agent.core.facts import ModelFacts, StageSpan, TensorHandle
from shoal_agent.core.plan import run_blocks
from shoal_agent.sim.toy import ToyServices
from shoal_agent.sim.toy_kv import ToyKv
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.headers import ServiceFault
from shoal_protocol.ids import NodeId, SessionId
from shoal_protocol.tensors import Dtype
from shoal_protocol.widths import DTYPE_OF

_PREFILL_TOKENS: Final = 128
"""What ``BlockFacts.prefill_us`` was measured with."""
_OPEN_S_PER_BLOCK: Final = 0.02
"""To read, verify and open one block of the toy model: a stage takes from a twentieth of a second to a few seconds."""
_FETCH_BYTES_PER_S: Final = 32_000_000
"""What a peer serves by default; see the agent's configuration."""
_TEXTS_BYTES: Final = 2_000_000
"""Manifest, graphs and tokenizer of a small model: what is fetched before any weights are."""
COPY_S: Final = 0.0003
"""To copy rows of KV: what ten blocks take the real engine, the way to its lane and back included."""
_ELEMENTS: Final = {Dtype.F32: 2, Dtype.F16: 4, Dtype.I8: 8}
"""The toy's hidden state: one int64, which travels as the same 8 bytes in whatever width a plan says."""

SessionStage = tuple[SessionId, int]


@dataclass
class Device:
    """One device: ``speed`` is a fraction of the machine that measured the package."""

    facts: ModelFacts
    speed: float
    knows_model: bool = True
    """Its store holds the package's texts from the beginning."""
    stored: set[int] = field(default_factory=set)
    """Blocks whose weights were fetched; a device that knew the model from the beginning has all of them."""
    tensors: dict[TensorHandle, bytes] = field(default_factory=dict)
    loading: list[StageSpan] = field(default_factory=list)
    """Asked for, not answered yet, still wanted."""
    loaded: list[StageSpan] = field(default_factory=list)
    stages: dict[SessionStage, ToyKv] = field(default_factory=dict)
    """KV of every open session."""
    running: dict[SessionStage, int] = field(default_factory=dict)
    copying: Counter[SessionStage] = field(default_factory=Counter)
    """Exports and imports that are not answered yet."""
    services: ToyServices = field(default_factory=ToyServices)
    _handles: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def put(self, data: bytes) -> TensorHandle:
        """Keep a tensor."""
        handle = TensorHandle(next(self._handles))
        self.tensors[handle] = data
        return handle

    def take(self, payload: TensorHandle | bytes) -> bytes:
        """The bytes of ``payload``, which is gone if it was a tensor."""
        return payload if isinstance(payload, bytes) else self.tensors.pop(payload)

    def sent(self, effect: SendFrame) -> bytes | None:
        """The payload of a frame that leaves; the node keeps its tensor if it said so."""
        if effect.payload is None:
            return None
        if effect.keep and not isinstance(effect.payload, bytes):
            return self.tensors[effect.payload]
        return self.take(effect.payload)

    def load_s(self, span: StageSpan) -> float:
        """How long it takes to open ``span``."""
        return _OPEN_S_PER_BLOCK * (span.last_block - span.first_block + 1) / self.speed

    def fetch_s(self, span: StageSpan) -> float:
        """How long it takes to fetch the weights of ``span`` that are not here."""
        return sum(self.facts.blocks[index].resident_bytes for index in self._missing(span)) / _FETCH_BYTES_PER_S

    def cache(self, span: StageSpan, sources: tuple[NodeId, ...]) -> None:
        """The weights of ``span`` are here now, if anybody could send them."""
        if sources:
            self.stored.update(self._missing(span))

    def unload(self, span: StageSpan) -> None:
        """Let go of ``span``, also while it is being opened; a failed one holds nothing."""
        for spans in (self.loading, self.loaded):
            if span in spans:
                spans.remove(span)

    def load(self, effect: LoadBlocks) -> BlocksLoaded | BlocksFailed:
        """The blocks are open, unless weights are missing that nobody was named for, or nobody wants them any more."""
        if effect.span not in self.loading:
            return BlocksFailed(effect.span, "unloaded when it had just been loaded")
        self.loading.remove(effect.span)
        missing = self._missing(effect.span)
        if missing and not effect.sources:
            return BlocksFailed(effect.span, f"block {missing[0]} is not here, and nobody is known to have it")
        self.stored.update(missing)
        self.loaded.append(effect.span)
        return BlocksLoaded(effect.span, 1)

    def _missing(self, span: StageSpan) -> list[int]:
        here = range(0) if not self.knows_model else range(len(self.facts.blocks))
        wanted = range(span.first_block, span.last_block + 1)
        return [index for index in wanted if index not in here and index not in self.stored]

    def learn_s(self) -> float:
        """How long it takes to fetch what a package has beside its weights."""
        return 0.0 if self.knows_model else _TEXTS_BYTES / _FETCH_BYTES_PER_S

    def learn(self, effect: FetchModel) -> ModelAvailable | ModelMissing:
        """The answer of whoever was asked for the package: there is one model in this world."""
        if effect.model != self.facts.model or not (self.knows_model or effect.sources):
            return ModelMissing(effect.model, f"none of {len(effect.sources)} peers has it")
        return ModelAvailable(self.facts)

    def run_s(self, effect: RunStage) -> float:
        """How long a run takes on this device."""
        held = self.stages.get((effect.session, effect.stage))
        assert held is not None, "a run needs an open session"
        blocks = [block for block in run_blocks(self.facts, held.span, held.left_out) if block is not None]
        if effect.token_count == 1:
            work_us = float(sum(block.decode_us for block in blocks))
        else:
            work_us = sum(block.prefill_us for block in blocks) * effect.token_count / _PREFILL_TOKENS
        return work_us / 1e6 / self.speed

    def open(self, effect: OpenStage) -> None:
        """Reserve a session's KV."""
        key = (effect.session, effect.stage)
        assert effect.span in self.loaded, "a session opens on loaded blocks"
        assert key not in self.stages, "a session opens once per stage"
        assert key not in self.running, "and not again before its last run has ended"
        assert not self.copying[key], "nor before its last copy was answered"
        self.stages[key] = ToyKv(self.facts, effect.span, effect.tokens_max, effect.left_out)

    def close(self, key: SessionStage) -> None:
        """Free a session's KV."""
        assert key in self.stages, "what is closed was open"
        del self.stages[key]

    def begin(self, effect: RunStage) -> None:
        """A run starts."""
        key = (effect.session, effect.stage)
        assert key not in self.running, "one run of a session at a time"
        assert effect.position <= self.stages[key].held, "a run begins where KV is"
        self.running[key] = effect.position

    def finish(self, effect: RunStage, took_s: float) -> StageFinished | StageFailed:
        """The run is over: its output, or nothing if the session closed meanwhile."""
        key = (effect.session, effect.stage)
        data = array("q", self.take(effect.payload))
        assert len(data) == effect.token_count, "a node lets no other tensor through"
        del self.running[key]
        held = self.stages.get(key)
        if held is None:
            return StageFailed(effect.session, effect.stage, effect.position, "terminated")
        out = array("q", held.run(data.tolist(), effect.position))
        is_head = held.span.last_block == len(self.facts.blocks) - 1
        output = None
        if effect.want_logits or not is_head:
            output = self.put(out[-1:].tobytes() if is_head else out.tobytes())
        shape = (1, len(out), _ELEMENTS[DTYPE_OF[held.span.gives]])
        return StageFinished(effect.session, effect.stage, effect.position, output, shape, took_s)

    def export(self, effect: ExportKv) -> bytes | None:
        """Rows of KV as they are now, None of a session that is not open; ``exported`` is the answer."""
        key = (effect.session, effect.stage)
        self.copying[key] += 1
        held = self.stages.get(key)
        return None if held is None else held.read(*_range(effect))

    def exported(self, effect: ExportKv, rows: bytes | None) -> KvExported:
        """They are copied, if the session is still open."""
        key = (effect.session, effect.stage)
        self.copying[key] -= 1
        if rows is None or key not in self.stages:
            return KvExported(*key, *_range(effect), None, 0, "the session is closed")
        return KvExported(*key, *_range(effect), self.put(rows), len(rows))

    def write(self, effect: ImportKv) -> str:
        """Rows of KV come in; ``imported`` is the answer, with the reason if they did not fit."""
        key = (effect.session, effect.stage)
        self.copying[key] += 1
        assert key not in self.running, "a session that runs takes no rows"
        rows = self.take(effect.rows)
        held = self.stages.get(key)
        return "" if held is None else held.write(*_range(effect), rows)

    def imported(self, effect: ImportKv, reason: str) -> KvImported:
        """They are there, if the session still is."""
        key = (effect.session, effect.stage)
        self.copying[key] -= 1
        if key not in self.stages:
            reason = "the session is closed"
        return KvImported(*key, *_range(effect), reason)

    def call(self, effect: CallService) -> ServiceReturned | ServiceFailed:
        """A light service's answer."""
        logits = None if effect.tensor is None else array("q", self.take(effect.tensor))[-1]
        if effect.left_s <= 0:
            return ServiceFailed(effect.call, "late", ServiceFault.BUSY)
        try:
            answer = self.services.serve(effect.service, effect.method, services.pack(effect.request), logits)
        except (ValueError, RemoteProtocolError) as fault:
            return ServiceFailed(effect.call, str(fault), ServiceFault.REFUSED)
        return ServiceReturned(effect.call, services.pack(answer))

    def leftovers(self) -> list[str]:
        """What a device without sessions should not hold, in words.

        A detokenizer may lie on another node than the ingress, and the word that ends it be lost with a link; the
        real one forgets idle sessions, so texts are not counted.
        """
        counts = {
            "tensors": len(self.tensors),
            "stages": len(self.stages),
            "runs": len(self.running),
            "copies": self.copying.total(),
            "samplers": len(self.services.drawing),
        }
        return [f"{count} {name}" for name, count in counts.items() if count]


def _range(effect: ExportKv | ImportKv) -> tuple[int, int, int, int]:
    """Which rows are meant."""
    return effect.first_block, effect.last_block, effect.position, effect.token_count
