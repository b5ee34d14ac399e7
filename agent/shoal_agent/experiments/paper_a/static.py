"""The best static answer from the same tools: routes and instance counts from the means, then never a change.

The shares in which stages come to nodes follow from the backbone: a core stage goes to its hosts in proportion to
their instances, in a fixed order (smooth weighted round robin); a light stage to the node from which the way to the
end, its own included, is shortest. Effective capacity turns the mean rates so found into counts, with the true rates of
the users in hand, and all instances start before the first task.
"""

from math import inf

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.routes import Routes
from shoal_agent.experiments.paper_a.scaling import Sizes
from shoal_agent.experiments.paper_a.scenario import Pipeline, Scenario
from shoal_agent.experiments.paper_a.world import Placement, Stage, World

Shares = dict[int, float]
"""By node; they sum to one."""


class Static:
    """Nothing is measured, nothing changes."""

    def __init__(self, scenario: Scenario, placement: Placement) -> None:
        self._scenario = scenario
        self._placement = placement
        self._routes = Routes(scenario, placement)
        self._credit: dict[tuple[int, int], float] = {}
        self._rates = self._expected()

    def decide(self, world: World) -> None:
        """One slot."""
        if world.slot == 0:
            self._start(world)
        for stage in sorted(world.waiting, key=lambda s: (s.since_ms, s.task.number, s.service.number)):
            if stage.service.core:
                self._send_core(world, stage)
            else:
                node = min(self._able(world, stage), key=lambda v: (self._way(world, stage, v), v), default=None)
                if node is not None:
                    world.send_light(stage, node)

    def _able(self, world: World, stage: Stage) -> list[int]:
        able = self._routes.able[stage.service.number]
        return [v for v in able if world.pool(v, stage.service.number).instances]

    def _way(self, world: World, stage: Stage, node: int) -> float:
        return world.there_ms(stage, node) + self._routes.left_ms(stage.task.pipeline, stage.service.number, node)

    def _send_core(self, world: World, stage: Stage) -> None:
        """The host whose turn it is; where instances are held, the stage waits for one of its own."""
        number, hosts = stage.service.number, world.cores[stage.service.number]
        free = [v for v in hosts if world.takes(v, stage.service)]
        if not free:
            return
        total = sum(len(heap) for heap in hosts.values())
        for node, heap in hosts.items():
            self._credit[node, number] = self._credit.get((node, number), 0.0) + len(heap) / total
        node = max(free, key=lambda v: (self._credit[v, number], -v))
        self._credit[node, number] -= 1.0
        world.send_core(stage, node)

    def _start(self, world: World) -> None:
        sizes = Sizes(self._routes, by_tail=True)
        for (node, number), rate in sorted(self._rates.items()):
            service = world.scenario.services[number]
            for _ in range(sizes.of(service, rate).instances):
                if world.fits(node, service):
                    world.boot(node, service)

    def _expected(self) -> dict[tuple[int, int], float]:
        """Stages per slot by node and light service."""
        rates: dict[tuple[int, int], float] = {}
        for user in self._scenario.users:
            pipeline = self._scenario.pipelines[user.pipeline]
            shares: dict[int, Shares] = {}
            for number, parents in pipeline.parents.items():
                came = shares[parents[0]] if parents else {user.gateway: 1.0}
                carried = self._scenario.services[parents[0]].output_mb if parents else pipeline.input_mb
                shares[number] = self._spread(pipeline, number, came, carried)
                if number in tables.LIGHTS:
                    for node, share in shares[number].items():
                        rates[node, number] = rates.get((node, number), 0.0) + share * user.tasks_per_ms
        return rates

    def _spread(self, pipeline: Pipeline, number: int, came: Shares, carried_mb: float) -> Shares:
        """Where a stage runs, given where its input is."""
        hosts = {v: count for (v, m), count in sorted(self._placement.items()) if m == number}
        if hosts:
            return {v: count / sum(hosts.values()) for v, count in hosts.items()}
        shares: Shares = {}
        for source, share in came.items():
            way = self._scenario.ms_per_mb[source]
            best, chosen = inf, -1
            for node in self._routes.able[number]:
                length = carried_mb * way[node] + self._routes.left_ms(pipeline, number, node)
                if length < best:
                    best, chosen = length, node
            shares[chosen] = shares.get(chosen, 0.0) + share
        return shares
