"""Paper (a) again: every method on the same systems and traces, over loads and seeds."""

from dataclasses import dataclass
from typing import Final

from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.paper_a import backbone
from shoal_agent.experiments.paper_a.methods import METHODS, Setting
from shoal_agent.experiments.paper_a.regimes import ARRIVALS_MS, DRAIN_MS, REGIMES
from shoal_agent.experiments.paper_a.routes import Routes
from shoal_agent.experiments.paper_a.scenario import Scenario, sample
from shoal_agent.experiments.paper_a.trace import Trace, draw
from shoal_agent.experiments.paper_a.world import World
from shoal_agent.experiments.pool import each
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import interval, mean, percentile
from shoal_agent.experiments.traces import trace_hash

LOADS: Final = (1.0, 1.5, 2.0)
HEADLINE: Final = 0.84
"""The paper's: "over 84 % on time"."""
TIGHT_LOAD: Final = 2.0
OURS_MIN: Final = 0.94
COST_RATIO_MAX: Final = 1.1


@dataclass(frozen=True, slots=True)
class Job:
    """All methods on one system."""

    regime: str
    load: float
    seed: int
    methods: tuple[str, ...]
    arrivals_ms: int = ARRIVALS_MS
    drain_ms: int = DRAIN_MS


@dataclass(frozen=True, slots=True)
class Run:
    """One method on one system; latency of a task that never ended is the horizon's."""

    on_time: float
    failed: float
    cost: float
    boots: float
    latencies_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job; no runs if no placement fits."""

    trace: str
    runs: dict[str, Run]
    in_reach: float = 0.0
    """The share of tasks that would be on time if nothing ever waited and every rate was its mean."""


def play(job: Job) -> Outcome:
    """Every method on the system and trace of one seed."""
    regime = REGIMES[job.regime]
    scenario = sample(regime, job.load, job.seed)
    trace = draw(scenario, regime, job.seed, job.arrivals_ms, job.drain_ms)
    named = trace_hash(scenario, trace)
    placement = backbone.place(scenario, regime)
    if placement is None:
        return Outcome(named, {})
    spread = backbone.least_loaded(scenario, regime) or placement
    runs = {}
    for name in job.methods:
        method = METHODS[name]
        chosen = spread if method.least_loaded else placement
        world = World(scenario, trace, chosen, regime.hold)
        world.run(method.build(Setting(scenario, regime, chosen, job.seed)))
        runs[name] = _judged(world)
    return Outcome(named, runs, _in_reach(Routes(scenario, placement), scenario, trace))


def _in_reach(routes: Routes, scenario: Scenario, trace: Trace) -> float:
    found = []
    for arrival in (arrival for slot in trace.arrivals for arrival in slot):
        user = scenario.users[arrival.user]
        pipeline = scenario.pipelines[user.pipeline]
        quickest = arrival.ready_ms + routes.quickest_ms(pipeline, user.gateway)
        found.append(float(quickest <= arrival.at_ms + pipeline.deadline_ms))
    return mean(found)


def _judged(world: World) -> Run:
    """Every arrival counts."""
    tasks, horizon = world.tasks, float(world.trace.slots)
    done = [task for task in tasks if task.done_ms is not None and task.done_ms <= horizon]
    ended = {task.number: task.done_ms for task in done}
    latencies = tuple((ended.get(task.number) or horizon) - task.at_ms for task in tasks)
    count = max(1, len(tasks))
    return Run(
        on_time=sum(task.in_time for task in tasks) / count,
        failed=1.0 - len(done) / count,
        cost=world.cost / horizon,
        boots=world.boots / horizon,
        latencies_ms=latencies,
    )


def run(options: Options, progress: Progress) -> Report:
    """The report of one regime."""
    methods = options.wanted(tuple(METHODS))
    regime = options.one_of("regime", options.regime, tuple(REGIMES))
    loads = options.loads or LOADS
    jobs = [Job(regime, load, seed, methods) for load in loads for seed in range(options.seeds)]
    outcomes = each(play, jobs, options.jobs, progress, lambda job: f"load {job.load:g} seed {job.seed}")
    return report(jobs, outcomes)


def report(jobs: list[Job], outcomes: list[Outcome]) -> Report:
    """Rows by load and method, bands, charts and assumptions."""
    regime, methods = jobs[0].regime, jobs[0].methods
    loads = list(dict.fromkeys(job.load for job in jobs))
    found: dict[tuple[float, str], list[Run]] = {(load, name): [] for load in loads for name in methods}
    for job, outcome in zip(jobs, outcomes, strict=True):
        for name, one in outcome.runs.items():
            found[job.load, name].append(one)
    left_out = [f"load {j.load:g} seed {j.seed}" for j, o in zip(jobs, outcomes, strict=True) if not o.runs]
    rows = [_row(name, load, found[load, name]) for load in loads for name in methods]
    played = [(job.load, outcome.in_reach) for job, outcome in zip(jobs, outcomes, strict=True) if outcome.runs]
    reach = [f"{load:g}: {mean([share for at, share in played if at == load]):.3f}" for load in loads]
    return Report(
        name=f"paper-a-{regime}",
        trace_hash=trace_hash([outcome.trace for outcome in outcomes]),
        assumptions=[
            *REGIMES[regime].assumptions(),
            f"Left out because no core placement fits: {', '.join(left_out) or 'none'}.",
            f"On time if nothing ever waited and every rate was its mean, by load: {', '.join(reach)}.",
            *(f"{name}: {METHODS[name].summary}." for name in methods),
        ],
        rows=rows,
        bands=_bands(regime, rows, found),
        charts=_charts(regime, loads, methods, found),
    )


def _row(name: str, load: float, runs: list[Run]) -> Row:
    on_time, cost = [run.on_time for run in runs], [run.cost for run in runs]
    latencies = [latency for run in runs for latency in run.latencies_ms]
    return Row(
        method=name,
        load=load,
        on_time=mean(on_time),
        qos=mean(on_time),
        failed=mean([run.failed for run in runs]),
        p95_ms=percentile(latencies, 95),
        cost=mean(cost),
        ci={"on_time": interval(on_time), "cost": interval(cost)},
        extra={"on_time_worst_seed": min(on_time, default=float("nan")), "boots": mean([run.boots for run in runs])},
    )


def _bands(regime: str, rows: list[Row], found: dict[tuple[float, str], list[Run]]) -> list[Band]:
    """What issue and paper claim, as far as the methods that it takes were run."""
    figures = {(row.load, row.method): row for row in rows}
    bands = [
        Band(f"ours on time at load {row.load:g}", row.on_time or 0.0, low=HEADLINE)
        for row in rows
        if row.method == "ours"
    ]
    ours = figures.get((TIGHT_LOAD, "ours"))
    if regime != "R2" or ours is None:
        return bands
    bands.append(Band(f"R2, load {TIGHT_LOAD:g}: ours on time", ours.on_time or 0.0, low=OURS_MIN))
    for other in ("central", "proposed"):
        if (TIGHT_LOAD, other) in figures:
            pairs = zip(found[TIGHT_LOAD, "ours"], found[TIGHT_LOAD, other], strict=True)
            ratio = mean([one.cost / two.cost for one, two in pairs])
            bands.append(Band(f"R2, load {TIGHT_LOAD:g}: cost of ours over {other}", ratio, high=COST_RATIO_MAX))
    for other in ("gateway", "propavg"):
        if (TIGHT_LOAD, other) in figures:
            pairs = zip(found[TIGHT_LOAD, "ours"], found[TIGHT_LOAD, other], strict=True)
            gain = interval([one.on_time - two.on_time for one, two in pairs])[0]
            bands.append(Band(f"R2, load {TIGHT_LOAD:g}: ours over {other}, lower end of 95 %", gain, low=0.0))
    return bands


def _charts(
    regime: str, loads: list[float], methods: tuple[str, ...], found: dict[tuple[float, str], list[Run]]
) -> list[Chart]:
    title = f"Paper (a), regime {regime}"
    lines = {name: [(load, mean([run.on_time for run in found[load, name]])) for load in loads] for name in methods}
    charts = [Chart(f"paper-a-{regime}-loads", title, "load", "on time, share of all arrivals", lines=lines)]
    for load in loads:
        for figure in ("on_time", "cost"):
            values = {name: [getattr(run, figure) for run in found[load, name]] for name in methods}
            if all(values.values()):
                name = f"paper-a-{regime}-{figure}-{load:g}"
                charts.append(Chart(name, f"{title}, load {load:g}", "method", figure, violins=values))
    return charts
