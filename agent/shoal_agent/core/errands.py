"""What a client of this node's API wants of light services alone: one call, or several in a row.

    text ─► tokenizer.encode ─► embedder.embed ─► vector

Each step's answer is the next one's request, passed on as it is: two services fit together if their messages do. Where
each step runs, ``movers`` decides if this node could do it, else it goes to whoever has it; who is lost on the way is
replaced. An errand keeps no state anywhere but here, and ends exactly once.
"""

from dataclasses import dataclass, field

from shoal_agent.core.bench import work_of
from shoal_agent.core.calls import Answer, Ask, Calls, came_too_late
from shoal_agent.core.dispatch import place
from shoal_agent.core.effects import ErrandEnded
from shoal_agent.core.events import ErrandArrived, ErrandCancelled, ServiceFailed
from shoal_agent.core.facts import CallId, RejectCode
from shoal_agent.core.movers import ASKS_MAX, Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.services import pack
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import ErrandDeadline
from shoal_protocol.headers import ServiceFault
from shoal_protocol.ids import SESSION_ID_BYTES, Instant, NodeId, SessionId
from shoal_protocol.limits import REQUESTS_MAX

_CODES = {ServiceFault.REFUSED: RejectCode.BAD_PROMPT, ServiceFault.BUSY: RejectCode.OVERLOADED}


@dataclass(slots=True)
class _Errand:
    """One of them, on its way. ``where`` None: the movers see to the call."""

    asked: ErrandArrived
    deadline: Instant
    request: bytes
    begun: Instant
    """When its last call was made."""
    step: int = 0
    call: CallId | None = None
    where: NodeId | None = None
    tried: list[NodeId] = field(default_factory=list)


def _left_ms(errand: _Errand, now: Instant) -> int:
    """What is left until its deadline, as others are told it."""
    return max(0, int((errand.deadline - now) * 1000))


class Errands:
    """All errands of this node's clients."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls, movers: Movers) -> None:
        self._node = node
        self._tables = tables
        self._calls = calls
        self._movers = movers
        self._errands: dict[int, _Errand] = {}
        self._by_call: dict[CallId, int] = {}

    def __len__(self) -> int:
        return len(self._errands)

    def heard(self, event: ErrandArrived | ErrandCancelled, now: Instant, out: Outbox) -> None:
        """A client wants something, or nothing any more."""
        if isinstance(event, ErrandArrived):
            self.arrived(event, now, out)
        else:
            self.cancelled(event.errand, out)

    def arrived(self, event: ErrandArrived, now: Instant, out: Outbox) -> None:
        """A client wants something."""
        assert event.steps, "an errand has something to do"
        assert event.errand not in self._errands, "errands are numbered"
        if self._tables.leaving:
            out.add(ErrandEnded(event.errand, b"", RejectCode.STOPPING, "this node is stopping"))
            return
        if len(self._errands) >= REQUESTS_MAX:
            detail = f"{REQUESTS_MAX} errands are under way"
            out.add(ErrandEnded(event.errand, b"", RejectCode.OVERLOADED, detail))
            return
        errand = self._errands[event.errand] = _Errand(event, Instant(now + event.deadline_s), event.request, now)
        self._tables.timers.set(ErrandDeadline(event.errand), errand.deadline)
        self._ask(errand, now, out)

    def _ask(self, errand: _Errand, now: Instant, out: Outbox) -> None:
        service, method = errand.asked.steps[errand.step]
        tables = self._tables
        ask = Ask(service, method, errand.request, _left_ms(errand, now), tables.classes.owed(errand.asked.kind))
        errand.where, errand.begun = None, now
        if service in tables.services:
            errand.call = self._movers.ask(ask, now, out)
        else:
            name = SessionId(errand.asked.errand.to_bytes(SESSION_ID_BYTES))
            where = place(service, name, self._node, (), tables.membership, (), now, errand.tried)
            if where is None:
                self._end(errand, b"", RejectCode.NOT_READY, f"no node runs {service}", out)
                return
            errand.where = where
            errand.tried.append(where)
            errand.call = self._calls.make(where, ask, out)
        self._by_call[errand.call] = errand.asked.errand

    def owns(self, event: Answer) -> bool:
        """Whether an errand waits for this answer."""
        return event.call in self._by_call

    def answered(self, event: Answer, now: Instant, out: Outbox) -> None:
        """A step is done, or is not."""
        errand = self._errands[self._by_call.pop(event.call)]
        errand.call = None
        if isinstance(event, ServiceFailed):
            elsewhere = errand.where is not None and event.fault is not ServiceFault.REFUSED
            if came_too_late(event.fault, _left_ms(errand, now)):
                self.expired(errand.asked.errand, out)
            elif elsewhere and len(errand.tried) < ASKS_MAX:
                self._ask(errand, now, out)
            else:
                self._end(errand, b"", _CODES.get(event.fault, RejectCode.INTERNAL), event.reason, out)
            return
        if errand.where is not None:
            self._measure(errand, errand.where, now)
        errand.request, errand.step = pack(event.result), errand.step + 1
        errand.tried.clear()
        if errand.step < len(errand.asked.steps):
            self._ask(errand, now, out)
        else:
            self._end(errand, errand.request, None, "", out)

    def _measure(self, errand: _Errand, where: NodeId, now: Instant) -> None:
        """A call abroad is answered: what it took, or less if it waited, for who has a queue tells of its pace."""
        service, _ = errand.asked.steps[errand.step]
        told = self._tables.digests.of(where, service)
        pace_s = (now - errand.begun) / work_of(len(errand.request))
        if told is not None and told.load.rate_milli:
            pace_s = min(pace_s, 1000 / told.load.rate_milli)
        self._tables.abroad.measured(service, pace_s, now)

    def lost(self, node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` is out of reach: what it was asked is asked elsewhere."""
        for errand in tuple(self._errands.values()):
            if errand.where == node and errand.call is not None:
                self._forget(errand)
                self._ask(errand, now, out)

    def cancelled(self, number: int, out: Outbox) -> None:
        """Its client has left, or has no use for it any more: no further step of it is begun."""
        errand = self._errands.get(number)
        if errand is not None:
            self._leave(errand, "cancelled", out)

    def expired(self, number: int, out: Outbox) -> None:
        """Its deadline has come."""
        errand = self._errands.get(number)
        if errand is not None:
            self._end(errand, b"", RejectCode.DEADLINE, f"not done within {errand.asked.deadline_s:g} s", out)

    def stop(self, out: Outbox) -> None:
        """The node ends."""
        for errand in tuple(self._errands.values()):
            self._end(errand, b"", RejectCode.STOPPING, "this node is stopping", out)

    def _forget(self, errand: _Errand) -> None:
        if errand.call is not None:
            self._movers.forget(errand.call)
            self._calls.forget(errand.call)
            self._by_call.pop(errand.call, None)
            errand.call = None

    def _end(self, errand: _Errand, result: bytes, code: RejectCode | None, detail: str, out: Outbox) -> None:
        self._leave(errand, "done" if code is None else code.value, out)
        out.add(ErrandEnded(errand.asked.errand, result, code, detail))

    def _leave(self, errand: _Errand, how: str, out: Outbox) -> None:
        self._forget(errand)
        del self._errands[errand.asked.errand]
        self._tables.timers.clear(ErrandDeadline(errand.asked.errand))
        out.count("errands_ended", how)

    def check(self) -> None:
        """Assert the books."""
        assert all(self._errands[number].call == call for call, number in self._by_call.items())
        assert all(errand.call is not None for errand in self._errands.values())
