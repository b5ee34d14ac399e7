"""How many instances keep the late share below epsilon: effective capacity, from what was measured.

The mean rate of a service says nothing of its bad minutes. Large deviations do: the *effective bandwidth* of arrivals
is the constant rate that they are as bad as, the *effective capacity* of a server the constant rate that it is as good
as, both for one degree of caution theta > 0 (per unit of work)::

    EB(theta) =   1/(theta b) ln mean e^( theta A)        A, S: work that came, that was served, in blocks of b slots
    EC(theta) =  -1/(theta b) ln mean e^(-theta S)

EB rises from the mean to the peak, EC falls from the mean to the minimum. Where they meet, at theta*, the queue between
them has a tail that falls like ``e^(-theta* q)``, and its delay (Wu and Negi's form)::

    Pr{D > d} ~ rho e^(-theta* r d)      r: mean arrivals per slot, rho = r / mean service of all instances

x instances that do not disturb each other have x times the capacity. Both are *estimated* from block sums: no
distribution is fitted, and blocks of several slots contain the correlation that background load brings.

With fewer than ``50 / epsilon`` blocks the rare ones that matter were not seen. Then two standard deviations stand in
for them: capacity is ``mean - 2 sigma``, bandwidth ``mean + 2 sigma``, and no tail is claimed.
"""

from dataclasses import dataclass
from math import exp, expm1, inf, log, log1p, sqrt
from typing import Final, Protocol

from shoal_agent.core.quantities import amount, fraction, positive

BLOCK_SLOTS: Final = 8
BLOCKS_TIMES_EPSILON: Final = 50
"""Blocks that must have been seen, times epsilon: fifty of the bad kind."""
SIGMAS: Final = 2.0
INSTANCES_MAX: Final = 64
STEPS: Final = 60


class Flow(Protocol):
    """Work that comes or is served, as much as is known of it."""

    @property
    def blocks(self) -> float:
        """How many blocks it was measured in; infinite for a formula."""

    @property
    def mean(self) -> float:
        """Work per slot."""

    @property
    def sigma(self) -> float:
        """Its standard deviation over blocks, per slot."""

    def log_moment(self, theta: float) -> float:
        """``ln E e^(theta work)`` per slot; ``theta`` of either sign."""


@dataclass(frozen=True, slots=True)
class GammaService:
    """Service that is i.i.d. Gamma in every slot: the papers' model, and the tests' closed form."""

    shape: float
    scale: float
    blocks: float = inf

    @property
    def mean(self) -> float:
        """Work per slot."""
        return self.shape * self.scale

    @property
    def sigma(self) -> float:
        """Per slot."""
        return sqrt(self.shape) * self.scale

    def log_moment(self, theta: float) -> float:
        """Per slot; infinite from ``1 / scale`` on."""
        return -self.shape * log1p(-theta * self.scale) if theta * self.scale < 1 else inf


@dataclass(frozen=True, slots=True)
class PoissonTasks:
    """Tasks of one size that come as a Poisson process."""

    rate: float
    work: float
    blocks: float = inf

    @property
    def mean(self) -> float:
        """Work per slot."""
        return self.rate * self.work

    @property
    def sigma(self) -> float:
        """Per slot."""
        return sqrt(self.rate) * self.work

    def log_moment(self, theta: float) -> float:
        """Per slot."""
        return self.rate * expm1(min(theta * self.work, 700.0))


