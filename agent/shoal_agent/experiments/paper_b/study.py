"""Paper (b)'s table as an experiment: seeds times methods, with bands.

The paper prints a projection, not a measurement: latency 100-300 ms, quality of service 95-99 % for an adaptive split
where a static one has 60-70 %, 0-2 incidents an hour, high privacy. Here the same rows are measured, by definitions
fixed in advance (``measures``), on traces whose parameters are ours (``trace``); all are listed in the report.

Utilisation is compared as *sustainable goodput*: the highest load, of those asked for, at which and below which the
quality of service is at least 95 %. At equal load two methods do the same work and must keep machines equally busy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.paper_b import cluster, trace
from shoal_agent.experiments.paper_b.assumptions import assumptions
from shoal_agent.experiments.paper_b.measures import Figures
from shoal_agent.experiments.paper_b.methods import METHODS, Bench
from shoal_agent.experiments.pool import each
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import interval, mean
from shoal_agent.experiments.traces import trace_hash

QOS_MIN: Final = 0.95
FAILED_MAX: Final = 0.005
INCIDENTS_MAX: Final = 2.0
P95_MS_MAX: Final = 300.0
SHARED: Final = ("qos", "failed", "incidents_per_h", "p95_ms")
"""Figures of a seed that are columns of every report."""


@dataclass(frozen=True, slots=True)
class Task:
    """One seed at one load under all methods."""

    weather: str
    width: str
    load: float
    seed: int
    length_s: float
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    digest: str
    figures: tuple[Figures, ...]


def run(options: Options, progress: Progress) -> Report:
    """An hour of each seed."""
    return study(options, progress, trace.HOUR_S)


def study(options: Options, progress: Progress, length_s: float) -> Report:
    """As ``run``, with hours of another length."""
    weather = options.one_of("trace", options.trace, tuple(trace.WEATHERS))
    methods, loads = options.wanted(METHODS), options.loads or (1.0,)
    tasks = [
        Task(weather, options.width, load, seed, length_s, methods) for load in loads for seed in range(options.seeds)
    ]
    answers = each(measure, tasks, options.jobs, progress, _name)
    by_load = {
        load: [answer for task, answer in zip(tasks, answers, strict=True) if task.load == load] for load in loads
    }
    rows = [_row(method, index, load, by_load[load]) for load in loads for index, method in enumerate(methods)]
    return Report(
        "paper-b",
        trace_hash([answer.digest for answer in answers]),
        assumptions(weather, options.width, options.seeds, length_s),
        rows,
        _bands(options, weather, methods, rows, by_load),
        _charts(methods, rows),
    )


def measure(task: Task) -> Answer:
    """All methods on one trace."""
    drawn = trace.draw(
        trace.WEATHERS[task.weather], task.seed, len(cluster.NODES), cluster.STEADY, task.load, task.length_s
    )
    bench = Bench(drawn, task.width)
    return Answer(drawn.digest(), tuple(bench.measure(method) for method in task.methods))


def _name(task: Task) -> str:
    return f"{task.weather} {task.width} load {task.load:g} seed {task.seed}"


def _row(method: str, index: int, load: float, answers: Sequence[Answer]) -> Row:
    found = [answer.figures[index] for answer in answers]
    values = {entry.name: [getattr(figures, entry.name) for figures in found] for entry in fields(Figures)}
    means = {name: mean(each_seed) for name, each_seed in values.items()}
    return Row(
        method,
        load,
        on_time=means["qos"],
        qos=means["qos"],
        failed=means["failed"],
        incidents_per_h=means["incidents_per_h"],
        p95_ms=means["p95_ms"],
        ci={name: interval(values[name]) for name in SHARED},
        extra={name: value for name, value in means.items() if name not in SHARED},
    )


def _bands(
    options: Options,
    weather: str,
    methods: tuple[str, ...],
    rows: Sequence[Row],
    by_load: dict[float, list[Answer]],
) -> list[Band]:
    ours = next((row for row in rows if row.method == "ours"), None)
    if ours is None or ours.load is None:
        return []
    bands = [
        Band("ours: runs of private blocks on machines without trust", ours.extra["breaches"], high=0.0),
        Band("ours: answers with legs of two epochs", ours.extra["mixed"], high=0.0),
    ]
    if weather == trace.MILD.name and options.width == "int8" and ours.load == 1.0:
        bands += [
            Band("ours, mild, int8: quality of service", ours.qos or 0.0, low=QOS_MIN),
            Band("ours, mild, int8: failed", 1.0 if ours.failed is None else ours.failed, high=FAILED_MAX),
            Band("ours, mild, int8: incidents an hour", ours.figure("incidents_per_h") or 0.0, high=INCIDENTS_MAX),
            Band("ours, mild, int8: p95 in ms", ours.figure("p95_ms") or 0.0, high=P95_MS_MAX),
        ]
    if "static" in methods:
        mine, static = methods.index("ours"), methods.index("static")
        gained = [answer.figures[mine].qos - answer.figures[static].qos for answer in by_load[ours.load]]
        low, _ = interval(gained)
        bands.append(Band("ours over the best static split: low end of the paired 95 % interval", low, low=0.0))
        if len(by_load) > 1:
            more = goodput("ours", rows) - goodput("static", rows)
            bands.append(Band("sustainable goodput of ours less that of static, in loads", more, low=0.0))
    return bands


def goodput(method: str, rows: Sequence[Row]) -> float:
    """The highest load at which and below which the quality of service is kept; 0 if at none."""
    highest = 0.0
    for row in sorted((row for row in rows if row.method == method), key=lambda row: row.load or 0.0):
        if row.qos is None or row.qos < QOS_MIN:
            break
        highest = row.load or 0.0
    return highest


def _charts(methods: Sequence[str], rows: Sequence[Row]) -> tuple[Chart, ...]:
    loads = dict.fromkeys(row.load for row in rows)
    if len(loads) < 2:  # noqa: PLR2004 -- a line
        return ()
    lines = {method: [(row.load or 0.0, row.qos or 0.0) for row in rows if row.method == method] for method in methods}
    return (Chart("paper-b-qos", "Quality of service as load grows", "load", "qos", lines),)
