"""What a small network of light services is, and the chance in it.

Time goes in slots. At node ``i`` tasks of service ``s`` arrive as a Poisson process; a task is one unit of work. An
instance of ``s`` serves a Gamma-distributed amount in each slot, times a factor that the machine's background load sets
(a two-state Markov chain; 1 when it is off). All chance is drawn beforehand into a ``Trace``: each method meets the
same arrivals, and the k-th instance of a node serves the same in slot t whatever was decided before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shoal_agent.experiments.traces import trace_hash
from shoal_agent.sim.seeds import seed_bytes

HOT_LOADS: Final = (3.2, 0.6, 0.6, 0.6, 0.6, 2.2, 0.6, 0.6)
"""Tasks per slot at eight nodes, two of them hot; repeated for more nodes."""
PRICES: Final = (1.6, 1.0, 0.6, 1.2, 0.7, 1.5, 0.8, 1.0)
"""Of an instance for one slot, where it runs; repeated likewise."""


@dataclass(frozen=True, slots=True)
class Service:
    """One light service, the same on every node."""

    rate: float = 0.9
    """Tasks that one instance serves in a slot, on average."""
    shape: float = 1.5
    """Of the Gamma distribution of that: the squared coefficient of variation is one over it."""
    boot: float = 4.0
    """What starting an instance costs."""
    boot_slots: int = 0
    """What it takes; the instance holds its room meanwhile."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A network."""

    loads: tuple[tuple[float, ...], ...]
    """Tasks per slot, of each service at each node."""
    prices: tuple[float, ...]
    neighbours: tuple[tuple[int, ...], ...]
    """Whom each node may send to, and hears digests of."""
    slots: int
    warm_slots: int = 0
    """Of them, those at the begin that count for nothing: queues fill."""
    services: tuple[Service, ...] = (Service(),)
    room: int = 6
    """Instances that one node holds, of all services together."""
    send: float = 0.3
    """What sending a task to a neighbour costs."""
    deadline_slots: int = 20
    epsilon: float = 0.1
    growth: float = 0.05
    """Of the delay queue W, in tasks per slot."""
    slow: float = 1.0
    """Factor on the service of a node while background load is on; 1: there is none."""
    slow_slots: float = 20.0
    """How long it stays on or off, on average."""

    @property
    def nodes(self) -> int:
        return len(self.loads)

    def times(self, load: float) -> "Setting":
        """The same at a multiple of its load."""
        return replace(self, loads=tuple(tuple(rate * load for rate in node) for node in self.loads))


def circle(nodes: int, slots: int, load: float = 1.0) -> Setting:
    """Nodes on a circle with chords to the fourth next: two hot ones in every eight, cheap and dear ones side by side.

    A node's neighbours are as many in a large network as in a small one, so that its work per slot is too.
    """
    steps = (1, -1, 4) if nodes > len(HOT_LOADS) // 2 else (1, -1)
    return Setting(
        loads=tuple((HOT_LOADS[i % len(HOT_LOADS)] * load,) for i in range(nodes)),
        prices=tuple(PRICES[i % len(PRICES)] for i in range(nodes)),
        neighbours=tuple(
            tuple(dict.fromkeys((i + step) % nodes for step in steps if step % nodes)) for i in range(nodes)
        ),
        slots=slots,
    )


@dataclass(frozen=True, slots=True)
class Trace:
    """All chance of one run."""

    arrivals: Sequence[Sequence[Sequence[int]]]
    """By slot, node, service."""
    served: Sequence[Sequence[Sequence[Sequence[float]]]]
    """By slot, node, service: what the first 0, 1, 2... instances serve together."""
    digest: str


def draw(setting: Setting, seed: int) -> Trace:
    """The trace of a seed; a longer or busier setting has another one."""
    chance = np.random.default_rng(int.from_bytes(seed_bytes(f"{seed}/network"), "little"))
    services = setting.services
    shape = (setting.slots, setting.nodes, len(services))
    arrivals = chance.poisson(np.asarray(setting.loads), size=shape)
    service = np.stack(
        [chance.gamma(s.shape, s.rate / s.shape, size=(*shape[:2], setting.room)) for s in services], axis=2
    )
    if setting.slow != 1.0:
        service *= _background(setting, chance)[:, :, None, None]
    together: NDArray[Any] = np.concatenate([np.zeros((*shape, 1)), np.cumsum(service, axis=3)], axis=3)
    return Trace(arrivals.tolist(), together.tolist(), trace_hash(arrivals, service))


def _background(setting: Setting, chance: np.random.Generator) -> NDArray[np.float64]:
    """By slot and node: ``slow`` half of the time, and as much above 1 in the other half."""
    turns = np.cumsum(chance.random((setting.slots, setting.nodes)) < 1 / setting.slow_slots, axis=0) % 2
    return np.where(turns == 1, setting.slow, 2.0 - setting.slow)
