"""How many instances keep the late share below epsilon: effective capacity, from what was measured.

The mean rate of a service says nothing of its bad minutes. Large deviations do: the *effective bandwidth* of arrivals
is the constant rate that they are as bad as, the *effective capacity* of a server the constant rate that it is as good
as, both for one degree of caution theta > 0 (per unit of work)::

    EB(theta) =   1/(theta b) ln mean e^( theta A)        A, S: work that came, that was served, in blocks of b slots
    EC(theta) =  -1/(theta b) ln mean e^(-theta S)

EB rises from the mean to the peak, EC falls from the mean to the minimum. Where EB meets the EC of all x instances, at
theta*, the queue between them has a tail like ``e^(-theta* q)``. x instances that do not disturb each other have x
times the capacity. Both are *estimated* from block sums: no distribution is fitted, and blocks of several slots contain
the correlation that background load brings.

**From backlog to delay.** A task is late if what was there before it, what came before it in its own slot, and its own
work are together more than is served in d slots. With ``rate = EC(theta*)`` and r the mean arrivals per slot, Chernoff
gives each of these its factor::

    Pr{D > d}  ~  wait * slot * own * onset * e^(-theta* rate d)
        wait = mean of e^(-1.166 z) and Q(z) / Q(-z)     how seldom there is a backlog at all; z = (x mu - r) / sigma,
                                                    sigma^2 of arrivals plus service, Q the tail of a Gaussian
        slot = (e^(theta* rate) - 1) / (theta* r)   what the work that comes in the same slot adds
        own  = theta* a / (1 - e^(-theta* a))       a: the work of one task
        onset                                       how seldom the weather is bad (``weather``); 1 where there is none

The two of ``wait`` are what is known of a random walk's maximum: Siegmund's (1985) correction, in which all overshoots
are those of a Gaussian walk (0.583 sigma), is above the truth, and Ross's (1974) bound, taken at zero, below.

The shorter form ``rho e^(-theta* r d)``, rho = r / (x mu), is that of the backlog. Of the delay of tasks it promises up
to 30 times too little where d is a slot or two. This one is within 1.5 times of simulated queues, first come first
served, wherever 0.01 or more are late and the servers are at least half busy
(``tests/core/test_effective_capacity.py``); below that it errs on the safe side.

**Weather.** Longer blocks are noted too; where they vary as independent slots would not, each step in length claims a
tail of its own, and the worst claim counts (``weather``, ``shoal experiment ec-tail``).

**Few blocks.** With fewer than ``50 / epsilon`` the rare ones that matter were not seen. Then two standard deviations
stand in for them: capacity is ``mean - 2 sigma``, bandwidth ``mean + 2 sigma``, and no tail is claimed.

What this does not know: queues in series (split the deadline and sum the epsilons), and a rate that drifts faster than
``2 * 50 / epsilon`` blocks are forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import erfc, exp, expm1, floor, inf, log, log1p, sqrt
from typing import Final, Protocol

from shoal_agent.core.quantities import amount, fraction, positive
from shoal_agent.core.weather import DOUBLINGS, Step

BLOCK_SLOTS: Final = 8
"""Long enough for the correlation of neighbouring slots, short enough that 50 / epsilon blocks come in minutes."""
BLOCKS_TIMES_EPSILON: Final = 50
"""Blocks that must have been seen, times epsilon: fifty of the bad kind."""
SIGMAS: Final = 2.0
OVERSHOOT: Final = 1.166
"""Twice Siegmund's 0.583."""
BINS_PER_E: Final = 12
"""Block sums are remembered in bins of 8 % width, by count and sum. Within one, sums differ from their mean by 2.4 %,
which changes a moment by less than a thousandth wherever it matters (theta * block below 2)."""
SPARE: Final = 2
"""Tails are told for so many instances more than needed: what a promise that is not kept can still buy."""
INSTANCES_MAX: Final = 64
SEEN_MIN: Final = 0.1
"""A bin of which less is left is forgotten: its block was seen four halvings ago."""
THETA_WORK_MAX: Final = 600.0
"""``e`` to this is still a float; a queue that needs a steeper tail is never late."""
STEPS: Final = 40
"""Newton's method on a convex function: eight steps as a rule."""
PRECISION: Final = 1e-9


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
        """The standard deviation of its sum over n slots is sigma times the root of n."""

    def log_moment(self, theta: float) -> tuple[float, float]:
        """``ln E e^(theta work)`` per slot and its slope in theta; ``theta`` of either sign."""


