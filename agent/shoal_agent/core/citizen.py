"""This node as one of its cluster: what it hears, believes, decides and holds because of others.

The conductors of the cluster do not know each other; this is where the facts of one become the business of another:

    gate ──► gossip    every word: records, heartbeats, exchanges      ──► words that others kept
         ──► watch     every sign of life                              ──► who is dead, left, or back
         ──► council   proposals, ballots, certificates, orders        ──► a plan to adopt, a plan to be judged
    steering           reasons to change, the judgement of others'     ──► a wish, an answer
    staging            plans to bring to life and to give back         ──► who did not become ready

Every fact is passed on at once and in order, so that what one event leads to is done when ``handle`` returns.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import assert_never

from shoal_agent.core.council import Council
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    EnvelopeReceived,
    LockChanged,
    ModelAvailable,
    ModelMissing,
    PeerLost,
    Restored,
    Sampled,
    Solved,
)
from shoal_agent.core.facts import (
    BY_BROKER,
    RELAYED,
    Adopted,
    Behind,
    Convicted,
    Disputed,
    JudgementWanted,
    Resolved,
    Road,
    SelfAccused,
    Standing,
    StandingChanged,
    Watched,
)
from shoal_agent.core.gate import DuplicateEnvelope, Gate, Opener
from shoal_agent.core.gossip import Fact, Forked, Gossiper, Relayed
from shoal_agent.core.lives import Reborn
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.reserve import SessionsOverdue
from shoal_agent.core.staging import Staging, StagingFact, StagingFailed
from shoal_agent.core.steering import Steering, SteeringFact, Unwish, Wish
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import ProbeDue, RelayDue, Routine, SuspicionDue, VoteDue, WordDue
from shoal_agent.core.voice import CoreConfig, Voice
from shoal_agent.core.watch import Watch
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.headers import Ping, PingAnswered, PingReported, PingRequested
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.light import DigestTold
from shoal_protocol.messages import (
    Accused,
    Ack,
    Certified,
    EvidenceFound,
    Heartbeat,
    LinkDeath,
    NodePhase,
    NodeState,
    PhaseReported,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    Syn,
    SynAck,
    VoteCast,
)
from shoal_protocol.replay import HeardBefore

ClusterAlarm = Routine | ProbeDue | SuspicionDue | RelayDue | VoteDue | WordDue

Occupancy = Callable[[], tuple[int, int]]
"""Sessions open on this node's stages, and the bytes of KV promised to them."""
Evict = Callable[[DeploymentId, Epoch, tuple[int, ...], Outbox], None]
"""End the sessions that are still open on some of this node's stages of an epoch."""


