"""The loop: one inbox, one node, one timer.

Every driver posts events; each is handled at once and its effects are begun in order before the next event is
looked at, all on the event loop's thread, so the node never needs a lock. A driver may post while effects are being
performed (a light service that answers inline does): the event waits in the inbox until the list is done, which
keeps ``handle`` from being entered twice.

An exception out of the node or a driver's effect is our own mistake: the process ends and systemd restarts it. A
wrong node is worse than an absent one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

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
    FetchBlocks,
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
    ErrandArrived,
    ErrandCancelled,
    Event,
    PipelineArrived,
    PipelineEnded,
    StageFinished,
    StepAhead,
    TimePassed,
)
from shoal_agent.core.facts import GenerationRequest
from shoal_agent.shell.ports import (
    Answer,
    Content,
    ControlPlane,
    DataPlane,
    Engine,
    Mind,
    Services,
    Steps,
    TensorTable,
)
from shoal_agent.shell.streams import Streams
from shoal_protocol.ids import Incarnation, Instant


class Journal(Protocol):
    """Durable small files."""

    def persist(self, name: str, data: bytes) -> None: ...

    def adopt(self, incarnation: Incarnation) -> None: ...


class Meters(Protocol):
    """Where counts go."""

    def count(self, name: str, label: str, amount: int = 1) -> None: ...

    def stage_run(self, seconds: float) -> None: ...


class Log(Protocol):
    """Where notes go."""

    def note(self, effect: Note) -> None: ...


class Solver(Protocol):
    """Where arithmetic goes that would hold up the loop."""

    def solve(self, effect: Solve) -> None: ...


@dataclass(frozen=True, slots=True)
class Drivers:
    """Everything around the node."""

    control: ControlPlane
    data: DataPlane
    engine: Engine
    content: Content
    services: Services
    tensors: TensorTable
    journal: Journal
    meters: Meters
    log: Log
    solver: Solver


class Runtime:
    """Runs one node among its drivers. Create it inside a running loop, then ``attach`` the drivers."""

    def __init__(self, node: Mind, clock: Callable[[], Instant]) -> None:
        self._node = node
        self._clock = clock
        self._drivers: Drivers | None = None
        self._inbox: deque[Event] = deque()
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: Instant | None = None
        self._streams = Streams(self.post)
        self._errands: dict[int, asyncio.Future[ErrandEnded]] = {}
        self._errand_count = 0
        self._judged: dict[int, asyncio.Future[PipelineJudged]] = {}
        self._judged_count = 0
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        """Done when the node said Stop; failed when something of ours broke."""

    def attach(self, drivers: Drivers) -> None:
        """Give the runtime its drivers; events posted before are handled now."""
        assert self._drivers is None, "attached once"
        self._drivers = drivers
        self._drain()

    @property
    def stream_count(self) -> int:
        """Streams that clients of this node's API read from."""
        return self._streams.read_count

    def post(self, event: Event) -> None:
        """Hand one event to the node; from the loop's thread only."""
        self._inbox.append(event)
        if not self._busy and self._drivers is not None:
            self._drain()

    def fail(self, fault: BaseException) -> None:
        """Something of ours broke outside the node: end the process with it."""
        if not self.stopped.done():
            self.stopped.set_exception(fault)

    def _drain(self) -> None:
        self._busy = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                for effect in self._node.handle(event, self._clock()):
                    self._perform(effect)
                if isinstance(event, TimePassed):
                    self._node.check()
                elif isinstance(event, StageFinished) and self._drivers is not None:
                    self._drivers.meters.stage_run(event.took_s)
            self._arm()
        except Exception as fault:
            self.fail(fault)
            raise
        finally:
            self._busy = False

    def _arm(self) -> None:
        deadline = self._node.deadline()
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = None
        self.post(TimePassed())

    def _perform(self, effect: Effect) -> None:
        drivers = self._drivers
        assert drivers is not None
        match effect:
            case SendFrame():
                drivers.data.send(effect)
            case RunStage():
                drivers.engine.run_stage(effect)
            case ExportKv():
                drivers.engine.export_kv(effect)
            case ImportKv():
                drivers.engine.import_kv(effect)
            case CallService():
                drivers.services.call(effect)
            case Accept() | Emit() | Finish() | Reject():
                self._streams.answer(effect)
            case Count(name, label, amount):
                drivers.meters.count(name, label, amount)
            case PipelineJudged(run):
                judged = self._judged.pop(run, None)
                if judged is not None and not judged.done():
                    judged.set_result(effect)
            case ErrandEnded(errand):
                waiting = self._errands.pop(errand, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(effect)
            case _:
                self._perform_rarely(effect, drivers)

    def _perform_rarely(
        self,
        effect: Broadcast
        | Listen
        | Persist
        | AdoptIncarnation
        | LoadBlocks
        | FetchBlocks
        | FetchModel
        | Solve
        | UnloadBlocks
        | OpenStage
        | CloseStage
        | StartInstance
        | StopInstance
        | CloseService
        | ReleaseTensor
        | Note
        | Stop,
        drivers: Drivers,
    ) -> None:
        match effect:
            case Broadcast():
                drivers.control.publish(effect)
            case Listen(shards):
                drivers.control.listen(shards)
            case Persist(name, data):
                drivers.journal.persist(name, data)
            case AdoptIncarnation(incarnation):
                drivers.journal.adopt(incarnation)
            case LoadBlocks(span, sources):
                drivers.content.load(span, sources)
            case FetchBlocks(span, sources):
                drivers.content.fetch_blocks(span, sources)
            case FetchModel(model, sources):
                drivers.content.fetch_model(model, sources)
            case Solve():
                drivers.solver.solve(effect)
            case UnloadBlocks(span):
                drivers.content.unload(span)
            case OpenStage(session, stage, span, tokens_max, left_out):
                drivers.engine.open_stage(session, stage, span, tokens_max, left_out)
            case CloseStage(session, stage):
                drivers.engine.close_stage(session, stage)
            case StartInstance(service, instances) | StopInstance(service, instances):
                drivers.services.scale(service, instances)
            case CloseService(service, session):
                drivers.services.close(service, session)
            case ReleaseTensor(handle):
                drivers.tensors.release(handle)
            case Note():
                drivers.log.note(effect)
            case Stop():
                if not self.stopped.done():
                    self.stopped.set_result(None)

    # --- the ingress port -------------------------------------------------------------------------------------------

    async def run(self, steps: Steps, request: bytes, deadline_s: float, kind: str = "") -> ErrandEnded:
        """Have light services do ``steps`` one after another, each with the answer of the one before.

        Cancelled with its caller.
        """
        self._errand_count += 1
        errand = self._errand_count
        waiting: asyncio.Future[ErrandEnded] = self._loop.create_future()
        self._errands[errand] = waiting
        self.post(ErrandArrived(errand, steps, request, deadline_s, kind))
        try:
            return await waiting
        finally:
            if self._errands.pop(errand, None) is not None:
                self.post(ErrandCancelled(errand))

    async def judge(self, pipeline: str, kind: str, deadline_s: float, steps: tuple[StepAhead, ...]) -> PipelineJudged:
        """Whether a run of a pipeline may begin."""
        self._judged_count += 1
        run = self._judged_count
        waiting: asyncio.Future[PipelineJudged] = self._loop.create_future()
        self._judged[run] = waiting
        self.post(PipelineArrived(run, pipeline, kind, deadline_s, steps))
        try:
            return await waiting
        finally:
            self._judged.pop(run, None)

    def ended(self, kind: str, *, late: bool) -> None:
        """A request that the API put together from several calls is over; ``kind`` is its class."""
        self.post(PipelineEnded(kind, late))

    def generate(self, request: GenerationRequest, *, lingers: bool) -> AsyncGenerator[Answer, None]:
        """Yield Accept, Emit*, Finish or one Reject; see ``streams`` for what becomes of one that is closed early."""
        return self._streams.read(request, lingers=lingers)
