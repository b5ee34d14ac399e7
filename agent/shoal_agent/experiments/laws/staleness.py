"""T4: what old digests cost. More money, never stability.

A decision from digests that are tau slots old differs from the best one by at most some ``2 tau delta``, a constant
(delta: what a queue can change by in a slot), so the drift bound holds with a larger constant C: cost rises by
``C / V`` and all queues stay stable. How much is decided by the rules: sent by old figures, tasks slosh between nodes,
and instances start and stop behind them. Ours is measured without each of its three remedies in turn:

- ``ours-unprobed``: digests alone decide (no probe at dispatch);
- ``ours-naive``: nor is own work in flight added;
- ``ours-hasty``: with probes, but instances stop at once and start together (no ``retirement``, no limit on starts).
"""

from dataclasses import replace
from typing import Final

from shoal_agent.core.instances import INSTANCES_MAX
from shoal_agent.experiments.laws.bound import least_cost
from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import Case, Figures, play_all, row
from shoal_agent.experiments.laws.setting import Setting, circle
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import mean
from shoal_agent.experiments.traces import trace_hash

PERIODS: Final = (0, 1, 2, 5, 10, 20, 50)
METHODS: Final = ("ours", "ours-unprobed", "ours-naive", "ours-hasty", "none")
AGELESS: Final = frozenset({"none"})
"""Who hears nobody runs once."""
V: Final = 2.0
SLOTS: Final = 2500
WARM: Final = 200
NODES: Final = 8
GROWTH_MAX: Final = 0.01
"""Tasks per slot and node that the backlog may still grow by: what a finite run cannot tell from 0."""
FRESH_MAX: Final = 1.15
"""Of the cost with digests of the last slot to that with everybody read as he is now; 1.7 to 2 without remedies."""
ALONE_MAX: Final = 1.0
"""Of the cost at the greatest age to that without any cooperation."""


def control(method: str) -> Control:
    """Of rule A."""
    return Control(v=V, patient=False, starts=INSTANCES_MAX) if method == "ours-hasty" else Control(v=V)


def setting(slots: int) -> Setting:
    """Eight nodes, warmed up."""
    return replace(circle(NODES, slots + WARM), warm_slots=WARM)


def run(options: Options, progress: Progress, slots: int = SLOTS, periods: tuple[int, ...] = PERIODS) -> Report:
    """Every method at every age, on the same traces."""
    world = setting(slots)
    pairs = [(m, p) for m in options.wanted(METHODS) for p in periods if p == 0 or m not in AGELESS]
    cases = [Case(m, world, seed, control(m), p) for m, p in pairs for seed in range(options.seeds)]
    figures = play_all(cases, options, progress)
    runs = {pair: figures[index * options.seeds :][: options.seeds] for index, pair in enumerate(pairs)}
    rows = [_row(pair, runs) for pair in pairs]
    return Report(
        "staleness",
        trace_hash([one.digest for one in figures]),
        [
            f"{NODES} nodes as in v-sweep, V = {V:g}, {slots} slots after {WARM}, delay queue W on (0.05 a slot)",
            "a node tells its digest every `period` slots, each in its own turn: ages are spread over 1 to period",
            "period 0: every neighbour is read as it is in that moment, which no network can",
            "a probe is answered at once: its round trip is a small part of a slot of 100 ms",
            f"least cost {least_cost(world):.4g} (fractional instances, known rates, no starts)",
            "c_estimate = V (cost - cost at period 0): the constant of the theorem, as measured",
        ],
        rows,
        _bands(runs),
        [_chart(rows)],
    )


def _cost(runs: list[Figures]) -> float:
    return mean([one.values["cost"] for one in runs])


def _row(pair: tuple[str, int], runs: dict[tuple[str, int], list[Figures]]) -> Row:
    method, period = pair
    over = V * (_cost(runs[pair]) - _cost(runs[method, 0]))
    grown = mean([one.values["growth"] for one in runs[pair]])
    return row(method, runs[pair], period=float(period), c_estimate=over, growth=grown)


def _bands(runs: dict[tuple[str, int], list[Figures]]) -> list[Band]:
    """Of those that ran."""
    grown = max((mean([f.values["growth"] for f in figures]) for figures in runs.values()), default=0.0)
    bands = [Band("backlog still grows, tasks per slot and node, worst", grown / NODES, None, GROWTH_MAX)]
    if ("ours", 1) in runs:
        bands.append(Band("ours: period 1 to 0", _cost(runs["ours", 1]) / _cost(runs["ours", 0]), None, FRESH_MAX))
    oldest = max(period for _, period in runs)
    if ("ours", oldest) in runs and ("none", 0) in runs:
        ratio = _cost(runs["ours", oldest]) / _cost(runs["none", 0])
        bands.append(Band("ours at the greatest age to no cooperation", ratio, None, ALONE_MAX))
    return bands


def _chart(rows: list[Row]) -> Chart:
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in rows:
        lines.setdefault(one.method, []).append((one.extra["period"], one.cost or 0.0))
    for method in AGELESS & lines.keys():
        lines[method] = [(float(period), lines[method][0][1]) for period in PERIODS]
    return Chart("staleness", "Cost over the age of digests", "period, slots", "cost per slot", lines=lines)
