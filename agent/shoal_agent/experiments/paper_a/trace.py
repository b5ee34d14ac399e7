"""What happens to a system, drawn once and given to every method: arrivals, radio, rates of instances.

A rate belongs to (slot, service, node, which instance there), not to the order in which a method asks, so that two
methods that run the same instances see the same rates: comparisons are paired.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.regimes import ARRIVALS_MS, DRAIN_MS, Regime
from shoal_agent.experiments.paper_a.scenario import Scenario

STREAM: Final = 1
INSTANCES: Final = 32
"""Rates drawn per service and node and slot; a further instance shares the luck of the one 32 before."""
GBPS_PER_MB_PER_MS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One task; ``ready_ms`` is when its input is at the gateway."""

    user: int
    at_ms: float
    ready_ms: float


@dataclass(frozen=True, slots=True)
class Trace:
    """By slot."""

    arrivals: tuple[tuple[Arrival, ...], ...]
    rates: dict[int, "np.ndarray[Any, np.dtype[np.float64]]"]
    """Of each light service: MB/ms by slot, node and instance."""

    @property
    def slots(self) -> int:
        return len(self.arrivals)


def draw(
    scenario: Scenario, regime: Regime, seed: int, arrivals_ms: int = ARRIVALS_MS, drain_ms: int = DRAIN_MS
) -> Trace:
    """The trace of ``seed``."""
    rng = np.random.default_rng([seed, STREAM])
    arrivals = [
        tuple(_task(rng, scenario, regime, user, slot) for user, slot in _due(rng, scenario, slot))
        for slot in range(arrivals_ms)
    ]
    slots = arrivals_ms + drain_ms
    size = (slots, len(scenario.nodes), INSTANCES)
    services = [scenario.services[number] for number in tables.LIGHTS]
    rates = {service.number: rng.gamma(service.shape, service.scale, size=size) for service in services}
    return Trace((*arrivals, *[()] * drain_ms), rates)


def _due(rng: np.random.Generator, scenario: Scenario, slot: int) -> list[tuple[int, int]]:
    counts = [int(rng.poisson(user.tasks_per_ms)) for user in scenario.users]
    return [(user, slot) for user, count in enumerate(counts) for _ in range(count)]


def _task(rng: np.random.Generator, scenario: Scenario, regime: Regime, number: int, slot: int) -> Arrival:
    if not regime.radio:
        return Arrival(number, float(slot), float(slot))
    user = scenario.users[number]
    # The square of a Nakagami variable is a Gamma variable.
    gbps = float(np.sqrt(rng.gamma(user.nakagami_m, user.nakagami_omega / user.nakagami_m)))
    input_mb = scenario.pipelines[user.pipeline].input_mb
    return Arrival(number, float(slot), slot + input_mb * GBPS_PER_MB_PER_MS / gbps)
