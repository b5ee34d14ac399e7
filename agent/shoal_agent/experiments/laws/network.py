"""A network of light services in slots, run by the core's own rules.

In every slot, in this order: tasks arrive and are placed one by one (a ``Dispatcher``, ours or a baseline); each node
decides its instances (rule A, ``core/instances.py``); instances serve, first come first served; queues step
(``core/queues.py``); how things stand at the end of the slot is kept, for digests and for a centre that sees late.

What a node pays: the price of its instances per slot, starting one, sending a task. What counts for a task is the whole
trip, from the slot it arrived in at its ingress to the slot it was served in.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from shoal_agent.core.effective_capacity import Blocks, Size, size
from shoal_agent.core.instances import Light, Prices, decide
from shoal_agent.core.queues import DeadlineQueue, ServiceQueue, delay_bound_slots
from shoal_agent.core.retirement import Losses
from shoal_agent.experiments.laws.setting import Setting, Trace

SIZED_SLOTS: Final = 50
"""How often a node asks what effective capacity its services need."""
PAST_SLOTS: Final = 64
"""Slots that are remembered: more than any age an experiment asks for."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a node tells of one service at the end of a slot."""

    pressure: float
    waiting: float
    serving: int


@dataclass(frozen=True, slots=True)
class Control:
    """What a controller is told."""

    v: float = 2.0
    patient: bool = True
    """Whether an instance may only go once it has lost what a start costs."""
    starts: int = 1
    """Of each service on each node in a slot."""
    boots_priced: bool = True
    promises: bool = False
    """Whether Z and effective capacity take part in rule A (there are deadlines to keep)."""
    observed_slots: int = 0
    """How old what rule A knows of a node is: 0 on the node itself; at a centre a round trip, so it has to foresee.

    A task waits as long for the centre's word: it goes the way that is meant for it, a round trip after it came.
    """
    frame_power: float = 0.0
    """Above 0: after a switch a node decides nothing for ``backlog`` to this power (variable frames; a baseline)."""
    away: tuple[tuple[int, int], ...] = ()
    """Slots (from, to) in which nobody decides instances: a centre that is down."""


class Dispatcher(Protocol):
    """Where a task goes."""

    def choose(self, network: "Network", here: int, service: int) -> int:
        """The node that gets one task of ``service`` that arrived at ``here``."""


@dataclass(slots=True)
class Station:
    """One service on one node. A task is [slot of arrival, ingress, slot it came here, work left]."""

    queue: ServiceQueue
    tasks: deque[list[float]] = field(default_factory=deque[list[float]])
    running: int = 0
    booting: list[int] = field(default_factory=list[int])
    """Slots in which those not yet serving will be."""
    losses: Losses = field(default_factory=Losses)
    came: float = 0.0
    """Work that came in this slot."""
    placed: deque[float] = field(default_factory=deque[float])
    """Work that came in each of the slots that a centre has not heard of yet."""
    waiting_max: float = 0.0
    delayed_max: float = 0.0
    stay_max: int = 0
    """Slots that any task waited here."""
    sized: Size | None = None
    """What effective capacity asks for, if promises are kept."""
    measured: tuple[Blocks, Blocks] | None = None
    """What came, and what one instance served."""

    @property
    def waiting(self) -> float:
        """Work here now, what came in this slot included."""
        return self.queue.waiting + self.came

    @property
    def pressure(self) -> float:
        """Q + W now."""
        return self.waiting + self.queue.delayed

    @property
    def serving(self) -> int:
        return self.running - len(self.booting)


@dataclass(slots=True)
class Tally:
    """What came of it, from the end of the warm-up on."""

    cost: float = 0.0
    sent: int = 0
    boots: int = 0
    probes: int = 0
    ended: int = 0
    """Arrivals that were served, or still waited at the end: those are late."""
    late: int = 0
    delays: list[int] = field(default_factory=list[int])
    backlog: list[float] = field(default_factory=list[float])
    delay_bound_excess: float = float("-inf")
    """The longest stay at any station minus its bound; above 0 the bound is broken."""
    stay_max: int = 0
    """The longest stay at any station."""
    z_end: float = 0.0