@dataclass(frozen=True, slots=True)
class GammaService:
    """Service that is i.i.d. Gamma in every slot: the papers' model, and a closed form. Only for ``theta <= 0``."""

    shape: float
    scale: float
    blocks: float = inf

    def __post_init__(self) -> None:
        positive("shape", self.shape)
        positive("scale", self.scale)

    @property
    def mean(self) -> float:
        """Work per slot."""
        return self.shape * self.scale

    @property
    def sigma(self) -> float:
        """Per root of slots."""
        return sqrt(self.shape) * self.scale

    def log_moment(self, theta: float) -> tuple[float, float]:
        """Per slot."""
        assert theta <= 0, "what is served counts against the queue"
        return -self.shape * log1p(-theta * self.scale), self.shape * self.scale / (1 - theta * self.scale)


@dataclass(frozen=True, slots=True)
class PoissonTasks:
    """Tasks of one size that come as a Poisson process."""

    rate: float
    work: float
    blocks: float = inf

    def __post_init__(self) -> None:
        amount("rate", self.rate)
        positive("work", self.work)

    @property
    def mean(self) -> float:
        """Work per slot."""
        return self.rate * self.work

    @property
    def sigma(self) -> float:
        """Per root of slots."""
        return sqrt(self.rate) * self.work

    def log_moment(self, theta: float) -> tuple[float, float]:
        """Per slot."""
        power = min(theta * self.work, THETA_WORK_MAX)
        return self.rate * expm1(power), self.rate * self.work * exp(power)


class Blocks:
    """Sums of work over blocks of slots, and what they tell."""

    def __init__(self, epsilon: float, block_slots: int = BLOCK_SLOTS, doublings: int = DOUBLINGS) -> None:
        self._twice = Blocks(epsilon, 2 * block_slots, doublings - 1) if doublings else None
        self._half: float | None = None
        """The last block, if it waits for the next one to make a block of twice the length."""
        self._kept_max = 2 * BLOCKS_TIMES_EPSILON / fraction("epsilon", epsilon)
        self.slots = int(positive("block_slots", block_slots))
        """Of one block."""
        self._bins: dict[int | None, tuple[float, float]] = {}
        """Count and sum of the blocks of one size; None: of those without work."""
        self._points: list[tuple[float, float]] = []
        """The same as (block, share), rising; built when somebody asks."""
        self._count = self._sum = self._squares = 0.0
        self.closed = 0
        """Blocks ever: while it stays the same, so does all that these blocks tell."""
        self._work = self._filled = 0.0

    def slot(self, work: float, busy: float = 1.0) -> None:
        """One more slot. For service, ``busy`` is the share of it in which there was work to do: only that counts."""
        self._work += amount("work", work)
        self._filled += min(amount("busy", busy), 1.0)
        if self._filled >= self.slots:
            self._closed(self._work * self.slots / self._filled)
            self._work = self._filled = 0.0

    def _closed(self, block: float) -> None:
        self.closed += 1
        if self._count >= self._kept_max:
            # Half of what was is forgotten at once, so that a new year is not judged by the last one's weather.
            self._bins = {key: (count / 2, total / 2) for key, (count, total) in self._bins.items() if count > SEEN_MIN}
            self._count = sum(count for count, _ in self._bins.values())
            self._sum = sum(total for _, total in self._bins.values())
            self._squares /= 2
        key = floor(log(block) * BINS_PER_E) if block > 0 else None
        count, total = self._bins.get(key, (0.0, 0.0))
        self._bins[key] = (count + 1, total + block)
        self._count += 1
        self._sum += block
        self._squares += block * block
        self._points = []
        if self._twice is not None:
            self._half, whole = (block, None) if self._half is None else (None, self._half + block)
            if whole is not None:
                self._twice._closed(whole)  # noqa: SLF001 -- one of its own kind

    @property
    def scales(self) -> "tuple[Flow, ...]":
        """These blocks, and each step to longer ones that is asked."""
        if self._twice is None:
            return (self,)
        step = Step(self, self._twice)
        return (self, *((step,) if step.asked else ()), *self._twice.scales[1:])

    @property
    def blocks(self) -> float:
        """How many are remembered."""
        return self._count

    @property
    def mean(self) -> float:
        """Work per slot."""
        return self._sum / (self._count * self.slots) if self._count else 0.0

    @property
    def sigma(self) -> float:
        """Per root of slots."""
        if not self._count:
            return 0.0
        mean = self._sum / self._count
        return sqrt(max(self._squares / self._count - mean * mean, 0.0) / self.slots)

    def log_moment(self, theta: float) -> tuple[float, float]:
        """Per slot."""
        points = self._points or self._told()
        if not points:
            return 0.0, 0.0
        most = theta * points[-1 if theta > 0 else 0][0]
        total = slope = 0.0
        for block, share in points:
            weight = share * exp(theta * block - most)
            total += weight
            slope += weight * block
        return (most + log(total)) / self.slots, slope / total / self.slots

    def telling(self, theta: float) -> float:
        """How many blocks ``log_moment`` rests on, as many as if all weighed the same (Kish 1965)."""
        points = self._points or self._told()
        if not points:
            return 0.0
        most = theta * points[-1 if theta > 0 else 0][0]
        total = squares = 0.0
        for block, share in points:
            weight = exp(theta * block - most)
            total += share * weight
            squares += share * weight * weight
        return self._count * total * total / squares

    def _told(self) -> list[tuple[float, float]]:
        self._points = sorted((total / count, count / self._count) for count, total in self._bins.values())
        return self._points


