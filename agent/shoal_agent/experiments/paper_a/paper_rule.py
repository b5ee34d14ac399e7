"""The paper's online controller, Algorithm 1, as the baseline: (18) and (19), with (21) or with mean rates.

Each slot minimises ``eta cost + sum H g(y)`` greedily. It starts from the instances that are at work (idle ones are
dropped), routes every waiting light stage to the instance of least predicted delay, scores all with the final
occupancy, tries one more instance of every service on every node that has room, takes the best, and begins again with
new marginals, until nothing is worth its price. What cannot be routed waits and counts as twice its deadline.

``gateway`` runs it once per gateway, each for its own users, with instances of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from shoal_agent.core.queues import urgency
from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.delays import TASKS_MAX, expected_ms
from shoal_agent.experiments.paper_a.scenario import Scenario, Service
from shoal_agent.experiments.paper_a.world import Instance, Stage, World

STEPS_MAX: Final = 400
"""Instances started in one slot by one controller."""
LEAST_GAIN: Final = 1e-9


@dataclass(slots=True)
class Seat:
    """An instance as the greedy search sees it: one that runs, or (``instance`` None) one it would start."""

    node: int
    instance: Instance | None
    tasks: int
    ready_ms: float
    """When the last input of its tasks is there."""


@dataclass(slots=True)
class Routing:
    """Where the waiting stages of one service would go, and what that is worth."""

    penalty: float
    seats: list[Seat]
    routes: list[int | None]
    """For each stage, the index of its seat."""


@dataclass(slots=True)
class Group:
    """One controller's share: all users, or those of one gateway; and the instances that are its own."""

    gateway: int | None
    owned: dict[tuple[int, int], list[Instance]] = field(default_factory=dict[tuple[int, int], list[Instance]])

    def has(self, stage: Stage) -> bool:
        return self.gateway is None or stage.task.gateway == self.gateway


