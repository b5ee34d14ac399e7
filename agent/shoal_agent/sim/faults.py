"""What goes wrong, swarm-tested.

A fault is a function that begins it and returns how it ends; the table names them all. A run does not mix everything it
may: it draws a **subset** of its scenario's faults first (swarm testing, Groce et al. 2012). With every fault always
on, the frequent ones hide the rare ones: a cluster that is partitioned all the time never gets far enough for the bug
that a duplicate causes. Every fault ends, at the latest when the storm does; what is asked afterwards is whether the
cluster finds back by itself.

Some nodes never come back, or lose their memory. Agreement survives that for as many voters as a quorum can do without;
a run spends at most one node on it (``World.may_fail``), and none where others lie. Where operators are to recover, it
spends all.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import StopRequested
from shoal_agent.sim import liar
from shoal_agent.sim.machine import Machine
from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.world import World
from shoal_protocol.ids import NodeId
from shoal_protocol.votes import quorum

End = Callable[[], None]
LENGTH_S: Final = (0.3, 9.0)
"""How long a fault lasts: from less than one heartbeat to more than every silence that is tolerated."""
GAP_S_MEAN: Final = 2.0
"""Between the beginnings of two faults."""
ENABLED_SHARE: Final = 0.5
"""Of a scenario's faults, in one run."""
SILENT_SHARE: Final = 0.3
"""Of crashes: the power goes, and no system is left to reset the connections."""
ONE_WAY_SHARE: Final = 0.4
ROLLING_S: Final = (0.5, 2.0)
"""Between the restarts of two agents."""
RESTART_S: Final = 0.3
STRUCK_SHARE: Final = (0.05, 0.5)
SOON_S: Final = (0.1, 2.0)
AGREEMENT: Final = "/c"
"""How the topics of proposals and votes end."""
FLAP_S: Final = (0.1, 2.0)
DISK_S: Final = (0.01, 0.6)
"""A card that is worn out, or a disk that spins up."""
SLOWER: Final = (3.0, 20.0)


def crash(world: World, _: Judge, rng: Random) -> End:
    """The process is killed, or the power goes; back with its disk."""
    return _crash(world, rng, amnesia=False)


def amnesia(world: World, _: Judge, rng: Random) -> End:
    """The same, and what the node had persisted is lost."""
    return _crash(world, rng, amnesia=True)


def _crash(world: World, rng: Random, *, amnesia: bool) -> End:
    machine = world.machines[rng.choice(world.names)]
    silent = rng.random() < SILENT_SHARE
    if not machine.alive or (amnesia and not world.may_fail(machine.name)):
        return _nothing
    world.crash(machine.name, silent=silent, amnesia=amnesia)
    return _back(world, machine)


def _back(world: World, machine: Machine) -> End:
    """The machine is switched on again, unless somebody else did that already."""
    boots = machine.boots

    def end() -> None:
        if not machine.alive and machine.boots == boots and machine.name not in world.lost:
            world.boot(machine.name)

    return end


def host_loss(world: World, judge: Judge, rng: Random) -> End:
    """A host breaks and never comes back: killed, without power, or taken away by its operator."""
    plan = judge.agreed.newest(TOY)
    hosts = [stage.node for stage in plan.stages if world.machines[stage.node].alive] if plan is not None else []
    if not hosts:
        return _nothing
    name = rng.choice(hosts)
    how = rng.choice(("killed", "power", "leaves"))
    if world.may_fail(name):
        world.lost.append(name)
        if how == "leaves" and not world.machines[name].paused:
            world.machines[name].post(StopRequested())
        else:
            world.crash(name, silent=how == "power")
    return _nothing


def voters_lost(world: World, judge: Judge, rng: Random) -> End:
    """So many voters break for good that nobody can decide any more; in the end operators replace the plan."""
    plan = judge.agreed.newest(TOY)
    if plan is None or not world.may_break_quorum():
        return _nothing
    needed = quorum(len(plan.voters), plan.terms.faulty)
    for name in rng.sample(plan.voters, len(plan.voters) - needed + 1):
        world.lost.append(name)
        if world.machines[name].alive:
            world.crash(name, silent=rng.random() < SILENT_SHARE)
    return lambda: world.recover(plan)


