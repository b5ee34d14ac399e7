"""Somebody who owns the brokers, and one node whose key works: forged, altered, misplaced, expired and replayed words.

The attacker records what is said and lets a broker deliver it again, late, through another broker, on another topic, or
with bits turned; invents members and, as a member, says things that were over long ago. None of it may be accepted.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.seeds import seed_bytes
from shoal_agent.sim.world import World
from shoal_protocol.messages import Heartbeat
from shoal_protocol.sealing import Ed25519Sealer

FORGERIES_PER_S: Final = 20.0
LONG_AGO_MS: Final = 3_600_000
"""Far beyond any time to live of a heartbeat and every tolerated skew."""


def forgeries(world: World, judge: Judge, rng: Random) -> Callable[[], None]:
    """Begin to forge; the result ends it."""
    going = [True]

    def forge() -> None:
        if not going:
            return
        topic, wire = _forgery(world, judge, rng)
        world.brokers.inject(rng.choice(world.brokers.names), topic, wire)
        world.agenda.after(rng.expovariate(FORGERIES_PER_S), forge)

    forge()
    return going.clear


def _forgery(world: World, judge: Judge, rng: Random) -> tuple[str, bytes]:
    topic, wire = rng.choice(judge.accepted.recent)
    other_topic, _ = rng.choice(judge.accepted.recent)
    match rng.randrange(6):
        case 0:
            return topic, wire
        case 1:
            return topic, _turned(wire, rng)
        case 2:
            return other_topic, _turned(wire, rng)
        case 3:
            return topic, wire[: rng.randrange(len(wire))]
        case 4:
            stranger = Ed25519Sealer(seed_bytes(f"stranger/{rng.random()}") * 2)
            said = world.said(stranger, Heartbeat(1, 1), rng.randrange(1, 1000), 0)
            return said.topic, said.wire
        case _:
            key = world.machines[rng.choice(world.names)].setup.sealer
            said = world.said(key, Heartbeat(10**6, 10**6), 10**6 + rng.randrange(10**6), LONG_AGO_MS)
            return said.topic, said.wire


def _turned(wire: bytes, rng: Random) -> bytes:
    """``wire`` with one bit turned."""
    at, bit = rng.randrange(len(wire)), 1 << rng.randrange(8)
    return wire[:at] + bytes([wire[at] ^ bit]) + wire[at + 1 :]
