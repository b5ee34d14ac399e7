"""Requests through nodes and links, event by event: what becomes of every arrival under one method.

    arrive ─► route ─► link ─► node's queue ─► link ─► ... ─► link to the ingress ─► answered
                 ▲                  │ node dies: whatever is there is stuck
                 └──────────────────┘ until its death is found; then from the beginning, on another route

Links and nodes serve one at a time, first come first served. A method says which way a request goes and is told what it
may know; it sees neither failures before they are found nor the load of a machine before it is told. Physics is here
and the same for all. Times of events come from the trace and from arithmetic: there is no chance in here.

A request that is not answered ``PATIENCE_S`` after it arrived has failed. Each carries the epoch of the plan that
routes it; legs of two epochs in one attempt would be a mixed answer, and are counted on what nodes really ran.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from typing import Final, Protocol

from shoal_agent.core.rescue import LOOK_S
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.trace import Trace

PATIENCE_S: Final = 3.0
"""Ten times what is promised: then the client has gone."""
SLO_S: Final = 0.3
DEADLINE_S: Final = 0.24
"""What a method that counts late answers is told: the SLO less a fifth, so that it acts before the SLO is missed."""
HEARD_AGAIN_S: Final = 1.0
"""A node that is back is known to be so after a heartbeat."""


@dataclass(frozen=True, slots=True)
class Leg:
    """Blocks ``first..last`` on ``node`` (by index)."""

    node: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Route:
    """The legs of a request, and the epoch of the plan they are from."""

    epoch: int
    legs: tuple[Leg, ...]


class Method(Protocol):
    """What is compared. ``now`` never decreases."""

    tick_s: float

    def route(self, now: float) -> Route | None:
        """The way of a request that starts now; None if there is none yet."""

    def admits(self, now: float, under_way: int) -> bool:
        """Whether a request that arrives now is taken at all."""

    def serves(self, epoch: int, now: float) -> bool:
        """Whether nodes still have the blocks of ``epoch`` open."""

    def tick(self, now: float) -> None:
        """Time to think."""

    def found(self, node: int, now: float) -> None:
        """``node`` was found dead."""

    def heard(self, node: int, now: float) -> None:
        """``node`` is back."""

    def ended(self, now: float, *, late: bool) -> None:
        """A request was answered in time, or its deadline passed."""

    def fetching(self, node: int, now: float) -> bool:
        """Whether ``node`` is loading blocks over its link."""


@dataclass(slots=True)
class Request:
    """One arrival. ``answered`` is when, or None."""

    arrived: float
    attempt: int = 0
    epoch: int = -1
    legs: tuple[Leg, ...] = ()
    ran: list[int] = field(default_factory=list[int])
    """Epochs of the legs that ran in this attempt."""
    answered: float | None = None
    over: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of them all."""

    requests: list[Request]
    refused: int = 0
    breaches: int = 0
    """Executions of a block that must be trusted on a node that is not."""
    mixed: int = 0
    """Answers with legs of more than one epoch."""
    restarts: int = 0
    busy_s: list[float] = field(default_factory=lambda: [0.0] * len(cluster.NODES))
    moved_bytes: int = 0
    data_bytes: int = 0
    epochs: int = 0


class Kind(IntEnum):
    """Of an event; at one instant, in this order."""

    UP = 0
    DOWN = 1
    FOUND = 2
    HEARD = 3
    DONE = 4
    REACH = 5
    LOOK = 6
    DUE = 7
    TICK = 8
    ARRIVE = 9


_Event = tuple[float, int, int, int, int, int]
"""When, kind, order, and up to three numbers: request or node, attempt, leg."""


