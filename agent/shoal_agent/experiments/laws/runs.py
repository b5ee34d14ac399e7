"""One run of the network, as a value: what to run, and the figures that came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.experiments.laws.dispatchers import Alone, Anywhere, Central, Ours, Shortest
from shoal_agent.experiments.laws.network import Control, Dispatcher, Network
from shoal_agent.experiments.laws.setting import Setting, draw
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.pool import each
from shoal_agent.experiments.report import Row
from shoal_agent.experiments.statistics import fit, interval, mean, percentile
from shoal_agent.sim.seeds import generator

SLOT_MS: Final = 100.0
ROUND_TRIP_SLOTS: Final = 2
"""Between a node and a distant centre, there and back, its own turn included: 200 ms."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run."""

    method: str
    setting: Setting
    seed: int
    control: Control = field(default_factory=Control)
    period: int = 1
    """A digest is told so often, in slots; 0: everybody is read as he is now."""

    def __str__(self) -> str:
        return f"{self.method} {self.setting.nodes} nodes, V {self.control.v:g}, period {self.period}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it."""

    digest: str
    """Of its trace."""
    values: Mapping[str, float]


def dispatcher(case: Case) -> Dispatcher:
    """Whom the method is."""
    rng = generator(case.seed, "dispatch", case.method)
    match case.method:
        case "ours" | "ours-hasty":
            return Ours(rng, case.period)
        case "ours-unprobed":
            return Ours(rng, case.period, probes=False)
        case "ours-naive":
            return Ours(rng, case.period, probes=False, corrected=False)
        case "central" | "central-rtt":
            return Central(case.control.observed_slots)
        case "none":
            return Alone()
        case "jsq-stale":
            return Shortest(rng, case.period)
        case "power-of-two":
            return Shortest(rng, case.period, drawn=2)
        case "random":
            return Anywhere(rng)
        case _:
            raise AssertionError(f"no method {case.method}")


def play(case: Case) -> Figures:
    """Run it."""
    trace = draw(case.setting, case.seed)
    tally = Network(case.setting, case.control, trace).run(dispatcher(case))
    slots = case.setting.slots - case.setting.warm_slots
    values = {
        "cost": tally.cost / slots,
        "backlog": mean(tally.backlog),
        "growth": fit(range(slots), tally.backlog).slope,
        "on_time": 1.0 - tally.late / max(tally.ended, 1),
        "p95_ms": SLOT_MS * percentile(tally.delays, 95),
        "boots": tally.boots / slots,
        "sent": tally.sent / slots,
        "probes": tally.probes / slots,
        "z": tally.z_end / case.setting.slots,
        "bound_excess": float(tally.delay_bound_excess),
        "stay_max": float(tally.stay_max),
    }
    return Figures(trace.digest, values)


def play_all(cases: Sequence[Case], options: Options, progress: Progress) -> list[Figures]:
    """All of them, in their order."""
    return each(play, cases, options.jobs, progress, str)


def row(method: str, runs: Sequence[Figures], load: float | None = None, **extra: float) -> Row:
    """The mean over seeds, with 95 % intervals of on-time rate, cost and backlog."""
    column: Callable[[str], list[float]] = lambda name: [run.values[name] for run in runs]  # noqa: E731 -- one line
    told = {name: mean(column(name)) for name in ("backlog", "boots", "sent", "probes")}
    return Row(
        method,
        load,
        on_time=mean(column("on_time")),
        p95_ms=mean(column("p95_ms")),
        cost=mean(column("cost")),
        ci={name: interval(column(name)) for name in ("on_time", "cost", "backlog")},
        extra={**extra, **told},
    )
