"""The light services that this node runs: the calls they have, their instances, and what others are told of them.

    a call ──► CallService ──► answered                the bench of its service keeps the time
    every slot while there is work: queues, rule A (``instances``) ──► Start/StopInstance, a digest for the others

The first instance is there as soon as somebody calls. More come, one at a time, when rule A finds that they are worth
it, and go when they have lost what a start costs (``retirement``, as in ``shoal experiment staleness``); the last one
stays, unless the service has *moved away*: its calls have made a habit of going to other nodes. Then it too goes, and
starts again with the first call that stays.

**An idle node does nothing.** The slot's alarm is set when work comes, and not any more when there is none and no
instance too many. A call that is answered at once, as nearly all are, costs a look at its own queue.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core.bench import Bench, work_of
from shoal_agent.core.effects import CallService, StartInstance, StopInstance
from shoal_agent.core.facts import CallId
from shoal_agent.core.instances import Prices, decide
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.light import DigestTold, ServiceLoad
from shoal_protocol.limits import LEVEL_MILLI_MAX, LOADS_MAX

HABIT: Final = 3
"""Decisions of one kind in a row that are told as a move: one may be a trial."""
DIGEST_PEERS: Final = 10
"""In a share of up to so many nodes each may tell every slot; in a larger one, so that as many are heard in total."""
SIZED_SLOTS: Final = 50
"""How often a service is asked what effective capacity it needs, in its turn, as in the experiments: the blocks that
tell it are a thousand, of eight slots each."""
STARTS: Final = 1
"""Of a service in a slot: the next one waits until the queue grew although the first is there (``instances``)."""
V: Final = 1.0
"""Levels that money is worth: with deadlines it is kept small (cost is within O(1/V), backlog grows as O(V))."""


@dataclass(slots=True)
class _Habit:
    """Where the last calls of a service went."""

    away: bool = False
    streak: int = 0


class Workshop:
    """See above."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._benches: dict[str, Bench] = {}
        self._here: dict[CallId, str] = {}
        self._habits: dict[str, _Habit] = {}
        self._told: dict[str, None] = {}
        """Services that others were told to be busy here."""
        self._told_at = Instant(0.0)
        self._slots = 0

    def __len__(self) -> int:
        return len(self._here)

    def bench(self, service: str) -> Bench:
        """How it stands with ``service`` here."""
        bench = self._benches.get(service)
        if bench is None:
            bench = self._benches[service] = Bench(service)
        return bench

    def run(self, effect: CallService, now: Instant, out: Outbox, owed: float = 0.0) -> None:
        """A call that runs here; ``owed`` is Z of its request's class."""
        request = effect.request
        assert isinstance(request, bytes), "a call that may travel is packed"
        self._here[effect.call] = effect.service
        self.bench(effect.service).begin(effect.call, work_of(len(request)), now, owed)
        out.add(effect)
        self._arm(now)

    def _arm(self, now: Instant) -> None:
        if Routine.SLOT not in self._tables.timers:
            self._tables.timers.set(Routine.SLOT, Instant(now + SLOT_S))

    def answered(self, call: CallId, now: Instant, *, done: bool) -> bool:
        """Whether ``call`` ran here; it is over, and ``done`` if an instance did the work."""
        service = self._here.pop(call, None)
        if service is None:
            return False
        self._benches[service].end(call, now, measure=done)
        return True

    def decided(self, service: str, where: NodeId | None, now: Instant) -> None:
        """A call goes to ``where`` (None: it stays here): tell of a move once it has become a habit."""
        bench = self.bench(service)
        habit = self._habits.setdefault(bench.service, _Habit())
        away = where is not None
        habit.streak = habit.streak + 1 if away != habit.away else 0
        if habit.streak < HABIT:
            return
        habit.away, habit.streak = away, 0
        if away and bench.running:
            self._arm(now)  # the last one may go, in its time
        pace = f"{bench.faded(now) * 1000:.2g} ms per KiB here ({bench.best_s * 1000:.2g} at best)"
        waits = f"{bench.outstanding:.0f} KiB wait for {bench.running} instances"
        told = None if where is None else self._tables.digests.of(where, bench.service)
        if away and told is not None:
            there = 1e6 / told.load.rate_milli if told.load.rate_milli else bench.best_s * 1000
            text = f"moves away, first to {where}: {pace}, {there:.2g} there; {waits}, {told.load.waiting} KiB there"
        else:
            text = f"moves {'away' if away else 'back'}: {pace}; {waits}"
        self._tables.story.tell(now, bench.service, text)

    # --- the slot ---------------------------------------------------------------------------------------------------

    def slot(self, cores: int, now: Instant, out: Outbox) -> DigestTold | None:
        """A tenth of a second of work is over; a digest if others should know."""
        benches = [self._benches[service] for service in sorted(self._benches)]
        for bench in benches:
            bench.step()
        self._slots += 1
        turn = self._slots % max(SIZED_SLOTS, len(benches))
        if turn < len(benches):
            benches[turn].size_anew()
        self._scale(benches, cores, now, out)
        digest = self._digest(benches, now)
        if any(bench.busy or bench.running > self._keep(bench) for bench in benches) or self._told:
            self._tables.timers.set(Routine.SLOT, Instant(now + SLOT_S))
        else:
            for bench in benches:
                bench.rest()
        return digest

    def _keep(self, bench: Bench) -> int:
        """Instances that stay though they are idle: one, unless the service has moved away."""
        return 0 if self._habits.get(bench.service, _Habit()).away else min(1, bench.running)

    def _scale(self, benches: list[Bench], cores: int, now: Instant, out: Outbox) -> None:
        """Rule A."""
        alive = [bench for bench in benches if bench.running]
        budgets = self._tables.budgets
        joules, money = budgets.core_energy(max(cores, 1), SLOT_S), budgets.core_money(max(cores, 1), SLOT_S)
        lights = [bench.light(self._keep(bench), now, joules, money) for bench in alive]
        if budgets.overdrawn:
            # Whoever is busy without a break is never idle: it may go too, when its call is over.
            lights = [replace(light, least=min(light.least, 1), busy=0, settled=0) for light in lights]
        room = float(max(cores, len(lights)))
        prices = Prices(V, money=budgets.money, energy=budgets.energy)
        lights = [bench.settled(light, prices) for bench, light in zip(alive, lights, strict=True)]
        for bench, light, count in zip(alive, lights, decide(lights, (room,), prices, STARTS), strict=True):
            if count == bench.running:
                continue
            kind = bench.service.partition(":")[0]
            pace = f"{bench.faded(now) * 1000:.2g} ms per KiB" if bench.pace.mean else "pace unknown"
            idle_s = now - bench.spare_since
            why = f"Q + W {light.pressure:.1f}, Z {light.lateness:.1f}, {pace}, {light.least} at the least"
            if count > bench.running:
                out.add(StartInstance(bench.service, count))
                out.count("instances_started", kind, count - bench.running)
                text = f"starts an instance, {count} now: {why}"
            else:
                out.add(StopInstance(bench.service, count))
                out.count("instances_stopped", kind, bench.running - count)
                text = f"stops an instance, {count} now: its rent is that of a start, one idle for {idle_s:.1f} s"
            self._tables.story.tell(now, bench.service, text, cause=self._tables.story.last(bench.service))
            bench.scale(count, now)

    def _digest(self, benches: list[Bench], now: Instant) -> DigestTold | None:
        """What others should know: who is busy, and who no longer is."""
        busy = [bench for bench in benches if bench.outstanding > 0][:LOADS_MAX]
        if not busy and not self._told:
            return None
        peers = len(self._tables.membership.peers())
        if now - self._told_at < SLOT_S * (max(1.0, peers / DIGEST_PEERS) - 0.5):
            return None
        self._told_at = now
        self._told = {bench.service: None for bench in busy}
        return DigestTold(tuple(bench.load(now) for bench in busy), self.price_milli())

    def price(self) -> float:
        """What a slot of one more processor at work costs here, in levels."""
        state = self._tables.state
        return self._tables.budgets.slot_price(max(1, 1 if state is None else state.capacity.cores), SLOT_S)

    def price_milli(self) -> int:
        """The same as others are told it."""
        return min(LEVEL_MILLI_MAX, round(1000 * self.price()))

    # --- looking in -------------------------------------------------------------------------------------------------

    def loads(self, now: Instant) -> Iterator[ServiceLoad]:
        """How busy every service is that was ever called here."""
        for service in sorted(self._benches):
            yield self._benches[service].load(now)

    def check(self) -> None:
        """Assert the books."""
        for bench in self._benches.values():
            bench.check()
        under_way = sum(bench.under_way for bench in self._benches.values())
        assert under_way == len(self._here), f"{under_way} calls on benches, {len(self._here)} known"