class Blocks:
    """Sums of work over blocks of consecutive slots, and what they tell."""

    def __init__(self, epsilon: float, block_slots: int = BLOCK_SLOTS) -> None:
        self._needed = BLOCKS_TIMES_EPSILON / fraction("epsilon", epsilon)
        self._slots = block_slots
        self._sums: list[float] = []
        self._open = 0.0
        self._filled = 0

    def slot(self, work: float) -> None:
        """One more slot; for service: one in which there was work to do."""
        self._open += amount("work", work)
        self._filled += 1
        if self._filled == self._slots:
            self._sums.append(self._open)
            del self._sums[: -int(2 * self._needed)]
            self.interrupt()

    def interrupt(self) -> None:
        """A slot that does not count (nothing to serve): a block is of consecutive ones."""
        self._open, self._filled = 0.0, 0

    @property
    def blocks(self) -> float:
        """How many are remembered."""
        return len(self._sums)

    @property
    def mean(self) -> float:
        """Work per slot."""
        return sum(self._sums) / (len(self._sums) * self._slots) if self._sums else 0.0

    @property
    def sigma(self) -> float:
        """The standard deviation of a block's rate."""
        if not self._sums:
            return 0.0
        mean = self.mean * self._slots
        return sqrt(sum((block - mean) ** 2 for block in self._sums) / len(self._sums)) / self._slots

    def log_moment(self, theta: float) -> float:
        """``ln mean e^(theta block)``, per slot."""
        most = max(theta * block for block in self._sums)
        total = sum(exp(theta * block - most) for block in self._sums)
        return (most + log(total / len(self._sums))) / self._slots


def capacity(service: Flow, theta: float) -> float:
    """EC of one instance."""
    return -service.log_moment(-theta) / theta if theta > 0 else service.mean


def bandwidth(arrivals: Flow, theta: float) -> float:
    """EB."""
    return arrivals.log_moment(theta) / theta if theta > 0 else arrivals.mean


def matching_theta(arrivals: Flow, service: Flow, instances: int) -> float:
    """Where EB meets EC; 0 if the mean alone is too much."""
    if arrivals.mean >= instances * service.mean:
        return 0.0
    high = 1.0 / (arrivals.mean + instances * service.mean)
    for _ in range(STEPS):
        if bandwidth(arrivals, high) > instances * capacity(service, high):
            break
        high *= 2.0
    low = 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        if bandwidth(arrivals, middle) > instances * capacity(service, middle):
            high = middle
        else:
            low = middle
    return low


def tail(arrivals: Flow, service: Flow, instances: int, delay_slots: float) -> float:
    """``Pr{D > delay}``."""
    if arrivals.mean >= instances * service.mean:
        return 1.0
    theta = matching_theta(arrivals, service, instances)
    return arrivals.mean / (instances * service.mean) * exp(-theta * arrivals.mean * delay_slots)


@dataclass(frozen=True, slots=True)
class Size:
    """What one service needs."""

    instances: int
    """The fewest that keep the promise; the most that were asked for if none does."""
    rate: float
    """Work per slot that one instance may be counted on for: EC at theta*, or mean - 2 sigma."""
    tails: tuple[float, ...]
    """``Pr{D > delay}`` with 0, 1, 2... instances, non-increasing; beyond the last it is the last."""
    assured: bool
    """Whether it comes from the tail; if not, too few blocks were seen."""


def size(arrivals: Flow, service: Flow, delay_slots: float, epsilon: float, instances_max: int = INSTANCES_MAX) -> Size:
    """The smallest number of instances with ``Pr{D > delay} <= epsilon``."""
    positive("delay_slots", delay_slots)
    fraction("epsilon", epsilon)
    if min(arrivals.blocks, service.blocks) * epsilon < BLOCKS_TIMES_EPSILON:
        each = max(service.mean - SIGMAS * service.sigma, 0.0)
        needed = arrivals.mean + SIGMAS * arrivals.sigma
        enough = min(int(needed / each) + (needed > 0), instances_max) if each > 0 else int(needed > 0)
        tails = (float(needed > 0),) * enough + (epsilon,)
        return Size(enough, each, tails, assured=False)
    if arrivals.mean == 0:
        return Size(0, service.mean, (0.0,), assured=True)
    chances = [1.0]
    while chances[-1] > epsilon and len(chances) <= instances_max:
        chances.append(tail(arrivals, service, len(chances), delay_slots))
    theta = matching_theta(arrivals, service, len(chances) - 1)
    return Size(len(chances) - 1, max(capacity(service, theta), 0.0), tuple(chances), assured=True)
