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

from random import Random
from typing import assert_never

from shoal_agent.core.budgets import Budgets
from shoal_agent.core.calls import Calls
from shoal_agent.core.citizen import Citizen
from shoal_agent.core.door import Door
from shoal_agent.core.effects import Effect, Stop
from shoal_agent.core.errands import Errands
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    BrokerConnected,
    BrokerLost,
    CancelRequested,
    EnvelopeReceived,
    ErrandArrived,
    ErrandCancelled,
    Event,
    FrameReceived,
    KvExported,
    KvImported,
    LockChanged,
    ModelAvailable,
    ModelMissing,
    PeerConnected,
    PeerLost,
    PeerMisbehaved,
    PeerRelayed,
    PipelineArrived,
    PipelineEnded,
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
from shoal_agent.core.explain import Explanation, explain
from shoal_agent.core.gate import Opener, open_addressed
from shoal_agent.core.host import Host
from shoal_agent.core.ingress import Ingress
from shoal_agent.core.keeper import Keeper
from shoal_agent.core.movers import Movers
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.rescue import AWAY
from shoal_agent.core.service_classes import Classes
from shoal_agent.core.staging import SETTLE_S
from shoal_agent.core.story import Story
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import (
    CallDue,
    ErrandDeadline,
    HostDeadline,
    JournalDeadline,
    RequestDeadline,
    RequestDue,
    Routine,
)
from shoal_agent.core.view import NodeView, view_of
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_agent.core.zones import Zones
from shoal_protocol.content import ContentRequested, ContentServed
from shoal_protocol.headers import (
    Activation,
    CloseSession,
    Credit,
    Gossip,
    HandedOver,
    HandOver,
    Header,
    Hello,
    KvKept,
    KvRows,
    OpenSession,
    PathBroken,
    Ping,
    PingAnswered,
    PingReported,
    PingRequested,
    Probe,
    ProbeAnswered,
    Resume,
    ServiceCall,
    ServiceResult,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.journal import JournalRequested, JournalServed, JournalWritten
from shoal_protocol.light import LoadAsked, LoadTold
from shoal_protocol.messages import NodePhase


class Node:
    """One agent's mind."""

    def __init__(
        self, config: CoreConfig, identity: Identity, rng: Random, now: Instant, opener: Opener = open_addressed
    ) -> None:
        self._node = identity.node
        self._config = config
        zones = Zones({member.node: member.zone for member in identity.roster.members})
        tables = self._tables = Tables(zones, budgets=Budgets(config.terms), classes=Classes(config.classes))
        self._voice = Voice(config, identity)
        self._calls = Calls(identity.node)
        self._host = Host(identity.node, tables, self._calls, config.kv_bytes_max)
        self._movers = Movers(identity.node, tables, self._calls, rng)
        self._citizen = Citizen(config, tables, self._voice, opener, rng, self._occupancy, self._host.evict)
        self._ingress = Ingress(identity.node, tables, self._calls, self._movers)
        self._errands = Errands(identity.node, tables, self._calls, self._movers)
        self._door = Door(tables, self._movers, self._ingress.takes_s)
        self._keeper = Keeper(identity.node, tables)
        self._citizen.begin(now)

    def _occupancy(self) -> tuple[int, int]:
        return self._host.session_count, self._host.kv_bytes

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take in one event; return what is to be done about it, in order."""
        out = Outbox(self._node)
        self._route(event, now, out)
        for node in self._tables.membership.restood():
            standing = self._tables.membership.standing(node)
            if standing in AWAY:
                self._movers.lost(node, now, out)
                self._errands.lost(node, now, out)
            self._ingress.stood(node, standing, now, out)
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
        self._movers.check()
        self._errands.check()
        self._keeper.check()

    def snapshot(self, now: Instant) -> NodeView:
        """What this node believes at ``now``."""
        return view_of(self._voice.identity, self._tables, self._host, self._ingress, self._movers, now)

    def explain(self, deployment: DeploymentId | None, epoch: Epoch | None, now: Instant) -> Explanation | None:
        """Why the plan of ``epoch`` is as it is; None if there is no such plan."""
        citizen = self._citizen
        return explain(self._node, self._tables, citizen.council, citizen.steering, deployment, epoch, now)

    def story(self) -> Story:
        """Why things came to be as they are."""
        return self._tables.story

    # --- routing --------------------------------------------------------------------------------------------------

    def _route(self, event: Event, now: Instant, out: Outbox) -> None:
        match event:
            case EnvelopeReceived():
                self._citizen.envelope(event, now, out)
            case FrameReceived():
                self._frame(event.peer, event.header, event.payload, now, out)
            case StageFinished():
                self._host.finished(event, now, out)
            case KvExported():
                self._host.exported(event, now, out)
            case KvImported():
                self._host.imported(event, now, out)
            case StageFailed():
                self._host.failed(event, out)
            case ServiceReturned() | ServiceFailed():
                self._answered(event, now, out)
            case TimePassed():
                self._time_passed(now, out)
            case RequestArrived():
                self._ingress.arrived(event, now, out)
            case ErrandArrived() | ErrandCancelled():
                self._errands.heard(event, now, out)
            case PipelineArrived() | PipelineEnded():
                self._door.heard(event, now, out)
            case CancelRequested():
                self._ingress.cancel(event, now, out)
            case PeerLost():
                self._peer_lost(event, now, out)
            case PeerConnected():
                out.count("links_opened", "data")
                self._citizen.link_up(event.peer, now)
                self._ingress.back(event.peer, now, out)
            case PeerRelayed(peer, relayed):
                out.note("info", "reached through brokers" if relayed else "reached directly again", peer=peer)
                self._citizen.watch.relayed(peer, now, relayed=relayed)
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
            case ServicesAvailable():
                self._tables.services = self._ingress.scribe.services = event.names
                self._tables.changed(now)
            case StopRequested():
                if self._tables.phase is NodePhase.DRAINING:
                    self._tables.timers.clear(Routine.LEAVE)  # asked twice: at once
                self._leave(now, out)
            case Sampled():
                self._tables.budgets.sampled(event)
                self._citizen.local(event, now, out)
            case _:
                self._citizen.local(event, now, out)

    def _leave(self, now: Instant, out: Outbox) -> None:
        """Asked to stop: others get time to take over what this node holds, and its own clients to read to the end."""
        timers = self._tables.timers
        if self._tables.phase is not NodePhase.DRAINING:
            self._tables.phase = NodePhase.DRAINING
            timers.set(Routine.LEAVE, Instant(now + self._config.leave_s_max))
            self._citizen.publish(now, out)
        needed = self._citizen.staging.needed() or self._ingress.request_count > 0
        if needed and Routine.LEAVE in timers:
            timers.set(Routine.SETTLE, Instant(now + SETTLE_S))
            return
        self._ingress.stop(now, out)
        self._errands.stop(out)
        self._tables.phase = NodePhase.DISCONNECTED
        self._citizen.publish(now, out)
        out.add(Stop())

    def _frame(self, peer: NodeId, header: Header, payload: Payload, now: Instant, out: Outbox) -> None:
        match header:
            case Activation() | KvRows() | KvKept() | OpenSession() | Resume() | CloseSession() | HandOver():
                self._host.frame(peer, header, payload, now, out)
                if isinstance(header, CloseSession):
                    self._keeper.closed(peer, header)
            case Token():
                self._ingress.token(peer, header, now, out)
            case SessionOpened():
                self._ingress.opened(peer, header, now, out)
            case SessionRefused():
                self._ingress.refused(peer, header, now, out)
            case PathBroken():
                self._ingress.broken(peer, header, now, out)
            case HandedOver():
                self._ingress.handed(peer, header, now, out)
            case JournalWritten() | JournalRequested() | JournalServed():
                self._journal(peer, header, payload, now, out)
            case ServiceCall():
                self._movers.serve(peer, header, payload, now, out)
            case LoadAsked():
                self._movers.asked(peer, header, now, out)
            case LoadTold():
                self._movers.told(peer, header, now, out)
            case ServiceResult():
                answer = self._calls.result(peer, header, payload)
                if answer is not None:
                    self._answered(answer, now, out)
            case Gossip(topic):
                if isinstance(payload, bytes):
                    self._citizen.envelope(EnvelopeReceived(f"peer:{peer}", topic, payload), now, out)
            case Ping() | PingAnswered() | PingRequested() | PingReported():
                self._citizen.ping(peer, header, now, out)
            case Hello() | Credit() | Probe() | ProbeAnswered() | ContentRequested() | ContentServed():
                # The data plane keeps these to itself; one that gets here costs its payload and nothing else.
                out.release(payload)
            case _:
                assert_never(header)

    def _journal(
        self,
        peer: NodeId,
        header: JournalWritten | JournalRequested | JournalServed,
        payload: Payload,
        now: Instant,
        out: Outbox,
    ) -> None:
        match header:
            case JournalWritten():
                self._keeper.written(peer, header, payload, now, out)
            case JournalServed():
                self._ingress.served(peer, header, payload, now, out)
            case JournalRequested(session):
                if not self._ingress.requested(peer, session, now, out):
                    self._keeper.asked(peer, session, now, out)

    def _answered(self, came: ServiceReturned | ServiceFailed, now: Instant, out: Outbox) -> None:
        if self._host.owns(came.call):
            self._host.answered(came, now, out)
            return
        event = self._movers.answered(came, now, out)
        if event is None:
            return
        if self._ingress.owns(event):
            self._ingress.answered(event, now, out)
        elif self._errands.owns(event):
            self._errands.answered(event, now, out)
        else:
            # A peer's call, or the answer to a request that ended meanwhile.
            self._calls.answered(event, out)

    def _time_passed(self, now: Instant, out: Outbox) -> None:
        for alarm in self._tables.timers.due(now):
            match alarm:
                case Routine.LEAVE:
                    self._leave(now, out)
                case RequestDeadline(session):
                    self._ingress.expired(session, now, out)
                case RequestDue(session):
                    for node in self._ingress.due(session, now, out):
                        if self._citizen.watch.doubt(node, now, out):
                            self._ingress.lost(node, "no token comes, and it does not answer", now, out)
                case ErrandDeadline(errand):
                    self._errands.expired(errand, out)
                case CallDue(call):
                    self._movers.due(call, now, out)
                case Routine.SLOT:
                    self._slot(now, out)
                case JournalDeadline(session):
                    self._keeper.expired(session)
                case HostDeadline(session, slot):
                    self._host.expired((session, slot), out)
                case Routine.SETTLE:
                    self._citizen.rang(alarm, now, out)
                    self._ingress.settled(now, out)
                case _:
                    self._citizen.rang(alarm, now, out)
        if self._tables.phase is NodePhase.DRAINING:
            self._leave(now, out)

    def _slot(self, now: Instant, out: Outbox) -> None:
        """A slot of light services' work is over."""
        reading = self._voice.sampled
        cores = int(reading.capacity.cores * self._tables.budgets.coolness(reading.load.temperature_millicelsius))
        digest = self._movers.workshop.slot(cores, now, out)
        if digest is not None:
            self._citizen.gossip.tell(digest, now, out)

    def _broker(self, event: BrokerConnected | BrokerLost, now: Instant, out: Outbox) -> None:
        up = self._tables.brokers[event.broker] = isinstance(event, BrokerConnected)
        out.count("broker_links", "up" if up else "down")
        self._citizen.broker(now, out, up=up)

    def _peer_lost(self, event: PeerLost, now: Instant, out: Outbox) -> None:
        out.count("links_lost", "data")
        peer = event.peer
        self._host.peer_lost(peer, now, out)
        self._movers.lost(peer, now, out)
        self._errands.lost(peer, now, out)
        self._calls.peer_lost(peer)
        self._keeper.lost(peer, now)
        self._citizen.link_lost(event, now, out)
        self._ingress.lost(peer, f"the link broke ({event.fault.value})", now, out)

    def _misbehaved(self, event: PeerMisbehaved, out: Outbox) -> None:
        self._tables.rejected[event.reason] += 1
        out.count("peers_misbehaved", event.reason)
        out.note("warning", "peer misbehaved", peer=event.peer or "unknown", why=event.reason)