class Citizen:
    """This node's part in its cluster."""

    def __init__(
        self,
        config: CoreConfig,
        tables: Tables,
        voice: Voice,
        opener: Opener,
        rng: Random,
        occupancy: Occupancy,
        evict: Evict,
    ) -> None:
        identity = voice.identity
        self._node = identity.node
        self._tables = tables
        self._voice = voice
        self._occupancy = occupancy
        self._evict = evict
        self._gate = Gate(config.cluster, identity.node, identity.roster, opener)
        self.council = Council(tables, voice, rng)
        self.gossip = Gossiper(config, tables, voice, self._gate, self.council, rng)
        self.watch = Watch(identity.node, tables, voice, rng)
        self.steering = Steering(identity.node, tables, voice, config.kv_bytes_max, rng)
        self.staging = Staging(tables, voice, config.kv_bytes_max)
        self._known: tuple[NodeId, ...] = ()

    def begin(self, now: Instant) -> None:
        """Arm the clocks."""
        self.gossip.begin(now)
        self.steering.begin(now)

    # --- words ------------------------------------------------------------------------------------------------------

    def envelope(self, event: EnvelopeReceived, now: Instant, out: Outbox) -> None:
        """Bytes that claim to be a member's word, from a broker or a link."""
        try:
            envelope = self._gate.open(event, self._voice.wall_ms(now))
            self._heard(envelope, event, now, out)
        except DuplicateEnvelope:
            out.count("messages_duplicate", event.broker.partition(":")[0])
        except HeardBefore as fault:
            self._reject(fault, event.topic, out)
            self._learn(self.gossip.replayed(fault.envelope, event.wire, now, out), now, out)
        except RemoteProtocolError as fault:
            self._reject(fault, event.topic, out)

    def _reject(self, fault: RemoteProtocolError, topic: str, out: Outbox) -> None:
        self._tables.rejected[fault.reason] += 1
        out.count("messages_rejected", fault.reason)
        out.note("warning", "message rejected", why=fault.reason, detail=str(fault), topic=topic[:200])

    def _heard(self, envelope: Envelope, event: EnvelopeReceived, now: Instant, out: Outbox) -> None:
        sender, message = envelope.sender, envelope.message
        far = event.redelivered or event.broker.startswith("peer:")
        road = self._road(event, sender) if far else BY_BROKER
        facts = self.gossip.heard(envelope, event.wire, now, out, fresh=not far or road is not RELAYED)
        if facts:
            self._learn(facts, now, out)
        if sender == self._node:
            return
        beat = isinstance(message, Heartbeat)
        if not isinstance(message, LinkDeath):
            changes = self.watch.heard(sender, envelope.incarnation, envelope.sequence, road, now, beat=beat)
            if changes:
                self._watched(changes, now, out)
        if not beat:  # fifty a second, and everything about them is said
            self._act(envelope, event.wire, now, out)

    @staticmethod
    def _road(event: EnvelopeReceived, sender: NodeId) -> Road:
        direct = not event.redelivered and event.broker == f"peer:{sender}"  # what is handed on tells of the past
        return Road.DIRECT if direct else RELAYED

    def _learn(self, facts: Iterable[Fact], now: Instant, out: Outbox) -> None:
        """What gossip brought to light."""
        for fact in facts:
            match fact:
                case Relayed(envelope, wire):
                    self._relayed(envelope, wire, now, out)
                case Reborn():
                    self.council.lose(now, out)
                case Forked(node, first, second):
                    self._voice.say(EvidenceFound(first, second), now, out)
                    out.note("error", "a member said two things under one number", node=node)
                case _:
                    assert_never(fact)

    def _relayed(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox) -> None:
        """A word that somebody kept: as good as heard, but no sign of life."""
        changes = self.watch.heard(envelope.sender, envelope.incarnation, envelope.sequence, RELAYED, now, beat=False)
        self._watched(changes, now, out)
        try:
            self._act(envelope, wire, now, out)
        except RemoteProtocolError as fault:
            self._reject(fault, "relayed", out)

    def _act(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox) -> None:
        """Somebody else's word: what follows from it here. RemoteProtocolError if it is not what it says."""
        message = envelope.message
        match message:
            case Heartbeat() | Syn() | SynAck() | Ack() | DigestTold():
                return
            case NodeState():
                self._recorded(envelope.sender, message, now, out)
            case LinkDeath():
                self._watched(self.watch.will(envelope.sender, message.broker, now, out), now, out)
            case Accused():
                self._watched(self.watch.accused(envelope.sender, message, now, out), now, out)
            case PhaseReported():
                self.staging.reported(envelope, message, now, out)
            case PlanAnnounced():
                self._resolved(self.council.announced(message, wire, now, out), now, out)
            case Certified():
                self._resolved(self.council.certified(envelope, message, now, out), now, out)
            case RecoveryOrdered():
                self._resolved(self.council.ordered(envelope, message, wire, now, out), now, out)
            case Proposed() | VoteCast():
                self._resolved(self.council.spoken(envelope, message, wire, now, out), now, out)
            case EvidenceFound():
                self._resolved(self.council.evidence(message, now, out), now, out)
            case _:
                assert_never(message)

    def _recorded(self, node: NodeId, state: NodeState, now: Instant, out: Outbox) -> None:
        """A record: somebody new, somebody going, or somebody who can do more than before."""
        if state.phase is NodePhase.DISCONNECTED:
            self._watched(self.watch.left(node, now), now, out)
        if node not in self._known:
            self._regroup(now, out)
        self._steered(self.steering.heard(node, now, out), now, out)

    # --- who is there -----------------------------------------------------------------------------------------------

    def _regroup(self, now: Instant, out: Outbox) -> None:
        """Nodes or plans came or went: see with whom this node has to do now."""
        self.gossip.regroup(out)
        self._known = tuple(peer.node for peer in self._tables.membership.peers())
        shard = [node for node in self._known if self.gossip.records.shard_of(node) == self.gossip.home]
        self.watch.watched(shard, self.gossip.circle, now)

    def _watched(self, changes: Iterable[Watched], now: Instant, out: Outbox) -> None:
        """What the watch found: the others are told what it means for them."""
        for change in changes:
            match change:
                case SelfAccused(accuser):
                    out.count("accusations_of_us", accuser)
                    self.gossip.beat(self.watch.health, now, out)
                case StandingChanged(node, _, new):
                    self._stood(node, new, now, out)
                case _:
                    assert_never(change)

    def _stood(self, node: NodeId, standing: Standing, now: Instant, out: Outbox) -> None:
        gone, lost = standing in (Standing.DEAD, Standing.LEFT), self._tables.tenures.lost
        if gone != (node in lost):
            (lost.add if gone else lost.discard)(node)
            self._tables.timers.set(Routine.SETTLE, now)
        if gone:
            self.gossip.departed(node, now)
        self._resolved(self.council.stood(node, now, out, gone=gone), now, out)
        self._steered(self.steering.stood(node, standing, now, out), now, out)
        self._judge_again(now, out)

    def link_up(self, peer: NodeId, now: Instant) -> None:
        """A link of the data plane stands."""
        self.gossip.linked(peer, up=True)
        self.watch.link_up(peer, now)

    def link_lost(self, event: PeerLost, now: Instant, out: Outbox) -> None:
        """A link of the data plane is gone."""
        self.gossip.linked(event.peer, up=False)
        self._watched(self.watch.link_lost(event.peer, event.fault, now, out), now, out)

    def ping(
        self, peer: NodeId, header: Ping | PingAnswered | PingRequested | PingReported, now: Instant, out: Outbox
    ) -> None:
        """A peer asks, or answers, whether somebody is there."""
        self._watched(self.watch.frame(peer, header, now, out), now, out)

    def broker(self, now: Instant, out: Outbox, *, up: bool) -> None:
        """A broker came or was lost; ``tables.brokers`` tells which there are."""
        self.watch.brokers_changed(now)
        if up:
            if self._tables.phase is NodePhase.STARTING:
                self._tables.phase = NodePhase.READY
            self.publish(now, out)
            self.council.publish(now, out)

    # --- what is decided --------------------------------------------------------------------------------------------

    def _resolved(self, facts: Iterable[Resolved], now: Instant, out: Outbox) -> None:
        """What came of agreement."""
        for fact in facts:
            match fact:
                case Adopted(plan, digest):
                    self.staging.adopt(plan, digest, now, out)
                    self._regroup(now, out)
                case JudgementWanted():
                    self._judge(fact, now, out)
                case Behind(_, peer):
                    self.gossip.seek(peer, now, out)
                case Disputed(deployment, epoch):
                    out.count("plans_disputed", deployment)
                    out.note("error", "two plans are proven for one epoch", deployment=deployment, epoch=epoch)
                case Convicted(node):
                    out.count("members_convicted", node)
                case _:
                    assert_never(fact)

    def _judge(self, wanted: JudgementWanted, now: Instant, out: Outbox) -> None:
        verdict, why = self.steering.judge(wanted.plan, now)
        deployment, digest = wanted.plan.deployment, wanted.digest
        self._resolved(self.council.judged(deployment, digest, now, out, verdict=verdict, reason=why), now, out)

    def _judge_again(self, now: Instant, out: Outbox) -> None:
        """What this node sees has changed: so may its judgement have."""
        for wanted in self.council.wanted():
            self._judge(wanted, now, out)

    def _steered(self, facts: Iterable[SteeringFact], now: Instant, out: Outbox) -> None:
        """What this node would like to change, or no longer would."""
        for fact in facts:
            match fact:
                case Wish(deployment, raw):
                    self._resolved(self.council.wish(deployment, raw, now, out), now, out)
                case Unwish(deployment):
                    self._resolved(self.council.withdraw(deployment, now, out), now, out)
                case _:
                    assert_never(fact)

    def _staged(self, facts: Iterable[StagingFact], now: Instant, out: Outbox) -> None:
        """What became of plans on this node."""
        for fact in facts:
            match fact:
                case SessionsOverdue(deployment, epoch, stages):
                    self._evict(deployment, epoch, stages, out)
                case StagingFailed(deployment):
                    out.count("staging_failed", deployment)
                    self._steered(self.steering.failed(fact.deployment, fact.epoch, fact.nodes, now, out), now, out)
                    self._judge_again(now, out)
                case _:
                    assert_never(fact)

    # --- this node --------------------------------------------------------------------------------------------------

    def local(
        self,
        event: Sampled | ModelAvailable | ModelMissing | Restored | BlocksLoaded | BlocksFailed | Solved | LockChanged,
        now: Instant,
        out: Outbox,
    ) -> None:
        """Something happened here."""
        match event:
            case Sampled():
                self._voice.sense(event, now)
                self.steering.sensed(event.capacity.speed_macs_per_s, now)
                self.gossip.sensed(*self._occupancy(), now)
            case ModelAvailable():
                self.staging.model_available(event.facts, now, out)
            case ModelMissing():
                self.staging.model_missing(event, now, out)
            case Restored():
                self._resolved(self.council.restored(event.name, event.data, now, out), now, out)
            case BlocksLoaded() | BlocksFailed():
                self.staging.loaded(event, now, out)
            case Solved():
                self._steered(self.steering.solved(event, now, out), now, out)
                self._judge_again(now, out)
            case LockChanged():
                self._tables.locked = event.held
                self._tables.changed(now)
            case _:
                assert_never(event)

    def publish(self, now: Instant, out: Outbox) -> None:
        """Say again whatever lasts."""
        self.gossip.publish(*self._occupancy(), now, out)
        self.staging.repeat(now, out)

    def rang(self, alarm: ClusterAlarm, now: Instant, out: Outbox) -> None:
        """One of the cluster's alarms."""
        match alarm:
            case Routine.SILENCE | Routine.PING | ProbeDue() | SuspicionDue() | RelayDue():
                self._watched(self.watch.rang(alarm, now, out), now, out)
            case VoteDue() | WordDue():
                self._resolved(self.council.rang(alarm, now, out), now, out)
            case Routine.SETTLE:
                self._staged(self.staging.settle(now, out), now, out)
            case Routine.STEER:
                self._steered(self.steering.evaluate(now, out), now, out)
                self._judge_again(now, out)
            case _:
                self._speak(alarm, now, out)

    def _speak(self, alarm: Routine, now: Instant, out: Outbox) -> None:
        match alarm:
            case Routine.HEARTBEAT:
                self.gossip.beat(self.watch.health, now, out)
            case Routine.RECORD_SOON:
                self.gossip.freshen(*self._occupancy(), now, out)
            case Routine.DRIFT:
                self.gossip.publish(*self._occupancy(), now, out)
            case Routine.REFRESH:
                self.publish(now, out)
            case Routine.EXCHANGE:
                gone = [node for node, standing in self.watch.standings().items() if standing is Standing.DEAD]
                self.gossip.round(gone, now, out)
            case Routine.PURSUE:
                self.gossip.pursue(now, out)
            case _:
                raise AssertionError(f"{alarm} is nobody's")
