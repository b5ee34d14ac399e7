"""A node of a world in memory whose life is recorded, as an agent with ``node.flight_bytes_max`` records it."""

from pathlib import Path
from random import Random

from shoal_agent.core.flight import FLIGHT_VERSION, Departure
from shoal_agent.core.node import Node
from shoal_agent.core.voice import CoreConfig, Identity
from shoal_agent.shell.recorder import Recorder, RecordingSealer
from shoal_protocol.ids import Incarnation
from shoal_protocol.messages import Endpoint
from tests.support.world import CLUSTER, WALL_MS, World

SEED = 7


def recorded_life(file: Path, bytes_max: int = 10**8) -> World:
    """Three nodes; the first, a host and an ingress, is recorded while it answers, loses a broker and a peer."""
    world = World(3)
    cell = world.cells[world.names[0]]
    config = CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1000), "", 10**9, "test")
    sealer = RecordingSealer(cell.key)
    identity = Identity(cell.name, Incarnation(1), sealer, world.roster)
    departure = Departure(
        FLIGHT_VERSION,
        config,
        cell.name,
        sealer.public_key,
        identity.incarnation,
        world.roster.wire,
        WALL_MS // 1000,
        world.roster.roster.root_keys,
        1,
        SEED,
        world.now,
    )
    recorder = Recorder(Node(config, identity, Random(SEED), world.now), sealer, departure, file, bytes_max)
    cell.node = recorder
    world.start()
    recorder.will("a", 1, world.now)
    world.announce(world.plan(world.names[:2]))
    world.run(1.0)
    world.ask(cell.name, (5, 6, 7))
    world.run(3.0)
    recorder.close()
    return world
