"""The system in slots of a millisecond: tasks walk through their pipelines, instances serve, costs add up.

A controller (``Controller``) is asked once per slot. It sends waiting stages to nodes and starts and stops light
instances; everything else happens here, the same for every method.

Core instances of a node share one queue (an instance is its free-at time in a heap). A light stage is either bound to
one instance, as in the paper, or waits in the queue of its node, from which the first instance that is free takes
the stage with the earliest deadline that has not passed.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Protocol

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.regimes import Hold
from shoal_agent.experiments.paper_a.scenario import Pipeline, Scenario, Service
from shoal_agent.experiments.paper_a.trace import INSTANCES, Arrival, Trace

Place = tuple[int, int]
"""Node and service."""
Placement = dict[Place, int]
"""Core instances."""
ROOM_SLACK: Final = 1e-9
WORK_SLACK_MB: Final = 1e-12


@dataclass(slots=True)
class Task:
    """One request on its way; ``ended`` says where and when each of its stages ended."""

    number: int
    gateway: int
    pipeline: Pipeline
    at_ms: float
    ready_ms: float
    urgency: float = 1.0
    ended: dict[int, tuple[int, float]] = field(default_factory=dict[int, tuple[int, float]])
    done_ms: float | None = None

    @property
    def due_ms(self) -> float:
        return self.at_ms + self.pipeline.deadline_ms

    @property
    def in_time(self) -> bool:
        return self.done_ms is not None and self.done_ms <= self.due_ms


@dataclass(slots=True)
class Stage:
    """A service's turn for a task; ``node`` is None until it was sent somewhere."""

    task: Task
    service: Service
    since_ms: float
    node: int | None = None
    there_ms: float = 0.0
    """When its input is at its node."""
    left_mb: float = 0.0


@dataclass(slots=True)
class Instance:
    """One light instance; ``ordinal`` says which of its node's it is."""

    ordinal: int
    jobs: list[Stage] = field(default_factory=list[Stage])


@dataclass(slots=True)
class Pool:
    """The instances of one light service on one node, and what waits for any of them."""

    instances: list[Instance] = field(default_factory=list[Instance])
    queue: list[Stage] = field(default_factory=list[Stage])
    booted: int = 0
    """Instances at the end of the slot before."""
    seen: int = 0
    """Stages that were here in the slot before, those that ended in it included."""
    seen_urgency: float = 0.0
    """Of all of them together."""

    @property
    def busy(self) -> int:
        return sum(1 for instance in self.instances if instance.jobs)


class Controller(Protocol):
    """Decides once per slot."""

    def decide(self, world: "World") -> None:
        """Send what waits, start and stop instances."""


def gives(hold: Hold, free_in_ms: float) -> bool:
    """Whether an instance that will be free then is given to a stage now."""
    return free_in_ms <= 0 or free_in_ms < hold.value


