"""What happens to every method alike: load of the machines, links, failures, arrivals, and how long agreement takes.

Each quantity is a chain of levels, each held for an exponential time (a Markov-modulated process): machines are busy
with other people's work for a minute on average, links degrade for three quarters of one. Failures are a renewal
process; half of them are a process that dies, which its peers' connections tell them at once, and half are silent
(power, network), which only missing heartbeats tell. Requests are Poisson, 1.8 times as many in every third five
minutes.

Everything is drawn before a method runs, from the seed alone, so all methods meet the same numbers; ``digest`` is over
all of them. The parameters are those of our notes on the paper, which prints none [its table is a projection].
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from shoal_agent.experiments.traces import trace_hash

HOUR_S: Final = 3600.0
BUSY_DWELL_S: Final = 60.0
LINK_DWELL_S: Final = 45.0
REPAIR_S: Final = 60.0
REOPEN_S: Final = 5.0
"""On top of the repair: the agent starts again and opens its blocks from its disk."""
SILENT_SHARE: Final = 0.5
FOUND_DEAD_S: Final = (0.16, 0.26)
FOUND_SILENT_S: Final = (1.90, 2.98)
"""What ``docs/bench.md`` measured between the blow and the moment every survivor believes it."""
AGREED_S: Final = (0.46, 1.26)
"""From there to a certified plan: the same table, 0.62-1.52 s after the blow less the time to find it."""
AGREEMENTS: Final = 512
RATE_PER_S: Final = 4.0
BURST: Final = 1.8
BURST_S: Final = 300.0
BURST_EVERY: Final = 3
PROFILE_ERROR: Final = 0.05
"""Machines are so much faster or slower than their profile says; every planner believes the profile."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How hard the times are."""

    name: str
    busy: tuple[float, ...]
    link: tuple[float, ...]
    mtbf_s: float


MILD: Final = Weather("mild", (0.1, 0.3, 0.5, 0.7), (1.0, 1.0, 0.5, 0.25, 0.25), 3600.0)
HARSH: Final = Weather("harsh", (0.1, 0.3, 0.5, 0.8), (1.0, 1.0, 0.5, 0.25, 0.12), 1200.0)
WEATHERS: Final = {weather.name: weather for weather in (MILD, HARSH)}


@dataclass(frozen=True, slots=True)
class Steps:
    """A quantity that is ``values[i]`` from ``times[i]`` on."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, time_s: float) -> float:
        return self.values[bisect_right(self.times, time_s) - 1]

    def mean(self, until_s: float) -> float:
        """Over time, from 0 to ``until_s``."""
        ends = (*self.times[1:], until_s)
        spans = [max(0.0, min(end, until_s) - start) for start, end in zip(self.times, ends, strict=True)]
        return sum(span * value for span, value in zip(spans, self.values, strict=True)) / until_s


@dataclass(frozen=True, slots=True)
class Outage:
    """A node does nothing from ``begins_s`` to ``ends_s``; its peers know it ``found_s`` after it began."""

    begins_s: float
    ends_s: float
    found_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """One seed's hour. Nodes by index; the first is the ingress, which does not fail: with it goes the demand."""

    weather: Weather
    length_s: float
    rate_per_s: float
    busy: tuple[Steps, ...]
    link: tuple[Steps, ...]
    """Of a node: a link between two has the worse of both factors."""
    outages: tuple[tuple[Outage, ...], ...]
    centre: tuple[Outage, ...]
    """When a central controller would be down."""
    speedup: tuple[float, ...]
    """How fast a node is over its profile."""
    arrivals: tuple[float, ...]
    agreements_s: tuple[float, ...]
    """How long the n-th agreement takes, whatever it is about."""

    def digest(self) -> str:
        return trace_hash(self)


def draw(
    weather: Weather, seed: int, nodes: int, steady: Sequence[int], load: float = 1.0, length_s: float = HOUR_S
) -> Trace:
    """The trace of ``seed``; ``steady`` nodes never fail. Other loads change the arrivals and nothing else."""
    worlds, clients = Random(f"world {seed}"), Random(f"clients {seed}")
    busy = tuple(_chain(worlds, weather.busy, BUSY_DWELL_S, length_s) for _ in range(nodes))
    link = tuple(_chain(worlds, weather.link, LINK_DWELL_S, length_s) for _ in range(nodes))
    outages = [_outages(worlds, weather.mtbf_s, length_s) for _ in range(nodes)]
    for node in steady:
        outages[node] = ()
    return Trace(
        weather,
        length_s,
        RATE_PER_S * load,
        busy,
        link,
        tuple(outages),
        _outages(worlds, weather.mtbf_s, length_s),
        tuple(worlds.uniform(1 - PROFILE_ERROR, 1 + PROFILE_ERROR) for _ in range(nodes)),
        _arrivals(clients, RATE_PER_S * load, length_s),
        tuple(worlds.uniform(*AGREED_S) for _ in range(AGREEMENTS)),
    )


def burst_at(time_s: float) -> float:
    """By how much more there is to do."""
    return BURST if int(time_s // BURST_S) % BURST_EVERY == BURST_EVERY - 1 else 1.0


def delayed(steps: Steps, spacing_s: float) -> Steps:
    """``steps`` as others hear of them: a change is told at once, but never within ``spacing_s`` of the last word."""
    times, values = [steps.times[0]], [steps.values[0]]
    for time_s, value in zip(steps.times[1:], steps.values[1:], strict=True):
        told_s = max(time_s, times[-1] + spacing_s)
        if times[-1] > time_s:
            values[-1] = value  # the word is not out yet: it will tell this instead
        elif value != values[-1]:
            times.append(told_s)
            values.append(value)
    return Steps(tuple(times), tuple(values))


def _chain(rng: Random, levels: Sequence[float], dwell_s: float, length_s: float) -> Steps:
    times, values, time_s = [0.0], [rng.choice(levels)], rng.expovariate(1 / dwell_s)
    while time_s < length_s:
        times.append(time_s)
        values.append(rng.choice(levels))
        time_s += rng.expovariate(1 / dwell_s)
    return Steps(tuple(times), tuple(values))


def _outages(rng: Random, mtbf_s: float, length_s: float) -> tuple[Outage, ...]:
    found: list[Outage] = []
    time_s = rng.expovariate(1 / mtbf_s)
    while time_s < length_s:
        took_s = rng.expovariate(1 / REPAIR_S) + REOPEN_S
        silent = rng.random() < SILENT_SHARE
        found.append(Outage(time_s, time_s + took_s, rng.uniform(*(FOUND_SILENT_S if silent else FOUND_DEAD_S))))
        time_s += took_s + rng.expovariate(1 / mtbf_s)
    return tuple(found)


def _arrivals(rng: Random, rate_per_s: float, length_s: float) -> tuple[float, ...]:
    """Thinning: draw at the rate of bursts and keep the share that belongs."""
    return tuple(_thinned(rng, rate_per_s * BURST, length_s, lambda time_s: burst_at(time_s) / BURST))


def _thinned(rng: Random, rate_per_s: float, length_s: float, keep: Callable[[float], float]) -> list[float]:
    times: list[float] = []
    time_s = rng.expovariate(rate_per_s)
    while time_s < length_s:
        if rng.random() < keep(time_s):
            times.append(time_s)
        time_s += rng.expovariate(rate_per_s)
    return times
