"""One machine of a world: a real node, the twins of its drivers, a clock that drifts, a disk.

The machine's clock runs at ``rate`` times true time and begins anywhere, as monotonic clocks do; only the machine
converts. A paused process (SIGSTOP) keeps its sockets: what arrives queues and is handled late, all at once. A process
that waits for a slow disk is paused by itself: what it asked for after a ``Persist`` happens when the write is over,
and a crash before that loses both. A crash loses everything but the disk; then a new life begins with the next boot
number, which the real state directory writes before anything is sent.

After every event (in large worlds: every so many) the node's own invariants are checked; whatever ``handle`` raises
is a bug, and ends the world.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol, assert_never

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
    BlocksFailed,
    BlocksLoaded,
    EnvelopeReceived,
    Event,
    FrameReceived,
    ModelAvailable,
    Restored,
    Sampled,
    ServicesAvailable,
    Solved,
    TimePassed,
)
from shoal_agent.core.node import Node
from shoal_agent.core.voice import Identity
from shoal_agent.sim.agenda import Agenda
from shoal_agent.sim.devices import COPY_S, Device
from shoal_agent.sim.settings import WALL_MS, Setup
from shoal_agent.sim.solutions import solution
from shoal_agent.sim.toy import NAMES, REFERENCE_MACS_PER_S
from shoal_protocol.headers import Activation, Header, KvRows
from shoal_protocol.ids import Incarnation, Instant, NodeId
from shoal_protocol.messages import Capacity, Load
from shoal_protocol.topics import agent_filters, home_shard

BOAST: Final = 1000
SAMPLE_S: Final = 5.0
"""Sensors are read this often, on the machine's own clock, as the agent does."""


class BrokenWorld(Exception):  # noqa: N818 - an outcome, not an error of ours
    """A node raised, or a twin found its contract broken: nothing after this means anything."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One step of one node."""

    at_s: float
    machine: "Machine"
    event: Event
    effects: list[Effect]


class Surroundings(Protocol):
    """What a machine is connected to; unless ``observed``, nobody wants to know what it does."""

    @property
    def observed(self) -> bool: ...

    def publish(self, node: NodeId, effect: Broadcast) -> None: ...

    def listen(self, node: NodeId) -> None: ...

    def send(self, node: NodeId, effect: SendFrame, data: bytes | None) -> None: ...

    def stopped(self, node: NodeId) -> None: ...

    def handled(self, machine: "Machine", event: Event, effects: list[Effect]) -> None: ...


