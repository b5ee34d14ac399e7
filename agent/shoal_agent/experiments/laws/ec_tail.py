"""T3: whether effective capacity says how many will be late, and sizes well.

**Tail.** A queue is watched for a while, in blocks, as an agent does; ``core/effective_capacity.py`` then says what
share of tasks waits longer than d. A million further slots tell. Three utilisations, Gamma services from smooth to
exponential, small and large tasks, and weather: a service that is slow for some slots and fast for others. What is
reported is the ratio of foretold to measured, at the delays that a share of 0.1, 0.05 and 0.01 exceeds.

**Size.** Five services with a deadline and an epsilon, sized three ways: by mean rates (the fewest that are stable), by
effective capacity against *constant* arrivals (paper (a)'s closure), and by ours, both sides measured.
"""

from dataclasses import dataclass
from math import exp, floor, log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shoal_agent.core.effective_capacity import BLOCK_SLOTS, Blocks, GammaService, size, tail
from shoal_agent.experiments.laws.one_queue import Kind, delays, served
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.pool import each
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import interval, mean
from shoal_agent.experiments.traces import trace_hash
from shoal_agent.sim.seeds import seed_bytes

KINDS: Final = (
    Kind("smooth", 3.0),
    Kind("gamma", 1.5),
    Kind("exponential", 1.0),
    Kind("gusty-4", 1.5, 0.5, 4.0),
    Kind("gusty-20", 1.5, 0.5, 20.0),
)
UTILISATIONS: Final = (0.5, 0.7, 0.9)
TASKS: Final = (0.25, 1.0)
"""Work of one, in slots of an instance."""
SHARES: Final = (0.1, 0.05, 0.01)
WATCHED_SLOTS: Final = 80_000
"""What ``Blocks`` remembers for epsilon 0.01: two hours of slots of 100 ms."""
SLOTS: Final = 1_000_000
"""At nine tenths of the capacity, in weather of 20 slots, a queue forgets in some 600 slots, and what is late comes in
bunches as long: a share of 0.01 of these slots is some fifteen bunches. With half a million the measured share itself
was wrong by a half. More would be in vain: what two hours tell of that queue is wrong by some 40 % from seed to seed
already, and only more seeds help there; twenty make it a tenth."""
FACTOR: Final = 1.5


@dataclass(frozen=True, slots=True)
class Watched:
    """One queue of one instance."""

    kind: Kind
    utilisation: float
    task: float
    seed: int
    slots: int

    def __str__(self) -> str:
        return f"tail {self.kind.name} {self.utilisation:g} {self.task:g} seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Promise:
    """A service to be sized: per instance Gamma of this shape and mean 1; Poisson tasks."""

    shape: float
    tasks: float
    work: float
    deadline_slots: int
    epsilon: float


PROMISES: Final = (
    Promise(1.5, 2.0, 0.42, 3, 0.05),
    Promise(1.5, 4.0, 0.42, 3, 0.05),
    Promise(1.5, 2.0, 0.42, 5, 0.01),
    Promise(1.0, 3.0, 0.67, 4, 0.05),
    Promise(2.0, 5.0, 0.5, 3, 0.2),
)
SIZERS: Final = ("ours", "constant-rate", "mean-rate")


def chance_of(*names: object) -> np.random.Generator:
    """A generator of that name."""
    return np.random.default_rng(int.from_bytes(seed_bytes("/".join(str(name) for name in names)), "little"))


def blocks_of(work: NDArray[Any], epsilon: float) -> Blocks:
    """What an agent would have noted of these slots."""
    noted = Blocks(epsilon)
    for amount in work.tolist():
        noted.slot(amount)
    return noted


def watch(case: Watched) -> tuple[str, tuple[float, ...]]:
    """The digest of the trace, and the logarithm of foretold / measured at each of ``SHARES``."""
    chance = chance_of("tail", case.kind.name, case.utilisation, case.task, case.seed)
    slots = min(WATCHED_SLOTS, case.slots) + case.slots
    service = served(case.kind, slots, 1, chance)
    tasks = chance.poisson(case.utilisation / case.task, slots)
    seen = slots - case.slots
    arrivals = blocks_of(tasks[:seen] * case.task, min(SHARES))
    measured = blocks_of(service[:seen], min(SHARES))
    waited = delays(tasks[seen:], case.task, service[seen:])
    ratios = []
    for share in SHARES:
        late_after = int(np.quantile(waited, 1 - share, method="inverted_cdf"))
        late_after -= bool((waited > late_after).mean() < min(SHARES))
        # The core counts the slot of arrival as the first of the delay.
        foretold = tail(arrivals, measured, 1, late_after + 1, case.task)
        ratios.append(log(max(foretold, 1e-9) / (waited > late_after).mean()))
    return trace_hash(service, tasks), tuple(ratios)


