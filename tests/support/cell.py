"""One node of a world in memory, and the twins of its drivers.

A twin keeps the contract of the real driver and asserts that the node keeps its side. After every event the node's
invariants are checked, and each request's answers must be Accept, Emit*, Finish or one Reject.
"""

import itertools
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shoal_agent.core import services
from shoal_agent.core.effects import (
    Accept,
    AdoptIncarnation,
    Broadcast,
    CallService,
    CloseService,
    CloseStage,
    Count,
    Effect,
    Emit,
    ErrandEnded,
    ExportKv,
    FetchModel,
    Finish,
    ImportKv,
    Listen,
    LoadBlocks,
    Note,
    OpenStage,
    Persist,
    PipelineJudged,
    Reject,
    ReleaseTensor,
    RunStage,
    SendFrame,
    Solve,
    StartInstance,
    Stop,
    StopInstance,
    UnloadBlocks,
)
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    Event,
    KvExported,
    KvImported,
    ModelAvailable,
    ModelMissing,
    ServiceFailed,
    ServiceReturned,
    Solved,
    StageFailed,
    StageFinished,
)
from shoal_agent.core.facts import StageSpan, TensorHandle
from shoal_agent.core.node import Node
from shoal_agent.core.plan import run_blocks
from shoal_agent.core.timers import HostDeadline, RequestDeadline
from shoal_agent.core.view import DeploymentView
from shoal_agent.sim.devices import COPY_S
from shoal_agent.sim.solutions import solution
from shoal_agent.sim.toy_kv import ToyKv
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.headers import ServiceFault
from shoal_protocol.ids import (
    Digest,
    NodeId,
    SessionId,
)
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.tensors import Dtype
from shoal_protocol.topics import agent_filters, home_shard
from shoal_protocol.widths import DTYPE_OF
from tests.support.toy import ToyServices

E = TypeVar("E")


