"""T1: what V buys. The cost is within O(1/V) of the least, and the backlog that pays for it grows as O(V).

A node's rules weigh money against waiting by V (``core/instances.py``). Theory (Neely 2010): with each slot's decision
within a constant C of the best one, ``cost <= least + (B + C) / V`` and ``backlog <= (B + C + V (p_max - p_min)) / e``.
So over octaves of V, cost must be a straight line in 1/V and backlog one in V, and the line's cost at 1/V = 0 must be
the least there is (``bound.py``).

What V to choose is read off the same table: beyond the knee a little money costs much waiting.
"""

from dataclasses import replace
from typing import Final

from shoal_agent.experiments.laws.bound import least_cost
from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import Case, play_all, row
from shoal_agent.experiments.laws.setting import Setting, circle
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report
from shoal_agent.experiments.statistics import fit
from shoal_agent.experiments.traces import trace_hash

OCTAVES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SLOTS: Final = 4000
WARM_PER_V: Final = 20
"""Queues of a level of some 6 V fill at about a task per slot and node."""
R2_MIN: Final = 0.95
INTERCEPT_MAX: Final = 1.1
"""Of the line's cost at 1/V = 0 to the least cost: the least is of fractions and known rates."""
NO_GROWTH: Final = 1e-6
"""The law is of Q; W, which grows for ever where V lets a queue stand, is measured by ``stability``."""
NODES: Final = 8


def setting(v: float, slots: int) -> Setting:
    """Eight nodes; the larger V, the longer until the queues have filled."""
    warm = int(WARM_PER_V * v) + slots // 10
    return replace(circle(NODES, slots + warm), warm_slots=warm, growth=NO_GROWTH)


def run(options: Options, progress: Progress, slots: int = SLOTS, octaves: tuple[float, ...] = OCTAVES) -> Report:
    """Each octave on the same seeds."""
    cases = [Case("ours", setting(v, slots), seed, Control(v=v)) for v in octaves for seed in range(options.seeds)]
    figures = play_all(cases, options, progress)
    rows = []
    for index, v in enumerate(octaves):
        rows.append(row("ours", figures[index * options.seeds :][: options.seeds], v=v))
    least = least_cost(setting(1.0, slots))
    costs, backlogs = [one.cost or 0.0 for one in rows], [one.extra["backlog"] for one in rows]
    cost, backlog = fit([1 / v for v in octaves], costs), fit(octaves, backlogs)
    return Report(
        "v-sweep",
        trace_hash([one.digest for one in figures]),
        [
            f"{NODES} nodes on a circle with chords, two of them hot; one service; {slots} slots after a warm-up",
            "Poisson arrivals, Gamma service of mean 0.9, shape 1.5; a start costs 4, sending 0.3, a slot 0.6 to 1.6",
            "digests of the end of the last slot, two probes; the delay queue W is off (it grows 1e-6 a slot)",
            f"least cost {least:.4g}: fractional instances, known rates, no starts; no controller can reach it",
            f"fitted: cost = {cost.intercept:.4g} + {cost.slope:.4g} / V",
            f"fitted: backlog = {backlog.intercept:.4g} + {backlog.slope:.4g} V",
        ],
        rows,
        [
            Band("R2 of cost over 1/V", cost.r2, R2_MIN),
            Band("R2 of backlog over V", backlog.r2, R2_MIN),
            Band("cost at 1/V = 0 to the least cost", cost.intercept / least, 1.0, INTERCEPT_MAX),
        ],
        [
            _chart("v-cost", "Cost over V", "cost per slot", octaves, costs, {"least": least}),
            _chart("v-backlog", "Backlog over V", "tasks that wait", octaves, backlogs, {}),
        ],
    )


def _chart(
    name: str, title: str, y: str, octaves: tuple[float, ...], values: list[float], levels: dict[str, float]
) -> Chart:
    lines = {"ours": list(zip(octaves, values, strict=True))}
    lines |= {level: [(v, value) for v in octaves] for level, value in levels.items()}
    return Chart(name, title, "V", y, lines=lines, log_x=True, log_y=True)