class Network:
    """The world. Dispatchers read ``stations`` (fresh) and ``past`` (old)."""

    def __init__(self, setting: Setting, control: Control, trace: Trace) -> None:
        self.setting = setting
        self.control = control
        self.now = 0
        self.tally = Tally()
        self._trace = trace
        self.stations = [
            [Station(ServiceQueue(1.0, setting.growth, setting.room * one.rate)) for one in setting.services]
            for _ in range(setting.nodes)
        ]
        for station in (station for node in self.stations for station in node):
            station.placed = deque(maxlen=max(control.observed_slots - 1, 0))
        if control.promises:
            for station in (station for node in self.stations for station in node):
                station.measured = (Blocks(setting.epsilon), Blocks(setting.epsilon))
        self.promises = [DeadlineQueue(setting.epsilon) for _ in range(setting.nodes)]
        self._held_until = [0] * setting.nodes
        self._ended = [[0, 0] for _ in range(setting.nodes)]
        self._past: deque[list[list[Digest]]] = deque([self._told()], maxlen=PAST_SLOTS)

    def past(self, node: int, service: int, age: int) -> Digest:
        """How things stood at the end of the slot ``age`` before this one; at the begin if that was later."""
        return self._past[-min(age, len(self._past))][node][service]

    def central(self, slot: int) -> bool:
        """Whether the centre is there in ``slot``, if there is one."""
        return not any(begin <= slot < end for begin, end in self.control.away)

    def run(self, dispatcher: Dispatcher) -> Tally:
        """All slots of the trace."""
        for now in range(self.setting.slots):
            self.now = now
            if now == self.setting.warm_slots:
                self.tally = Tally()
            self._arrive(dispatcher)
            decided = self.central(now)
            for node in range(self.setting.nodes):
                self._resize(node, decided=decided)
                self._serve(node)
            self._promise()
            self.tally.backlog.append(sum(station.queue.waiting for node in self.stations for station in node))
            self._past.append(self._told())
        self._close()
        return self.tally

    def _told(self) -> list[list[Digest]]:
        return [[Digest(s.queue.pressure, s.queue.waiting, s.serving) for s in node] for node in self.stations]

    def _arrive(self, dispatcher: Dispatcher) -> None:
        for here, counts in enumerate(self._trace.arrivals[self.now]):
            for service, count in enumerate(counts):
                for _ in range(count):
                    there = dispatcher.choose(self, here, service)
                    self.tally.sent += there != here
                    self.tally.cost += self.setting.send * (there != here)
                    station = self.stations[there][service]
                    station.tasks.append([self.now, here, self.now, 1.0])
                    station.came += 1.0

    def _light(self, node: int, service: int) -> Light:
        """One service as rule A sees it."""
        station, kind = self.stations[node][service], self.setting.services[service]
        station.booting = [slot for slot in station.booting if slot > self.now]
        sized = station.sized
        seen = self._foreseen(node, service) if self.control.observed_slots else station
        return Light(
            name=str(service),
            needs=(1.0,),
            running=station.running,
            busy=len(station.booting),
            settled=len(station.booting),
            least=sized.instances if sized else 0,
            backlog=seen.waiting,
            pressure=seen.pressure,
            rate=kind.rate,
            boot=kind.boot if self.control.boots_priced else 0.0,
            run=self.setting.prices[node],
            lateness=self.promises[node].level * station.came if sized else 0.0,
            tails=sized.tails if sized else (0.0,),
        )

    def _foreseen(self, node: int, service: int) -> Digest:
        """What a centre believes: how it was, with what it sent there since, less what should have been served."""
        station, old = self.stations[node][service], self.control.observed_slots
        told = self.past(node, service, old)
        served = old * station.serving * self.setting.services[service].rate
        waiting = max(told.waiting + station.came + sum(station.placed) - served, 0.0)
        return Digest(max(told.pressure - told.waiting, 0.0) + waiting, waiting, station.serving)

    def _resize(self, node: int, *, decided: bool) -> None:
        """Rule A at one node; if nobody decides, all stays as it is."""
        lights = [self._light(node, service) for service in range(len(self.setting.services))]
        prices = Prices(self.control.v)
        if self.control.patient:
            stations = self.stations[node]
            lights = [
                replace(light, settled=s.losses.stay(light, prices)) for light, s in zip(lights, stations, strict=True)
            ]
        counts = tuple(light.running for light in lights)
        if decided and self.now >= self._held_until[node]:
            counts = decide(lights, (float(self.setting.room),), prices, self.control.starts)
        for service, count in enumerate(counts):
            station, kind = self.stations[node][service], self.setting.services[service]
            added = max(count - station.running, 0)
            if added and kind.boot_slots:
                station.booting += [self.now + kind.boot_slots] * added
            station.running = count
            if added and self.control.frame_power:
                backlog = sum(light.backlog for light in lights)
                self._held_until[node] = self.now + kind.boot_slots + 1 + int(backlog**self.control.frame_power)
            self.tally.boots += added
            self.tally.cost += kind.boot * added + self.setting.prices[node] * count

    def _serve(self, node: int) -> None:
        for service, station in enumerate(self.stations[node]):
            served = left = self._trace.served[self.now][node][service][station.serving]
            tasks = station.tasks
            while tasks and left > 0:
                task = tasks[0]
                if task[3] > left:
                    task[3] -= left
                    break
                left -= task[3]
                tasks.popleft()
                self._finish(station, task)
            if station.measured is not None:
                self._measure(node, service, station, station.measured)
            # Tasks that came in this slot are here to be served in it, so they join before the queue steps.
            station.queue.waiting += station.came
            station.waiting_max = max(station.waiting_max, station.queue.waiting)
            station.queue.step(arrived=0.0, served=served)
            station.delayed_max = max(station.delayed_max, station.queue.delayed)
            station.placed.append(station.came)
            station.came = 0.0

    def _measure(self, node: int, service: int, station: Station, measured: tuple[Blocks, Blocks]) -> None:
        """Effective capacity, from what this node saw."""
        arrivals, served = measured
        arrivals.slot(station.came)
        if station.serving and station.waiting > 0:
            served.slot(self._trace.served[self.now][node][service][1])
        if self.now % SIZED_SLOTS == 0:
            limits = self.setting.deadline_slots, self.setting.epsilon, self.setting.room
            station.sized = size(arrivals, served, *limits, task=1.0)

    def _promise(self) -> None:
        """Z at every ingress."""
        for promise, ended in zip(self.promises, self._ended, strict=True):
            promise.step(late=ended[0], ended=ended[1])
            ended[0] = ended[1] = 0

    def _finish(self, station: Station, task: list[float]) -> None:
        came, ingress, here, _ = task
        # Told a round trip later, the same task would take the same way: all that is added is the wait.
        delay = self.now - int(came) + (self.control.observed_slots if self.central(int(came)) else 0)
        late = delay > self.setting.deadline_slots
        self.tally.delays.append(delay)
        self.tally.late += late
        self.tally.ended += 1
        self._ended[int(ingress)][0] += late
        self._ended[int(ingress)][1] += 1
        station.stay_max = max(station.stay_max, self.now - int(here))

    def _close(self) -> None:
        """What still waits is late: every arrival counts."""
        for node in self.stations:
            for station in node:
                self.tally.late += len(station.tasks)
                self.tally.ended += len(station.tasks)
                if station.tasks:
                    station.stay_max = max(station.stay_max, self.now - int(station.tasks[0][2]))
                self.tally.stay_max = max(self.tally.stay_max, station.stay_max)
                bound = delay_bound_slots(station.waiting_max, station.delayed_max, self.setting.growth)
                self.tally.delay_bound_excess = max(self.tally.delay_bound_excess, station.stay_max - bound)
        self.tally.z_end = sum(promise.late for promise in self.promises)
