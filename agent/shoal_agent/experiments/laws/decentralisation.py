"""What it costs that nobody sees the whole: the price of decentralisation, over the age of gossip and over N.

``central`` decides with every node's figures of this very moment and may send anywhere: no such controller exists, it
is the yardstick. ``central-rtt`` is the one that does exist: what it sees and what it says together take a round trip,
and for a tenth of the run it is away (instances stay as they are, tasks where they arrive). Ours hears digests of its
neighbours alone, however large the network is. The others are the usual rules of thumb by the same digests; all run
the same rule A for instances, so that only the knowledge differs.

The *price* of a method is its cost over that of ``central``, at the same N, on the same traces.
"""

from dataclasses import replace
from typing import Final

from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import ROUND_TRIP_SLOTS, Case, Figures, play_all, row
from shoal_agent.experiments.laws.setting import Setting, circle
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import mean
from shoal_agent.experiments.traces import trace_hash

SIZES: Final = (5, 20, 50, 200)
PERIODS: Final = (1, 5, 20, 50)
MIDDLE: Final = 20
"""The size at which all ages are compared."""
METHODS: Final = ("ours", "central", "central-rtt", "none", "jsq-stale", "power-of-two", "random")
BY_DIGEST: Final = ("ours", "jsq-stale", "power-of-two")
V: Final = 2.0
NODE_SLOTS: Final = 20_000
SLOTS_LEAST: Final = 300
SLOTS_MOST: Final = 1500
WARM: Final = 100
PRICE_MAX: Final = 1.1
LATE_MAX: Final = 0.02

Key = tuple[str, int, int]
"""Method, nodes, period."""


def setting(nodes: int, node_slots: int) -> Setting:
    """About as many node-slots whatever the size."""
    slots = min(max(node_slots // nodes, SLOTS_LEAST), SLOTS_MOST)
    return replace(circle(nodes, slots + WARM), warm_slots=WARM)


def control(method: str, world: Setting) -> Control:
    """A centre that is not everywhere sees late, and is away at times."""
    if method != "central-rtt":
        return Control(v=V)
    middle = (world.slots + world.warm_slots) // 2
    away = ((middle, middle + (world.slots - world.warm_slots) // 10),)
    return Control(v=V, observed_slots=ROUND_TRIP_SLOTS, away=away)


def run(options: Options, progress: Progress, node_slots: int = NODE_SLOTS, sizes: tuple[int, ...] = SIZES) -> Report:
    """All methods over N at the freshest digests, those that hear digests also over their age."""
    methods = options.wanted(METHODS)
    keys: list[Key] = [(method, nodes, PERIODS[0]) for method in methods for nodes in sizes]
    keys += [
        (method, MIDDLE, period)
        for method in methods
        if method in BY_DIGEST and MIDDLE in sizes
        for period in PERIODS[1:]
    ]
    worlds = {nodes: setting(nodes, node_slots) for nodes in sizes}
    cases = [
        Case(method, worlds[nodes], seed, control(method, worlds[nodes]), period)
        for method, nodes, period in keys
        for seed in range(options.seeds)
    ]
    figures = play_all(cases, options, progress)
    runs = {key: figures[index * options.seeds :][: options.seeds] for index, key in enumerate(keys)}
    rows = [_row(key, runs) for key in keys]
    return Report(
        "decentralisation",
        trace_hash([one.digest for one in figures]),
        [
            "nodes as in v-sweep, repeated; three neighbours each (two below five nodes), whatever the size; V = 2",
            f"{SLOTS_LEAST} to {SLOTS_MOST} slots after {WARM}, about {node_slots} node-slots; deadline 20 slots",
            "central: all nodes, as they are in that moment, for nothing",
            f"central-rtt: {ROUND_TRIP_SLOTS} slots old, plus what it sent there since; away for a tenth of the run",
            "tasks do not wait for the centre's answer, which favours it",
            "period: slots between a node's digests, each in its own turn; the same rule A everywhere",
            "price = cost / cost of central at the same N",
        ],
        rows,
        _bands(runs),
        [
            _chart("price-of-n", "Price over N", "nodes", rows, 1),
            _chart("price-of-age", "Price over age", "period", rows, 2),
        ],
    )


def _mean(runs: list[Figures], name: str) -> float:
    return mean([one.values[name] for one in runs])


def _price(key: Key, runs: dict[Key, list[Figures]]) -> float:
    fresh = ("central", key[1], PERIODS[0])
    return _mean(runs[key], "cost") / _mean(runs[fresh], "cost") if fresh in runs else float("nan")


def _row(key: Key, runs: dict[Key, list[Figures]]) -> Row:
    method, nodes, period = key
    return row(method, runs[key], nodes=float(nodes), period=float(period), price=_price(key, runs))


def _bands(runs: dict[Key, list[Figures]]) -> list[Band]:
    """Of those that ran: ours against the centres at every size, and against the rules of thumb at every age."""
    bands = []
    for nodes in SIZES:
        ours, fresh, late = (("ours", nodes, 1), ("central", nodes, 1), ("central-rtt", nodes, 1))
        if ours in runs and fresh in runs:
            behind = _mean(runs[fresh], "on_time") - _mean(runs[ours], "on_time")
            bands.append(Band(f"price of ours, {nodes} nodes", _price(ours, runs), None, PRICE_MAX))
            bands.append(Band(f"on time less than central, {nodes} nodes", behind, None, LATE_MAX))
        if ours in runs and late in runs:
            ratio = _mean(runs[ours], "cost") / _mean(runs[late], "cost")
            bands.append(Band(f"cost to central-rtt, {nodes} nodes", ratio, None, 1.0))
    for period in PERIODS:
        others = [_mean(runs[m, MIDDLE, period], "cost") for m in BY_DIGEST[1:] if (m, MIDDLE, period) in runs]
        if others and ("ours", MIDDLE, period) in runs:
            ratio = _mean(runs["ours", MIDDLE, period], "cost") / min(others)
            bands.append(Band(f"cost to the best rule of thumb, period {period}", ratio, None, 1.0))
    return bands


def _chart(name: str, title: str, x: str, rows: list[Row], of: int) -> Chart:
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in rows:
        nodes, period = one.extra["nodes"], one.extra["period"]
        if of == 1 and period == PERIODS[0]:
            lines.setdefault(one.method, []).append((nodes, one.extra["price"]))
        elif of != 1 and nodes == MIDDLE:
            lines.setdefault(one.method, []).append((period, one.extra["price"]))
    return Chart(name, title, x, "cost / cost of central", lines=lines, log_x=True)