class Machine:
    """One machine, over all its lives."""

    def __init__(
        self,
        identity: Callable[[Incarnation], Identity],
        setup: Setup,
        device: Callable[[], Device],
        agenda: Agenda,
        around: Surroundings,
        rng: Random,
    ) -> None:
        self.setup = setup
        self.disk: dict[str, bytes] = {}
        self.disk_s = 0.0
        """How long a write takes."""
        self.slower = 1.0
        """Opening and running blocks takes so many times as long: others use the processor."""
        self.refuses_blocks = False
        """The engine opens nothing: a disk is full, a file is broken."""
        self.alive = False
        self.paused = False
        self.boots = 0
        """Lives it has had; unlike their numbers, these are never lost."""
        self.life = Incarnation(0)
        self.device = device()
        self._identity = identity
        self._new_device = device
        self._agenda = agenda
        self._around = around
        self._seen = around.observed
        self._rng = rng
        self._writing = False
        self._backlog: deque[Callable[[], None]] = deque()
        self._unchecked = 0
        self._armed: Instant | None = None
        self._latest = Instant(setup.origin_s)
        self._origin_s, self._rate = setup.origin_s, setup.rate
        who = identity(self.life)
        self.name = who.node
        self.shard = home_shard(who.node, who.roster)
        self._home = agent_filters(who.roster.cluster, who.node, (self.shard,))
        self.filters = self._home
        """What it subscribes to at every broker."""
        self.node = self._born()

    def _born(self) -> Node:
        rng = Random(self._rng.getrandbits(64))  # noqa: S311 - chance in a world that must be repeatable
        return Node(self.setup.config, self._identity(self.life), rng, self.now(), self.setup.opener)

    # --- lives ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Begin a life with what is on the disk."""
        assert not self.alive, "one life at a time"
        self.life = Incarnation(self.life + 1)
        self.boots += 1
        self.alive, self.paused, self._writing, self._armed = True, False, False, None
        self.device = self._new_device()
        self.filters = self._home
        self.node = self._born()
        self._sample()
        if self.device.knows_model:
            self.post(ModelAvailable(self.device.facts))
        if self.setup.has_services:
            self.post(ServicesAvailable(NAMES))
        for name, data in list(self.disk.items()):
            self.post(Restored(name, data))

    def crash(self, *, amnesia: bool) -> None:
        """The process is gone, and with ``amnesia`` what it had persisted, its boot counter included."""
        self.alive = self.paused = False
        self._backlog.clear()
        if amnesia:
            self.disk.clear()
            self.life = Incarnation(0)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: everything that waited happens now."""
        self.paused = False
        self._catch_up()

    def _catch_up(self) -> None:
        while self._backlog and not self.paused and not self._writing:
            self._run(self._backlog.popleft())

    # --- time -----------------------------------------------------------------------------------------------------

    def now(self) -> Instant:
        """This machine's clock; it never goes back."""
        now = self._origin_s + self._agenda.now * self._rate
        if now > self._latest:
            self._latest = Instant(now)
        return self._latest

    def wall_ms(self) -> int:
        """What its wall clock says."""
        return WALL_MS + self.setup.skew_ms + int(self._agenda.now * 1000)

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        """``act`` after ``delay_s`` of this machine's clock, if this life lasts; late if it is paused then."""
        boots = self.boots

        def come() -> None:
            if boots == self.boots:
                self._do(act)

        self._agenda.after(delay_s / self.setup.rate, come)

    def _do(self, act: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.paused or self._writing:
            self._backlog.append(act)
        else:
            self._run(act)

    def _run(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BrokenWorld:
            raise
        except Exception as fault:
            raise BrokenWorld(f"{self.name}: {type(fault).__name__}: {fault}") from fault

    def _wake(self) -> None:
        deadline = self.node.deadline()
        if deadline is None or deadline == self._armed:
            return
        self._armed = deadline
        self.later(max(0.0, deadline - self.now()), lambda: self._ring(deadline))

    def _ring(self, deadline: Instant) -> None:
        if self._armed != deadline:
            return
        self._armed = None
        self._latest = Instant(max(self._latest, deadline))
        self._handle(TimePassed())

    def _sample(self) -> None:
        memory = self.setup.memory_bytes
        macs = int(REFERENCE_MACS_PER_S * self.setup.speed * (BOAST if self.setup.boasts else 1))
        taken = 1000 - int(1000 / self.slower)
        load = Load(taken, memory, None, 0, 0, taken)
        self.post(Sampled(Capacity(1, memory, memory, 10**9, macs, ("CPU",)), load, self.wall_ms()))
        self.later(SAMPLE_S, self._sample)

    # --- events and effects ---------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """``event`` happens here, now; nowhere if the machine is dead, later if it is paused."""
        self._do(lambda: self._handle(event))

    def read(self, events: list[EnvelopeReceived]) -> None:
        """Several messages happen here, in one go: the clock is read and the alarm set once. No disk is slow here."""
        self._do(lambda: self._read(events))

    def _read(self, events: list[EnvelopeReceived]) -> None:
        now, handle, seen = self.now(), self.node.handle, self._seen
        for event in events:
            effects = handle(event, now)
            if effects or seen:
                self._follow(event, effects)
        self._check_after(len(events))
        self._wake()

    def frame(self, peer: NodeId, header: Header, data: bytes | None) -> None:
        """A frame arrives; the payload of an activation becomes a tensor."""
        self._do(lambda: self._frame(peer, header, data))

    def _frame(self, peer: NodeId, header: Header, data: bytes | None) -> None:
        tensor = data is not None and isinstance(header, Activation | KvRows)
        payload = self.device.put(data) if tensor and data is not None else data
        self._handle(FrameReceived(peer, header, payload))

    def _handle(self, event: Event) -> None:
        self._step(event, self.now())
        self._wake()

    def _step(self, event: Event, now: Instant) -> None:
        effects = self.node.handle(event, now)
        self._check_after(1)
        self._follow(event, effects)

    def _check_after(self, steps: int) -> None:
        self._unchecked += steps
        if self._unchecked >= self.setup.check_every:
            self._unchecked = 0
            self.node.check()

    def _follow(self, event: Event, effects: list[Effect]) -> None:
        if self._seen:
            self._around.handled(self, event, effects)
        self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        for index, effect in enumerate(effects):
            if self.disk_s and isinstance(effect, Persist):
                self._write(effect, effects[index + 1 :])
                return
            self._perform(effect)

    def _write(self, effect: Persist, rest: list[Effect]) -> None:
        """The process waits until a slow disk has ``effect``, and then goes on with ``rest``."""
        self._writing = True

        def written() -> None:
            self.disk[effect.name] = effect.data
            self._carry_out(rest)
            self._wake()

        def over() -> None:
            if boots == self.boots and self.alive:
                self._writing = False
                self._backlog.appendleft(written)
                self._catch_up()

        boots = self.boots
        self._agenda.after(self.disk_s, over)

    def _perform(self, effect: Effect) -> None:
        device = self.device
        match effect:
            case (
                Count() | Note() | Accept() | Emit() | Finish() | Reject() | ErrandEnded() | PipelineJudged()
                | StartInstance() | StopInstance()
            ):  # fmt: skip
                # What a client is told and what is counted is the oracles' to judge; toy services need no instances.
                return
            case SendFrame():
                self._around.send(self.name, effect, device.sent(effect))
            case Broadcast():
                self._around.publish(self.name, effect)
            case Listen(shards):
                self.filters = agent_filters(self.setup.config.cluster, self.name, shards)
                self._around.listen(self.name)
            case Persist(name, data):
                self.disk[name] = data
            case AdoptIncarnation(incarnation):
                self.life = incarnation
            case LoadBlocks(span):
                device.loading.append(span)
                took_s = device.fetch_s(span) + device.load_s(span) * self.slower
                self.later(took_s, lambda: self._handle(self._loaded(effect)))
            case FetchBlocks(span, sources):
                self.later(device.fetch_s(span), lambda: device.cache(span, sources))
            case FetchModel():
                self.later(device.learn_s(), lambda: self._handle(device.learn(effect)))
            case Solve(ticket, problem):
                self.later(0.0, lambda: self._handle(Solved(ticket, solution(problem))))
            case UnloadBlocks(span):
                device.unload(span)
            case OpenStage():
                device.open(effect)
            case CloseStage(session, stage):
                device.close((session, stage))
            case RunStage():
                device.begin(effect)
                took_s = device.run_s(effect) * self.slower
                self.later(took_s, lambda: self._handle(device.finish(effect, took_s)))
            case ExportKv():
                rows = device.export(effect)
                self.later(COPY_S, lambda: self._handle(device.exported(effect, rows)))
            case ImportKv():
                reason = device.write(effect)
                self.later(COPY_S, lambda: self._handle(device.imported(effect, reason)))
            case CallService():
                self.later(0.0, lambda: self._handle(device.call(effect)))
            case CloseService(service, session):
                self.later(0.0, lambda: device.services.close(service, session))
            case ReleaseTensor(handle):
                del device.tensors[handle]
            case Stop():
                self._around.stopped(self.name)
            case _:
                assert_never(effect)

    def _loaded(self, effect: LoadBlocks) -> BlocksLoaded | BlocksFailed:
        if self.refuses_blocks or self.setup.boasts:
            self.device.unload(effect.span)
            return BlocksFailed(effect.span, "no space left on device")
        return self.device.load(effect)
