"""What a node says of itself, as old as gossip makes it: how much waits for each service, how many instances serve.

A digest of age 0 tells the state at the end of the slot before; of age tau, tau slots before that. A probe is the same
taken at the moment.
"""

from collections import deque
from dataclasses import dataclass

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.scenario import Service
from shoal_agent.experiments.paper_a.world import World


@dataclass(frozen=True, slots=True)
class State:
    """One service on one node at one moment."""

    instances: int
    work_mb: float
    """Of a light service: what waits or is under way."""
    free_ms: float
    """Of a core service: when its next instance is free."""
    room: bool
    """Whether one more instance fits."""


def look(world: World, node: int, service: Service) -> State:
    """The state now."""
    if service.core:
        heap = world.cores[service.number][node]
        return State(len(heap), 0.0, heap[0], room=False)
    pool = world.pools.get((node, service.number))
    room = world.fits(node, service)
    if pool is None:
        return State(0, 0.0, 0.0, room)
    work = sum(job.left_mb for job in pool.queue)
    work += sum(job.left_mb for instance in pool.instances for job in instance.jobs)
    return State(len(pool.instances), work, 0.0, room)


class Digests:
    """What all nodes know of all nodes."""

    def __init__(self, age_slots: int) -> None:
        self.age_slots = age_slots
        self._told: deque[dict[tuple[int, int], State]] = deque(maxlen=age_slots + 1)

    def tell(self, world: World) -> None:
        """At the end of a slot."""
        said: dict[tuple[int, int], State] = {}
        for node in world.scenario.nodes:
            for number in tables.LIGHTS:
                said[node, number] = look(world, node, world.scenario.services[number])
        for number, hosts in world.cores.items():
            for node in hosts:
                said[node, number] = look(world, node, world.scenario.services[number])
        self._told.append(said)

    def of(self, node: int, number: int) -> State | None:
        """The newest that has come; None before the first."""
        return self._told[0].get((node, number)) if self._told else None
