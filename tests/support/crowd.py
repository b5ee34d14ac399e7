"""A crowd that gossips and does nothing else: many real Gossipers, brokers and links in memory, on a virtual clock.

Brokers keep retained messages; links open when somebody sends. Both lose messages where a test says so.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

from shoal_agent.core.effects import Broadcast, SendFrame
from shoal_agent.core.events import EnvelopeReceived
from shoal_agent.core.voice import TTL_MS
from shoal_agent.sim.opening import Openings
from shoal_agent.sim.routing import Retained, Subscriptions
from shoal_protocol.envelope import seal
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import (
    Incarnation,
    Instant,
    NodeId,
    Sequence,
    node_id_of,
)
from shoal_protocol.messages import (
    ControlMessage,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.topics import shard_count, shard_of, topic_for
from tests.support.talker import CLUSTER, WALL_MS, Talker

DELAY_S: Final = (0.001, 0.01)


class Crowd:
    """Virtual time, brokers, links; ``names[i]`` is the i-th talker's."""

    def __init__(self, count: int, *, brokers: tuple[str, ...] = ("a", "b"), seed: int = 1, strangers: int = 0) -> None:
        """``strangers`` are in the roster and not (yet) here."""
        self.now = Instant(0.0)
        self.rng = Random(seed)
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = itertools.count()
        self.opener = Openings().open
        self.retained = {name: Retained() for name in brokers}
        self.subscriptions = {name: Subscriptions() for name in brokers}
        self.cut: set[tuple[str, str]] = set()
        self.loses: Callable[[NodeId, str, bytes], bool] = lambda node, topic, wire: False
        self.messages: Counter[NodeId] = Counter()
        self.bytes: Counter[NodeId] = Counter()
        root = Ed25519Sealer(bytes([1]) * 32)
        self.keys = [Ed25519Sealer((1000 + index).to_bytes(4) * 8) for index in range(count + strangers)]
        self.operator = Ed25519Sealer(bytes([2]) * 32)
        roles = [(key, Role.AGENT, key.public_key) for key in self.keys] + [(self.operator, Role.OPERATOR, b"")]
        members = tuple(
            Member(node_id_of(key.public_key), key.public_key, (role,), "home", certificate)
            for key, role, certificate in roles
        )
        wire = sign_roster(Roster(CLUSTER, 1, 4_000_000_000, (root.public_key,), 1, members), [root])
        self.roster = TrustedRoster.open(wire, (root.public_key,), 1, WALL_MS // 1000)
        self.talkers: dict[NodeId, Talker] = {}
        for key in self.keys[:count]:
            self.join(key)

    def join(self, key: Ed25519Sealer, incarnation: int = 1) -> Talker:
        talker = Talker(self, key, incarnation)
        self.talkers[talker.name] = talker
        talker.boot()
        for name in self.retained:
            self.subscriptions[name].set(talker.name, ())
            self.connect(name, talker)
        return talker

    def newcomer(self) -> Talker:
        return self.join(self.keys[len(self.talkers)])

    def connect(self, broker: str, talker: Talker) -> None:
        if (broker, talker.name) not in self.cut and not talker.gone:
            talker.broker(broker, up=True)

    def all(self) -> list[Talker]:
        return [talker for talker in self.talkers.values() if not talker.gone]

    # --- time -------------------------------------------------------------------------------------------------------

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self.ties), act))

    def wake(self, talker: Talker) -> None:
        deadline = talker.tables.timers.deadline()
        if deadline is not None and deadline != talker.armed:
            talker.armed = deadline
            self.later(max(0.0, deadline - self.now), lambda: talker.ring() if talker.armed == deadline else None)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.heap and self.heap[0][0] <= end:
            at, _, act = heapq.heappop(self.heap)
            self.now = Instant(max(self.now, at))
            act()
        self.now = Instant(end)

    def run_until(self, done: Callable[[], bool], seconds: float) -> float:
        """Seconds until ``done``, looked at ten times a second."""
        began = self.now
        while not done():
            assert self.now - began < seconds, "what was awaited did not come"
            self.run(0.1)
        return self.now - began

    # --- brokers and links ------------------------------------------------------------------------------------------

    def cut_broker(self, broker: str, *talkers: Talker) -> None:
        for talker in talkers or self.all():
            self.cut.add((broker, talker.name))
            self.subscriptions[broker].set(talker.name, ())
            talker.broker(broker, up=False)

    def mend_broker(self, broker: str, *talkers: Talker) -> None:
        for talker in talkers or self.all():
            self.cut.discard((broker, talker.name))
            self.connect(broker, talker)

    def cut_link(self, one: Talker, other: Talker) -> None:
        for pair in ((one.name, other.name), (other.name, one.name)):
            self.cut.add(pair)

    def subscribe(self, broker: str, talker: Talker) -> None:
        for topic, wire in self.retained[broker].under(self.subscriptions[broker].set(talker.name, talker.filters)):
            self._deliver(talker, EnvelopeReceived(broker, topic, wire, redelivered=True))

    def publish(self, source: Talker, effect: Broadcast) -> None:
        for broker in self.retained:
            if (broker, source.name) in self.cut:
                continue
            if effect.retain:
                self.retained[broker].keep(effect.topic, effect.wire)
            event = EnvelopeReceived(broker, effect.topic, effect.wire)
            for name in self.subscriptions[broker].hearers(effect.topic):
                if name != source.name and (broker, name) not in self.cut:
                    self._deliver(self.talkers[name], event)

    def send(self, source: Talker, effect: SendFrame) -> None:
        target = self.talkers.get(effect.peer)
        assert isinstance(effect.header, Gossip)
        assert isinstance(effect.payload, bytes)
        if target is None or target.gone or (source.name, effect.peer) in self.cut:
            self.later(0.01, lambda: source.gossip.linked(effect.peer, up=False))
            return
        source.gossip.linked(effect.peer, up=True)
        target.gossip.linked(source.name, up=True)
        self._deliver(target, EnvelopeReceived(f"peer:{source.name}", effect.header.topic, effect.payload))

    def _deliver(self, target: Talker, event: EnvelopeReceived) -> None:
        if target.gone or self.loses(target.name, event.topic, event.wire):
            return
        self.messages[target.name] += 1
        self.bytes[target.name] += len(event.topic) + len(event.wire)
        self.later(self.rng.uniform(*DELAY_S), lambda: target.receive(event))

    # --- what tests ask ---------------------------------------------------------------------------------------------

    def agreed(self) -> bool:
        """Whether all tables of one share are equal."""
        first: dict[int, object] = {}
        return all(
            first.setdefault(talker.gossip.records.home, talker.table()) == talker.table() for talker in self.all()
        )


