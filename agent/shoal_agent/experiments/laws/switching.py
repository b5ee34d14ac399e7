"""T6: where a start takes time, who always serves the longest queue loses capacity.

Several services share a node that has room for fewer instances than services. Every switch costs ``boot_slots`` in
which the room serves nobody. ``greedy`` gives the room to what is worth most in this very slot (MaxWeight: the longest
queue, starts unpriced): near the edge queues are of like length, it switches in almost every slot, and the region in
which it is stable shrinks with the time of a start (Celik, Borst, Whiting, Modiano 2016). ``ours`` stays while a
service earns its rent and until it has lost the price of a start (``core/retirement.py``), so visits grow with the
queues, as frames of variable length do, and the share of time that is lost to switching goes to nothing.

``frames`` is the textbook rule: MaxWeight, decided again only ``1 + backlog ^ 0.8`` slots after the last switch.
"""

from typing import Final

from shoal_agent.core.instances import INSTANCES_MAX
from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import Case, Figures, play_all, row
from shoal_agent.experiments.laws.setting import Service, Setting
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report
from shoal_agent.experiments.statistics import mean
from shoal_agent.experiments.traces import trace_hash

LOADS: Final = (0.3, 0.5, 0.7, 0.8, 0.9)
"""Of what the room serves if it never switches."""
METHODS: Final = ("ours", "frames", "greedy")
SERVICES: Final = 3
BOOT_SLOTS: Final = 5
FRAME_POWER: Final = 0.8
V: Final = 2.0
SLOTS: Final = 8000
WARM: Final = 1000
STABLE_MAX: Final = 0.005
"""Tasks per slot that the backlog may grow by; the loads are about one."""
LOST_MIN: Final = 0.02


CONTROLS: Final = {
    "ours": Control(v=V),
    "frames": Control(v=V, patient=False, starts=INSTANCES_MAX, boots_priced=False, frame_power=FRAME_POWER),
    "greedy": Control(v=V, patient=False, starts=INSTANCES_MAX, boots_priced=False),
}


def setting(load: float, slots: int) -> Setting:
    """One node, room for one instance, services of unlike load."""
    kind = Service(boot_slots=BOOT_SLOTS)
    weights = (0.5, 0.3, 0.2)
    return Setting(
        loads=(tuple(load * kind.rate * weight for weight in weights),),
        prices=(1.0,),
        neighbours=((),),
        slots=slots + WARM,
        warm_slots=WARM,
        services=(kind,) * SERVICES,
        room=1,
        deadline_slots=200,
    )


def run(options: Options, progress: Progress, slots: int = SLOTS) -> Report:
    """Every rule at every load."""
    loads = options.loads or LOADS
    methods = options.wanted(METHODS)
    pairs = [(method, load) for method in methods for load in loads]
    cases = [
        Case("none", setting(load, slots), seed, CONTROLS[m]) for m, load in pairs for seed in range(options.seeds)
    ]
    figures = play_all(cases, options, progress)
    runs = {pair: figures[index * options.seeds :][: options.seeds] for index, pair in enumerate(pairs)}
    rows = [row(method, runs[method, load], load, growth=_growth(runs[method, load])) for method, load in pairs]
    return Report(
        "switching",
        trace_hash([one.digest for one in figures]),
        [
            f"one node with room for one instance, {SERVICES} services with 0.5, 0.3, 0.2 of the load, nobody to help",
            f"a start takes {BOOT_SLOTS} slots in which the room serves nobody, and costs 4; V = {V:g}",
            f"load 1 is what the room serves if it never switches; {slots} slots after {WARM}",
            "growth: of the backlog, tasks per slot, by a straight line; on time: within 200 slots",
        ],
        rows,
        _bands(runs, loads),
        [_chart(runs)],
    )


def _growth(runs: list[Figures]) -> float:
    return mean([one.values["growth"] for one in runs])


def _bands(runs: dict[tuple[str, float], list[Figures]], loads: tuple[float, ...]) -> list[Band]:
    bands = [
        Band(f"{method}: backlog growth at load {load:g}", _growth(runs[method, load]), None, STABLE_MAX)
        for method in ("ours", "frames")
        for load in loads
        if (method, load) in runs
    ]
    if ("greedy", loads[-1]) in runs:
        lost = _growth(runs["greedy", loads[-1]])
        bands.append(Band(f"greedy: backlog growth at load {loads[-1]:g}", lost, LOST_MIN))
    return bands


def _chart(runs: dict[tuple[str, float], list[Figures]]) -> Chart:
    lines: dict[str, list[tuple[float, float]]] = {}
    for (method, load), one in runs.items():
        lines.setdefault(method, []).append((load, mean([f.values["backlog"] for f in one])))
    return Chart("switching", "Backlog over load, starts take time", "load", "tasks that wait", lines=lines, log_y=True)