class Serving:
    """One method on one trace."""

    def __init__(self, trace: Trace, sizes: cluster.Sizes, method: Method) -> None:
        self._trace, self._sizes, self._method = trace, sizes, method
        self._agenda: list[_Event] = []
        self._order = 0
        nodes = len(cluster.NODES)
        self._up = [True] * nodes
        self._known_up = [True] * nodes
        self._free = [0.0] * nodes
        self._link_free = [[0.0] * nodes for _ in range(nodes)]
        self._present: list[dict[int, int]] = [{} for _ in range(nodes)]
        """Request and leg of those that are in a node."""
        self._stuck: list[dict[int, int]] = [{} for _ in range(nodes)]
        self._under_way = 0
        self.outcome = Outcome([Request(time_s) for time_s in trace.arrivals])

    def run(self) -> Outcome:
        """From the first event to the last request's end."""
        self._arm()
        while self._agenda:
            now, kind, _, one, two, three = heappop(self._agenda)
            match kind:
                case Kind.ARRIVE:
                    self._arrive(one, now)
                case Kind.REACH:
                    self._reach(one, two, three, now)
                case Kind.DONE:
                    self._done(one, two, three, now)
                case Kind.LOOK:
                    self._start(one, now)
                case Kind.DUE:
                    self._due(one, now)
                case Kind.TICK:
                    self._method.tick(now)
                case _:
                    self._fate(kind, one, now)
        self.outcome.mixed = sum(
            len(dict.fromkeys(request.ran)) > 1 for request in self.outcome.requests if request.answered is not None
        )
        return self.outcome

    def _arm(self) -> None:
        for index, request in enumerate(self.outcome.requests):
            self._at(request.arrived, Kind.ARRIVE, index)
        for node, outages in enumerate(self._trace.outages):
            for outage in outages:
                self._at(outage.begins_s, Kind.DOWN, node)
                self._at(outage.begins_s + outage.found_s, Kind.FOUND, node)
                self._at(outage.ends_s, Kind.UP, node)
                self._at(outage.ends_s + HEARD_AGAIN_S, Kind.HEARD, node)
        for count in range(int(self._trace.length_s / self._method.tick_s)):
            self._at(count * self._method.tick_s, Kind.TICK)

    def _at(self, time_s: float, kind: Kind, one: int = 0, two: int = 0, three: int = 0) -> None:
        self._order += 1
        heappush(self._agenda, (time_s, kind, self._order, one, two, three))

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _fate(self, kind: int, node: int, now: float) -> None:
        """Something happens to ``node``, or is found out about it."""
        match kind:
            case Kind.DOWN:
                self._up[node] = False
                self._stuck[node] |= self._present[node]
                self._present[node] = {}
                self._free[node] = 0.0
            case Kind.UP:
                self._up[node] = True
            case Kind.FOUND:
                self._known_up[node] = False
                self._method.found(node, now)
                stuck, self._stuck[node] = self._stuck[node], {}
                for index in stuck:
                    self._restart(index, now)
            case _:
                self._known_up[node] = True
                self._method.heard(node, now)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _arrive(self, index: int, now: float) -> None:
        self._under_way += 1
        if self._method.admits(now, self._under_way):
            self._at(now + DEADLINE_S, Kind.DUE, index)
            self._start(index, now)
        else:
            self.outcome.refused += 1
            self._end(index, None)

    def _restart(self, index: int, now: float) -> None:
        self.outcome.restarts += 1
        self._start(index, now)

    def _start(self, index: int, now: float) -> None:
        """From the beginning, whatever was done before."""
        request = self.outcome.requests[index]
        if self._gave_up(index, now):
            return
        request.attempt += 1
        request.ran.clear()
        route = self._method.route(now)
        if route is None:
            self._at(now + LOOK_S, Kind.LOOK, index)
            return
        request.epoch, request.legs = route.epoch, route.legs
        self._send(index, 0, cluster.INGRESS, now)

    def _send(self, index: int, leg: int, sender: int, now: float) -> None:
        request = self.outcome.requests[index]
        size = self._sizes.enter_bytes if leg == 0 else self._sizes.cut_bytes
        reached = self._cross(sender, request.legs[leg].node, size, now)
        self._at(reached, Kind.REACH, index, request.attempt, leg)

    def _cross(self, sender: int, receiver: int, size: int, now: float) -> float:
        """When ``size`` bytes are over."""
        if sender == receiver:
            return now
        begun = max(now, self._link_free[sender][receiver])
        factor = min(self._trace.link[sender].at(begun), self._trace.link[receiver].at(begun))
        if self._method.fetching(sender, begun) or self._method.fetching(receiver, begun):
            factor *= cluster.FETCH_LEAVES
        ended = begun + size / (cluster.bandwidth(sender, receiver) * factor)
        self._link_free[sender][receiver] = ended
        self.outcome.data_bytes += size
        return ended + cluster.rtt_s(sender, receiver)

    def _reach(self, index: int, attempt: int, leg: int, now: float) -> None:
        request = self.outcome.requests[index]
        if attempt != request.attempt or self._gave_up(index, now):
            return
        at = request.legs[leg]
        if not self._up[at.node]:
            if self._known_up[at.node]:
                self._stuck[at.node][index] = leg
            else:
                self._restart(index, now)
        elif not self._method.serves(request.epoch, now):
            self._restart(index, now)
        else:
            self._queue(index, leg, at, now)

    def _queue(self, index: int, leg: int, at: Leg, now: float) -> None:
        request = self.outcome.requests[index]
        begun = max(now, self._free[at.node])
        if begun > request.arrived + PATIENCE_S:
            self._end(index, None)  # nothing is run past its deadline
            return
        idle = 1.0 - self._trace.busy[at.node].at(begun)
        took = (at.last + 1 - at.first) / (cluster.SPEED[at.node] * self._trace.speedup[at.node] * idle)
        self._free[at.node] = begun + took
        self._present[at.node][index] = leg
        self._at(begun + took, Kind.DONE, index, request.attempt, leg)

    def _done(self, index: int, attempt: int, leg: int, now: float) -> None:
        request = self.outcome.requests[index]
        at = request.legs[leg] if leg < len(request.legs) else None
        if at is None or attempt != request.attempt or self._present[at.node].pop(index, None) is None:
            return  # the node died meanwhile
        self.outcome.busy_s[at.node] += (at.last + 1 - at.first) / cluster.SPEED[at.node]
        request.ran.append(request.epoch)
        if at.node not in cluster.TRUSTED:
            self.outcome.breaches += sum(cluster.needs_trust(block) for block in range(at.first, at.last + 1))
        if leg + 1 < len(request.legs):
            self._send(index, leg + 1, at.node, now)
        else:
            self._end(index, self._cross(at.node, cluster.INGRESS, self._sizes.leave_bytes, now))

    def _due(self, index: int, now: float) -> None:
        """A method learns of a missed deadline when it passes, as an ingress does, not when the answer comes."""
        answered = self.outcome.requests[index].answered
        if answered is None or answered > now:
            self._method.ended(now, late=True)

    def _gave_up(self, index: int, now: float) -> bool:
        request = self.outcome.requests[index]
        if now > request.arrived + PATIENCE_S:
            self._end(index, None)
        return request.over

    def _end(self, index: int, answered: float | None) -> None:
        request = self.outcome.requests[index]
        if request.over:
            return
        request.over = True
        self._under_way -= 1
        if answered is not None and answered <= request.arrived + PATIENCE_S:
            request.answered = answered
            if answered <= request.arrived + DEADLINE_S:
                self._method.ended(answered, late=False)
