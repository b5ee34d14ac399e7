"""One system drawn from Table I: services, machines, links, pipelines, users."""

from dataclasses import dataclass
from math import inf

import numpy as np

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.regimes import Regime

STREAM = 0
"""Of the seed's generators: the system itself, then (see ``trace``) what happens to it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A microservice; ``rate`` is the mean of a light one."""

    number: int
    core: bool
    needs: tuple[float, ...]
    work_mb: float
    output_mb: float
    rate: float
    shape: float = 0.0
    scale: float = 0.0

    @property
    def run_ms(self) -> float:
        """At the mean rate."""
        return self.work_mb / self.rate


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One task type; ``parents`` lists services parents first, ``child`` is None for the last."""

    parents: dict[int, tuple[int, ...]]
    child: dict[int, int | None]
    deadline_ms: float
    input_mb: float


@dataclass(frozen=True, slots=True)
class User:
    """Sends tasks of one type from its device to its gateway."""

    device: int
    gateway: int
    pipeline: int
    tasks_per_ms: float
    nakagami_m: float
    nakagami_omega: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Nodes 0 .. 6 are devices, 7 .. 9 servers, which are the gateways too."""

    services: dict[int, Service]
    rooms: tuple[tuple[float, ...], ...]
    ms_per_mb: tuple[tuple[float, ...], ...]
    """Along the shortest path."""
    pipelines: tuple[Pipeline, ...]
    users: tuple[User, ...]

    @property
    def nodes(self) -> range:
        return range(len(self.rooms))

    @property
    def gateways(self) -> range:
        return range(tables.DEVICES, len(self.rooms))


def sample(regime: Regime, load: float, seed: int) -> Scenario:
    """The system of ``seed``: the same machines at every load."""
    rng = np.random.default_rng([seed, STREAM])
    services = {number: _core(rng, number) for number in tables.CORES}
    services |= {number: _light(rng, number, regime) for number in tables.LIGHTS}
    rooms = [_draws(rng, tables.DEVICE_ROOM) for _ in range(tables.DEVICES)]
    rooms += [_draws(rng, tables.SERVER_ROOM) for _ in range(tables.SERVERS)]
    return Scenario(
        services=dict(sorted(services.items())),
        rooms=tuple(rooms),
        ms_per_mb=_distances(rng),
        pipelines=tuple(_pipeline(rng, parents, regime) for parents in tables.PIPELINES),
        users=tuple(_user(rng, device, load) for device in range(tables.DEVICES)),
    )


def _draw(rng: np.random.Generator, ends: tables.Range) -> float:
    return float(rng.uniform(*ends))


def _draws(rng: np.random.Generator, ends: tuple[tables.Range, ...]) -> tuple[float, ...]:
    return tuple(_draw(rng, pair) for pair in ends)


def _core(rng: np.random.Generator, number: int) -> Service:
    needs = _draws(rng, tables.CORE_NEEDS)
    work, output = _draw(rng, tables.CORE_WORK_MB), _draw(rng, tables.CORE_OUTPUT_MB)
    return Service(number, core=True, needs=needs, work_mb=work, output_mb=output, rate=_draw(rng, tables.CORE_RATE))


def _light(rng: np.random.Generator, number: int, regime: Regime) -> Service:
    needs = _draws(rng, tables.LIGHT_NEEDS)
    work, output = _draw(rng, tables.LIGHT_WORK_MB), _draw(rng, tables.LIGHT_OUTPUT_MB)
    shape, scale = _draw(rng, tables.LIGHT_SHAPE), _draw(rng, regime.scale)
    return Service(number, False, needs, work, output, shape * scale, shape, scale)  # noqa: FBT003 - light


def _distances(rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    """Store and forward: times per megabyte add up along a path (Floyd and Warshall)."""
    count = tables.DEVICES + tables.SERVERS
    servers = range(tables.DEVICES, count)
    links = [(device, tables.DEVICES + server) for device, server in enumerate(tables.SERVER_OF)]
    links += [(a, b) for a in servers for b in servers if a < b]
    ms = [[0.0 if a == b else inf for b in range(count)] for a in range(count)]
    for a, b in links:
        ms[a][b] = ms[b][a] = 1.0 / _draw(rng, tables.LINK_MB_PER_MS)
    for k in range(count):
        for a in range(count):
            for b in range(count):
                ms[a][b] = min(ms[a][b], ms[a][k] + ms[k][b])
    return tuple(tuple(row) for row in ms)


def _pipeline(rng: np.random.Generator, parents: dict[int, tuple[int, ...]], regime: Regime) -> Pipeline:
    child = {service: next((c for c, needed in parents.items() if service in needed), None) for service in parents}
    deadline = regime.deadline_factor * _draw(rng, tables.DEADLINE_MS)
    return Pipeline(parents, child, deadline, _draw(rng, tables.INPUT_MB))


def _user(rng: np.random.Generator, device: int, load: float) -> User:
    return User(
        device=device,
        gateway=tables.DEVICES + tables.SERVER_OF[device],
        pipeline=int(rng.integers(len(tables.PIPELINES))),
        tasks_per_ms=load * _draw(rng, tables.TASKS_PER_MS),
        nakagami_m=_draw(rng, tables.NAKAGAMI_M),
        nakagami_omega=_draw(rng, tables.NAKAGAMI_OMEGA),
    )