@dataclass
class Cell:
    """One node and the twins of its drivers."""

    world: Any
    """The World it lives in."""
    node: Node
    name: NodeId
    key: Ed25519Sealer
    incarnation: int
    tensors: dict[TensorHandle, bytes] = field(default_factory=dict)
    stages: dict[tuple[SessionId, int], ToyKv] = field(default_factory=dict)
    running: set[tuple[SessionId, int]] = field(default_factory=set)
    copying: list[tuple[SessionId, int]] = field(default_factory=list)
    """Exports and imports that are not answered yet."""
    services: ToyServices = field(default_factory=ToyServices)
    answers: dict[SessionId, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    disk: dict[str, bytes] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    notes: list[Note] = field(default_factory=list)
    loaded: list[StageSpan] = field(default_factory=list)
    handles: itertools.count = field(default_factory=lambda: itertools.count(1))
    run_s: float = 0.001
    block_s: float = 0.0
    """What each block of a run takes for each position, beside."""
    load_s: float = 0.05
    solve_s: float = 0.01
    copy_s: float = COPY_S
    load_fault: str = ""
    """Not empty: blocks cannot be opened, for this reason."""
    slow: set[str] = field(default_factory=set)
    """Methods of light services that are not answered before ``release``."""
    faults: dict[str, ServiceFault] = field(default_factory=dict)
    """Methods of light services that fail, and how."""
    held: list[CallService | CloseService] = field(default_factory=list)
    """They, and what must not overtake them."""
    kib_s: float = 0.0
    """What a light service takes for each KiB of its request."""
    free_at: float = 0.0
    light: list[ErrandEnded | PipelineJudged | StartInstance | StopInstance] = field(default_factory=list)
    """What became of light services alone, and of their instances."""
    in_vain: bool = False
    """A run whose session closed ends all the same, with an output."""
    dead: bool = False
    subscribed: bool = False
    """Brokers deliver to it what its filters name."""
    filters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        roster = self.world.roster
        self.filters = agent_filters(roster.cluster, self.name, (home_shard(self.name, roster),))

    def hears(self, topic: str) -> bool:
        levels = topic.split("/")
        wanted = [filter_.split("/") for filter_ in self.filters]
        return any(
            len(names) == len(levels) and all(name in ("+", level) for name, level in zip(names, levels, strict=True))
            for names in wanted
        )

    def post(self, event: Event) -> None:
        if self.dead:
            return
        for effect in self.node.handle(event, self.world.now):
            self.world.log.append((self.world.now, self.name, effect))
            self.perform(effect)
        self.node.check()
        self.world.wake(self)

    def later(self, delay_s: float, event: Event) -> None:
        self.world.later(delay_s, lambda: self.post(event))

    def put(self, data: bytes) -> TensorHandle:
        handle = TensorHandle(next(self.handles))
        self.tensors[handle] = data
        return handle

    def take(self, payload: TensorHandle | bytes) -> bytes:
        return payload if isinstance(payload, bytes) else self.tensors.pop(payload)

    def sent(self, effect: SendFrame) -> bytes | None:
        if effect.payload is None:
            return None
        if effect.keep and not isinstance(effect.payload, bytes):
            return self.tensors[effect.payload]
        return self.take(effect.payload)

    # --- the twins ------------------------------------------------------------------------------------------------

    def perform(self, effect: Effect) -> None:
        match effect:
            case SendFrame():
                self.world.carry(self, effect)
            case Broadcast():
                self.world.publish(effect)
            case Listen(shards):
                self.filters = agent_filters(self.world.roster.cluster, self.name, shards)
            case Persist(name, data):
                self.disk[name] = data
            case AdoptIncarnation(incarnation):
                self.incarnation = incarnation
            case LoadBlocks(span):
                self.load(span)
            case FetchModel(model, sources):
                self.later(self.load_s, self.fetched(model, sources))
            case Solve(ticket, problem):
                self.later(self.solve_s, Solved(ticket, solution(problem)))
            case UnloadBlocks(span):
                self.loaded.remove(span)
            case OpenStage():
                self.open(effect)
            case CloseStage(session, stage):
                del self.stages[session, stage]
            case RunStage():
                self.begin(effect)
            case ExportKv():
                self.export(effect)
            case ImportKv():
                self.write(effect)
            case CallService():
                if effect.method in self.slow:
                    self.held.append(effect)
                else:
                    self.world.later(self.turn_s(effect), lambda: self.call(effect))
            case ErrandEnded() | PipelineJudged() | StartInstance() | StopInstance():
                self.light.append(effect)
            case CloseService() if self.held:
                self.held.append(effect)
            case CloseService(service, session):
                self.world.later(0.0, lambda: self.services.close(service, session))
            case Accept() | Emit() | Finish() | Reject():
                self.answer(effect)
            case ReleaseTensor(handle):
                del self.tensors[handle]
            case Count(name, label, amount):
                self.counts[name, label] += amount
            case Note():
                self.notes.append(effect)
            case Stop():
                self.dead = True

    def turn_s(self, effect: CallService) -> float:
        """Until a light service has done its work: there is one processor, and who comes first goes first."""
        took_s = self.kib_s * len(effect.request) / 1024 if isinstance(effect.request, bytes) else 0.0
        self.free_at = max(self.free_at, self.world.now) + took_s
        return self.free_at - self.world.now

    def fetched(self, model: Digest, sources: tuple[NodeId, ...]) -> Event:
        known = model == self.world.facts.model and sources
        return ModelAvailable(self.world.facts) if known else ModelMissing(model, f"asked {len(sources)} peers")

    def load(self, span: StageSpan) -> None:
        self.loaded.append(span)
        if self.load_fault:
            fault = BlocksFailed(span, self.load_fault)
            self.world.later(self.load_s, lambda: self.fail(fault))
            return
        self.later(self.load_s, BlocksLoaded(span, 1))

    def fail(self, fault: BlocksFailed) -> None:
        if fault.span in self.loaded:  # or nobody wants it any more
            self.loaded.remove(fault.span)
        self.post(fault)

    def answer(self, effect: Accept | Emit | Finish | Reject) -> None:
        told = self.answers[effect.session]
        assert self.ending(effect.session) is None, "nothing follows the ending"
        assert bool(told) is isinstance(effect, Emit | Finish) or isinstance(effect, Finish), "Accept comes first"
        told.append(effect)

    def open(self, effect: OpenStage) -> None:
        key = (effect.session, effect.stage)
        assert effect.span in self.loaded, "a session opens on loaded blocks"
        assert key not in self.stages, "a session opens once per stage"
        assert key not in self.running, "and not again before its last run has ended"
        assert key not in self.copying, "nor before its last copy was answered"
        self.stages[key] = ToyKv(self.world.facts, effect.span, effect.tokens_max, effect.left_out)

    def begin(self, effect: RunStage) -> None:
        key = (effect.session, effect.stage)
        assert key not in self.running, "one run of a session at a time"
        assert key in self.stages, "a run needs an open session"
        assert effect.position <= self.stages[key].held, "a run begins where KV is"
        self.running.add(key)
        took_s = self.takes_s(effect)
        self.world.later(took_s, lambda: self.run(effect, took_s))

    def takes_s(self, effect: RunStage) -> float:
        held = self.stages.get((effect.session, effect.stage))
        blocks = () if held is None else run_blocks(self.world.facts, held.span, held.left_out)
        run = sum(block is not None for block in blocks)
        return self.run_s + self.block_s * run * effect.token_count

    def run(self, effect: RunStage, took_s: float) -> None:
        data = array("q", self.take(effect.payload))
        assert len(data) == effect.token_count, "a node lets no other tensor through"
        self.running.discard((effect.session, effect.stage))
        held = self.stages.get((effect.session, effect.stage))
        if held is None and self.in_vain:
            output = self.put(data.tobytes())
            self.post(StageFinished(effect.session, effect.stage, effect.position, output, (1, len(data), 2), took_s))
            return
        if held is None:
            self.post(StageFailed(effect.session, effect.stage, effect.position, "terminated"))
            return
        out = array("q", held.run(data.tolist(), effect.position))
        is_head = held.span.last_block == len(self.world.facts.blocks) - 1
        result = out[-1:].tobytes() if is_head else out.tobytes()
        output = self.put(result) if effect.want_logits or not is_head else None
        shape = (1, len(out), {Dtype.F32: 2, Dtype.F16: 4, Dtype.I8: 8}[DTYPE_OF[held.span.gives]])
        self.post(StageFinished(effect.session, effect.stage, effect.position, output, shape, took_s))

    def export(self, effect: ExportKv) -> None:
        key = (effect.session, effect.stage)
        asked = (effect.first_block, effect.last_block, effect.position, effect.token_count)
        held = self.stages.get(key)
        rows = None if held is None else held.read(*asked)

        def over() -> None:
            self.copying.remove(key)
            if rows is None or key not in self.stages:
                self.post(KvExported(*key, *asked, None, 0, "the session is closed"))
            else:
                self.post(KvExported(*key, *asked, self.put(rows), len(rows)))

        self.copying.append(key)
        self.world.later(self.copy_s, over)

    def write(self, effect: ImportKv) -> None:
        key = (effect.session, effect.stage)
        asked = (effect.first_block, effect.last_block, effect.position, effect.token_count)
        assert key not in self.running, "a session that runs takes no rows"
        held, rows = self.stages.get(key), self.take(effect.rows)
        reason = "" if held is None else held.write(*asked, rows)

        def over() -> None:
            self.copying.remove(key)
            self.post(KvImported(*key, *asked, reason if key in self.stages else "the session is closed"))

        self.copying.append(key)
        self.world.later(self.copy_s, over)

    def release(self) -> None:
        """Every call is answered in the end."""
        self.slow.clear()
        held, self.held = self.held, []
        for effect in held:
            self.perform(effect)

    def call(self, effect: CallService) -> None:
        logits = None if effect.tensor is None else array("q", self.tensors.pop(effect.tensor))[-1]
        fault = ServiceFault.BUSY if effect.left_s <= 0 else self.faults.get(effect.method)
        if fault is not None:
            self.post(ServiceFailed(effect.call, f"{effect.method}: {fault.name}", fault))
            return
        try:
            answer = self.services.serve(effect.service, effect.method, services.pack(effect.request), logits)
        except (ValueError, RemoteProtocolError) as fault:
            self.post(ServiceFailed(effect.call, str(fault), ServiceFault.REFUSED))
        else:
            self.post(ServiceReturned(effect.call, services.pack(answer)))

    # --- what tests ask -------------------------------------------------------------------------------------------

    def tokens(self, session: SessionId) -> list[int]:
        return [answer.piece.token for answer in self.answers[session] if isinstance(answer, Emit)]

    def ending(self, session: SessionId) -> Finish | Reject | None:
        told = self.answers.get(session)
        return told[-1] if told and isinstance(told[-1], Finish | Reject) else None

    def deployment(self) -> DeploymentView | None:
        return next(iter(self.node.snapshot(self.world.now).deployments), None)

    def asked(self, kind: type[E]) -> list[E]:
        """Every effect of ``kind`` this node asked for."""
        return [effect for _, name, effect in self.world.log if name == self.name and isinstance(effect, kind)]

    def leftovers(self) -> list[object]:
        """Whatever a node without requests and sessions should not have any more."""
        view, inside = self.node.snapshot(self.world.now), self.node
        held = [self.tensors, self.stages, self.copying, self.services.drawing, self.services.texts]
        held += [view.requests, view.sessions, view.kv_bytes]
        held += [not inside._host.idle(), inside._ingress._ledger._calls, inside._calls._abroad]
        alarms = inside._tables.timers._live
        held.append([alarm for alarm in alarms if isinstance(alarm, RequestDeadline | HostDeadline)])
        return [part for part in held if part]
