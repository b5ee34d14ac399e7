"""What it costs that nobody sees the whole: the price of decentralisation, over the age of gossip and over N.

``central`` decides with every node's figures of this very moment and may send anywhere: no such controller exists, it
is the yardstick. ``central-rtt`` is the one that does exist: what it sees and what it says together take a round trip,
tasks wait for its word as long, and for a tenth of the run it is away (instances stay as they are, tasks where they
arrive). Which of the two it suffers from, and from how far on, is told at one size: over the round trip of a centre
that never fails, and of one that does. Ours hears digests of its neighbours alone, however large the network is. The
others are the usual rules of thumb by the same digests; all run the same rule A for instances, so that only the
knowledge differs.

The *price* of a method is its cost over that of ``central``, at the same N, on the same traces.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Final, NamedTuple

from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import ROUND_TRIP_SLOTS, Case, Figures, play_all, row
from shoal_agent.experiments.laws.setting import Setting, circle
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import mean
from shoal_agent.experiments.traces import trace_hash

SIZES: Final = (5, 10, 20, 50, 100, 200)
PERIODS: Final = (1, 5, 20, 50)
MIDDLE: Final = 20
"""The size at which rules of thumb are compared over all ages, and centres over all distances."""
ROUND_TRIPS: Final = (0, 1, 2, 5, 10, 20)
AWAY: Final = 0.1
"""Of the run, in one piece in its middle."""
METHODS: Final = ("ours", "central", "central-rtt", "none", "jsq-stale", "power-of-two", "random")
BY_DIGEST: Final = ("ours", "jsq-stale", "power-of-two")
V: Final = 2.0
NODE_SLOTS: Final = 20_000
SLOTS_LEAST: Final = 300
SLOTS_MOST: Final = 1500
WARM: Final = 100
PRICE_MAX: Final = 1.1
LATE_MAX: Final = 0.02
AGED: Final = 2.0
"""With digests older than a slot, so many times what is allowed with fresh ones: T4 promises no divergence, no more."""


class Key(NamedTuple):
    """What is run, with each seed."""

    method: str
    nodes: int
    period: int = PERIODS[0]
    round_trip: int = 0
    away: float = 0.0


def setting(nodes: int, node_slots: int) -> Setting:
    """About as many node-slots whatever the size."""
    slots = min(max(node_slots // nodes, SLOTS_LEAST), SLOTS_MOST)
    return replace(circle(nodes, slots + WARM), warm_slots=WARM)


def control(key: Key, world: Setting) -> Control:
    """A centre that is not everywhere sees late, and may be away."""
    middle = (world.slots + world.warm_slots) // 2
    gone = round((world.slots - world.warm_slots) * key.away)
    return Control(v=V, observed_slots=key.round_trip, away=((middle, middle + gone),) if gone else ())


def keys_of(methods: Sequence[str], sizes: Sequence[int]) -> list[Key]:
    """All over N with the freshest digests; ours over their age at every N, others and centres at one."""
    keys = []
    for method, nodes in product(methods, sizes):
        distant = method == "central-rtt"
        keys.append(Key(method, nodes, round_trip=ROUND_TRIP_SLOTS, away=AWAY) if distant else Key(method, nodes))
        if method == "ours" or (method in BY_DIGEST and nodes == MIDDLE):
            keys += [Key(method, nodes, period) for period in PERIODS[1:]]
        if distant and nodes == MIDDLE:
            keys += [Key(method, nodes, 1, far, away) for away in (0.0, AWAY) for far in ROUND_TRIPS]
    return list(dict.fromkeys(keys))


def run(options: Options, progress: Progress, node_slots: int = NODE_SLOTS, sizes: tuple[int, ...] = SIZES) -> Report:
    """All of ``keys_of``."""
    keys = keys_of(options.wanted(METHODS), sizes)
    worlds = {nodes: setting(nodes, node_slots) for nodes in sizes}
    cases = [
        Case(key.method, worlds[key.nodes], seed, control(key, worlds[key.nodes]), key.period)
        for key in keys
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
            "central-rtt: a round trip old, plus what it sent there since; tasks wait a round trip for its word",
            f"unless a row says otherwise its round trip is {ROUND_TRIP_SLOTS} slots, and it is away for {AWAY:.0%}",
            "period: slots between a node's digests, each in its own turn; the same rule A everywhere",
            "price = cost / cost of central at the same N",
        ],
        rows,
        _bands(runs, sizes),
        _charts(rows),
    )


def _mean(runs: list[Figures], name: str) -> float:
    return mean([one.values[name] for one in runs])


def _price(key: Key, runs: dict[Key, list[Figures]]) -> float:
    fresh = Key("central", key.nodes)
    return _mean(runs[key], "cost") / _mean(runs[fresh], "cost") if fresh in runs else float("nan")


def _row(key: Key, runs: dict[Key, list[Figures]]) -> Row:
    told = {name: float(value) for name, value in key._asdict().items() if name != "method"}
    return row(key.method, runs[key], **told, price=_price(key, runs))


def _bands(runs: dict[Key, list[Figures]], sizes: Sequence[int]) -> list[Band]:
    """Of those that ran: ours against the centres at every size, and against the rules of thumb at every age."""
    bands = []
    for nodes in sizes:
        ours, late = Key("ours", nodes), Key("central-rtt", nodes, 1, ROUND_TRIP_SLOTS, AWAY)
        if ours in runs and Key("central", nodes) in runs:
            bands += _bands_of_age(runs, nodes)
        if ours in runs and late in runs:
            ratio = _mean(runs[ours], "cost") / _mean(runs[late], "cost")
            behind = _mean(runs[late], "on_time") - _mean(runs[ours], "on_time")
            bands.append(Band(f"cost to central-rtt, {nodes} nodes", ratio, None, 1.0))
            bands.append(Band(f"on time less than central-rtt, {nodes} nodes", behind, None, 0.0))
    for period in PERIODS:
        others = [_mean(runs[Key(m, MIDDLE, period)], "cost") for m in BY_DIGEST[1:] if Key(m, MIDDLE, period) in runs]
        if others and Key("ours", MIDDLE, period) in runs:
            ratio = _mean(runs[Key("ours", MIDDLE, period)], "cost") / min(others)
            bands.append(Band(f"cost to the best rule of thumb, period {period}", ratio, None, 1.0))
    return bands + _bands_of_distance(runs)


def _bands_of_age(runs: dict[Key, list[Figures]], nodes: int) -> list[Band]:
    """Against a centre that sees everything at once, with fresh digests and with old ones."""
    fresh, bands = _mean(runs[Key("central", nodes)], "on_time"), []
    for name, periods, times in (("fresh", PERIODS[:1], 1.0), ("old", PERIODS[1:], AGED)):
        keys = [Key("ours", nodes, period) for period in periods]
        price = max(_price(key, runs) for key in keys)
        behind = max(fresh - _mean(runs[key], "on_time") for key in keys)
        bands.append(Band(f"price of ours, {nodes} nodes, {name} digests", price, None, 1 + times * (PRICE_MAX - 1)))
        bands.append(Band(f"on time less than central, {nodes} nodes, {name}", behind, None, times * LATE_MAX))
    return bands


def _bands_of_distance(runs: dict[Key, list[Figures]]) -> list[Band]:
    """Ours beats a centre that never fails if that is far, and one that fails on time if it is near, too."""
    ours = Key("ours", MIDDLE)
    far = [Key("central-rtt", MIDDLE, 1, trip) for trip in ROUND_TRIPS if trip >= ROUND_TRIP_SLOTS]
    frail = Key("central-rtt", MIDDLE, 1, 0, AWAY)
    if ours not in runs or frail not in runs:
        return []
    ratio = max(_mean(runs[ours], "cost") / _mean(runs[key], "cost") for key in far)
    behind = _mean(runs[frail], "on_time") - _mean(runs[ours], "on_time")
    return [
        Band(f"cost to a centre that never fails, {ROUND_TRIP_SLOTS} slots away or more", ratio, None, 1.0),
        Band("on time less than a centre that is near and fails", behind, None, 0.0),
    ]


def _charts(rows: list[Row]) -> list[Chart]:
    """Over N, over the age of digests, and, of centres, over their distance."""
    usual, middle = [], []
    for one in rows:
        distance = one.extra["round_trip"], one.extra["away"]
        if distance == ((ROUND_TRIP_SLOTS, AWAY) if one.method == "central-rtt" else (0.0, 0.0)):
            usual.append(one)
        if one.extra["nodes"] == MIDDLE and one.extra["period"] == PERIODS[0]:
            middle.append(one)
    return [
        _chart("price-of-n", "nodes", [one for one in usual if one.extra["period"] == PERIODS[0]]),
        _chart("price-of-age", "period", [one for one in usual if one.extra["nodes"] == MIDDLE]),
        _chart("price-of-distance", "round_trip", [one for one in middle if one.method in ("ours", "central-rtt")]),
    ]


def _chart(name: str, x: str, rows: list[Row]) -> Chart:
    """``x`` is what the price is drawn over."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in rows:
        label = f"{one.method}, away for {AWAY:.0%}" if one.extra["away"] else one.method
        lines.setdefault(label, []).append((one.extra[x], one.extra["price"]))
    told = x.replace("_", " ")
    return Chart(name, f"Price over {told}", told, "cost / cost of central", lines=lines, log_x=x == "nodes")
