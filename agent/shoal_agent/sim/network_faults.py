"""What befalls the network: brokers end or hang, brokers and links are cut, both together, and the weather is bad."""

from collections.abc import Callable
from random import Random
from typing import Final

from shoal_agent.core.effects import Broadcast
from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.world import World
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import VoteCast, VoteKind

End = Callable[[], None]
Fault = Callable[[World, Judge, Random], End]
ONE_WAY_SHARE: Final = 0.4
AGREEMENT: Final = "/c"
"""How the topics of proposals and votes end."""
CUT_SHARE: Final = (0.05, 0.5)
MUTED_SHARE: Final = (0.3, 1.0)
MOMENT_S: Final = (0.0, 0.02)
"""A vote travels for so long."""
APART_S: Final = (2.0, 9.0)
"""A round or two."""
FLAP_S: Final = (0.1, 2.0)


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


def ballot_cut(world: World, judge: Judge, rng: Random) -> End:
    """The network falls in two in the moment in which somebody votes: some hear it and some do not."""
    share, going = rng.uniform(*CUT_SHARE), [True]
    cuts: list[End] = []

    def trip(_: NodeId, effect: Broadcast) -> None:
        if effect.topic.endswith(AGREEMENT) and not cuts and rng.random() < share:
            cuts.append(_nothing)
            world.agenda.after(rng.uniform(*MOMENT_S), fall)

    def fall() -> None:
        if going:
            cuts[:] = [island(world, judge, rng)]
            world.agenda.after(rng.uniform(*APART_S), heal)

    def heal() -> None:
        while cuts:
            cuts.pop()()

    def end() -> None:
        going.clear()
        world.tripwires.remove(trip)
        heal()

    world.tripwires.append(trip)
    return end


def mute(world: World, _: Judge, rng: Random) -> End:
    """Who precommits is not heard any more, though its links still let it hear: perhaps it alone learns the end."""
    share = rng.uniform(*MUTED_SHARE)
    ends: list[End] = []

    def trip(name: NodeId, effect: Broadcast) -> None:
        if ends or not effect.topic.endswith(AGREEMENT) or rng.random() >= share:
            return
        message = world.opened(effect).message
        if isinstance(message, VoteCast) and message.vote is VoteKind.PRECOMMIT and message.value is not None:
            others = [each for each in world.names if each != name]
            ends.append(_apart(world, [name], others, one_way=True))
            ends.extend(_cut_off(world, broker, [name]) for broker in world.brokers.names)
            world.agenda.after(rng.uniform(*APART_S), heal)

    def heal() -> None:
        while ends:
            ends.pop()()

    def end() -> None:
        world.tripwires.remove(trip)
        heal()

    world.tripwires.append(trip)
    return end


def _nothing() -> None:
    """A cut that is about to happen has nothing to mend."""


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


def weather(**worse: float) -> Fault:
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
