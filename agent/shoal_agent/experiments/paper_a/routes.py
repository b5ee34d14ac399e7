"""What every node can work out from the agreed backbone alone: the way that is left, and the time for each light stage.

The way left of a task that ended ``service`` at ``v`` is a shortest path over the nodes that may run what follows::

    left(service, v) = min_w  output ms(v, w) + run(child) + left(child, w)          w: any node that may run the child

It is to dispatch what a distance vector is to routing: without it a light stage runs where it is quickest itself, and
its output then crosses the network that it had been sent around. What remains of the deadline when nothing waits is
shared among the light stages in proportion to their mean work; that share is the delay that effective capacity keeps.
"""

from math import inf
from typing import Final

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.scenario import Pipeline, Scenario
from shoal_agent.experiments.paper_a.world import Placement

SHARE_MS_MIN: Final = 1.0
"""No stage is asked to be done in less than a slot."""


class Routes:
    """For one scenario and one placement of the core services."""

    def __init__(self, scenario: Scenario, placement: Placement) -> None:
        self._scenario = scenario
        self.able: dict[int, list[int]] = {m: [] for m in scenario.services}
        """Nodes that may run a service."""
        for number, service in scenario.services.items():
            if service.core:
                self.able[number] = sorted(v for v, m in placement if m == number)
            else:
                rooms = enumerate(scenario.rooms)
                self.able[number] = [
                    v for v, room in rooms if all(n <= r for n, r in zip(service.needs, room, strict=True))
                ]
        self._left = [self._lefts(pipeline) for pipeline in scenario.pipelines]
        self.share_ms = self._shares()
        """By light service: the delay it may take."""

    def left_ms(self, pipeline: Pipeline, service: int, node: int) -> float:
        """From ``node``, where ``service`` ended, to the end of the pipeline."""
        return self._left[self._scenario.pipelines.index(pipeline)][service][node]

    def _lefts(self, pipeline: Pipeline) -> dict[int, list[float]]:
        scenario = self._scenario
        left: dict[int, list[float]] = {}
        for number in reversed(pipeline.parents):
            child, output = pipeline.child[number], scenario.services[number].output_mb
            if child is None:
                left[number] = [0.0 for _ in scenario.nodes]
                continue
            run = scenario.services[child].run_ms
            left[number] = [
                min(output * scenario.ms_per_mb[v][w] + run + left[child][w] for w in self.able[child])
                for v in scenario.nodes
            ]
        return left

    def _shares(self) -> dict[int, float]:
        share = dict.fromkeys(tables.LIGHTS, inf)
        for user in self._scenario.users:
            pipeline = self._scenario.pipelines[user.pipeline]
            slack = pipeline.deadline_ms - self.quickest_ms(pipeline, user.gateway)
            light = [m for m in pipeline.parents if m in share]
            work = sum(self._scenario.services[m].run_ms for m in light)
            for m in light:
                run = self._scenario.services[m].run_ms
                share[m] = min(share[m], max(SHARE_MS_MIN, run + slack * run / work))
        return share

    def quickest_ms(self, pipeline: Pipeline, gateway: int) -> float:
        """A task from ``gateway`` that never waits: its longest branch."""
        scenario, most = self._scenario, 0.0
        for number, parents in pipeline.parents.items():
            if not parents:
                run = scenario.services[number].run_ms
                way = scenario.ms_per_mb[gateway]
                ends = (pipeline.input_mb * way[w] + run + self.left_ms(pipeline, number, w) for w in self.able[number])
                most = max(most, min(ends))
        return most