def settled(count: int, **options: int) -> Crowd:
    crowd = Crowd(count, **options)
    crowd.run(3)
    crowd.run_until(crowd.agreed, 30)
    return crowd


def brokerless(count: int) -> Crowd:
    """Everybody knows everybody, and no broker is left."""
    crowd = settled(count)
    for broker in crowd.retained:
        crowd.cut_broker(broker)
    return crowd


def says(
    crowd: Crowd, speaker: Talker, message: ControlMessage, hearer: Talker, *, life: int = 1, sequence: int = 10**6
) -> None:
    """``hearer`` hears ``message`` in ``speaker``'s name."""
    wire = sealed(crowd, speaker, message, life=life, sequence=sequence)
    crowd._deliver(hearer, received(crowd, speaker, message, wire))
    crowd.run(0.02)


def sealed(crowd: Crowd, speaker: Talker, message: ControlMessage, *, life: int = 1, sequence: int = 10**6) -> bytes:
    wall_ms = WALL_MS + int(crowd.now * 1000)
    return seal(speaker.key, CLUSTER, speaker.name, Incarnation(life), Sequence(sequence), TTL_MS, wall_ms, message)


def received(crowd: Crowd, speaker: Talker, message: ControlMessage, wire: bytes) -> EnvelopeReceived:
    shard = shard_of(speaker.name, shard_count(crowd.roster.agent_count))
    return EnvelopeReceived("a", topic_for(CLUSTER, speaker.name, message, shard), wire)
