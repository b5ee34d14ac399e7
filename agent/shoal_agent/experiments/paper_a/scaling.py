"""Rule A in the paper's system: every node decides for itself how many light instances it runs.

A node knows its own queues only. It keeps as many instances of a service as effective capacity asks for at the rate at
which stages came lately (EB of Poisson arrivals met by EC of the profiled service, for the share of the deadline that
``routes`` gives the stage), adds what rule A finds worth its price, and lets an instance go when it has lost what a
start costs. All three come from ``core``. What an instance earned in a slot is reckoned with all stages that were there
in it, as agents do (``core/bench.py``): stages that are done within the slot they came in are what it is there for.
"""

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Final

from shoal_agent.core.effective_capacity import GammaService, PoissonTasks, Size, size
from shoal_agent.core.instances import INSTANCES_MAX, Light, Prices, decide
from shoal_agent.core.retirement import Losses
from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.routes import Routes
from shoal_agent.experiments.paper_a.scenario import Service
from shoal_agent.experiments.paper_a.world import Pool, World

IDLE_SLOTS: Final = ceil(tables.LIGHT_BOOT / tables.LIGHT_RUN)
"""An instance without work has lost the price of a start after so many slots."""
MEMORY_SLOTS: Final = 16.0
"""Over so many slots arrivals are averaged."""
RATE_STEPS: Final = 8
"""Rates are rounded to an eighth of a task per slot: few sizes are worked out, each once, and what has ceased is 0."""
ROOM_MIN: Final = 1e-9
EPSILON: Final = 0.05
"""A light stage is late by its own share this often; a pipeline has two or three of them, and 0.2 in all."""


@dataclass(slots=True)
class Flow:
    """Stages of one service that came to one node."""

    per_slot: float = 0.0
    """Averaged."""
    came: int = 0
    """In this slot."""
    losses: Losses = field(default_factory=Losses)
    """Of the instances there."""


class Sizes:
    """How many instances a service needs at a rate; each worked out once."""

    def __init__(self, routes: Routes, *, by_tail: bool) -> None:
        self._routes = routes
        self._by_tail = by_tail
        self._known: dict[tuple[int, int], Size] = {}

    def of(self, service: Service, per_slot: float) -> Size:
        """By effective capacity; without ``by_tail``, by the mean rate (an ablation)."""
        step = round(per_slot * RATE_STEPS)
        key = (service.number, step)
        if key not in self._known:
            rate = step / RATE_STEPS
            arrivals, served = PoissonTasks(rate, service.work_mb), GammaService(service.shape, service.scale)
            share = self._routes.share_ms[service.number]
            if self._by_tail:
                self._known[key] = size(arrivals, served, share, EPSILON, INSTANCES_MAX, service.work_mb)
            else:
                count = min(ceil(arrivals.mean / served.mean), INSTANCES_MAX)
                self._known[key] = Size(count, served.mean, (0.0,), assured=False)
        return self._known[key]


class Nodes:
    """All nodes of one run, each with its own memory."""

    def __init__(self, sizes: Sizes, v: float) -> None:
        self._sizes = sizes
        self._prices = Prices(v=v)
        self._flows: dict[tuple[int, int], Flow] = {}

    def came(self, node: int, service: Service) -> None:
        """A stage was sent to ``node``."""
        self._flows.setdefault((node, service.number), Flow()).came += 1

    def scale(self, world: World) -> None:
        """One slot of all of them."""
        for node in world.scenario.nodes:
            self._scale(world, node)

    def _scale(self, world: World, node: int) -> None:
        free = [r - u for r, u in zip(world.scenario.rooms[node], world.used[node], strict=True)]
        here: list[tuple[Service, Pool]] = []
        lights: list[Light] = []
        for number in tables.LIGHTS:
            flow = self._flows.get((node, number))
            if flow is None:
                continue
            flow.per_slot += (flow.came - flow.per_slot) / min(MEMORY_SLOTS, world.slot + 1.0)
            flow.came = 0
            service, pool = world.scenario.services[number], world.pool(node, number)
            here.append((service, pool))
            lights.append(self._light(world, service, pool, flow))
            free = [f + n * len(pool.instances) for f, n in zip(free, service.needs, strict=True)]
        if not lights:
            return
        counts = decide(lights, [max(f, ROOM_MIN) for f in free], self._prices)
        for (service, pool), count in zip(here, counts, strict=True):
            resize(world, node, service, pool, count)

    def _light(self, world: World, service: Service, pool: Pool, flow: Flow) -> Light:
        asked = self._sizes.of(service, flow.per_slot)
        waiting = [job for job in pool.queue if job.there_ms < world.slot + 1]
        light = Light(
            name=str(service.number),
            needs=service.needs,
            running=len(pool.instances),
            busy=pool.busy,
            settled=pool.busy,
            # Without any, a task that waits would wait for ever: it came too seldom to be counted on.
            least=max(asked.instances, int(bool(waiting))),
            backlog=float(len(waiting)),
            # A task that is late weighs more with every slot: H in (18).
            pressure=sum(job.task.urgency for job in waiting),
            rate=asked.rate / service.work_mb,
            boot=tables.LIGHT_BOOT,
            run=tables.LIGHT_RUN,
        )
        past = replace(light, backlog=float(pool.seen), pressure=pool.seen_urgency)
        return replace(light, settled=flow.losses.stay(past, self._prices))


def resize(world: World, node: int, service: Service, pool: Pool, count: int) -> None:
    """Start what is missing while it fits; stop idle ones that are too many."""
    while len(pool.instances) < count and world.fits(node, service):
        world.boot(node, service)
    idle = [each for each in pool.instances if not each.jobs]
    for instance in idle[: max(0, len(pool.instances) - count)]:
        world.stop(node, service, instance)


def start_price(service: Service) -> float:
    """Of a stage for which an instance would start: that instance serves all that come until it may go."""
    tasks = max(1.0, IDLE_SLOTS / service.run_ms)
    return (tables.LIGHT_BOOT + tables.LIGHT_RUN * IDLE_SLOTS) / tasks
