"""Rule A: how many instances of each light service this node runs. Decided every slot, by every node for itself.

What one slot with ``x`` instances of a service is worth, everything in levels (see ``queues``)::

    worth(x) = pressure * min(backlog, x rate)                the wait it ends
             - lateness * tails[x]                            requests that will be late: Z of the classes that use it
             - (V + K) (boot (x - running)+ + run x)          money: boots belong in it, or the node starts and stops
             - B boot_bytes (x - running)+ - E joules x       bytes to fetch, energy

This is the drift-plus-penalty bound of Neely, as far as it depends on this node's instances. The node wants the counts
of the highest total worth that fit into its free memory and processors.

**Greedy.** From the fewest that are possible, always add the instances that bring the most worth for the share of the
scarcest resource that they take, until nothing that fits brings any.

**One start at a time.** Worth is of one slot, and until the backlog is used up each further instance is worth the same:
where one start pays, so do six, and together they have nothing to do two slots later. ``starts`` of each service and
slot (and what the promise asks for) lets the next one wait until the queue grew although the first is there.
Beside ``retirement`` it halves the cost of a network with old digests (``shoal experiment staleness``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.quantities import amount, positive

INSTANCES_MAX: Final = 64
LEAST_GAIN: Final = 1e-12
DWELL_SLOTS: Final = 20
"""Slots that an instance has been idle before it may go."""


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
    """Of those running, busy or not yet idle for ``DWELL_SLOTS``: they stay."""
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
    lateness: float = 0.0
    """Z of the classes that use it, by their share, times arrivals in a slot."""
    tails: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        for name in ("backlog", "pressure", "rate", "boot", "run", "boot_bytes", "joules", "lateness"):
            amount(name, getattr(self, name))
        for need in self.needs:
            amount("needs", need)
        for chance in self.tails:
            amount("tails", chance)
        if not 0 <= self.busy <= self.settled <= self.running <= INSTANCES_MAX or not 0 <= self.least <= INSTANCES_MAX:
            raise ValueError(f"{self.name}: {self.busy}, {self.settled}, {self.running}, {self.least} are no counts")


def worth(light: Light, count: int, prices: Prices) -> float:
    """What a slot with ``count`` instances is worth."""
    booted = max(count - light.running, 0)
    late = light.tails[min(count, len(light.tails) - 1)]
    return (
        light.pressure * min(light.backlog, count * light.rate)
        - light.lateness * late
        - (prices.v + prices.money) * (light.boot * booted + light.run * count)
        - prices.moved * light.boot_bytes * booted
        - prices.energy * light.joules * count
    )


def decide(
    lights: Sequence[Light], free: Sequence[float], prices: Prices, starts: int = INSTANCES_MAX
) -> tuple[int, ...]:
    """How many of each are to run; ``free`` is what the node has for all of them together, running ones included."""
    counts = [light.settled for light in lights]
    left = [
        room - sum(light.needs[k] * count for light, count in zip(lights, counts, strict=True))
        for k, room in enumerate(free)
    ]
    for index, light in enumerate(lights):
        while counts[index] < light.least and all(need <= room for need, room in zip(light.needs, left, strict=True)):
            counts[index] += 1
            left = [room - need for need, room in zip(light.needs, left, strict=True)]
    most = [min(max(light.running + starts, light.least), INSTANCES_MAX) for light in lights]
    while True:
        best, chosen = 0.0, -1
        for index, light in enumerate(lights):
            count = counts[index]
            if count < most[index] and all(need <= room for need, room in zip(light.needs, left, strict=True)):
                gain = worth(light, count + 1, prices) - worth(light, count, prices)
                share = max((n / positive("free", r) for n, r in zip(light.needs, free, strict=True)), default=1.0)
                if gain > LEAST_GAIN and gain / max(share, 1e-9) > best:
                    best, chosen = gain / max(share, 1e-9), index
        if chosen < 0:
            return tuple(counts)
        counts[chosen] += 1
        left = [room - need for need, room in zip(lights[chosen].needs, left, strict=True)]
