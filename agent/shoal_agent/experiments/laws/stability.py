"""T2 and T5: promises hold wherever they can be held, and where they cannot nobody pretends.

Deadlines are promises: of the tasks that came in at a node at most a share epsilon may end late. Each is a queue Z
(``core/queues.py``). Inside the capacity region - the loads that *some* way of sharing them out would serve, see
``bound.py`` - all queues must be stable, ``Z(T) / T`` go to nothing, and the late share stay below epsilon. Outside,
no controller can keep up: backlog and Z must then grow as fast as the load exceeds the region, and the figures show it.

Everywhere no task may wait longer than ``ceil((Qmax + Wmax) / growth)`` slots at any node (T5), which is what the
persistent queue W is for.
"""

from dataclasses import replace
from typing import Final

from shoal_agent.experiments.laws.bound import edge_of_region
from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import Case, Figures, play_all, row
from shoal_agent.experiments.laws.setting import Setting, circle
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report
from shoal_agent.experiments.statistics import mean
from shoal_agent.experiments.traces import trace_hash

LOADS: Final = (0.5, 0.7, 0.8, 0.9, 1.1, 1.3)
"""Multiples of the edge of the region."""
V: Final = 0.5
"""Small: waiting costs promises, and money buys them."""
ROOM: Final = 2
SLOTS: Final = 2500
WARM: Final = 200
NODES: Final = 8
MARGIN: Final = 0.01
Z_MAX: Final = 0.01
"""Of Z(T) / T, late tasks per slot and node: a finite run cannot tell it from 0."""
GROWN_MIN: Final = 0.8
"""Of what the backlog grows by to what the load exceeds the region by."""


def setting(load: float, slots: int) -> Setting:
    """Eight small nodes at a multiple of the edge of their region."""
    base = replace(circle(NODES, slots + WARM), warm_slots=WARM, room=ROOM)
    return base.times(load * edge_of_region(base))


def run(options: Options, progress: Progress, slots: int = SLOTS) -> Report:
    """Every load, inside and outside."""
    loads = options.loads or LOADS
    worlds = [setting(load, slots) for load in loads]
    control = Control(v=V, promises=True)
    cases = [Case("ours", world, seed, control) for world in worlds for seed in range(options.seeds)]
    figures = play_all(cases, options, progress)
    runs = [figures[index * options.seeds :][: options.seeds] for index in range(len(loads))]
    rows = [
        row("ours", one, load, z_per_slot=_mean(one, "z"), growth=_mean(one, "growth"), stay_max=_most(one, "stay_max"))
        for load, one in zip(loads, runs, strict=True)
    ]
    return Report(
        "stability",
        trace_hash([one.digest for one in figures]),
        [
            f"{NODES} nodes as in v-sweep with room for {ROOM} instances each, V = {V:g}, {slots} slots after {WARM}",
            "load 1 is the edge of the capacity region: fractions of instances, known rates",
            f"deadline {worlds[0].deadline_slots} slots from arrival at the ingress, epsilon {worlds[0].epsilon:g}",
            "nobody is refused; a task that still waits at the end is late",
            "sizes by effective capacity from each node's own measured blocks, every 50 slots",
            f"W grows by {worlds[0].growth:g} tasks a slot",
        ],
        rows,
        [*_inside(loads, worlds, runs), *_outside(loads, worlds, runs), _bound(figures)],
        [Chart("stability", "Late share over load", "load", "late", lines={"ours": _late(loads, runs)})],
    )


def _mean(runs: list[Figures], name: str) -> float:
    return mean([one.values[name] for one in runs])


def _most(runs: list[Figures], name: str) -> float:
    return max(one.values[name] for one in runs)


def _late(loads: tuple[float, ...], runs: list[list[Figures]]) -> list[tuple[float, float]]:
    return [(load, 1 - _mean(one, "on_time")) for load, one in zip(loads, runs, strict=True)]


def _inside(loads: tuple[float, ...], worlds: list[Setting], runs: list[list[Figures]]) -> list[Band]:
    bands = []
    for load, world, one in zip(loads, worlds, runs, strict=True):
        if load < 1:
            late = 1 - _mean(one, "on_time")
            bands.append(Band(f"late share at load {load:g}", late, None, world.epsilon + MARGIN))
            bands.append(Band(f"Z(T)/T per node at load {load:g}", _mean(one, "z") / NODES, None, Z_MAX))
    return bands


def _outside(loads: tuple[float, ...], worlds: list[Setting], runs: list[list[Figures]]) -> list[Band]:
    bands = []
    for load, world, one in zip(loads, worlds, runs, strict=True):
        if load > 1:
            excess = sum(node[0] for node in world.loads) * (1 - 1 / load)
            grown = _mean(one, "growth") / excess
            bands.append(Band(f"backlog growth to excess load at load {load:g}", grown, GROWN_MIN))
            bands.append(Band(f"Z(T)/T per node at load {load:g}", _mean(one, "z") / NODES, Z_MAX))
    return bands


def _bound(figures: list[Figures]) -> Band:
    return Band("longest stay minus the bound of W, slots, worst", _most(figures, "bound_excess"), None, 0.0)
