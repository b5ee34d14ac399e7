"""What befalls single nodes: crashes with and without memory, pauses, goodbyes, slow disks, ballots cut short.

Some nodes never come back, or lose their memory. Agreement survives that for as many voters as a quorum can do without;
a run spends at most one node on it (``World.may_fail``), and none where others lie. Where voters were few already,
because others had left, even one may be too many; then operators replace the plan (``play``), as they would.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import StopRequested
from shoal_agent.core.plan import hosts_of
from shoal_agent.sim.machine import Machine
from shoal_agent.sim.network_faults import AGREEMENT
from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.world import World
from shoal_protocol.ids import NodeId
from shoal_protocol.votes import quorum

End = Callable[[], None]
SILENT_SHARE: Final = 0.3
"""Of crashes: the power goes, and no system is left to reset the connections."""
ROLLING_S: Final = (0.5, 2.0)
"""Between the restarts of two agents."""
RESTART_S: Final = 0.3
STRUCK_SHARE: Final = (0.05, 0.5)
SOON_S: Final = (0.1, 2.0)
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
    hosts = [node for node in hosts_of(plan.stages) if world.machines[node].alive] if plan is not None else []
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
    """So many voters break for good that nobody can decide any more; operators will have to help."""
    plan = judge.agreed.newest(TOY)
    if plan is None or plan.terms.faulty:
        return _nothing  # where voters may lie, there are not four left to begin anew
    needed = quorum(len(plan.voters), plan.terms.faulty)
    broken = rng.sample(plan.voters, len(plan.voters) - needed + 1)
    if not world.could_host(broken) or not world.may_break_quorum():
        return _nothing
    for name in broken:
        world.lost.append(name)
        if world.machines[name].alive:
            world.crash(name, silent=rng.random() < SILENT_SHARE)
    return _nothing


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


def _nothing() -> None:
    """There is nothing to end."""
