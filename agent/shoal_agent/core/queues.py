"""The queues of the fast loop: what waits, and what was promised and not kept.

A promise that has to hold *on average* (a share of late requests, watts, money, bytes moved) is turned into a queue:
every slot adds what was used and takes away what is allowed. If the queue does not grow without end, the average holds,
for ``used <= allowed + level / slots``. Real work and promises are then the same kind of thing, and one rule (see
``instances``) weighs them against each other::

    Q' = [Q - served - sent]+ + arrived + received           work that waits at this node for one service
    W' = [W + (growth - served - sent if Q > 0 else -served_max)]+           how long it has waited
    Z' = [Z + late - epsilon * ended]+                       requests of one class that came too late (Neely's epsilon)
    E' = [E + joules - allowed]+,  K' likewise of money,  B' likewise of bytes moved
    A' = [A + (loss - tolerated) * tokens]+                  quality that answers of one class lost beyond what they may

W is Neely's persistent service queue (Opportunistic scheduling with worst case delay guarantees, 2011): while anything
waits it grows by ``growth`` whatever happens, so a short queue that nobody serves becomes urgent too. If Q and W never
exceed ``q_max`` and ``w_max``, no work that is served first come first served waits longer than
``ceil((q_max + w_max) / growth)`` slots: were it still there, each of those slots had offered its service to work
before it, and W would have grown by ``growth`` minus that service in each, past ``w_max``.

H is paper (a)'s urgency of one task, used only to order tasks within a queue.

**Levels.** Joules, bytes and requests cannot be added. Each queue has a *reference*, and its level is its content
divided by it: 1 means "one reference late". All rules see levels only (ADR 17 has the references). Time is counted in
slots; a node's slot is ``SLOT_S``, the simulated papers have their own.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Final

from shoal_agent.core.quantities import amount, fraction, positive

SLOT_S: Final = 0.1
"""A node decides ten times a second: shorter than any deadline a light service has, and a thousand times what a
decision costs."""


@dataclass(slots=True)
class ServiceQueue:
    """Q and W of one service on one node; amounts are in whatever unit of work the service counts, always the same."""

    reference: float
    """Work that makes a level of 1."""
    growth: float
    """What W grows by in a slot while anything waits: the rate at which waiting work must be served at the least."""
    served_max: float
    """The most that can be served in one slot: how fast W forgets when nothing waits."""
    waiting: float = field(default=0.0, init=False)
    delayed: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        positive("reference", self.reference)
        positive("growth", self.growth)
        positive("served_max", self.served_max)

    def step(self, *, arrived: float, served: float, received: float = 0.0, sent: float = 0.0) -> None:
        """One slot: ``served`` is what the instances offered, ``sent`` and ``received`` moved between nodes."""
        came = amount("arrived", arrived) + amount("received", received)
        went = amount("served", served) + amount("sent", sent)
        change = self.growth - went if self.waiting > 0 else -self.served_max
        self.delayed = max(self.delayed + change, 0.0)
        self.waiting = max(self.waiting - went, 0.0) + came

    @property
    def backlog(self) -> float:
        """Q as a level."""
        return self.waiting / self.reference

    @property
    def pressure(self) -> float:
        """Q + W as a level: what a rule weighs one more unit of service with."""
        return (self.waiting + self.delayed) / self.reference


def delay_bound_slots(waiting_max: float, delayed_max: float, growth: float) -> int:
    """Slots that no work waits longer than, if Q and W stay below these."""
    return ceil((waiting_max + delayed_max) / growth)


@dataclass(slots=True)
class DeadlineQueue:
    """Z of one request class at its ingress. Whatever was refused, lost or dropped ended late."""

    epsilon: float
    """The share that may be late."""
    reference: float = 1.0
    """Late requests that make a level of 1."""
    late: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        fraction("epsilon", self.epsilon)
        positive("reference", self.reference)

    def step(self, *, late: float, ended: float) -> None:
        """So many requests ended, so many of them late."""
        if amount("late", late) > amount("ended", ended):
            raise ValueError(f"{late} of {ended} requests cannot be late")
        self.late = max(self.late + late - self.epsilon * ended, 0.0)

    @property
    def level(self) -> float:
        """Z as a level."""
        return self.late / self.reference


@dataclass(slots=True)
class BudgetQueue:
    """E, K or B: something that is spent, and may be spent so fast on average."""

    allowed: float
    """Per slot."""
    reference: float
    """What makes a level of 1."""
    owed: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        amount("allowed", self.allowed)
        positive("reference", self.reference)

    def step(self, spent: float, slots: float = 1.0) -> None:
        """A slot, or so many of them, in which ``spent`` was used."""
        self.owed = max(self.owed + amount("spent", spent) - self.allowed * amount("slots", slots), 0.0)

    @property
    def level(self) -> float:
        """The queue as a level."""
        return self.owed / self.reference


@dataclass(slots=True)
class QualityQueue:
    """A of one request class at its ingress: what its answers lost, over what they may lose on average."""

    tolerated: float
    """Of each token; losses are in the same unit."""
    reference: float
    """Tokens whose tolerance makes a level of 1."""
    owed: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        positive("tolerated", self.tolerated)
        positive("reference", self.reference)

    def step(self, *, loss: float, tokens: float) -> None:
        """An answer of so many tokens ended, each of which lost ``loss``."""
        change = (amount("loss", loss) - self.tolerated) * amount("tokens", tokens)
        self.owed = max(self.owed + change, 0.0)

    def adds(self, *, loss: float, tokens: float) -> float:
        """What such an answer will owe, as a level; what it pays back is known when it has."""
        return max(loss - self.tolerated, 0.0) * tokens / (self.tolerated * self.reference)

    @property
    def level(self) -> float:
        """A as a level."""
        return self.owed / (self.tolerated * self.reference)


def urgency(before: float, age: float, deadline: float, floor: float = 1.0) -> float:
    """H of a task: at least ``floor``, and more by what it is over its deadline, slot after slot."""
    return max(floor, before + age - deadline)
