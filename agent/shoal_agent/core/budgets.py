"""Energy, money and heat of one node.

Energy and money are budgets *on average*: queues E and K (see ``queues``) that rise while more is used than allowed,
and make every instance dearer in rule A until it is not. B is that of the bytes of packages that plans make the node
fetch: what nobody waits for is not fetched while any are owed (no light service needs any). Joules are measured where
the machine counts them, else calculated from a configured model ``idle_w + busy (busy_w - idle_w)``.

A level of each is what is allowed in a second: they stand beside the levels of work that waits a second. What one busy
processor draws or costs in a slot is a level too (``core_energy``, ``core_money``); the product of both is what rule A
takes off the worth of an instance, and what rule B adds to the score of a node, here and elsewhere (``slot_price``).

Energy is charged by what was measured; where nothing measures it and no model is configured, nothing is known of it and
nothing charged. Money needs the share of busy processors only, and so is charged always.

A deadline and a budget may not both be kept. Then the deadline has a credit of a minute (``CREDIT_S``): as long as less
is owed, a service gets the instances that its promise needs, whatever they draw. Once more is owed the node is
*overdrawn*, and every instance must be worth its price, those at work too: they take no further call.

Heat is no average: a processor that is too hot now slows down now. It is a limit: below ``limit_c - MARGIN_C`` all
processors may be used, at the limit only those that are busy anyway, in between in proportion.
"""

from dataclasses import dataclass
from typing import Final

from shoal_agent.core.events import Sampled
from shoal_agent.core.quantities import amount, positive
from shoal_agent.core.queues import BudgetQueue

MARGIN_C: Final = 10.0
CREDIT_S: Final = 60.0
"""Of allowance. A burst that is over within a minute is nobody's business; an hour of it is."""
HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class PowerModel:
    """What a machine draws, if nothing measures it."""

    idle_w: float
    busy_w: float

    def __post_init__(self) -> None:
        amount("idle_w", self.idle_w)
        amount("busy_w", self.busy_w)
        if self.busy_w < self.idle_w:
            raise ValueError(f"busy_w must be at least idle_w: {self.busy_w} W is less than {self.idle_w} W")

    def joules(self, busy: float, seconds: float) -> float:
        """Drawn in ``seconds`` with a share ``busy`` of the processors at work."""
        share = min(amount("busy", busy), 1.0)
        return (self.idle_w + share * (self.busy_w - self.idle_w)) * amount("seconds", seconds)


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator allows a node; None: no limit."""

    power_w: float | None = None
    price_per_hour: float = 0.0
    money_per_hour: float | None = None
    moved_bytes_per_s: float | None = None
    heat_limit_c: float | None = None
    power: PowerModel | None = None

    def __post_init__(self) -> None:
        amount("price_per_hour", self.price_per_hour)
        for name in ("power_w", "money_per_hour", "moved_bytes_per_s", "heat_limit_c"):
            value = getattr(self, name)
            if value is not None:
                positive(name, value)
        if self.power is not None and self.power_w is not None and self.power_w < self.power.idle_w:
            raise ValueError(f"a budget of {self.power_w} W cannot be kept: idle the node draws {self.power.idle_w} W")
        if self.money_per_hour is not None and self.price_per_hour == 0:
            raise ValueError(f"a budget of {self.money_per_hour} an hour means nothing: the node's hours have no price")

    def price(self, busy: float, seconds: float) -> float:
        """Of ``seconds`` with a share ``busy`` of the node's processors at work: who uses half of a node pays half."""
        return self.price_per_hour * min(amount("busy", busy), 1.0) * amount("seconds", seconds) / HOUR_S


NO_TERMS: Final = Terms()
"""Nothing is limited, and nothing has a price."""


class Budgets:
    """E, K and B of this node, and what it draws."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._energy = _queue(terms.power_w)
        self._money = _queue(None if terms.money_per_hour is None else terms.money_per_hour / HOUR_S)
        self._moved = _queue(terms.moved_bytes_per_s)
        self.watts = 0.0
        """The mean since the last step but one; 0 if nothing tells."""

    def step(self, *, seconds: float, joules: float | None, busy: float, moved_bytes: float = 0.0) -> None:
        """So many seconds passed, with a share ``busy`` of the processors at work; ``joules`` None: nothing tells."""
        # All are judged before one is stepped: a refused reading leaves no half of it behind.
        if amount("seconds", seconds) == 0:
            return
        drawn = None if joules is None else amount("joules", joules)
        spent = drawn, self._terms.price(busy, seconds), amount("moved_bytes", moved_bytes)
        self.watts = 0.0 if drawn is None else drawn / seconds
        for queue, used in zip((self._energy, self._money, self._moved), spent, strict=True):
            if queue is not None and used is not None:
                queue.step(used, slots=seconds)

    def sampled(self, event: Sampled) -> None:
        """The sensors were read."""
        busy = event.load.cpu_permille / 1000
        self.step(seconds=event.seconds, joules=event.joules, busy=busy, moved_bytes=event.moved_bytes)

    @property
    def energy(self) -> float:
        """E as a level; 0 without a budget."""
        return _level(self._energy)

    @property
    def money(self) -> float:
        """K as a level; 0 without a budget."""
        return _level(self._money)

    @property
    def moved(self) -> float:
        """B as a level; 0 without a budget."""
        return _level(self._moved)

    @property
    def overdrawn(self) -> bool:
        """Whether so much is owed that what was promised to clients has to wait."""
        return self.energy > CREDIT_S or self.money > CREDIT_S

    def core_energy(self, cores: int, seconds: float) -> float:
        """What one more busy processor adds to E in ``seconds``, as a level: by the power model, else by the mean."""
        if self._energy is None:
            return 0.0
        power = self._terms.power
        watts = self.watts if power is None else power.busy_w - power.idle_w
        return watts / cores * seconds / self._energy.reference

    def core_money(self, cores: int, seconds: float) -> float:
        """What one more busy processor adds to K in ``seconds``, as a level."""
        return 0.0 if self._money is None else self._terms.price(1.0, seconds) / cores / self._money.reference

    def slot_price(self, cores: int, seconds: float) -> float:
        """What one more busy processor costs in ``seconds``, in levels of work: E and K times what it adds to them."""
        return self.energy * self.core_energy(cores, seconds) + self.money * self.core_money(cores, seconds)

    def coolness(self, millicelsius: int | None) -> float:
        """The share of the processors that may be used, by heat; all of them where nothing is sensed."""
        limit = self._terms.heat_limit_c
        if limit is None or millicelsius is None:
            return 1.0
        return min(max((limit - millicelsius / 1000) / MARGIN_C, 0.0), 1.0)


def _queue(per_s: float | None) -> BudgetQueue | None:
    return None if per_s is None else BudgetQueue(per_s, per_s)


def _level(queue: BudgetQueue | None) -> float:
    return 0.0 if queue is None else queue.level
