"""How much of a core service's work each node should carry, and how good it is at it: (15) and (16).

A task's earliest arrival at (service, node) follows from shortest paths and mean rates, parents first; nothing queues.
Load goes to nodes with a weight that decays with that delay; a node is good for a service as far as what is left of the
deadline covers the mean work that is left::

    z(v, m) = sum_u rate_u  e^(-alpha d(v, m)) / sum_v' e^(-alpha d(v', m))                                       (15)
    Q(v, m) = z(v, m)  sum_u max{ (D - d(v, m) - own work) / work of what follows, delta }                        (16)
"""

from dataclasses import dataclass
from math import exp, inf, isfinite
from typing import Final

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.scenario import Pipeline, Scenario, User

DECAY_PER_MS: Final = 0.01
"""alpha: a hundred milliseconds further away, a third of the load."""
LEAST: Final = -1.0
"""delta."""


@dataclass(slots=True)
class Affinity:
    """By core service; the lists have one figure per node."""

    busy: dict[int, float]
    """Mean number of instances at work."""
    load: dict[int, list[float]]
    quality: dict[int, list[float]]


def affinity(scenario: Scenario, reserve: float) -> Affinity:
    """(15) and (16) for every core service."""
    count = len(scenario.rooms)
    load, quality = ({m: [0.0 for _ in range(count)] for m in tables.CORES} for _ in range(2))
    found = Affinity(dict.fromkeys(tables.CORES, 0.0), load, quality)
    for user in scenario.users:
        _add(found, scenario, user, reserve)
    for number in tables.CORES:
        found.quality[number] = [q * z for q, z in zip(found.quality[number], found.load[number], strict=True)]
    return found


def _add(found: Affinity, scenario: Scenario, user: User, reserve: float) -> None:
    pipeline = scenario.pipelines[user.pipeline]
    arrival = _earliest(scenario, user, pipeline, reserve)
    for number in pipeline.parents:
        service = scenario.services[number]
        if not service.core:
            continue
        delays = arrival[number]
        first = min(delays)
        weights = [exp(-DECAY_PER_MS * (delay - first)) if isfinite(delay) else 0.0 for delay in delays]
        rest = max(1.0, _work_after(scenario, pipeline, number))
        found.busy[number] += user.tasks_per_ms * service.run_ms
        for node, weight in enumerate(weights):
            if weight:
                found.load[number][node] += user.tasks_per_ms * weight / sum(weights)
                slack = (pipeline.deadline_ms - delays[node] - service.run_ms) / rest
                found.quality[number][node] += max(slack, LEAST)


def _earliest(scenario: Scenario, user: User, pipeline: Pipeline, reserve: float) -> dict[int, list[float]]:
    """When a task's input can be at each node for each service; infinite where an instance does not fit."""
    distance, nodes = scenario.ms_per_mb, scenario.nodes
    arrival: dict[int, list[float]] = {}
    for number, parents in pipeline.parents.items():
        service = scenario.services[number]
        share = 1.0 - reserve if service.core else 1.0
        fits = [all(n <= r * share for n, r in zip(service.needs, room, strict=True)) for room in scenario.rooms]
        times = []
        for node in nodes:
            came = [distance[user.gateway][node] * pipeline.input_mb]
            for parent in parents:
                sent = scenario.services[parent]
                came.append(min(arrival[parent][v] + sent.run_ms + distance[v][node] * sent.output_mb for v in nodes))
            times.append((max(came[1:]) if parents else came[0]) if fits[node] else inf)
        arrival[number] = times
    return arrival


def _work_after(scenario: Scenario, pipeline: Pipeline, number: int) -> float:
    """Mean milliseconds of all services that come after it."""
    total, child = 0.0, pipeline.child[number]
    while child is not None:
        total += scenario.services[child].run_ms
        child = pipeline.child[child]
    return total
