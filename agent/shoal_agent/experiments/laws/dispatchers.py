"""Who gets a task: rule B of the core, and everything it has to beat.

Ours lists by digest, probes two, adds its own work in flight (``core/dispatch.py``). The baselines:

========================  ==========================================================================================
``central``               one controller that sees all nodes as they are now, and may send anywhere
``central-rtt``           the same, but what it sees is a round trip old when its word arrives, and at times it is away
``none``                  no cooperation: every task stays where it arrived
``jsq-stale``             the neighbour, or oneself, whose *digest* is shortest (join the shortest queue)
``power-of-two``          the shorter, by digest, of two that are drawn from oneself and the neighbours
``random``                any of oneself and the neighbours
========================  ==========================================================================================
"""

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Final

from shoal_agent.core.dispatch import InFlight, Offer, Task, score, settle, shortlist, to_probe
from shoal_agent.experiments.laws.network import Digest, Network
from shoal_protocol.ids import NodeId

STAY: Final = 0.0
"""What it costs to keep a task."""


@cache
def name_of(node: int) -> NodeId:
    """Sorted like the number."""
    return NodeId(f"n{node:04}")


def _number(node: NodeId) -> int:
    return int(node[1:])


def _task(network: Network, bias: float = 0.0) -> Task:
    return Task(deadline_slots=network.setting.deadline_slots, v=network.control.v, bias=bias)


def _offer(
    network: Network, node: int, service: int, told: Digest, *, price: float, in_flight: float = 0.0, age: int = 0
) -> Offer:
    rate = max(told.serving, 1) * network.setting.services[service].rate
    return Offer(name_of(node), told.pressure, told.waiting / rate, 0.0, price, in_flight, age)


def _fresh(network: Network, node: int, service: int) -> Digest:
    """What a probe would be told."""
    station = network.stations[node][service]
    return Digest(station.pressure, station.waiting, station.serving)


def _now(network: Network, there: int, service: int) -> Offer:
    """What a neighbour is worth, as it answers now."""
    return _offer(network, there, service, _fresh(network, there, service), price=network.setting.send)


@dataclass(slots=True)
class Ours:
    """Rule B."""

    rng: Random
    period: int = 1
    """A node tells its digest so often, in slots, each in its own turn; 0 reads every neighbour as it is now."""
    probes: bool = True
    corrected: bool = True
    """Whether own work in flight is added."""
    bias: float = 0.0
    _flight: dict[int, InFlight] = field(default_factory=dict[int, InFlight])
    _heard: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])

    def choose(self, network: Network, here: int, service: int) -> int:
        task = _task(network, self.bias)
        local = _offer(network, here, service, _fresh(network, here, service), price=STAY)
        flight = self._flight.setdefault(here, InFlight())
        near = network.setting.neighbours[here]
        listed = shortlist([self._listed(network, flight, here, there, service) for there in near], task, local)
        if self.probes:
            listed = to_probe(listed, self.rng)
            network.tally.probes += len(listed)
            for offer in listed:
                # The answer counts whatever of ours came there before.
                flight.heard(offer.node, network.now + 1, str(service))
            listed = tuple(_now(network, _number(offer.node), service) for offer in listed)
        best = settle(listed, task, local)
        assert best is not None, "the task may stay"
        if best != local.node:
            flight.sent(best, str(service), 1.0, network.now)
        return _number(best)

    def _listed(self, network: Network, flight: InFlight, here: int, there: int, service: int) -> Offer:
        if self.period == 0:
            return _now(network, there, service)
        age = (network.now + there) % self.period + 1
        if self._heard.get((here, there), -1) < network.now - age:
            self._heard[here, there] = network.now - age
            flight.heard(name_of(there), network.now - age + 1)
        sent = flight.of(name_of(there), str(service)) if self.corrected else 0.0
        told, send = network.past(there, service, age), network.setting.send
        return _offer(network, there, service, told, price=send, in_flight=sent, age=age)


@dataclass(slots=True)
class Central:
    """The same score over all nodes: as they are now, or as they were a round trip ago and what it sent there since."""

    round_trip: int = 0
    _slot: int = -1
    _last: int = 0
    """Where the last task went: the only score that can have changed in this slot."""
    _scores: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """Of every node, by service, before the price of sending."""
    _since: dict[tuple[int, int], deque[int]] = field(default_factory=dict[tuple[int, int], deque[int]])

    def choose(self, network: Network, here: int, service: int) -> int:
        if not network.central(network.now):
            return here
        if self._slot != network.now:
            self._slot = network.now
            self._scores.clear()
        nodes = range(network.setting.nodes)
        if service not in self._scores:
            self._scores[service] = [self._score(network, node, service) for node in nodes]
        scores = self._scores[service]
        scores[self._last] = self._score(network, self._last, service)
        there = min(nodes, key=scores.__getitem__)
        if scores[here] <= scores[there] + network.control.v * network.setting.send:
            there = here
        if self.round_trip:
            self._since.setdefault((there, service), deque()).append(network.now)
        self._last = there
        return there

    def _score(self, network: Network, node: int, service: int) -> float:
        if not self.round_trip:
            offer = _offer(network, node, service, _fresh(network, node, service), price=STAY)
            return score(offer, _task(network))
        since = self._since.get((node, service), deque())
        while since and since[0] <= network.now - self.round_trip:
            since.popleft()
        told = network.past(node, service, self.round_trip)
        offer = _offer(network, node, service, told, price=STAY, in_flight=float(len(since)))
        return score(offer, _task(network))


@dataclass(slots=True)
class Alone:
    """No cooperation."""

    def choose(self, network: Network, here: int, service: int) -> int:  # noqa: ARG002 -- the shape of a Dispatcher
        return here


@dataclass(slots=True)
class Shortest:
    """The shortest queue by digest, of oneself and ``drawn`` of the neighbours (0: all of them)."""

    rng: Random
    period: int = 1
    drawn: int = 0

    def choose(self, network: Network, here: int, service: int) -> int:
        among = [here, *network.setting.neighbours[here]]
        if self.drawn:
            among = self.rng.sample(among, min(self.drawn, len(among)))
        return min(among, key=lambda there: (self._length(network, here, there, service), there))

    def _length(self, network: Network, here: int, there: int, service: int) -> float:
        if there == here or self.period == 0:
            return _fresh(network, there, service).waiting
        return network.past(there, service, (network.now + there) % self.period + 1).waiting


@dataclass(slots=True)
class Anywhere:
    """At random."""

    rng: Random

    def choose(self, network: Network, here: int, service: int) -> int:  # noqa: ARG002 -- the shape of a Dispatcher
        return self.rng.choice([here, *network.setting.neighbours[here]])
