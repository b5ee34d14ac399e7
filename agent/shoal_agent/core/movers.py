"""Where each call of a light service runs: here, or on the node that is best for it now.

    ask ──► here, if nobody is better by what was told ──► workshop
        └─► two of the best three are probed, for a moment   ──► the better one, or here after all

Rule B of ``dispatch``, and what it is fed. A service that keeps nothing between calls is *moved* by sending its calls
elsewhere: there they make a queue, and rule A starts instances; here they leave none, and the last one stops (see
``workshop``). Nothing is handed over, so nothing can be lost on the way. A sampler and a detokenizer stay where their
session began.

**No call is lost.** Who is asked and does not do it (no room, a fault of its own, out of reach, too long) was not to be
trusted with it, and another is asked, ``ASKS_MAX`` altogether; then it runs here, as if nobody else were there. A call
that came from another node runs here or is refused: it never travels twice, so two nodes cannot pass it to and fro.

**What is owed travels along.** Z of a request's class is known at its ingress alone (ADR 17), so each call carries it.
Rule B weighs the call's own delay with 1 + Z: by Markov's inequality ``Z delay / deadline`` bounds what its lateness
adds to the drift. Whoever runs the call has rule A weigh it (``bench``).
"""

from collections.abc import Container
from dataclasses import dataclass, field
from random import Random
from typing import Final

from shoal_agent.core.bench import BEGINNING, DEADLINE_SLOTS, REFERENCE_WORK, Bench, work_of
from shoal_agent.core.calls import Answer, Ask, Calls
from shoal_agent.core.digests import Told
from shoal_agent.core.dispatch import Offer, Task, settle, shortlist, to_probe
from shoal_agent.core.effects import CallService
from shoal_agent.core.events import ServiceReturned
from shoal_agent.core.facts import CallId
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.services import ServiceKind, pack
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import CallDue
from shoal_agent.core.workshop import Workshop
from shoal_protocol.headers import ServiceCall, ServiceFault
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.light import LoadAsked, LoadTold

PROBE_S: Final = 0.05
"""An answer takes a millisecond on a LAN; a node that needs longer to say how busy it is, is."""
PROBE_SHARE: Final = 0.5
"""But a node that is short of processor hears everything late: it waits for half of what it may save."""
PROBE_S_MAX: Final = 0.5
"""And no longer than a client would notice."""
ASKS_MAX: Final = 3
"""Nodes that one call is sent to before it runs here."""
ANSWER_S_MIN: Final = 1.0
"""Nobody is given less time for a call."""
ANSWER_TIMES: Final = 4.0
"""And so many times what was predicted."""
QUICK_SLOTS: Final = 0.2
"""A call that is done here within 20 ms gains nothing anywhere else,"""
DUES_MIN: Final = 0.5
"""unless this node is so far over its budgets: as much as eight KiB that wait."""
LINK_SLOTS: Final = 0.05
"""There and back, where the link was not measured."""
STAY: Final = 0.75
"""Who is not quicker by a quarter is not worth the way: where all are equally loaded, calls stay at home."""
AGE_BIAS: Final = 0.02
"""A digest's word counts for a level less after five seconds."""
STATEFUL: Final = (ServiceKind.SAMPLER, ServiceKind.DETOKENIZER)
"""These stay where their session began."""
_PLAIN: Final = Task(DEADLINE_SLOTS, v=0.0, bias=AGE_BIAS)
"""Sending costs no money among nodes of one owner."""


@dataclass(slots=True)
class _Trip:
    """A call that is to run elsewhere."""

    call: CallId
    service: str
    method: str
    request: bytes
    deadline: Instant
    owed: float
    listed: tuple[Offer, ...]
    probing: dict[CallId, NodeId] = field(default_factory=dict)
    answers: list[Offer] = field(default_factory=list)
    where: NodeId | None = None
    sent: Instant = BEGINNING
    tried: list[NodeId] = field(default_factory=list)

    @property
    def work(self) -> float:
        """What it is to a queue."""
        return work_of(len(self.request))


def _task(owed: float) -> Task:
    """A call of whose class so much is owed."""
    return Task(_PLAIN.deadline_slots, _PLAIN.v, 1.0 + owed, _PLAIN.bias) if owed > 0 else _PLAIN


