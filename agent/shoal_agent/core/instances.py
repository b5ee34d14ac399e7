"""Rule A: how many instances of each light service this node runs. Decided every slot, by every node for itself.

What one slot with ``x`` instances of a service is worth, everything in levels (see ``queues``)::

    worth(x) = pressure * min(backlog, x rate)                the wait it ends
             - lateness * tails[x]                            requests that will be late: Z of the classes that use it
             - V (boot (x - running)+ + run x)                boots belong in it, or the node starts and stops
             - B boot_bytes (x - running)+                    bytes to fetch
             - (E joules + K money) x                         what one draws and costs in a slot

This is the drift-plus-penalty bound of Neely, as far as it depends on this node's instances. The node wants the counts
of the highest total worth that fit into its free memory and processors.

**Greedy.** Begin with what must run: the ``settled``, then for each service up to its ``least``, the latest class
first. Then always add the step that brings the most worth for the share of the scarcest resource that it takes, until
nothing that fits brings any. The worth of one service bends at few counts only: where instances must be booted, where
the backlog ends, where a tail is told. So steps go from bend to bend, and the best of them for each service is the
first edge of its concave envelope: a step is not missed because its first instance alone brings nothing (as below the
load, where one more leaves everybody late). Where services compete, the same is done once more by worth alone, and the
better of the two counts: by share is optimal until the room is nearly full, by worth fills the rest better. Against
enumeration on random nodes of three services and one to three resources: the very best in 98 of 100, 0.998 of it on
average (``tests/core/test_instances.py``).

Idle instances go when they are no longer settled; who is settled is counted elsewhere (``retirement``).

**One start at a time.** Worth is of one slot, and until the backlog is used up each further instance is worth the same:
where one start pays, so do six, and together they have nothing to do two slots later. ``starts`` of each service and
slot (and what the promise asks for) lets the next one wait until the queue grew although the first is there.
Beside ``retirement`` it halves the cost of a network with old digests (``shoal experiment staleness``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from math import ceil, floor, inf
from typing import Final

from shoal_agent.core.quantities import amount, finite

INSTANCES_MAX: Final = 64
LEAST_GAIN: Final = 1e-12
"""Rounding is no gain."""
LEAST_SHARE: Final = 1e-9
"""What takes nothing is added first."""
ROUNDING: Final = 1e-9
"""Instances: three thirds of a processor fit into one."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What this node's budgets and its patience make of a cost."""

    v: float
    """What money weighs against waiting: cost is within O(1/V) of the least, backlog grows as O(V)."""
    money: float = 0.0
    """K as a level."""
    energy: float = 0.0
    """E as a level."""
    moved: float = 0.0
    """B as a level."""

    def __post_init__(self) -> None:
        for name in ("v", "money", "energy", "moved"):
            amount(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Light:
    """One light service on this node, as rule A sees it."""

    name: str
    needs: tuple[float, ...]
    """Of each resource, per instance; as many figures as the node has resources."""
    running: int
    busy: int
    """Of those running, with work in hand."""
    settled: int
    """Of those running: they stay, busy or not (see ``retirement``)."""
    least: int
    """The fewest that keep the promise (``effective_capacity.size``)."""
    backlog: float
    pressure: float
    rate: float
    """Levels that one instance serves in a slot."""
    boot: float
    run: float
    boot_bytes: float = 0.0
    joules: float = 0.0
    """That one draws in a slot, as a level of E."""
    money: float = 0.0
    """That one costs in a slot, as a level of K."""
    lateness: float = 0.0
    """Z of the classes that use it, by their share, times arrivals in a slot."""
    tails: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        work = (self.backlog, self.pressure, self.rate, self.boot, self.run, self.lateness)
        figures = (*work, self.boot_bytes, self.joules, self.money, *self.needs, *self.tails)
        if not (min(figures) >= 0 and sum(figures) < inf):  # as it never is: and there are dozens in a slot
            self._refuse()
        if not 0 <= self.busy <= self.settled <= self.running <= INSTANCES_MAX or not 0 <= self.least <= INSTANCES_MAX:
            raise ValueError(f"{self.name}: {self.busy}, {self.settled}, {self.running}, {self.least} are no counts")

    def _refuse(self) -> None:
        """Name the figure that is none; a sum that is NaN or infinite has one, unless it only ran over."""
        for name in ("backlog", "pressure", "rate", "boot", "run", "boot_bytes", "joules", "money", "lateness"):
            amount(name, getattr(self, name))
        for need in self.needs:
            amount("needs", need)
        for chance in self.tails:
            amount("tails", chance)


def worth(light: Light, count: int, prices: Prices) -> float:
    """What a slot with ``count`` instances is worth."""
    booted = max(count - light.running, 0)
    late = light.tails[min(count, len(light.tails) - 1)]
    return (
        light.pressure * min(light.backlog, count * light.rate)
        - light.lateness * late
        - prices.v * (light.boot * booted + light.run * count)
        - prices.moved * light.boot_bytes * booted
        - (prices.energy * light.joules + prices.money * light.money) * count
    )


@dataclass(slots=True)
class _Room:
    """What is left of each resource, and what of it services take."""

    needs: list[tuple[float, ...]]
    """Of one instance of each service."""
    shares: list[float]
    """Of the scarcest resource, by one instance."""
    left: list[float]

    def copy(self) -> "_Room":
        """To be filled in another way."""
        return _Room(self.needs, self.shares, self.left.copy())

    def take(self, index: int, count: int) -> None:
        """So many instances of service ``index``."""
        for k, need in enumerate(self.needs[index]):
            self.left[k] -= need * count

    def fits(self, index: int) -> int:
        """How many more of service ``index``."""
        fit = float(INSTANCES_MAX)
        for need, room in zip(self.needs[index], self.left, strict=True):
            if need > 0:
                fit = min(fit, (room + ROUNDING * need) / need)
        return max(int(fit), 0)


def _room(lights: Sequence[Light], free: Sequence[float]) -> _Room:
    left = [finite("free", room) for room in free]
    needs = [light.needs for light in lights]
    assert all(len(need) == len(free) for need in needs), "as many needs as there are resources"
    return _Room(needs, [max(map(_share, need, left), default=0.0) for need in needs], left)


def _share(need: float, room: float) -> float:
    if need <= 0:
        return 0.0
    return need / room if room > 0 else inf


def _bends(light: Light, count: int) -> list[int]:
    """Counts above ``count`` at which the worth may bend."""
    enough = min(light.backlog / light.rate, float(INSTANCES_MAX)) if light.rate > 0 else 0.0
    bends = {light.running, floor(enough), ceil(enough), count + 1}
    if light.lateness > 0:
        bends.update(range(count + 1, len(light.tails)))
    return [bend for bend in sorted(bends) if count < bend <= INSTANCES_MAX]


def _step(light: Light, count: int, fits: int, prices: Prices) -> tuple[float, int]:
    """The best mean gain per instance above ``count``, and with how many more; (0, 0) if none gains."""
    best, more = 0.0, 0
    before = worth(light, count, prices)
    most = count + fits
    reached = [bend for bend in _bends(light, count) if bend < most]
    for bend in [*reached, most] if fits else reached:
        gain = (worth(light, bend, prices) - before) / (bend - count)
        if gain > best + LEAST_GAIN:
            best, more = gain, bend - count
    return best, more


def decide(
    lights: Sequence[Light], free: Sequence[float], prices: Prices, starts: int = INSTANCES_MAX
) -> tuple[int, ...]:
    """How many of each are to run; ``free`` is what the node has for all of them together, running ones included."""
    counts = [light.settled for light in lights]
    room = _room(lights, free)
    for index, count in enumerate(counts):
        room.take(index, count)
    for index in sorted(range(len(lights)), key=lambda index: -lights[index].lateness):
        more = min(max(lights[index].least - counts[index], 0), room.fits(index))
        counts[index] += more
        room.take(index, more)
    started = zip(lights, counts, strict=True)
    most = [min(max(light.running + starts, count), INSTANCES_MAX) for light, count in started]
    steps = [_step(light, counts[k], min(room.fits(k), most[k] - counts[k]), prices) for k, light in enumerate(lights)]
    if sum(more > 0 for _, more in steps) <= 1:
        # Nobody competes: the rule as a rule, for most slots change nothing.
        return _filled(lights, counts, most, steps, room, prices, by_share=True)
    filled = [
        _filled(lights, counts.copy(), most, steps.copy(), room.copy(), prices, by_share=by_share)
        for by_share in (True, False)
    ]
    return max(filled, key=lambda counts: sum(map(worth, lights, counts, repeat(prices))))


def _filled(
    lights: Sequence[Light],
    counts: list[int],
    most: Sequence[int],
    steps: list[tuple[float, int]],
    room: _Room,
    prices: Prices,
    *,
    by_share: bool,
) -> tuple[int, ...]:
    """The best step, again and again, until none gains: for its share of the room, or in itself."""
    while True:
        best, chosen = 0.0, -1
        for index, light in enumerate(lights):
            gain, more = steps[index]
            if more and (fits := room.fits(index)) < more:
                gain, more = steps[index] = _step(light, counts[index], fits, prices)
            rank = gain / max(room.shares[index], LEAST_SHARE) if by_share else gain * more
            if rank > best:
                best, chosen = rank, index
        if chosen < 0:
            return tuple(counts)
        more = steps[chosen][1]
        counts[chosen] += more
        room.take(chosen, more)
        fits = min(room.fits(chosen), most[chosen] - counts[chosen])
        steps[chosen] = _step(lights[chosen], counts[chosen], fits, prices)
