"""How a node speaks: everything it says to the cluster is sealed here, numbered here, and leaves from here.

One counter numbers all envelopes of one life, whatever they are about, so that any two of them can be told apart and
put into order. What is said goes to every broker; what must arrive even when all brokers are gone goes directly to
the nodes it concerns as well, as a ``Gossip`` frame: to the hearer a link is one more broker, and a copy is a copy.

Wall-clock time enters only as a field for strangers to judge; it is the sensors' last reading, carried on by the
monotonic clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core.budgets import NO_TERMS, Terms
from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import Sampled
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.records import RECORD_KINDS, Record
from shoal_agent.core.service_classes import RequestClass
from shoal_protocol.envelope import seal
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import ClusterId, Incarnation, Instant, NodeId, Sequence
from shoal_protocol.light import DigestTold
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import ControlMessage, Endpoint, Heartbeat, LinkDeath
from shoal_protocol.replay import Slot, slot_of
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.sealing import Sealer
from shoal_protocol.topics import home_shard, topic_for

TTL_MS: Final = 300_000
"""Age at which a broadcast is refused: far above any delay, and above the clock skew we tolerate."""

RECORDS_MAX: Final = 64
"""Own records remembered word for word: a forgotten life is shown to a node in its first seconds."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What a node knows of itself before anything happens."""

    cluster: ClusterId
    data: Endpoint
    api: str
    kv_bytes_max: int
    software: str
    leave_s_max: float = 10.0
    """How long others get to take over when this node is asked to stop."""
    terms: Terms = NO_TERMS
    """What it may draw, cost, and how hot it may get."""
    classes: tuple[RequestClass, ...] = ()
    """What it promises its own clients."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is: its id, its boot counter, its key, and whom it trusts."""

    node: NodeId
    incarnation: Incarnation
    sealer: Sealer
    roster: TrustedRoster


class Voice:
    """Seals what this node says."""

    def __init__(self, config: CoreConfig, identity: Identity) -> None:
        self._config = config
        self._identity = identity
        self._shard = home_shard(identity.node, identity.roster)
        self._sampled: Sampled | None = None
        self._sampled_at = Instant(0.0)
        self._sequence = 0
        self.lasting: dict[Slot, Record] = {}
        """What was said of itself in this life and stands: gossip passes it on to whoever missed it."""
        self._records: dict[Sequence, bytes] = {}
        self._records_since = Sequence(0)

    @property
    def identity(self) -> Identity:
        """Who speaks, in its present life."""
        return self._identity

    @property
    def sequence(self) -> Sequence:
        """The number of the last thing said."""
        return Sequence(self._sequence)

    @property
    def sampled(self) -> Sampled:
        """The last reading of the sensors."""
        assert self._sampled is not None, "the shell samples before anything else"
        return self._sampled

    def sense(self, reading: Sampled, now: Instant) -> None:
        """The sensors were read."""
        self._sampled = reading
        self._sampled_at = now

    def wall_ms(self, now: Instant) -> int:
        """Unix time, as the last sensor reading had it, carried on by the monotonic clock."""
        reading = self._sampled
        assert reading is not None, "the shell samples before anything else"
        return reading.wall_ms + int((now - self._sampled_at) * 1000)

    def be_reborn(self, incarnation: Incarnation) -> None:
        """Go on as a later life; the caller has seen to it that the counter is durable."""
        assert incarnation > self._identity.incarnation, "a life is never lived twice"
        self._identity = replace(self._identity, incarnation=incarnation)
        self._sequence = 0
        self._records_since = Sequence(0)
        self._records.clear()
        self.lasting.clear()

    def seal(self, message: ControlMessage, now: Instant, ttl_ms: int = TTL_MS) -> bytes:
        """``message`` as it travels, with the next number of this life."""
        self._sequence += 1
        who = self._identity
        number, wall_ms = Sequence(self._sequence), self.wall_ms(now)
        return seal(who.sealer, self._config.cluster, who.node, who.incarnation, number, ttl_ms, wall_ms, message)

    def say(
        self,
        message: ControlMessage,
        now: Instant,
        out: Outbox,
        *,
        retain: bool = False,
        direct: Iterable[NodeId] = (),
        ttl_ms: int = TTL_MS,
    ) -> bytes:
        """Tell every broker, and the nodes ``direct`` by frames as well; the sealed wire.

        ``retain``: brokers keep it for those who come later. All but heartbeats and digests are taken at least
        once; the next of those is sooner there than a repetition of the last.
        """
        topic = self.topic_of(message)
        wire = self.seal(message, now, ttl_ms)
        out.add(Broadcast(topic, wire, retain, not isinstance(message, Heartbeat | DigestTold), ttl_ms // 1000))
        for peer in direct:
            if peer != self._identity.node:
                out.send(peer, Gossip(topic), wire)
        if isinstance(message, RECORD_KINDS):
            self._remember(message, wire)
        return wire

    def _remember(self, message: ControlMessage, wire: bytes) -> None:
        slot = slot_of(message)
        self.lasting[slot] = Record(self.sequence, wire, slot)
        self._records[self.sequence] = wire
        if len(self._records) > RECORDS_MAX:
            oldest = next(iter(self._records))
            del self._records[oldest]
            self._records_since = Sequence(oldest + 1)

    def said(self, sequence: Sequence, record: bytes) -> bool:
        """Whether ``record``, of this life as it says, is a word of it: what is too long ago to tell counts as said."""
        if sequence > self._sequence:
            return False
        return sequence < self._records_since or self._records.get(sequence) == record

    def tell(self, peer: NodeId, message: ControlMessage, now: Instant, out: Outbox, *, direct: bool) -> None:
        """Tell ``peer`` alone: by a frame if ``direct``, else in its inbox on the brokers."""
        topic = self.topic_of(message)
        wire = self.seal(message, now)
        if direct:
            out.send(peer, Gossip(topic), wire)
        else:
            out.add(Broadcast(topic, wire, retain=False, at_least_once=False, expiry_s=TTL_MS // 1000))

    def topic_of(self, message: ControlMessage) -> str:
        """Where this node says ``message``."""
        return topic_for(self._config.cluster, self._identity.node, message, self._shard)

    def will(self, broker: str, connection: int, now: Instant) -> tuple[str, bytes]:
        """Topic and wire of the last will for one connection to one broker; it may lie there for years."""
        message = LinkDeath(connection, broker)
        return self.topic_of(message), self.seal(message, now, TTL_MS_MAX)