def _scales(flow: Flow) -> tuple[Flow, ...]:
    return flow.scales if isinstance(flow, Blocks) else (flow,)


def capacity(service: Flow, theta: float) -> float:
    """EC of one instance."""
    return -service.log_moment(-theta)[0] / theta if theta > 0 else service.mean


def bandwidth(arrivals: Flow, theta: float) -> float:
    """EB."""
    return arrivals.log_moment(theta)[0] / theta if theta > 0 else arrivals.mean


def matching_theta(arrivals: Flow, service: Flow, instances: int) -> float:
    """Where EB meets the EC of ``instances``; 0 if the mean alone is too much, infinite if the peak is not.

    The root of ``ln E e^(theta A) + x ln E e^(-theta S)``, which is convex and falls from 0 at first: from any point
    beyond the root, Newton's steps come back to it from above and never pass it.
    """
    spare = instances * service.mean - arrivals.mean
    if spare <= PRECISION * arrivals.mean:
        return 0.0
    if arrivals.mean <= 0:
        return inf
    variance = arrivals.sigma**2 + instances * service.sigma**2
    theta = 2.0 * spare / variance if variance > 0 else 1.0 / arrivals.mean
    theta = min(theta, THETA_WORK_MAX / arrivals.mean)
    excess, slope = _excess(arrivals, service, instances, theta)
    while excess <= 0:
        if theta * arrivals.mean > THETA_WORK_MAX:
            return inf
        theta *= 2.0
        excess, slope = _excess(arrivals, service, instances, theta)
    for _ in range(STEPS):
        nearer = theta - excess / slope if slope > 0 else theta
        if theta - nearer <= PRECISION * theta:
            break
        theta = nearer
        excess, slope = _excess(arrivals, service, instances, theta)
    return theta


def _excess(arrivals: Flow, service: Flow, instances: int, theta: float) -> tuple[float, float]:
    come, come_slope = arrivals.log_moment(theta)
    gone, gone_slope = service.log_moment(-theta)
    return come + instances * gone, come_slope - instances * gone_slope


def tail(arrivals: Flow, service: Flow, instances: int, delay_slots: float, task: float = 0.0) -> float:
    """``Pr{D > delay}`` of tasks of so much work; 0: work flows in without being cut into tasks."""
    return _worst(_pairs(arrivals, service), instances, delay_slots, task)


