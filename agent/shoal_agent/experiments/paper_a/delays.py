"""The paper's map from tasks on an instance to delay, (20) and (21), and its mean-rate ablation.

An instance that admits ``y`` tasks per window is offered ``r = y a / W``. Effective capacity (20) meets it at theta::

    k ln(1 + theta beta) / theta = r          Pr{D > d} ~ (r / k beta) e^(-theta r d) = epsilon

and (21) says: expect the delay that is exceeded with probability epsilon. PropAvg expects ``y a / mean`` instead.

The map jumps to infinity at ``r = k beta``, so a service whose work is more than one window's mean would never be
served at all. One task on an idle instance is therefore always possible; Markov's inequality bounds its tail:
``d = a / (mean epsilon)``.
"""

from math import inf, log, log1p
from typing import Final

from shoal_agent.experiments.paper_a.scenario import Service

WINDOW_MS: Final = 1.0
TASKS_MAX: Final = 20
STEPS: Final = 60
LEAST: Final = 1e-12


def expected_ms(service: Service, epsilon: float | None) -> tuple[float, ...]:
    """By number of tasks on the instance, 0 to ``TASKS_MAX``; without ``epsilon`` from the mean rate alone."""
    return (0.0, *(_one(service, count, epsilon) for count in range(1, TASKS_MAX + 1)))


def _one(service: Service, count: int, epsilon: float | None) -> float:
    mean_ms = max(WINDOW_MS, count * service.work_mb / service.rate)
    if epsilon is None:
        return mean_ms
    offered = count * service.work_mb / WINDOW_MS
    if offered >= service.rate:
        return max(WINDOW_MS, service.run_ms / epsilon) if count == 1 else inf
    theta = _theta(service, offered)
    return max(mean_ms, log(offered / (service.rate * epsilon)) / (theta * offered))


def _theta(service: Service, offered: float) -> float:
    """Where effective capacity, which falls in theta, meets what is offered; by bisection."""

    def spare(x: float) -> float:
        return log1p(x) / x - offered / service.rate

    low, high = LEAST, 1.0
    while spare(high) > 0:
        high *= 2.0
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if spare(middle) > 0 else (low, middle)
    return low / service.scale
