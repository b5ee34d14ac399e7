"""LBRR, the paper's simple baseline: least-loaded machines, round robin among instances.

As many light instances as the waiting stages need at 20 tasks each, every new one on the machine that is least
utilised on the average of its resources; stages, core ones too, take nodes in turn, and there the emptiest instance.
Idle instances go, as in the paper's own rule.
"""

from shoal_agent.experiments.paper_a.delays import TASKS_MAX
from shoal_agent.experiments.paper_a.paper_rule import drop_idle
from shoal_agent.experiments.paper_a.scenario import Service
from shoal_agent.experiments.paper_a.world import Stage, World


class RoundRobin:
    """Counts turns, nothing else."""

    def __init__(self) -> None:
        self._turn: dict[int, int] = {}

    def decide(self, world: World) -> None:
        """One slot."""
        drop_idle(world, ())
        waiting: dict[int, list[Stage]] = {}
        for stage in sorted(world.waiting, key=lambda s: (s.since_ms, s.task.number, s.service.number)):
            if stage.service.core:
                self._send_core(world, stage)
            else:
                waiting.setdefault(stage.service.number, []).append(stage)
        for number, stages in sorted(waiting.items()):
            self._start(world, world.scenario.services[number], len(stages))
            for stage in stages:
                self._send_light(world, stage)

    def _send_core(self, world: World, stage: Stage) -> None:
        hosts = world.cores[stage.service.number]
        free = [node for node in sorted(hosts) if world.takes(node, stage.service)]
        if free:
            world.send_core(stage, self._next(stage.service, free))

    def _send_light(self, world: World, stage: Stage) -> None:
        able = {}
        for node in world.scenario.nodes:
            open_ones = [i for i in world.pool(node, stage.service.number).instances if len(i.jobs) < TASKS_MAX]
            if open_ones:
                able[node] = min(open_ones, key=lambda i: (len(i.jobs), i.ordinal))
        if able:
            node = self._next(stage.service, list(able))
            world.send_light(stage, node, able[node])

    def _start(self, world: World, service: Service, stages: int) -> None:
        pools = [world.pool(node, service.number) for node in world.scenario.nodes]
        places = sum(TASKS_MAX - len(instance.jobs) for pool in pools for instance in pool.instances)
        while places < stages:
            fitting = [node for node in world.scenario.nodes if world.fits(node, service)]
            if not fitting:
                return
            world.boot(min(fitting, key=lambda node: (_utilised(world, node), node)), service)
            places += TASKS_MAX

    def _next(self, service: Service, nodes: list[int]) -> int:
        turn = self._turn.get(service.number, 0)
        self._turn[service.number] = turn + 1
        return nodes[turn % len(nodes)]


def _utilised(world: World, node: int) -> float:
    pairs = list(zip(world.used[node], world.scenario.rooms[node], strict=True))
    return sum(used / max(room, 1.0) for used, room in pairs) / len(pairs)
