"""The brokers between the nodes, and each node's links to all of them.

A broker keeps retained messages and hands every message to everybody else that subscribed to its topic. What a node
publishes reaches one broker in order; what a broker delivers may come late, twice, out of order or not at all. A broker
that is down loses its connections at once; one that is frozen, or cut off from a node, only stays silent until the
node's probes give it up. Retained messages survive a restart (our template sets ``persistence``). A connection that
breaks leaves the last will behind.

The hearers of one message share one event, and are handed it in at most ``LANES_MAX`` goes: each lane is late by its
own, so a world of few nodes sees every order there is, and a world of thousands is not busy sorting deliveries. Nodes
of such a world may also read their sockets only every ``bundle_s``: what came meanwhile is handled in one go, which
spares the processor's caches (a third of the time with 1,000 nodes) and changes no count. Nothing is cut off there.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived
from shoal_agent.sim.agenda import Agenda
from shoal_agent.sim.routing import Retained, Subscriptions
from shoal_agent.sim.weather import Weather
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import BROKER_PROBE_S, BROKER_RETRY_S_MIN

GIVEN_UP_S: Final = 2 * BROKER_PROBE_S
"""A silent broker is probed, and down if that is not answered for as long again."""
RETRY_S_MAX: Final = 2.0
"""Attempts to connect again come within this; the real ones back off further, up to BROKER_RETRY_S_MAX."""
LANES_MAX: Final = 8
"""Moments at which one message arrives somewhere: more than the nodes of most worlds."""


class Client(Protocol):
    """A life of a node, as brokers know it."""

    @property
    def alive(self) -> bool: ...

    @property
    def filters(self) -> tuple[str, ...]: ...

    def post(self, event: BrokerConnected | BrokerLost | EnvelopeReceived) -> None: ...

    def read(self, events: list[EnvelopeReceived]) -> None: ...

    def will(self, broker: str, connection: int) -> Broadcast: ...


@dataclass(slots=True, eq=False)
class _Connection:
    node: NodeId
    number: int
    client: Client
    will: Broadcast
    open: bool = True
    unread: list[EnvelopeReceived] = field(default_factory=list)
    """What waits until the node reads its socket."""


@dataclass
class _Broker:
    name: str
    up: bool = True
    frozen: bool = False
    retained: Retained = field(default_factory=Retained)
    subscriptions: Subscriptions[_Connection] = field(default_factory=Subscriptions)
    links: dict[NodeId, _Connection] = field(default_factory=dict)
    stuck: list[tuple[NodeId | None, Broadcast]] = field(default_factory=list)
    """What came in while it was frozen, in order."""


class Brokers:
    """All brokers of one world."""

    def __init__(
        self, names: tuple[str, ...], agenda: Agenda, weather: Weather, rng: Random, bundle_s: float = 0.0
    ) -> None:
        self._agenda = agenda
        self._bundle_s = bundle_s
        self._lanes_max = 1 if bundle_s else LANES_MAX
        self._unread: list[_Connection] = []
        """Those on which something waits, in order."""
        self._weather = weather
        self._rng = rng
        self._brokers = {name: _Broker(name) for name in names}
        self._clients: dict[NodeId, Client] = {}
        self._cut: dict[tuple[str, NodeId], bool] = {}
        self._last: dict[tuple[str, NodeId], float] = {}
        self._connections = 0
        self.carried = 0
        """Messages delivered to nodes."""
        self.carried_bytes = 0

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._brokers)

    def connected(self, broker: str, node: NodeId) -> bool:
        """Whether ``node`` has a link to ``broker``."""
        return node in self._brokers[broker].links

    # --- connections ----------------------------------------------------------------------------------------------

    def attach(self, node: NodeId, client: Client) -> None:
        """A life of ``node`` begins: it connects to every broker."""
        self._clients[node] = client
        for broker in self._brokers.values():
            self._connect_soon(broker, node, 0.0)

    def detach(self, node: NodeId, *, farewell: bool = False) -> None:
        """``node`` is gone; the brokers notice, and say its will unless it said ``farewell``."""
        self._clients.pop(node)
        for broker in self._brokers.values():
            self._break(broker, node, None, farewell=farewell)

    def _connect_soon(self, broker: _Broker, node: NodeId, earliest_s: float) -> None:
        client = self._clients[node]
        delay_s = earliest_s + self._rng.uniform(0.0, RETRY_S_MAX if earliest_s else 0.1)
        self._agenda.after(delay_s, lambda: self._connect(broker, node, client))

    def _connect(self, broker: _Broker, node: NodeId, client: Client) -> None:
        if self._clients.get(node) is not client or not client.alive or node in broker.links:
            return
        if not broker.up or broker.frozen or (broker.name, node) in self._cut:
            self._connect_soon(broker, node, BROKER_RETRY_S_MIN)
            return
        self._connections += 1
        number = self._connections
        broker.links[node] = _Connection(node, number, client, client.will(broker.name, number))
        client.post(BrokerConnected(broker.name))
        self._subscribe(broker, node, client.filters)

    def subscribe(self, node: NodeId) -> None:
        """``node`` changed its filters: every broker it reaches takes note, the others when it connects."""
        filters = self._clients[node].filters
        for broker in self._brokers.values():
            if node in broker.links:
                self._subscribe(broker, node, filters)

    def _subscribe(self, broker: _Broker, node: NodeId, filters: tuple[str, ...]) -> None:
        link = broker.links[node]
        fresh = broker.subscriptions.set(link, filters)
        for topic, wire in broker.retained.under(fresh):
            self._deliver(broker, [link], EnvelopeReceived(broker.name, topic, wire, redelivered=True))

    def _break(self, broker: _Broker, node: NodeId, reason: str | None, *, farewell: bool = False) -> None:
        """The connection is over; ``reason`` is what the node is told, None if nobody is there to tell."""
        connection = broker.links.pop(node, None)
        if connection is None:
            return
        connection.open = False
        broker.subscriptions.drop(connection)
        if not farewell:
            self._take_in(broker, None, connection.will)
        client = self._clients.get(node)
        if reason is not None and client is not None:
            client.post(BrokerLost(broker.name, reason))
            self._connect_soon(broker, node, BROKER_RETRY_S_MIN)

    def _give_up(self, broker: _Broker, node: NodeId, number: int) -> None:
        connection = broker.links.get(node)
        silent = broker.frozen or (broker.name, node) in self._cut
        if connection is not None and connection.number == number and silent:
            self._break(broker, node, "no answer")

    # --- what befalls brokers -------------------------------------------------------------------------------------

    def stop(self, name: str) -> None:
        """The process ends: every connection breaks at once."""
        broker = self._brokers[name]
        broker.up = False
        for node in list(broker.links):
            self._break(broker, node, "reset")

    def start(self, name: str) -> None:
        """It is back, with what it retained."""
        self._brokers[name].up = True

    def freeze(self, name: str) -> None:
        """It keeps its connections and does nothing."""
        broker = self._brokers[name]
        broker.frozen = True
        for node, connection in broker.links.items():
            self._watch(broker, node, connection.number)

    def thaw(self, name: str) -> None:
        """It goes on where it stopped."""
        broker = self._brokers[name]
        broker.frozen = False
        stuck, broker.stuck = broker.stuck, []
        for source, effect in stuck:
            self._take_in(broker, source, effect)

    def cut(self, name: str, node: NodeId) -> None:
        """Nothing passes between the two any more."""
        broker = self._brokers[name]
        self._cut[name, node] = True
        connection = broker.links.get(node)
        if connection is not None:
            self._watch(broker, node, connection.number)

    def mend(self, name: str, node: NodeId) -> None:
        """They reach each other again."""
        self._cut.pop((name, node), None)

    def _watch(self, broker: _Broker, node: NodeId, number: int) -> None:
        self._agenda.after(GIVEN_UP_S, lambda: self._give_up(broker, node, number))

    # --- messages -------------------------------------------------------------------------------------------------

    def publish(self, node: NodeId | None, effect: Broadcast) -> None:
        """``node`` (None: a command, connected for the moment) says ``effect`` to every broker it reaches."""
        for broker in self._brokers.values():
            if node is None or (node in broker.links and (broker.name, node) not in self._cut):
                self._arrive(broker, node, effect)

    def inject(self, name: str, topic: str, wire: bytes) -> None:
        """Somebody who controls the broker makes it say ``wire``."""
        self._fan_out(self._brokers[name], None, topic, wire)

    def _arrive(self, broker: _Broker, node: NodeId | None, effect: Broadcast) -> None:
        at_s = self._agenda.now + self._rng.uniform(*self._weather.broker_s)
        if node is not None:
            at_s = max(at_s, self._last.get((broker.name, node), 0.0))
            self._last[broker.name, node] = at_s
        self._agenda.at(at_s, lambda: self._take_in(broker, node, effect))

    def _take_in(self, broker: _Broker, source: NodeId | None, effect: Broadcast) -> None:
        if broker.frozen:
            broker.stuck.append((source, effect))
            return
        if not broker.up or (source is not None and (broker.name, source) in self._cut):
            return
        if effect.retain:
            broker.retained.keep(effect.topic, effect.wire)
        self._fan_out(broker, source, effect.topic, effect.wire)

    def _fan_out(self, broker: _Broker, source: NodeId | None, topic: str, wire: bytes) -> None:
        loss, twice, draw = self._weather.message_loss, self._weather.duplicate, self._rng.random
        own = None if source is None else broker.links.get(source)
        links = [link for link in broker.subscriptions.hearers(topic) if link is not own]
        if loss:
            links = [link for link in links if draw() >= loss]
        if twice:
            links += [link for link in links if draw() < twice]
        self._deliver(broker, links, EnvelopeReceived(broker.name, topic, wire))

    def _deliver(self, broker: _Broker, links: list[_Connection], event: EnvelopeReceived) -> None:
        """``event`` reaches ``links``, in lanes that are late by different times."""
        uniform, weather = self._rng.uniform, self._weather
        lanes = min(len(links), self._lanes_max)
        for lane in range(lanes):
            delay_s = uniform(*weather.broker_s) + uniform(0.0, weather.reorder_s)
            self._hand_over_after(delay_s, broker.name, links[lane::lanes], event)

    def _hand_over_after(self, delay_s: float, broker: str, links: list[_Connection], event: EnvelopeReceived) -> None:
        act = self._hand_over if self._bundle_s == 0.0 else self._bundle
        self._agenda.after(delay_s, lambda: act(broker, links, event))

    def _hand_over(self, broker: str, links: list[_Connection], event: EnvelopeReceived) -> None:
        cut = self._cut
        for link in links:
            if link.open and not (cut and (broker, link.node) in cut):
                self.carried += 1
                self.carried_bytes += len(event.wire)
                link.client.post(event)

    def _bundle(self, _: str, links: list[_Connection], event: EnvelopeReceived) -> None:
        if not self._unread:
            self._agenda.after(self._bundle_s, self._read)
        for link in links:
            if not link.unread:
                self._unread.append(link)
            link.unread.append(event)

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        # Who hears the same reads one after the other: then what is heard is in the processor's caches.
        unread.sort(key=lambda link: link.client.filters[0])
        for link in unread:
            events, link.unread = link.unread, []
            if link.open:
                self.carried += len(events)
                self.carried_bytes += sum([len(event.wire) for event in events])
                link.client.read(events)
