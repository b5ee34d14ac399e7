"""Many nodes and nothing wrong: what hearing each other costs.

A world without oracles and without a trace, whose nodes read their sockets in bundles; counted is what is delivered
after it has settled. Cost per node must be flat: a node hears its own share of the cluster, whatever the size of the
rest. The run is as long as one core affords: 60 virtual seconds up to 1,000 nodes, then fewer, but never so few that
the period of repeated records does not pass once.

The garbage collector rests meanwhile. A world is a few million objects that all stay, and looking through them again
and again for circles that are not there takes a third of the time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shoal_agent.sim.oracles import Violation, converged
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.seeds import generator
from shoal_agent.sim.settings import Settings
from shoal_agent.sim.world import World

RUN_S: Final = 60.0
SETTLED_S: Final = 10.0
"""Of the beginning nothing is counted: everybody meets every retained record, once."""
RUN_S_MIN: Final = 20.0
NODE_SECONDS: Final = 60_000.0
"""What one run affords: 1,000 nodes for a minute."""
BUNDLE_S: Final = 0.3
"""Far below what a failure detector tolerates of a beat a second, and a dozen messages at once."""
HOSTS_MAX: Final = 4
ASKED_MAX: Final = 64
"""Nodes that are asked in the end whether they see their share of the cluster as it is."""


def count(scenario: str, seed: int, nodes: int) -> Outcome:
    """Run a world of ``nodes`` nodes in which nothing goes wrong, and count."""
    hosts = min(nodes, HOSTS_MAX)
    settings = Settings(seed, nodes, hosts, brokers=1, bundle_s=BUNDLE_S, check_every=1000)
    run_s = max(RUN_S_MIN, min(RUN_S, NODE_SECONDS / nodes))
    with _no_collection():
        world = World(settings, None, None)
        world.start()
        world.deploy()
        world.run(SETTLED_S - world.agenda.now)
        before = _carried(world)
        world.run(run_s - world.agenda.now)
        messages, message_bytes = (after - was for after, was in zip(_carried(world), before, strict=True))
        asked = generator(seed, "asked").sample(world.names, min(nodes, ASKED_MAX))
        fault = converged(world, asked)
    missing = () if fault is None else (Violation("views-converge", world.agenda.now, fault),)
    return Outcome(scenario, seed, nodes, missing, "", run_s - SETTLED_S, messages, message_bytes, 0)


def _carried(world: World) -> tuple[int, int]:
    return (
        world.brokers.carried + world.links.carried,
        world.brokers.carried_bytes + world.links.carried_bytes,
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