def _pairs(arrivals: Flow, service: Flow) -> list[tuple[Flow, Flow]]:
    """Both at each length of blocks that is asked."""
    return [(a or arrivals, s or service) for a, s in zip_longest(_scales(arrivals), _scales(service))]


def _worst(pairs: Sequence[tuple[Flow, Flow]], instances: int, delay_slots: float, task: float) -> float:
    return max(_tail(come, gone, instances, delay_slots, task) for come, gone in pairs)


def _tail(arrivals: Flow, service: Flow, instances: int, delay_slots: float, task: float) -> float:
    theta = matching_theta(arrivals, service, instances)
    if theta == 0.0:
        return 1.0
    if theta == inf:
        return 0.0
    if any(isinstance(flow, Step) and not flow.believed(at) for flow, at in ((arrivals, theta), (service, -theta))):
        return 0.0
    rate = instances * capacity(service, theta)
    spare = instances * service.mean - arrivals.mean
    sigma = sqrt(arrivals.sigma**2 + instances * service.sigma**2)
    wait = _backlog(spare / sigma) if sigma > 0 else 0.0
    wait *= exp(_onset(arrivals, theta, theta * rate) + instances * _onset(service, -theta, -theta * rate / instances))
    slot = -expm1(-theta * rate) / (theta * arrivals.mean)
    own = theta * task / -expm1(-theta * task) if task > 0 else 1.0
    # e^(theta rate) of the slot factor is taken into the last one: neither then overflows.
    return min(wait * slot * own * exp(min(-theta * rate * (delay_slots - 1), THETA_WORK_MAX)), 1.0)


def _onset(flow: Flow, theta: float, growth: float) -> float:
    return flow.onset(theta, growth) if isinstance(flow, Step) else 0.0


def _backlog(z: float) -> float:
    """The chance of a backlog before a task, but for the decay that theta tells."""
    root = sqrt(2.0)
    return (exp(-OVERSHOOT * z) + erfc(z / root) / erfc(-z / root)) / 2.0


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


def size(
    arrivals: Flow,
    service: Flow,
    delay_slots: float,
    epsilon: float,
    instances_max: int = INSTANCES_MAX,
    task: float = 0.0,
) -> Size:
    """The smallest number of instances with ``Pr{D > delay} <= epsilon``."""
    positive("delay_slots", delay_slots)
    fraction("epsilon", epsilon)
    amount("task", task)
    if min(arrivals.blocks, service.blocks) * epsilon < BLOCKS_TIMES_EPSILON:
        return _guessed(arrivals, service, epsilon, instances_max)
    if arrivals.mean <= 0:
        return Size(0, service.mean, (0.0,), assured=True)
    tails, enough, pairs = [1.0], None, _pairs(arrivals, service)
    while len(tails) <= instances_max and (enough is None or len(tails) <= enough + SPARE):
        count = len(tails)
        tails.append(min(_worst(pairs, count, delay_slots, task), tails[-1]))
        if enough is None and tails[-1] <= epsilon:
            enough = count
    chosen = instances_max if enough is None else enough
    theta = matching_theta(arrivals, service, chosen)
    steepest = THETA_WORK_MAX / arrivals.mean
    return Size(chosen, max(capacity(service, min(theta, steepest)), 0.0), tuple(tails), assured=True)


def _guessed(arrivals: Flow, service: Flow, epsilon: float, instances_max: int) -> Size:
    """By two standard deviations of a block's rate. One instance at least, where there is work: it will be measured."""
    root = sqrt(BLOCK_SLOTS)
    rate = max(service.mean - SIGMAS * service.sigma / root, 0.0)
    needed = arrivals.mean + SIGMAS * arrivals.sigma / root
    if needed <= 0:
        return Size(0, rate, (0.0,), assured=False)
    # Of a rate that is hardly one, more is needed than can be counted.
    most = 1 if rate == 0 else instances_max
    enough = min(floor(needed / rate) + 1, most) if needed < instances_max * rate else most
    return Size(enough, rate, (1.0,) * enough + (epsilon,), assured=False)
