"""The conductor: the one state machine of an agent.

    handle(event, now) -> effects      everything that happens goes through here
    deadline()                         when to come back with TimePassed
    check()                            every invariant, asserted
    snapshot()                         what it believes, frozen

It reads no clock, draws no randomness of its own, waits for nothing and never raises on what a peer sent: bytes that
are nonsense are counted and dropped. The same class runs in the agent and in the simulator. Its conductors share
``tables``: ``gossip`` tells and hears what is believed, ``staging`` brings plans to life, ``ingress`` serves this
node's clients, ``host`` serves the stages this node holds; everything below them only calculates.
"""

from collections.abc import Iterator
from random import Random
from typing import assert_never

from shoal_agent.core.calls import Calls
from shoal_agent.core.effects import Effect, ReleaseTensor, Stop
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    BrokerConnected,
    BrokerLost,
    CancelRequested,
    EnvelopeReceived,
    Event,
    FrameReceived,
    LockChanged,
    ModelAvailable,
    ModelMissing,
    PeerConnected,
    PeerLost,
    PeerMisbehaved,
    RequestArrived,
    Restored,
    Sampled,
    ServiceFailed,
    ServiceReturned,
    ServicesAvailable,
    Solved,
    StageFailed,
    StageFinished,
    StopRequested,
    TimePassed,
)
from shoal_agent.core.gate import DuplicateEnvelope, Gate, HeardBefore, Opener, open_addressed
from shoal_agent.core.gossip import Fact, Forked, Gossiper, Reborn, Relayed
from shoal_agent.core.host import Host
from shoal_agent.core.ingress import Ingress
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.staging import Staging
from shoal_agent.core.story import Story
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import HostDeadline, ProbeDue, RelayDue, RequestDeadline, Routine, SuspicionDue
from shoal_agent.core.view import NodeView, view_of
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.headers import (
    Activation,
    CloseSession,
    ContentRequested,
    ContentServed,
    Credit,
    Gossip,
    Header,
    Hello,
    OpenSession,
    Ping,
    PingAnswered,
    PingReported,
    PingRequested,
    Probe,
    ProbeAnswered,
    ServiceCall,
    ServiceResult,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, digest_of
from shoal_protocol.messages import (
    Ack,
    Head,
    Heartbeat,
    LinkDeath,
    NodePhase,
    NodeState,
    PhaseReported,
    PlanAnnounced,
    Syn,
    SynAck,
)


class Node:
    """One agent's mind."""

    def __init__(
        self, config: CoreConfig, identity: Identity, rng: Random, now: Instant, opener: Opener = open_addressed
    ) -> None:
        self._node = identity.node
        self._tables = Tables()
        self._voice = Voice(config, identity)
        self._gate = Gate(config.cluster, identity.node, identity.roster, opener)
        self._calls = Calls(identity.node)
        tables = self._tables
        self._announced = _Announced()
        self._gossip = Gossiper(config, tables, self._voice, self._gate, self._announced, rng)
        self._staging = Staging(tables, self._voice)
        self._host = Host(identity.node, tables.tenures, tables.models, config.kv_bytes_max, tables.timers)
        self._ingress = Ingress(identity.node, tables.tenures, tables.membership, self._calls, tables.timers)
        self._gossip.begin(now)

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take in one event; return what is to be done about it, in order."""
        out = Outbox(self._node)
        self._route(event, now, out)
        while out.loopback:
            header, payload = out.loopback.popleft()
            self._frame(self._node, header, payload, now, out)
        return out.effects

    def deadline(self) -> Instant | None:
        """When to call ``handle(TimePassed())`` if nothing else happens before."""
        return self._tables.timers.deadline()

    def will(self, broker: str, connection: int, now: Instant) -> tuple[str, bytes]:
        """Topic and wire of the last will for one connection to one broker, signed in advance."""
        return self._voice.will(broker, connection, now)

    def check(self) -> None:
        """Assert every invariant."""
        self._tables.tenures.check()
        self._host.check()
        self._ingress.check()

    def snapshot(self, now: Instant) -> NodeView:
        """What this node believes at ``now``."""
        return view_of(self._voice.identity, self._tables, self._host, self._ingress, now)

    def story(self) -> Story:
        """Why things came to be as they are."""
        return self._tables.story

    # --- routing --------------------------------------------------------------------------------------------------

    def _route(self, event: Event, now: Instant, out: Outbox) -> None:
        match event:
            case FrameReceived():
                self._frame(event.peer, event.header, event.payload, now, out)
            case StageFinished():
                self._host.finished(event, now, self._calls.fresh(), out)
            case StageFailed():
                self._host.failed(event, out)
            case ServiceReturned() | ServiceFailed():
                self._answered(event, now, out)
            case EnvelopeReceived():
                self._envelope(event, now, out)
            case TimePassed():
                self._time_passed(now, out)
            case RequestArrived():
                self._ingress.arrived(event, now, out)
            case CancelRequested():
                self._ingress.cancel(event, out)
            case PeerLost():
                self._peer_lost(event.peer, out)
            case PeerConnected():
                out.count("links_opened", "data")
                self._gossip.linked(event.peer, up=True)
            case PeerMisbehaved():
                self._misbehaved(event, out)
            case BrokerConnected() | BrokerLost():
                self._broker(event, now, out)
            case _:
                self._local(event, now, out)

    def _local(
        self,
        event: Sampled
        | ModelAvailable
        | ModelMissing
        | ServicesAvailable
        | Restored
        | BlocksLoaded
        | BlocksFailed
        | Solved
        | LockChanged
        | StopRequested,
        now: Instant,
        out: Outbox,
    ) -> None:
        match event:
            case Sampled():
                self._voice.sense(event, now)
                self._gossip.sensed(self._host.session_count, self._host.kv_bytes, now)
            case ModelAvailable():
                self._staging.model_available(event.facts, now, out)
            case ModelMissing(model, reason):
                out.note("warning", "package missing", model=model.hex()[:16], why=reason)
            case ServicesAvailable():
                self._tables.services = self._ingress.services = event.names
                self._tables.changed(now)
            case Restored():
                self._restore(event, now, out)
            case BlocksLoaded() | BlocksFailed():
                self._staging.loaded(event, now, out)
            case Solved() | LockChanged():
                out.count("events_ignored", type(event).__name__)
            case StopRequested():
                self._ingress.stop(out)
                self._tables.phase = NodePhase.DISCONNECTED
                self._publish(now, out)
                out.add(Stop())
            case _:
                assert_never(event)

    def _frame(self, peer: NodeId, header: Header, payload: Payload, now: Instant, out: Outbox) -> None:
        match header:
            case Activation():
                self._host.activate(peer, header, payload, now, out)
            case Token():
                self._ingress.token(peer, header, now, out)
            case OpenSession():
                self._host.open(peer, header, payload, now, self._calls.fresh(), out)
            case SessionOpened():
                self._ingress.opened(peer, header, now, out)
            case CloseSession():
                self._host.close(peer, header, out)
            case SessionRefused():
                self._ingress.refused(peer, header, out)
            case ServiceCall():
                self._calls.serve(peer, header, payload, out)
            case ServiceResult():
                answer = self._calls.result(peer, header, payload)
                if answer is not None:
                    self._answered(answer, now, out)
            case Gossip(topic):
                if isinstance(payload, bytes):
                    self._envelope(EnvelopeReceived(f"peer:{peer}", topic, payload), now, out)
            case (
                Hello()
                | Credit()
                | Probe()
                | ProbeAnswered()
                | Ping()
                | PingAnswered()
                | PingRequested()
                | PingReported()
                | ContentRequested()
                | ContentServed()
            ):
                # The data plane keeps these to itself; one that gets here costs its payload and nothing else.
                if payload is not None and not isinstance(payload, bytes):
                    out.add(ReleaseTensor(payload))
            case _:
                assert_never(header)

    def _answered(self, event: ServiceReturned | ServiceFailed, now: Instant, out: Outbox) -> None:
        if self._host.owns(event.call):
            self._host.answered(event, out)
        elif self._ingress.owns(event):
            self._ingress.answered(event, now, out)
        else:
            # A peer's call, or the answer to a request that ended meanwhile.
            self._calls.answered(event, out)

    def _envelope(self, event: EnvelopeReceived, now: Instant, out: Outbox) -> None:
        try:
            envelope = self._gate.open(event, self._voice.wall_ms(now))
            self._heard(envelope, event.wire, now, out, fresh=not event.redelivered)
        except DuplicateEnvelope:
            out.count("messages_duplicate", event.broker.partition(":")[0])
        except HeardBefore as fault:
            self._reject(fault, event.topic, out)
            self._learn(self._gossip.replayed(fault.envelope, event.wire, now, out), now, out)
        except RemoteProtocolError as fault:
            self._reject(fault, event.topic, out)

    def _reject(self, fault: RemoteProtocolError, topic: str, out: Outbox) -> None:
        self._tables.rejected[fault.reason] += 1
        out.count("messages_rejected", fault.reason)
        out.note("warning", "message rejected", why=fault.reason, detail=str(fault), topic=topic[:200])

    def _heard(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox, *, fresh: bool) -> None:
        """A verified envelope, from a broker or a link."""
        facts = self._gossip.heard(envelope, wire, now, out, fresh=fresh)
        self._learn(facts, now, out)
        if envelope.sender != self._node:
            self._act(envelope, wire, now, out)

    def _learn(self, facts: list[Fact], now: Instant, out: Outbox) -> None:
        """What gossip brought to light."""
        for fact in facts:
            match fact:
                case Relayed(envelope, wire):
                    self._act(envelope, wire, now, out)
                case Reborn() | Forked():
                    out.count("gossip_facts", type(fact).__name__)
                case _:
                    assert_never(fact)

    def _act(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox) -> None:
        """Somebody else's word, heard or relayed: what follows from it here."""
        message = envelope.message
        match message:
            case NodeState() | Heartbeat() | Syn() | SynAck() | Ack():
                return
            case LinkDeath():
                out.note("info", "a link broke", node=envelope.sender, broker=message.broker)
            case PhaseReported():
                self._staging.reported(envelope, message, now, out)
            case PlanAnnounced():
                self._announced.keep(message, wire)
                self._staging.adopt(decode_plan(message.plan), digest_of(message.plan), wire, now, out)
                self._gossip.regroup(out)
            case _:
                out.count("messages_ignored", type(message).__name__)

    def _restore(self, event: Restored, now: Instant, out: Outbox) -> None:
        try:
            message = self._gate.reopen(event.data).message
            if isinstance(message, PlanAnnounced):
                self._announced.keep(message, event.data)
                self._staging.adopt(decode_plan(message.plan), digest_of(message.plan), b"", now, out)
                self._gossip.regroup(out)
        except RemoteProtocolError as fault:
            out.note("warning", "stored plan refused", name=event.name, why=str(fault))

    def _time_passed(self, now: Instant, out: Outbox) -> None:
        for alarm in self._tables.timers.due(now):
            match alarm:
                case Routine.HEARTBEAT:
                    self._gossip.beat(0, now, out)
                case Routine.RECORD_SOON:
                    self._gossip.freshen(self._host.session_count, self._host.kv_bytes, now, out)
                case Routine.DRIFT:
                    self._gossip.publish(self._host.session_count, self._host.kv_bytes, now, out)
                case Routine.REFRESH:
                    self._publish(now, out)
                case Routine.EXCHANGE:
                    self._gossip.round((), now, out)
                case Routine.PURSUE:
                    self._gossip.pursue(now, out)
                case RequestDeadline(session):
                    self._ingress.expired(session, out)
                case HostDeadline(session, stage):
                    self._host.expired((session, stage), out)
                case Routine.SILENCE | Routine.PING | ProbeDue() | SuspicionDue() | RelayDue():
                    continue
                case _:
                    assert_never(alarm)

    def _publish(self, now: Instant, out: Outbox) -> None:
        self._gossip.publish(self._host.session_count, self._host.kv_bytes, now, out)
        self._staging.repeat(now, out)

    def _broker(self, event: BrokerConnected | BrokerLost, now: Instant, out: Outbox) -> None:
        up = isinstance(event, BrokerConnected)
        self._tables.brokers[event.broker] = up
        out.count("broker_links", "up" if up else "down")
        if up:
            if self._tables.phase is NodePhase.STARTING:
                self._tables.phase = NodePhase.READY
            self._publish(now, out)

    def _peer_lost(self, peer: NodeId, out: Outbox) -> None:
        out.count("links_lost", "data")
        self._gossip.linked(peer, up=False)
        self._host.peer_lost(peer, out)
        self._ingress.peer_lost(peer, self._calls.peer_lost(peer), out)

    def _misbehaved(self, event: PeerMisbehaved, out: Outbox) -> None:
        self._tables.rejected[event.reason] += 1
        out.count("peers_misbehaved", event.reason)
        out.note("warning", "peer misbehaved", peer=event.peer or "unknown", why=event.reason)


class _Announced:
    """The chains of plans as long as operators alone announce them: one link each."""

    def __init__(self) -> None:
        self._wires: dict[DeploymentId, bytes] = {}

    def keep(self, announced: PlanAnnounced, wire: bytes) -> None:
        """The first plan of a deployment stays."""
        self._wires.setdefault(decode_plan(announced.plan).deployment, wire)

    def heads(self) -> tuple[Head, ...]:
        """Genesis is all there is."""
        return tuple(Head(deployment, Epoch(0)) for deployment in sorted(self._wires))

    def after(self, deployment: DeploymentId, epoch: Epoch | None, now: Instant) -> Iterator[bytes]:  # noqa: ARG002
        """The genesis, if it is lacking."""
        return iter([self._wires[deployment]] if epoch is None else [])