def sized(case: tuple[Promise, str, int, int]) -> tuple[str, float, float]:
    """The digest of the trace, how many instances that way of sizing takes, and the share late with them."""
    promise, sizer, seed, slots = case
    kind = Kind("", promise.shape)
    chance = chance_of("size", promise, seed)
    seen = int(200 / promise.epsilon) * BLOCK_SLOTS
    tasks = chance.poisson(promise.tasks, seen + slots)
    one = served(kind, seen, 1, chance)
    load = promise.tasks * promise.work
    match sizer:
        case "ours":
            arrivals = blocks_of(tasks[:seen] * promise.work, promise.epsilon)
            service = blocks_of(one, promise.epsilon)
            count = size(arrivals, service, promise.deadline_slots, promise.epsilon, task=promise.work).instances
        case "constant-rate":
            count = _constant_rate(promise, load)
        case _:
            count = floor(load) + 1
    waited = delays(tasks[seen:], promise.work, served(kind, slots, count, chance))
    return trace_hash(tasks), float(count), float((waited > promise.deadline_slots - 1).mean())


def _constant_rate(promise: Promise, load: float) -> int:
    """Paper (a): arrivals are a constant rate r, EC(theta) = r, Pr{D > d} = (r / mean) e^(-theta r d)."""
    kind = GammaService(promise.shape, 1 / promise.shape)
    count = floor(load) + 1
    while True:
        low, high = 0.0, 1.0
        while -count * kind.log_moment(-high)[0] / high > load:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            if -count * kind.log_moment(-middle)[0] / middle > load:
                low = middle
            else:
                high = middle
        if load / count * exp(-low * load * promise.deadline_slots) <= promise.epsilon:
            return count
        count += 1


def run(options: Options, progress: Progress, slots: int = SLOTS) -> Report:
    """Tails, then sizes."""
    queues = [(kind, utilisation, task) for kind in KINDS for utilisation in UTILISATIONS for task in TASKS]
    watched = [Watched(*queue, seed, slots) for queue in queues for seed in range(options.seeds)]
    promised = [(p, sizer, seed, slots) for p in PROMISES for sizer in SIZERS for seed in range(options.seeds)]
    total = len(watched) + len(promised)
    tails = each(watch, watched, options.jobs, lambda done, _, what: progress(done, total, what), str)
    sizes = each(
        sized,
        promised,
        options.jobs,
        lambda done, _, what: progress(len(watched) + done, total, what),
        lambda case: f"size {case[1]}",
    )
    seeds = options.seeds
    tail_rows = [_tail_row(queue, [r for _, r in tails[i * seeds :][:seeds]]) for i, queue in enumerate(queues)]
    pairs = [(p, sizer) for p in PROMISES for sizer in SIZERS]
    size_rows = [_size_row(pair, sizes[i * seeds :][:seeds]) for i, pair in enumerate(pairs)]
    return Report(
        "ec-tail",
        trace_hash([one[0] for one in tails], [one[0] for one in sizes]),
        [
            f"tails: one instance of mean 1, {WATCHED_SLOTS} slots watched, {slots} slots judged by, Poisson tasks",
            "gusty-n: half as fast, then one and a half times as fast, for n slots each on average",
            "a ratio is foretold / measured, its geometric mean over seeds; at the delays that the share exceeds",
            "sizes: Gamma service of mean 1 per instance; late: not ended in its deadline's slots, arrival's included",
        ],
        [*tail_rows, *size_rows],
        _bands(tail_rows, size_rows),
        [_chart(tail_rows)],
    )


def _tail_row(queue: tuple[Kind, float, float], runs: list[tuple[float, ...]]) -> Row:
    kind, utilisation, task = queue
    columns = {f"ratio_{share:g}": [run[i] for run in runs] for i, share in enumerate(SHARES)}
    return Row(
        f"ours {kind.name}",
        ci={name: (exp(interval(c)[0]), exp(interval(c)[1])) for name, c in columns.items()},
        extra={"utilisation": utilisation, "task": task, **{name: exp(mean(c)) for name, c in columns.items()}},
    )


def _size_row(pair: tuple[Promise, str], runs: list[tuple[str, float, float]]) -> Row:
    promise, sizer = pair
    late = [run[2] for run in runs]
    return Row(
        f"size {sizer}",
        on_time=1 - mean(late),
        extra={
            "number": float(PROMISES.index(promise) + 1),
            "epsilon": promise.epsilon,
            "instances": mean([run[1] for run in runs]),
            "late": mean(late),
        },
    )


def _bands(tails: list[Row], sizes: list[Row]) -> list[Band]:
    """For calm service, for weather of 4 and of 20 slots, and of ours among the sizers."""
    bands = []
    for name, kinds in (("calm", KINDS[:3]), *((kind.name, (kind,)) for kind in KINDS[3:])):
        methods = {f"ours {kind.name}" for kind in kinds}
        ratios = [row.extra[f"ratio_{s:g}"] for row in tails if row.method in methods for s in SHARES]
        bands.append(Band(f"{name}: foretold to measured, least", min(ratios), 1 / FACTOR))
        bands.append(Band(f"{name}: foretold to measured, most", max(ratios), None, FACTOR))
    ours = [row.extra["late"] - row.extra["epsilon"] for row in sizes if row.method == "size ours"]
    return [*bands, Band("late share above epsilon with our size, worst of five", max(ours), None, 0.01)]


def _chart(rows: list[Row]) -> Chart:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        line = lines.setdefault(f"{row.method[5:]}, task {row.extra['task']:g}", [])
        line.append((row.extra["utilisation"], row.extra[f"ratio_{min(SHARES):g}"]))
    return Chart("ec-tail", "Late share foretold / measured, at 0.01", "utilisation", "ratio", lines=lines, log_y=True)