def _dues(price: float, pace_s: float) -> float:
    """Of a level of work where a slot of a processor costs ``price``, and a unit of work takes ``pace_s``."""
    return price * pace_s / SLOT_S * REFERENCE_WORK


def is_light(service: str) -> bool:
    """Whether calls of ``service`` may go anywhere."""
    return service.partition(":")[0] not in STATEFUL


class Movers:
    """The light-service calls of this node that may run anywhere."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls, rng: Random) -> None:
        self._node = node
        self._tables = tables
        self._calls = calls
        self._rng = rng
        self.workshop = Workshop(tables)
        self._trips: dict[CallId, _Trip] = {}
        self._probes: dict[CallId, CallId] = {}

    # --- calls of this node -----------------------------------------------------------------------------------------

    def ask(self, ask: Ask, now: Instant, out: Outbox, shunned: Container[NodeId] = ()) -> CallId:
        """Have a service that this node could run called, here or where it is better."""
        call, data, left_s = self._calls.fresh(), pack(ask.request), ask.left_ms / 1000
        service, method = str(ask.service), str(ask.method)
        bench = self.workshop.bench(service)
        work = work_of(len(data))
        quick = self._quick(bench, work, now)
        listed = () if quick else self._listed(bench, work, _task(ask.owed), shunned, now)
        if not listed:
            self.workshop.decided(service, None, now)
            self.workshop.run(CallService(call, service, method, data, None, left_s), now, out, ask.owed)
            return call
        trip = self._trips[call] = _Trip(call, service, method, data, Instant(now + left_s), ask.owed, listed)
        for offer in to_probe(listed, self._rng):
            probe = self._calls.fresh()
            trip.probing[probe] = offer.node
            self._probes[probe] = call
            out.send(offer.node, LoadAsked(probe, service))
        patience_s = min(PROBE_S_MAX, max(PROBE_S, PROBE_SHARE * bench.wait_slots(work, now) * SLOT_S))
        self._tables.timers.set(CallDue(call), Instant(now + patience_s))
        return call

    def best(self, service: str, request_bytes: int, now: Instant, owed: float = 0.0) -> Offer:
        """The best there is for a call of a service that this node could run, by what was told."""
        bench, work = self.workshop.bench(service), work_of(request_bytes)
        if self._quick(bench, work, now):
            return self._local(bench, work, now)
        return next(iter(self._listed(bench, work, _task(owed), (), now)), self._local(bench, work, now))

    def abroad(self, service: str, request_bytes: int, now: Instant) -> Offer | None:
        """What to expect of a call of a service that this node has not got; None if no node has it.

        Whoever has it may get the call (``dispatch.place``), so this is the mean. Of whom nothing was heard, that it
        takes as long as such calls took lately.
        """
        pace_s, work = self._tables.abroad.believed(service, now), work_of(request_bytes)
        offers = [self._by_digest(node, service, pace_s, work, now) for node in self._able(service, (), now)]
        if not offers:
            return None
        wait, pressure = (sum(getattr(offer, name) for offer in offers) for name in ("wait_slots", "pressure"))
        transfer, count = sum(offer.transfer_slots for offer in offers), len(offers)
        return Offer(offers[0].node, pressure / count, wait / count, transfer / count)

    def _able(self, service: str, shunned: Container[NodeId], now: Instant) -> list[NodeId]:
        """Peers that have it."""
        return [
            peer.node
            for peer in self._tables.membership.peers()
            if service in peer.state.services
            and peer.node not in shunned
            and self._tables.membership.present(peer.node, now)
        ]

    def _quick(self, bench: Bench, work: float, now: Instant) -> bool:
        """Whether nobody else need be looked at."""
        return bench.wait_slots(work, now) <= QUICK_SLOTS and self._dues_here(bench, now) <= DUES_MIN

    def _local(self, bench: Bench, work: float, now: Instant) -> Offer:
        return Offer(self._node, bench.pressure, bench.wait_slots(work, now), dues=self._dues_here(bench, now))

    def _home(self, bench: Bench, work: float, now: Instant) -> Offer:
        """This node, with what staying is worth."""
        return Offer(self._node, bench.pressure, STAY * bench.wait_slots(work, now), dues=self._dues_here(bench, now))

    def _dues_here(self, bench: Bench, now: Instant) -> float:
        return _dues(self.workshop.price(), bench.faded(now))

    def _listed(
        self, bench: Bench, work: float, task: Task, shunned: Container[NodeId], now: Instant
    ) -> tuple[Offer, ...]:
        """Nodes that may be better than this one."""
        able = self._able(bench.service, shunned, now)
        offers = [self._by_digest(node, bench.service, bench.best_s, work, now) for node in able]
        return shortlist(offers, task, self._home(bench, work, now))

    def _by_digest(self, node: NodeId, service: str, usual_s: float, work: float, now: Instant) -> Offer:
        """What ``node`` offers by its last word; of whom nothing was heard, that it is idle and takes ``usual_s``."""
        told = self._tables.digests.of(node, service)
        if told is None:
            done, dues = work * usual_s / SLOT_S, _dues(self._tables.digests.price(node, now), usual_s)
            sent = self._sent_to(node, service, None)
            return Offer(node, 0.0, done, self._link_slots(node), in_flight=sent, dues=dues)
        age_slots = (now - told.at) / SLOT_S
        sent = self._sent_to(node, service, told.at)
        return self._offer(told, usual_s, work, now, in_flight=sent, age_slots=age_slots)

    def _offer(
        self,
        told: Told,
        usual_s: float,
        work: float,
        now: Instant,
        in_flight: float = 0.0,
        age_slots: float = 0.0,
    ) -> Offer:
        load = told.load
        pace_s = 1000 / load.rate_milli if load.rate_milli else usual_s
        wait_slots = max(0.0, load.wait_us / 1e6 / SLOT_S - age_slots) + work * pace_s / SLOT_S
        pressure = load.waiting / REFERENCE_WORK if age_slots * SLOT_S < load.wait_us / 1e6 + SLOT_S else 0.0
        link, dues = self._link_slots(told.node), _dues(self._tables.digests.price(told.node, now), pace_s)
        return Offer(told.node, pressure, wait_slots, link, in_flight=in_flight, age_slots=age_slots, dues=dues)

    def _sent_to(self, node: NodeId, service: str, since: Instant | None) -> float:
        """Levels this node sent there after ``since``."""
        trips = self._trips.values()
        there = [trip for trip in trips if trip.where == node and trip.service == service]
        return sum(trip.work for trip in there if since is None or trip.sent >= since) / REFERENCE_WORK

    def _link_slots(self, node: NodeId) -> float:
        trip_us = next((link.rtt_us for link in self._tables.links if link.peer == node), None)
        return LINK_SLOTS if trip_us is None else trip_us / 1e6 / SLOT_S

    # --- calls that run here ----------------------------------------------------------------------------------------

    def serve(self, peer: NodeId, header: ServiceCall, payload: Payload, now: Instant, out: Outbox) -> None:
        """A peer calls: it runs here, or is refused."""
        if not is_light(header.service) or header.service not in self._tables.services:
            self._calls.serve(peer, header, payload, out)
            return
        effect = self._calls.accept(peer, header, payload, out)
        if effect is not None:
            self.workshop.run(effect, now, out, header.owed_milli / 1000)

    # --- answers ----------------------------------------------------------------------------------------------------

    def answered(self, event: Answer, now: Instant, out: Outbox) -> Answer | None:
        """An answer, for whoever waits for it; None if the call goes on somewhere else."""
        if self.workshop.answered(event.call, now, done=isinstance(event, ServiceReturned)):
            return event
        trip = self._trips.get(event.call)
        if trip is None:
            return event
        if isinstance(event, ServiceReturned) or event.fault is ServiceFault.REFUSED:
            self._forget(trip)
            return event
        out.count("calls_sent_again", event.fault.name.lower())
        self._elsewhere(trip, now, out)
        return None

    def told(self, peer: NodeId, header: LoadTold, now: Instant, out: Outbox) -> None:
        """A probe is answered."""
        call = self._probes.get(CallId(header.call))
        trip = None if call is None else self._trips.get(call)
        if trip is None or trip.probing.get(CallId(header.call)) != peer:
            out.count("frames_dropped", "load")
            return
        del trip.probing[CallId(header.call)], self._probes[CallId(header.call)]
        load = header.load
        if load is not None and load.service == trip.service:
            told = self._tables.digests.answered(peer, load, header.price_milli, now)
            trip.answers.append(self._offer(told, self.workshop.bench(trip.service).best_s, trip.work, now))
        if not trip.probing:
            self._choose(trip, now, out)

    def asked(self, peer: NodeId, header: LoadAsked, now: Instant, out: Outbox) -> None:
        """A peer probes."""
        load = self.workshop.bench(header.service).load(now) if header.service in self._tables.services else None
        out.send(peer, LoadTold(header.call, load, self.workshop.price_milli()))

    def due(self, call: CallId, now: Instant, out: Outbox) -> None:
        """A probe, or a call, was not answered in time."""
        trip = self._trips.get(call)
        if trip is None:
            return
        if trip.where is None:
            out.count("service_probes_late", trip.service.partition(":")[0])
            self._choose(trip, now, out)
        else:
            out.count("calls_sent_again", "late")
            self._elsewhere(trip, now, out)

    def lost(self, node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` is out of reach."""
        self._tables.digests.forget(node)
        for trip in tuple(self._trips.values()):
            for probe in [probe for probe, peer in trip.probing.items() if peer == node]:
                del trip.probing[probe], self._probes[probe]
            if trip.where == node:
                out.count("calls_sent_again", "lost")
                self._elsewhere(trip, now, out)
            elif trip.where is None and not trip.probing:
                self._choose(trip, now, out)

    def forget(self, call: CallId) -> None:
        """Nobody waits for ``call`` any more; what runs is counted until it ends."""
        trip = self._trips.get(call)
        if trip is not None:
            self._forget(trip)

    # --- trips ------------------------------------------------------------------------------------------------------

    def _choose(self, trip: _Trip, now: Instant, out: Outbox) -> None:
        """Every probe is answered, or was not in time."""
        bench = self.workshop.bench(trip.service)
        where = settle(trip.answers, _task(trip.owed), self._home(bench, trip.work, now))
        self.workshop.decided(trip.service, None if where == self._node else where, now)
        self._send(trip, self._node if where is None else where, now, out)

    def _elsewhere(self, trip: _Trip, now: Instant, out: Outbox) -> None:
        """Who had the call does not do it."""
        present = self._tables.membership.present
        rest = [offer.node for offer in trip.listed if offer.node not in trip.tried and present(offer.node, now)]
        self._send(trip, rest[0] if rest and len(trip.tried) < ASKS_MAX else self._node, now, out)

    def _send(self, trip: _Trip, where: NodeId, now: Instant, out: Outbox) -> None:
        self._calls.forget(trip.call)
        if where == self._node:
            self._forget(trip)
            left_s = max(0.0, trip.deadline - now)
            effect = CallService(trip.call, trip.service, trip.method, trip.request, None, left_s)
            self.workshop.run(effect, now, out, trip.owed)
            return
        for probe in trip.probing:
            del self._probes[probe]
        trip.probing.clear()
        trip.where, trip.sent = where, now
        trip.tried.append(where)
        left_ms = max(0, int((trip.deadline - now) * 1000))
        self._calls.send(trip.call, where, Ask(trip.service, trip.method, trip.request, left_ms, trip.owed), out)
        out.count("calls_sent", trip.service.partition(":")[0])
        offer = next((one for one in trip.answers if one.node == where), None)
        predicted_s = 0.0 if offer is None else (offer.wait_slots + offer.transfer_slots) * SLOT_S
        self._tables.timers.set(CallDue(trip.call), Instant(now + max(ANSWER_S_MIN, ANSWER_TIMES * predicted_s)))

    def _forget(self, trip: _Trip) -> None:
        for probe in trip.probing:
            del self._probes[probe]
        del self._trips[trip.call]
        self._calls.forget(trip.call)
        self._tables.timers.clear(CallDue(trip.call))

    # --- looking in -------------------------------------------------------------------------------------------------

    @property
    def away_count(self) -> int:
        """Calls that are with other nodes, or about to be."""
        return len(self._trips)

    def check(self) -> None:
        """Assert the books."""
        self.workshop.check()
        assert all(call in self._trips for call in self._probes.values())
        assert all(CallDue(call) in self._tables.timers for call in self._trips)
