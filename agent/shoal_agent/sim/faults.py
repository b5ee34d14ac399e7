"""What goes wrong, swarm-tested.

A fault is a function that begins it and returns how it ends; the table names them all. A run does not mix everything it
may: it draws a **subset** of its scenario's faults first (swarm testing, Groce et al. 2012). With every fault always
on, the frequent ones hide the rare ones: a cluster that is partitioned all the time never gets far enough for the bug
that a duplicate causes. Every fault ends, at the latest when the storm does; what is asked afterwards is whether the
cluster finds back by itself.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from shoal_agent.sim import liar, machine_faults, network_faults
from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.world import World

LENGTH_S: Final = (0.3, 9.0)
"""How long a fault lasts: from less than one heartbeat to more than every silence that is tolerated."""
GAP_S_MEAN: Final = 2.0
"""Between the beginnings of two faults."""
ENABLED_SHARE: Final = 0.5
"""Of a scenario's faults, in one run."""

Fault = Callable[[World, Judge, Random], Callable[[], None]]

FAULTS: Final[dict[str, Fault]] = {
    "crash": machine_faults.crash,
    "amnesia": machine_faults.amnesia,
    "host-loss": machine_faults.host_loss,
    "voters-lost": machine_faults.voters_lost,
    "join": machine_faults.join,
    "leave": machine_faults.leave,
    "rolling-restart": machine_faults.rolling_restart,
    "voter-crash": machine_faults.voter_crash,
    "pause": machine_faults.pause,
    "slow-disk": machine_faults.slow_disk,
    "slow-host": machine_faults.slow_host,
    "staging-failure": machine_faults.staging_failure,
    "broker-stop": network_faults.broker_stop,
    "broker-freeze": network_faults.broker_freeze,
    "brokers-dead": network_faults.brokers_dead,
    "broker-partition": network_faults.broker_partition,
    "partition": network_faults.partition,
    "island": network_faults.island,
    "ballot-cut": network_faults.ballot_cut,
    "mute": network_faults.mute,
    "flapping-link": network_faults.flapping_link,
    "message-loss": network_faults.weather(message_loss=0.4),
    "duplicates": network_faults.weather(duplicate=0.5),
    "reorder": network_faults.weather(reorder_s=3.0),
    "frame-loss": network_faults.weather(frame_loss=0.05),
    "clog": network_faults.weather(clog_s=1.5),
    "repeated-frames": network_faults.weather(repeat_frame=0.2),
    "wrong-epoch": network_faults.weather(wrong_epoch=0.1),
    "forgeries": liar.forgeries,
}
"""Every fault by its name."""


def storm(world: World, judge: Judge, allowed: tuple[str, ...], rng: Random, until_s: float) -> tuple[str, ...]:
    """Let faults befall ``world`` until ``until_s``, when the last one ends; the subset that this run drew."""
    enabled = tuple(name for name in allowed if rng.random() < ENABLED_SHARE) or tuple(
        rng.sample(allowed, min(1, len(allowed)))
    )
    running: dict[str, bool] = {}

    def strike() -> None:
        name = rng.choice(enabled)
        length_s = rng.uniform(*LENGTH_S)
        _next()
        if name in running:
            return
        running[name] = True
        end = FAULTS[name](world, judge, rng)

        def over() -> None:
            del running[name]
            end()

        world.agenda.at(min(world.agenda.now + length_s, until_s), over)

    def _next() -> None:
        at_s = world.agenda.now + rng.expovariate(1 / GAP_S_MEAN)
        if enabled and at_s < until_s:
            world.agenda.at(at_s, strike)

    _next()
    return enabled
