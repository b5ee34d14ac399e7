"""One light service on this node: the work it has, the instances it runs, how fast they are.

**Work** is counted in KiB of request, at least one for each call: what encoding or rendering takes grows with the text,
and a queue of ten letters is not a queue of ten books.

**Pace**, seconds of one instance per unit of work, is measured call by call. Instances take calls in the order they
came, so a call begins when it comes, or when the one before it on its instance ends; no clock of the workers is needed.
The estimate follows by ``WEIGHT`` a measurement, and *fades*: it halves with every ``FADE_S`` without one. What this
node took while something else held its processor says little about it ten seconds later, and a service that is thought
slow gets no calls by which to learn that it is fast again. Fading makes it try one now and then (``fading``).

**What is owed.** Every call brings Z of its request's class, as it was at its ingress when the call was made; the
service itself may be far from any client. Rule A weighs lateness with ``sum Z_n arrivals_n`` over classes. That is Z
summed over the calls that come in a slot, here by their KiB, and as a mean of about a second (``OWED_WEIGHT``), for
slots are uneven and Z is not.

**Queues** (``queues``) and blocks (``effective_capacity``) are stepped once a slot while there is work. What the blocks
tell of the fewest instances is dear to ask (0.2 ms once there are a thousand of them) and changes only when one of them
is full. So it is then asked when the service has its turn, one service in a slot (``workshop``).
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from shoal_agent.core.effective_capacity import Blocks, Size, size
from shoal_agent.core.facts import CallId
from shoal_agent.core.fading import FADE_S, Fading
from shoal_agent.core.instances import Light, Prices
from shoal_agent.core.queues import SLOT_S, ServiceQueue
from shoal_agent.core.retirement import Losses
from shoal_protocol.ids import Instant
from shoal_protocol.light import ServiceLoad
from shoal_protocol.limits import RATE_MILLI_MAX, WAIT_US_MAX, WORK_MAX

WORK_BYTES: Final = 1024
"""One unit of work."""
REFERENCE_WORK: Final = 16.0
"""Makes a level of 1: a page of text, some milliseconds of an idle small device."""
GROWTH: Final = 1.0
"""Work that must be served in a slot at the least while any waits: W grows faster than one letter in ten slots is."""
SERVED_MAX: Final = 64.0
"""W forgets an hour of growth within a minute of rest."""
DEADLINE_SLOTS: Final = 10.0
"""A light service's share of a request's time: a second, of the ten that a first token may take."""
EPSILON: Final = 0.05
"""The share of calls that may take longer."""
BOOT: Final = 2.0
"""Of one more instance, in levels: as much as making a page wait for twice as long."""
RUN: Final = 0.02
"""Of keeping one for a slot: a hundred slots of idling are one start, so it goes after ten seconds of it."""
OWED_WEIGHT: Final = 0.1
"""Of what is owed to the calls of one slot, in the mean over slots."""
BEGINNING: Final = Instant(0.0)


@dataclass(slots=True)
class _Hand:
    """A call under way; ``began`` None: no instance has it yet; ``boots``: the service is built for it first."""

    work: float
    came: Instant
    began: Instant | None
    boots: bool


def work_of(request_bytes: int) -> float:
    """What a request of this size is to a service."""
    return max(1.0, request_bytes / WORK_BYTES)


@dataclass(slots=True)
class Bench:
    """See above. ``running`` instances; one is there as soon as somebody calls."""

    service: str
    running: int = 0
    outstanding: float = 0.0
    """Work that waits or is under way."""
    pace: Fading = field(default_factory=lambda: Fading(FADE_S))
    """Seconds."""
    best_s: float = 0.0
    """The least pace it ever had here: what another node of this kind may need."""
    spare_since: Instant = BEGINNING
    """Since then it did without one of its instances."""
    _queue: ServiceQueue = field(default_factory=lambda: ServiceQueue(REFERENCE_WORK, GROWTH, SERVED_MAX))
    _hands: dict[CallId, _Hand] = field(default_factory=dict)
    _line: deque[CallId] = field(default_factory=deque)
    _arrivals: Blocks = field(default_factory=lambda: Blocks(EPSILON))
    _service: Blocks = field(default_factory=lambda: Blocks(EPSILON))
    _sized: Size | None = None
    _sized_at: int = 0
    """Blocks that were full then."""
    _losses: Losses = field(default_factory=Losses)
    _arrived: float = 0.0
    _owing: float = 0.0
    """Z of the calls that came in this slot, times their work."""
    _owed: float = 0.0
    """The mean of that over slots."""
    _served: float = 0.0
    _seen: float = 0.0
    """Work that was here in the slot that is over."""

    # --- calls ------------------------------------------------------------------------------------------------------

    def begin(self, call: CallId, work: float, now: Instant, owed: float = 0.0) -> None:
        """A call came; ``owed`` is Z of its request's class."""
        self._hands[call] = _Hand(work, now, None, self.running == 0)
        self._line.append(call)
        self.outstanding += work
        self._arrived += work
        self._owing += owed * work
        if self.running == 0:
            self.running, self._losses = 1, Losses()
        self._take(now)

    def end(self, call: CallId, now: Instant, *, measure: bool) -> None:
        """It is answered; ``measure``: by an instance that did the work."""
        hand = self._hands.pop(call)
        self.outstanding = self.outstanding - hand.work if self._hands else 0.0
        self._served += hand.work
        if hand.began is None:
            self._line.remove(call)
        elif measure and not hand.boots:
            self._measure((now - hand.began) / hand.work, now)
        self._take(now)

    def _measure(self, pace_s: float, now: Instant) -> None:
        self.pace.measured(pace_s, now)
        self.best_s = self.pace.mean if self.best_s == 0 else min(self.best_s, self.pace.mean)

    def scale(self, instances: int, now: Instant) -> None:
        """So many from now on; those that have a call keep it to its end."""
        self.running = instances
        self._take(now)

    def _take(self, now: Instant) -> None:
        """Free instances take what waits."""
        busy = len(self._hands) - len(self._line)
        while self._line and busy < self.running:
            self._hands[self._line.popleft()].began = now
            busy += 1
        if busy >= self.running:
            self.spare_since = now

    @property
    def under_way(self) -> int:
        """Calls that wait or have an instance."""
        return len(self._hands)

    @property
    def busy(self) -> int:
        """Instances with a call."""
        return len(self._hands) - len(self._line)

    # --- what follows from it ---------------------------------------------------------------------------------------

    def faded(self, now: Instant) -> float:
        """The pace as it is believed now."""
        return self.pace.believed(now)

    def wait_slots(self, work: float, now: Instant) -> float:
        """Until a call that comes now is done."""
        return (self.outstanding / max(self.running, 1) + work) * self.faded(now) / SLOT_S

    @property
    def pressure(self) -> float:
        """Q + W as a level."""
        return (self.outstanding + self._queue.delayed) / REFERENCE_WORK

    @property
    def backlog(self) -> float:
        """Q as a level."""
        return self.outstanding / REFERENCE_WORK

    def step(self) -> None:
        """One slot is over."""
        self._queue.step(arrived=self._arrived, served=self._served)
        self._queue.waiting = self.outstanding  # what is seen need not be reckoned
        self._arrivals.slot(self._arrived)
        if self.running > 0 and (self.outstanding > 0 or self._served > 0):
            self._service.slot(self._served / self.running)
        self._seen = self.outstanding + self._served
        self._owed += OWED_WEIGHT * (self._owing - self._owed)
        self._arrived = self._served = self._owing = 0.0

    def rest(self) -> None:
        """Nothing is stepped for a while."""
        self._queue.delayed = self._owed = 0.0

    def size_anew(self) -> Size:
        """The fewest instances that keep the promise, as it is known now."""
        closed = self._arrivals.closed + self._service.closed
        if self._sized is None or closed != self._sized_at:
            self._sized, self._sized_at = size(self._arrivals, self._service, DEADLINE_SLOTS, EPSILON), closed
        return self._sized

    def light(self, keep: int, now: Instant, joules: float = 0.0, money: float = 0.0) -> Light:
        """As rule A sees it; at least ``keep`` run, and an instance takes so much of the budgets in a slot."""
        busy = min(self.busy, self.running)  # more are at work where some are to stop when their call is over
        fewest = self._sized
        if fewest is None or not fewest.assured:
            fewest = self.size_anew()
        pace_s = self.faded(now)
        return Light(
            name=self.service,
            needs=(1.0,),
            running=self.running,
            busy=busy,
            settled=busy,
            least=max(keep, fewest.instances, 1) if self._hands else keep,
            backlog=self.backlog,
            pressure=self.pressure,
            rate=SLOT_S / pace_s / REFERENCE_WORK if pace_s > 0 else 1.0,
            boot=BOOT,
            run=RUN,
            joules=joules,
            money=money,
            lateness=self._owed / REFERENCE_WORK,
            tails=fewest.tails,
        )

    def settled(self, light: Light, prices: Prices) -> Light:
        """With those that may not go yet (``retirement``); to be asked once in every slot.

        What an instance earned is reckoned with all the work of the slot, and not with what is left at its end: calls
        that are done within the slot they came in are what it is there for.
        """
        pressure = light.pressure + (self._seen - self.outstanding) / REFERENCE_WORK
        past = replace(light, backlog=self._seen / REFERENCE_WORK, pressure=pressure)
        return replace(light, settled=self._losses.stay(past, prices))

    def load(self, now: Instant) -> ServiceLoad:
        """As others are told."""
        pace_s = self.faded(now)
        rate = 0 if pace_s <= 0 else min(RATE_MILLI_MAX, round(1000 / pace_s))
        waiting = min(WORK_MAX, round(self.outstanding + self._queue.delayed))
        wait_us = min(WAIT_US_MAX, round(self.wait_slots(0.0, now) * SLOT_S * 1e6))
        return ServiceLoad(self.service, self.running, waiting, rate, wait_us)

    def check(self) -> None:
        """Assert that the book balances."""
        assert 0 <= len(self._line) <= len(self._hands)
        assert self.outstanding >= 0
        assert not self._line or self.busy >= self.running