def join(world: World, _: Judge, __: Random) -> End:
    """Machines that were not there are switched on, and stay."""
    for machine in world.machines.values():
        if machine.boots == 0:
            world.boot(machine.name)
    return _nothing


def leave(world: World, _: Judge, rng: Random) -> End:
    """An operator stops an agent, and starts it again later."""
    machine = world.machines[rng.choice(world.names)]
    if not machine.alive:
        return _nothing
    machine.post(StopRequested())
    boots = machine.boots

    def end() -> None:
        if machine.alive and machine.boots == boots:
            world.crash(machine.name)  # it hung, or was not done: killed, as a service manager does
        if not machine.alive and machine.boots == boots and machine.name not in world.lost:
            world.boot(machine.name)

    return end


def rolling_restart(world: World, _: Judge, rng: Random) -> End:
    """One agent after the other is restarted, as for an upgrade."""
    names = rng.sample(world.names, len(world.names))
    pause_s = rng.uniform(*ROLLING_S)
    going = [True]

    def restart() -> None:
        if not going or not names:
            return
        machine = world.machines[names.pop()]
        if machine.alive:
            world.crash(machine.name)
            world.agenda.after(RESTART_S, _back(world, machine))
        world.agenda.after(pause_s, restart)

    def end() -> None:
        # Who is down at this moment is back within RESTART_S.
        going.clear()

    restart()
    return end


def voter_crash(world: World, _: Judge, rng: Random) -> End:
    """Who says something about a plan may be killed in the next moment, and is back soon."""
    share, soon_s = rng.uniform(*STRUCK_SHARE), rng.uniform(*SOON_S)

    def trip(name: NodeId, effect: Broadcast) -> None:
        agreement = effect.topic.endswith(AGREEMENT)
        if agreement and name not in world.liars and rng.random() < share:
            world.agenda.after(0.0, lambda: strike(world.machines[name]))

    def strike(machine: Machine) -> None:
        if machine.alive:
            world.crash(machine.name, silent=rng.random() < SILENT_SHARE)
            world.agenda.after(soon_s, _back(world, machine))

    world.tripwires.append(trip)
    return lambda: world.tripwires.remove(trip)


def pause(world: World, _: Judge, rng: Random) -> End:
    """SIGSTOP, SIGCONT."""
    machine = world.machines[rng.choice(world.names)]
    if not machine.alive or machine.paused:
        return _nothing
    world.pause(machine.name)
    boots = machine.boots

    def resume() -> None:
        if machine.boots == boots and machine.alive:
            machine.resume()

    return resume


def broker_stop(world: World, _: Judge, rng: Random) -> End:
    """A broker ends, and starts again."""
    name = rng.choice(world.brokers.names)
    world.brokers.stop(name)
    return lambda: world.brokers.start(name)


def broker_freeze(world: World, _: Judge, rng: Random) -> End:
    """A broker hangs."""
    name = rng.choice(world.brokers.names)
    world.brokers.freeze(name)
    return lambda: world.brokers.thaw(name)


def brokers_dead(world: World, _: Judge, __: Random) -> End:
    """No broker is left."""
    for name in world.brokers.names:
        world.brokers.stop(name)

    def end() -> None:
        for name in world.brokers.names:
            world.brokers.start(name)

    return end


def broker_partition(world: World, _: Judge, rng: Random) -> End:
    """Some nodes do not reach one broker."""
    return _cut_off(world, rng.choice(world.brokers.names), rng.sample(world.names, rng.randint(1, len(world.names))))


def _cut_off(world: World, broker: str, nodes: list[NodeId]) -> End:
    for node in nodes:
        world.brokers.cut(broker, node)

    def mend() -> None:
        for node in nodes:
            world.brokers.mend(broker, node)

    return mend


def partition(world: World, _: Judge, rng: Random) -> End:
    """The nodes fall into two groups that do not reach each other, or one does not reach the other."""
    group, others = _groups(world, rng)
    return _apart(world, group, others, one_way=rng.random() < ONE_WAY_SHARE)