class World:
    """One method's run over one trace."""

    def __init__(self, scenario: Scenario, trace: Trace, placement: Placement, hold: Hold) -> None:
        self.scenario = scenario
        self.trace = trace
        self.slot = 0
        self.tasks: list[Task] = []
        self.active: list[Task] = []
        self.waiting: list[Stage] = []
        self.hold = hold
        self.cores: dict[int, dict[int, list[float]]] = {number: {} for number in tables.CORES}
        self.pools: dict[Place, Pool] = {}
        self.used = [[0.0] * len(room) for room in scenario.rooms]
        self.cost = 0.0
        self.boots = 0
        self.instance_slots = 0
        self._core_run = 0.0
        self._coming: list[tuple[float, int, int]] = []
        for (node, number), count in sorted(placement.items()):
            self._take(node, scenario.services[number], count)
            self.cores[number][node] = [0.0] * count
            self.cost += tables.CORE_BOOT * count
            self._core_run += tables.CORE_RUN * count

    def run(self, controller: Controller) -> None:
        """The whole trace."""
        while self.slot < self.trace.slots:
            self._open()
            controller.decide(self)
            self._close()

    # What a controller asks and orders.

    def there_ms(self, stage: Stage, node: int) -> float:
        """When the input of ``stage`` would be at ``node``."""
        task, distance = stage.task, self.scenario.ms_per_mb
        parents = task.pipeline.parents[stage.service.number]
        if not parents:
            return task.ready_ms + distance[task.gateway][node] * task.pipeline.input_mb
        return max(
            task.ended[parent][1] + distance[task.ended[parent][0]][node] * self.scenario.services[parent].output_mb
            for parent in parents
        )

    def fits(self, node: int, service: Service) -> bool:
        """Whether one more instance does."""
        room = self.scenario.rooms[node]
        return all(u + n <= r + ROOM_SLACK for u, n, r in zip(self.used[node], service.needs, room, strict=True))

    def send_core(self, stage: Stage, node: int) -> None:
        """To the queue of ``node``, or to the instance there that is held for it."""
        assert self.takes(node, stage.service), "a held instance is chosen only when it is free"
        end = self.begin_ms(stage, node) + stage.service.run_ms
        stage.node, stage.there_ms = node, self.there_ms(stage, node)
        heapreplace(self.cores[stage.service.number][node], end)
        self._ended(stage, end)

    def takes(self, node: int, service: Service) -> bool:
        """Whether a core stage may be sent to ``node`` in this slot."""
        return gives(self.hold, self.cores[service.number][node][0] - self.slot)

    def begin_ms(self, stage: Stage, node: int) -> float:
        """When ``node`` would begin to compute a core stage that is sent now."""
        now, free = float(self.slot), self.cores[stage.service.number][node][0]
        there = self.there_ms(stage, node)
        if self.hold is Hold.COMPUTING:
            return max(now, there, free)
        return max(now, free) + max(there - now, 0.0)

    def send_light(self, stage: Stage, node: int, instance: Instance | None = None) -> None:
        """To one instance, or to the queue that all instances of ``node`` share."""
        stage.node, stage.left_mb = node, stage.service.work_mb
        stage.there_ms = max(float(self.slot), self.there_ms(stage, node))
        jobs = self.pool(node, stage.service.number).queue if instance is None else instance.jobs
        jobs.append(stage)

    def pool(self, node: int, number: int) -> Pool:
        """Created when first asked for."""
        return self.pools.setdefault((node, number), Pool())

    def boot(self, node: int, service: Service) -> Instance:
        """One more instance; it must fit."""
        assert self.fits(node, service)
        self._take(node, service, 1)
        pool = self.pool(node, service.number)
        taken = {instance.ordinal for instance in pool.instances}
        instance = Instance(next(k for k in range(len(taken) + 1) if k not in taken))
        pool.instances.append(instance)
        return instance

    def stop(self, node: int, service: Service, instance: Instance) -> None:
        """An idle instance goes."""
        assert not instance.jobs
        self.pool(node, service.number).instances.remove(instance)
        self._take(node, service, -1)

    # A slot's beginning and end.

    def _open(self) -> None:
        for arrival in self.trace.arrivals[self.slot]:
            self._arrived(arrival)
        while self._coming and self._coming[0][0] <= self.slot:
            since, number, service = heappop(self._coming)
            self.waiting.append(Stage(self.tasks[number], self.scenario.services[service], since))
        self.active = [task for task in self.active if task.done_ms is None or task.done_ms > self.slot]

    def _close(self) -> None:
        self.waiting = [stage for stage in self.waiting if stage.node is None]
        for (node, number), pool in sorted(self.pools.items()):
            count = len(pool.instances)
            self.boots += max(0, count - pool.booted)
            self.cost += tables.LIGHT_BOOT * max(0, count - pool.booted) + tables.LIGHT_RUN * count
            self.instance_slots += count
            pool.booted = count
            if count:
                self._serve(node, number, pool)
        self.cost += self._core_run
        self.slot += 1

    def _arrived(self, arrival: Arrival) -> None:
        user = self.scenario.users[arrival.user]
        pipeline = self.scenario.pipelines[user.pipeline]
        task = Task(len(self.tasks), user.gateway, pipeline, arrival.at_ms, arrival.ready_ms)
        self.tasks.append(task)
        self.active.append(task)
        for service, parents in pipeline.parents.items():
            if not parents:
                heappush(self._coming, (task.ready_ms, task.number, service))

    def _ended(self, stage: Stage, when_ms: float) -> None:
        task, number = stage.task, stage.service.number
        assert stage.node is not None
        task.ended[number] = (stage.node, when_ms)
        child = task.pipeline.child[number]
        if child is None:
            task.done_ms = when_ms
            return
        parents = task.pipeline.parents[child]
        if all(parent in task.ended for parent in parents):
            ready = max(task.ended[parent][1] for parent in parents)
            heappush(self._coming, (ready, task.number, child))

    def _take(self, node: int, service: Service, count: int) -> None:
        self.used[node] = [u + n * count for u, n in zip(self.used[node], service.needs, strict=True)]

    def _serve(self, node: int, number: int, pool: Pool) -> None:
        """One slot of all instances, in the order in which they become free."""
        rates = self.trace.rates[number][self.slot, node]
        end = self.slot + 1.0
        for instance in pool.instances:
            instance.jobs.sort(key=lambda job: job.there_ms)
        here = [job for jobs in (pool.queue, *(i.jobs for i in pool.instances)) for job in jobs if job.there_ms < end]
        pool.seen, pool.seen_urgency = len(here), sum(job.task.urgency for job in here)
        free = [(float(self.slot), index) for index in range(len(pool.instances))]
        heapify(free)
        while free:
            now, index = heappop(free)
            instance = pool.instances[index]
            job = self._next(pool, instance, now, end)
            if job is None:
                continue
            rate, start = float(rates[instance.ordinal % INSTANCES]), max(now, job.there_ms)
            if start + job.left_mb / rate <= end:
                stop = start + job.left_mb / rate
                instance.jobs.remove(job)
                self._ended(job, stop)
                heappush(free, (stop, index))
            else:
                job.left_mb = max(job.left_mb - rate * (end - start), WORK_SLACK_MB)

    @staticmethod
    def _next(pool: Pool, instance: Instance, now: float, end: float) -> Stage | None:
        """What an instance that is free at ``now`` does next in this slot; it is in its jobs then."""
        if instance.jobs:
            return instance.jobs[0] if instance.jobs[0].there_ms < end else None
        coming = [job for job in pool.queue if job.there_ms < end]
        if not coming:
            return None
        here = [job for job in coming if job.there_ms <= now]
        if here:
            job = min(here, key=lambda job: (job.task.due_ms <= now, job.task.due_ms, job.task.number))
        else:
            job = min(coming, key=lambda job: (job.there_ms, job.task.number))
        pool.queue.remove(job)
        instance.jobs.append(job)
        return job
