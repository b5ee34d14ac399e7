"""One who gossips and does nothing else: the gate, the voice and the tables of a node, and the glue between them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from shoal_agent.core.effects import AdoptIncarnation, Broadcast, Effect, Listen, SendFrame
from shoal_agent.core.events import EnvelopeReceived, Sampled
from shoal_agent.core.gate import DuplicateEnvelope, Gate
from shoal_agent.core.gossip import Fact, Gossiper, Relayed
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import Envelope, seal
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.ids import (
    ClusterId,
    DeploymentId,
    Digest,
    Epoch,
    Incarnation,
    Instant,
    NodeId,
    Sequence,
    node_id_of,
)
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import (
    Capacity,
    Cause,
    Certified,
    ControlMessage,
    DeploymentPhase,
    Endpoint,
    Head,
    Load,
    NodePhase,
    PhaseReported,
    Plan,
    PlanAnnounced,
    PlanStage,
)
from shoal_protocol.replay import HeardBefore
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.topics import agent_filters, home_shard

CLUSTER: Final = ClusterId("ab" * 16)
WALL_MS: Final = 1_700_000_000_000
SAMPLE_S: Final = 5.0
GB: Final = 10**9


def a_plan(deployment: str, hosts: Iterable[NodeId], epoch: int = 0, voters: Iterable[NodeId] = ()) -> Plan:
    stages = tuple(PlanStage(host, index, index) for index, host in enumerate(hosts))
    name = DeploymentId(deployment)
    cause = Cause.GAIN if epoch else Cause.GENESIS
    return Plan(name, Epoch(epoch), GENESIS_PARENT, Digest(bytes(32)), 512, stages, voters=tuple(voters), cause=cause)


@dataclass
class Deeds:
    """Chains that believe whatever follows their head."""

    wires: dict[DeploymentId, list[bytes]] = field(default_factory=dict)

    def heads(self) -> tuple[Head, ...]:
        return tuple(Head(name, Epoch(len(wires) - 1)) for name, wires in sorted(self.wires.items()))

    def after(self, deployment: DeploymentId, epoch: Epoch | None, now: Instant) -> Iterator[bytes]:
        yield from self.wires[deployment][0 if epoch is None else epoch + 1 :]

    def add(self, plan: Plan, wire: bytes) -> None:
        if plan.epoch == len(self.wires.get(plan.deployment, ())):
            self.wires.setdefault(plan.deployment, []).append(wire)


class Talker:
    """One life of one node."""

    def __init__(self, crowd: Any, key: Ed25519Sealer, incarnation: int) -> None:
        self.crowd = crowd
        self.key = key
        self.name = node_id_of(key.public_key)
        self.tables = Tables()
        config = CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1000), "", GB, "test")
        self.voice = Voice(config, Identity(self.name, Incarnation(incarnation), key, crowd.roster))
        self.gate = Gate(CLUSTER, self.name, crowd.roster, crowd.opener)
        self.deeds = Deeds()
        self.gossip = Gossiper(config, self.tables, self.voice, self.gate, self.deeds, Random(crowd.rng.random()))
        self.filters = agent_filters(CLUSTER, self.name, (home_shard(self.name, crowd.roster),))
        self.dead: tuple[NodeId, ...] = ()
        self.gone = False
        self.load = Load(0, GB, None, 0, 0)
        self.capacity = Capacity(1, GB, GB, GB, GB, ("CPU",))
        self.heard: list[tuple[ControlMessage, bool]] = []
        self.facts: list[Fact] = []
        self.effects: list[Effect] = []
        self.armed: Instant | None = None

    def boot(self) -> None:
        self.tables.phase = NodePhase.READY
        self.sample()
        self.gossip.begin(self.crowd.now)
        self.crowd.wake(self)

    # --- what happens -----------------------------------------------------------------------------------------------

    def act(self, deed: Callable[[Outbox], None]) -> None:
        if self.gone:
            return
        out = Outbox(self.name)
        deed(out)
        self.effects += out.effects
        for effect in out.effects:
            self.perform(effect)
        self.crowd.wake(self)

    def sample(self) -> None:
        def deed(out: Outbox) -> None:
            wall_ms = WALL_MS + int(self.crowd.now * 1000)
            self.voice.sense(Sampled(self.capacity, self.load, wall_ms), self.crowd.now)
            self.gossip.sensed(0, 0, self.crowd.now)

        self.act(deed)
        self.crowd.later(SAMPLE_S, lambda: None if self.gone else self.sample())

    def ring(self) -> None:
        self.armed = None
        self.act(self._ring)
        self.gossip.records.check()

    def _ring(self, out: Outbox) -> None:
        now, gossip = self.crowd.now, self.gossip
        for alarm in self.tables.timers.due(now):
            match alarm:
                case Routine.HEARTBEAT:
                    gossip.beat(0, now, out)
                case Routine.RECORD_SOON:
                    gossip.freshen(0, 0, now, out)
                case Routine.DRIFT | Routine.REFRESH:
                    gossip.publish(0, 0, now, out)
                case Routine.EXCHANGE:
                    gossip.round(self.dead, now, out)
                case Routine.PURSUE:
                    gossip.pursue(now, out)
                case _:
                    raise AssertionError(alarm)

    def broker(self, name: str, *, up: bool) -> None:
        if self.tables.brokers.get(name) == up:
            return
        self.tables.brokers[name] = up
        if up:
            self.crowd.subscribe(name, self)
            self.act(lambda out: self.gossip.publish(0, 0, self.crowd.now, out))

    def receive(self, event: EnvelopeReceived) -> None:
        self.act(lambda out: self._receive(event, out))

    def _receive(self, event: EnvelopeReceived, out: Outbox) -> None:
        now = self.crowd.now
        try:
            envelope = self.gate.open(event, self.voice.wall_ms(now))
        except DuplicateEnvelope:
            return
        except HeardBefore as fault:
            self.tables.rejected[fault.reason] += 1
            self.facts += self.gossip.replayed(fault.envelope, event.wire, now, out)
            return
        except RemoteProtocolError as fault:
            self.tables.rejected[fault.reason] += 1
            return
        facts = self.gossip.heard(envelope, event.wire, now, out, fresh=not event.redelivered)
        self.facts += facts
        for fact in facts:
            if isinstance(fact, Relayed):
                self._take(fact.envelope, fact.wire, fresh=False)
        self._take(envelope, event.wire, fresh=not event.redelivered)

    def _take(self, envelope: Envelope, wire: bytes, *, fresh: bool) -> None:
        self.heard.append((envelope.message, fresh))
        if isinstance(envelope.message, Certified | PlanAnnounced):
            self.deeds.add(decode_plan(envelope.message.plan), wire)

    def perform(self, effect: Effect) -> None:
        match effect:
            case Broadcast():
                self.crowd.publish(self, effect)
            case SendFrame():
                self.crowd.send(self, effect)
            case Listen(shards):
                self.filters = agent_filters(CLUSTER, self.name, shards)
                for broker, up in self.tables.brokers.items():
                    if up:
                        self.crowd.subscribe(broker, self)
            case AdoptIncarnation():
                assert effect.incarnation > 0
            case _:
                pass

    # --- what tests do ----------------------------------------------------------------------------------------------

    def decide(self, plan: Plan) -> None:
        """This node knows a proof of ``plan``, nobody else does."""
        raw = encode_plan(plan)
        if plan.epoch == 0:
            operator, wall_ms = self.crowd.operator, self.voice.wall_ms(self.crowd.now)
            name, number = node_id_of(operator.public_key), Sequence(1)
            wire = seal(operator, CLUSTER, name, Incarnation(1), number, TTL_MS_MAX, wall_ms, PlanAnnounced(raw))
        else:
            wire = self.voice.seal(Certified(raw, 0, ()), self.crowd.now)
        self.deeds.add(plan, wire)

    def adopt(self, plan: Plan) -> None:
        """This node has to do with ``plan``."""
        assert self.tables.tenures.add(plan, Digest(bytes(32))) is not None
        self.act(self.gossip.regroup)

    def report(self, deployment: str, phase: DeploymentPhase) -> None:
        """This node says how far it is."""
        said = PhaseReported(DeploymentId(deployment), Epoch(0), Digest(bytes(32)), phase, "")

        def deed(out: Outbox) -> None:
            self.voice.say(said, self.crowd.now, out, retain=True)

        self.act(deed)

    def change(self, *services: str) -> None:
        self.tables.services = services
        self.act(lambda out: self.tables.changed(self.crowd.now))

    def knows(self, other: "Talker") -> tuple[str, ...] | None:
        """The services that this node believes ``other`` to have."""
        peer = self.tables.membership.peer(other.name)
        return None if peer is None else peer.state.services

    def root(self) -> bytes:
        return self.gossip._exchange.root()

    def table(self) -> object:
        self.root()
        return self.gossip.records.stamps(self.gossip.records.home), self.deeds.heads()

    def said(self, kind: type[ControlMessage]) -> list[tuple[Envelope, Broadcast]]:
        opened = [
            (self.crowd.opener(effect.wire, None, self.crowd.roster, CLUSTER), effect)
            for effect in self.effects
            if isinstance(effect, Broadcast)
        ]
        return [(envelope, effect) for envelope, effect in opened if isinstance(envelope.message, kind)]