def island(world: World, _: Judge, rng: Random) -> End:
    """The network falls in two: nodes and brokers of one side reach nothing of the other."""
    group, others = _groups(world, rng)
    ends = [_apart(world, group, others, one_way=False)]
    ends += [_cut_off(world, broker, rng.choice((group, others))) for broker in world.brokers.names]

    def end() -> None:
        for each in ends:
            each()

    return end


def _groups(world: World, rng: Random) -> tuple[list[NodeId], list[NodeId]]:
    group = rng.sample(world.names, rng.randint(1, len(world.names) - 1))
    return group, [name for name in world.names if name not in group]


def _apart(world: World, group: list[NodeId], others: list[NodeId], *, one_way: bool) -> End:
    pairs = [(one, other) for one in group for other in others]
    if not one_way:
        pairs += [(other, one) for one, other in pairs]
    for source, target in pairs:
        world.links.block(source, target)

    def heal() -> None:
        for source, target in pairs:
            world.links.unblock(source, target)

    return heal


def flapping_link(world: World, _: Judge, rng: Random) -> End:
    """Two nodes reach each other, and do not, and do."""
    one, other = rng.sample(world.names, 2)
    going = [True]

    def down() -> None:
        if going:
            heal = _apart(world, [one], [other], one_way=False)
            world.agenda.after(rng.uniform(*FLAP_S), lambda: up(heal))

    def up(heal: End) -> None:
        heal()
        world.agenda.after(rng.uniform(*FLAP_S), down)

    down()
    return going.clear


def slow_disk(world: World, _: Judge, rng: Random) -> End:
    """Every write of one node takes long."""
    machine = world.machines[rng.choice(world.names)]
    machine.disk_s = rng.uniform(*DISK_S)

    def end() -> None:
        machine.disk_s = 0.0

    return end


def slow_host(world: World, _: Judge, rng: Random) -> End:
    """Somebody else uses the processor of one node."""
    machine = world.machines[rng.choice(world.names)]
    factor = rng.uniform(*SLOWER)
    machine.slower = factor

    def end() -> None:
        machine.slower = 1.0

    return end


def staging_failure(world: World, _: Judge, rng: Random) -> End:
    """One node cannot open blocks."""
    machine = world.machines[rng.choice(world.names)]
    machine.refuses_blocks = True

    def end() -> None:
        machine.refuses_blocks = False

    return end


def _weather(**worse: float) -> "Fault":
    """A fault that makes the weather worse, up to the given values."""

    def begin(world: World, _: Judge, rng: Random) -> End:
        severity = rng.uniform(0.2, 1.0)
        for name, value in worse.items():
            setattr(world.weather, name, value * severity)

        def end() -> None:
            for name in worse:
                setattr(world.weather, name, 0.0)

        return end

    return begin


def _nothing() -> None:
    """There is nothing to end."""


Fault = Callable[[World, Judge, Random], End]

FAULTS: Final[dict[str, Fault]] = {
    "crash": crash,
    "amnesia": amnesia,
    "host-loss": host_loss,
    "voters-lost": voters_lost,
    "join": join,
    "leave": leave,
    "rolling-restart": rolling_restart,
    "voter-crash": voter_crash,
    "pause": pause,
    "slow-disk": slow_disk,
    "slow-host": slow_host,
    "staging-failure": staging_failure,
    "broker-stop": broker_stop,
    "broker-freeze": broker_freeze,
    "brokers-dead": brokers_dead,
    "broker-partition": broker_partition,
    "partition": partition,
    "island": island,
    "flapping-link": flapping_link,
    "message-loss": _weather(message_loss=0.4),
    "duplicates": _weather(duplicate=0.5),
    "reorder": _weather(reorder_s=3.0),
    "frame-loss": _weather(frame_loss=0.05),
    "clog": _weather(clog_s=1.5),
    "repeated-frames": _weather(repeat_frame=0.2),
    "wrong-epoch": _weather(wrong_epoch=0.1),
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