class PaperRule:
    """Algorithm 1."""

    def __init__(self, scenario: Scenario, *, eta: float, epsilon: float | None, per_gateway: bool = False) -> None:
        self._eta = eta
        self._delay = {m: expected_ms(scenario.services[m], epsilon) for m in tables.LIGHTS}
        self._groups = [Group(gateway) for gateway in scenario.gateways] if per_gateway else [Group(None)]

    def decide(self, world: World) -> None:
        """One slot."""
        age(world)
        send_cores(world)
        drop_idle(world, self._groups)
        for group in self._groups:
            waiting: dict[int, list[Stage]] = {}
            for stage in world.waiting:
                if stage.node is None and not stage.service.core and group.has(stage):
                    waiting.setdefault(stage.service.number, []).append(stage)
            self._place(world, group, waiting)

    def _place(self, world: World, group: Group, waiting: dict[int, list[Stage]]) -> None:
        kept = {m: self.route(world, m, waiting[m], self.seats(group, m)) for m in waiting}
        started: dict[tuple[int, int], int] = {}
        taken = [used[:] for used in world.used]
        offers = {m: self._best(world, taken, started, m, waiting[m], kept[m]) for m in waiting}
        for _ in range(STEPS_MAX):
            best = max(((offer[0], m) for m, offer in offers.items() if offer), default=None)
            if best is None:
                break
            m = best[1]
            offer = offers[m]
            assert offer is not None
            _, node, routing = offer
            if fits(world, taken, node, world.scenario.services[m]):
                taken[node] = [u + n for u, n in zip(taken[node], world.scenario.services[m].needs, strict=True)]
                started[node, m] = started.get((node, m), 0) + 1
                kept[m] = routing
            offers[m] = self._best(world, taken, started, m, waiting[m], kept[m])
        for m, routing in kept.items():
            self.apply(world, group, waiting[m], routing, world.scenario.services[m])

    @staticmethod
    def seats(group: Group, number: int) -> list[Seat]:
        """The instances that are at work for this group."""
        return [
            Seat(node, instance, len(instance.jobs), max(job.there_ms for job in instance.jobs))
            for (node, m), instances in sorted(group.owned.items())
            if m == number
            for instance in instances
        ]

    def route(self, world: World, number: int, stages: Sequence[Stage], seats: list[Seat]) -> Routing:
        """Each to the seat of least predicted delay; of a node's seats only the emptiest matters."""
        delay, now = self._delay[number], float(world.slot)
        tasks, ready = [seat.tasks for seat in seats], [seat.ready_ms for seat in seats]
        at: dict[int, list[int]] = {}
        for index, seat in enumerate(seats):
            at.setdefault(seat.node, []).append(index)
        routes: list[int | None] = []
        for stage in stages:
            best, chosen, there = 2 * stage.task.pipeline.deadline_ms + 1, None, 0.0
            for node, indices in at.items():
                k = min(indices, key=tasks.__getitem__)
                if tasks[k] >= TASKS_MAX:
                    continue
                came = world.there_ms(stage, node)
                wait = max(0.0, came - now, ready[k] - now) + delay[tasks[k] + 1]
                if wait < best:
                    best, chosen, there = wait, k, came
            if chosen is not None:
                tasks[chosen] += 1
                ready[chosen] = max(ready[chosen], there)
            routes.append(chosen)
        penalty = 0.0
        for stage, route in zip(stages, routes, strict=True):
            wait = 2 * stage.task.pipeline.deadline_ms + 1
            if route is not None:
                wait = max(0.0, ready[route] - now) + delay[tasks[route]]
            penalty += stage.task.urgency * wait
        return Routing(penalty, seats, routes)

    def _best(
        self,
        world: World,
        taken: list[list[float]],
        started: dict[tuple[int, int], int],
        number: int,
        stages: Sequence[Stage],
        kept: Routing,
    ) -> tuple[float, int, Routing] | None:
        """The node on which one more instance gains most, if any does."""
        service = world.scenario.services[number]
        best: tuple[float, int, Routing] | None = None
        for node in world.scenario.nodes:
            if not fits(world, taken, node, service):
                continue
            count = len(world.pool(node, number).instances) + started.get((node, number), 0)
            boots = count >= world.pool(node, number).booted
            price = self._eta * (tables.LIGHT_BOOT * boots + tables.LIGHT_RUN)
            if best is not None and kept.penalty - price <= best[0]:
                continue
            routing = self.route(world, number, stages, [*kept.seats, Seat(node, None, 0, 0.0)])
            gain = kept.penalty - routing.penalty - price
            if gain > (best[0] if best else LEAST_GAIN):
                best = (gain, node, routing)
        return best

    @staticmethod
    def apply(world: World, group: Group, stages: Sequence[Stage], routing: Routing, service: Service) -> None:
        """Start what it asks for and send the stages."""
        for seat in routing.seats:
            if seat.instance is None:
                seat.instance = world.boot(seat.node, service)
                group.owned.setdefault((seat.node, service.number), []).append(seat.instance)
        for stage, route in zip(stages, routing.routes, strict=True):
            if route is not None:
                seat = routing.seats[route]
                world.send_light(stage, seat.node, seat.instance)


def age(world: World) -> None:
    """(18) for every task that is not done."""
    for task in world.active:
        task.urgency = urgency(task.urgency, world.slot - task.at_ms, task.pipeline.deadline_ms)


def send_cores(world: World) -> None:
    """Every core stage to the host where it can begin first."""
    for stage in sorted(world.waiting, key=lambda stage: (stage.since_ms, stage.task.number, stage.service.number)):
        if not stage.service.core:
            continue
        best, chosen = inf, -1
        for node in world.cores[stage.service.number]:
            if world.takes(node, stage.service) and (begin := world.begin_ms(stage, node)) < best:
                best, chosen = begin, node
        if chosen >= 0:
            world.send_core(stage, chosen)


def drop_idle(world: World, groups: Sequence[Group]) -> None:
    """Instances without work go; the paper keeps none."""
    for (node, number), pool in sorted(world.pools.items()):
        for instance in [instance for instance in pool.instances if not instance.jobs]:
            world.stop(node, world.scenario.services[number], instance)
    for group in groups:
        for place, instances in group.owned.items():
            group.owned[place] = [instance for instance in instances if instance.jobs]


def fits(world: World, taken: list[list[float]], node: int, service: Service) -> bool:
    """Whether one more does, beside what the search has already taken."""
    for used, need, room in zip(taken[node], service.needs, world.scenario.rooms[node], strict=True):
        if used + need > room:  # a loop, not all(): asked a million times in a run of ``ga``
            return False
    return True
