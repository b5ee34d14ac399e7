"""GOSSIP/1: what everybody believes, and how they come to believe the same.

A node says of itself that it lives (a heartbeat every second) and what it is (a record when there is news, see
``portrait``). Brokers carry both to everybody who listens; what they lose, ``exchange`` brings, by whatever road is
left. What was heard stands in ``records``, whose merge makes order and repetition irrelevant.

**Hearsay.** A record that others kept, a broker or a node, is its owner's word, but says nothing about its owner being
alive now. So what is relayed comes out as ``Relayed`` and is told from what is heard.

**Without brokers** heartbeats and records go as frames to the circle (the hosts and voters one has to do with) and to
``NEIGHBOURS`` others of the share, drawn anew every minute: enough for the detectors that matter, and for a graph in
which anti-entropy reaches everybody (a random 3-out graph is connected but for one in thousands).

**Rebirth.** Whoever hears a word older than one it keeps shows the speaker the later one; see ``lives``.

**Retained copies** expire with their envelope after ``TTL_MS``. They are renewed every ``REFRESH_S``, so that brokers
can always tell a newcomer, or an operator's tool that takes no part in anti-entropy.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from shoal_agent.core.circle import circle_of
from shoal_agent.core.effects import Listen
from shoal_agent.core.exchange import Chains, Exchange
from shoal_agent.core.gate import Gate
from shoal_agent.core.lives import Lives, Reborn
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.portrait import has_drifted, has_news, paced
from shoal_agent.core.records import RECORD_KINDS, Merge, Records
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import TTL_MS, CoreConfig, Voice
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.light import DigestTold
from shoal_protocol.limits import OWED_S_MAX
from shoal_protocol.messages import (
    Ack,
    Certified,
    Heartbeat,
    HostedStage,
    NodePhase,
    NodeState,
    PhaseReported,
    PlanAnnounced,
    RecoveryOrdered,
    Syn,
    SynAck,
)
from shoal_protocol.topics import shard_count, shard_of

HEARTBEAT_S: Final = 1.0
"""A dead node is missed within seconds; a beat costs each hearer about 0.2 ms."""
HEARTBEAT_JITTER: Final = 0.1
"""+-10 %: a cluster that was started at once does not beat at once."""
DRIFT_SPACING_S: Final = 10.0
"""Readings that drifted are told at most this often."""
REFRESH_S: Final = TTL_MS / 3000
"""Everything that lasts is said again this often: a retained copy survives two losses."""
REFRESH_ALONE_S: Final = 10.0
"""The same without brokers: then records are also how a node that some do not reach is known to live."""
DIGEST_TTL_MS: Final = 5_000
"""A digest that is older has been overtaken by the load itself."""
NEIGHBOURS: Final = 3
"""Nodes of the share outside the circle that are told directly when no broker is left."""
REDRAW_S: Final = 60.0
"""Others are drawn so often: nobody is left out for long."""

PROOFS: Final = (PlanAnnounced, Certified, RecoveryOrdered)
"""What a delta may bring besides records: the links of chains, which are judged where chains are kept."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """A member's word that somebody else kept, and that is news here."""

    envelope: Envelope
    wire: bytes


@dataclass(frozen=True, slots=True)
class Forked:
    """``node`` said two things under one number: the proof."""

    node: NodeId
    first: bytes
    second: bytes


Fact = Relayed | Reborn | Forked


class Gossiper:
    """This node's part in what everybody believes."""

    def __init__(
        self, config: CoreConfig, tables: Tables, voice: Voice, gate: Gate, chains: Chains, rng: Random
    ) -> None:
        self._config = config
        self._tables = tables
        self._voice = voice
        self._gate = gate
        self._rng = rng
        self._node = voice.identity.node
        shards = shard_count(voice.identity.roster.agent_count)
        self.home = shard_of(self._node, shards)
        self.records = Records(lambda node: shard_of(node, shards), self.home)
        self._lives = Lives(tables, voice)
        self._exchange = Exchange(tables, voice, self.records, chains, rng)
        self.shards: tuple[int, ...] = (self.home,)
        self.circle: tuple[NodeId, ...] = ()
        self._dead: frozenset[NodeId] = frozenset()
        self._neighbours: tuple[NodeId, ...] = ()
        self._redraw_at = Instant(0.0)
        self._beat = 0
        self._published = Instant(0.0)
        self._forks: dict[NodeId, None] = {}

    # --- saying -----------------------------------------------------------------------------------------------------

    def begin(self, now: Instant) -> None:
        """Arm the clock of what is said regularly."""
        self._tables.timers.set(Routine.HEARTBEAT, now)
        self._tables.timers.set(Routine.REFRESH, now)
        self._exchange.begin(now)

    def beat(self, health: int, now: Instant, out: Outbox) -> None:
        """Say: I am here; ``health`` is 0 if this node is well."""
        jitter = 1 + HEARTBEAT_JITTER * (2 * self._rng.random() - 1)
        self._tables.timers.set(Routine.HEARTBEAT, Instant(now + HEARTBEAT_S * jitter))
        if self._tables.state is not None:
            self._beat += 1
            beat = Heartbeat(self._beat, self._tables.state.version, self._exchange.root(), health)
            self._voice.say(beat, now, out, direct=self._directly())

    def sensed(self, sessions: int, kv_bytes: int, now: Instant) -> None:
        """The sensors were read: see whether that is worth saying, and when."""
        told, timers = self._tables.state, self._tables.timers
        if told is None:
            return
        state = self._portrait(sessions, kv_bytes, now)
        if has_news(told, state):
            self._tables.changed(now)
        elif Routine.DRIFT not in timers and has_drifted(told, state):
            timers.set(Routine.DRIFT, Instant(max(now, self._published + DRIFT_SPACING_S)))

    def freshen(self, sessions: int, kv_bytes: int, now: Instant, out: Outbox) -> None:
        """Something may have changed: publish the record if it has."""
        told = self._tables.state
        if told is None or has_news(told, self._portrait(sessions, kv_bytes, now)):
            self.publish(sessions, kv_bytes, now, out)
        else:
            self.sensed(sessions, kv_bytes, now)

    def publish(self, sessions: int, kv_bytes: int, now: Instant, out: Outbox) -> None:
        """Say everything this node says about itself."""
        timers, told = self._tables.timers, self._tables.state
        timers.clear(Routine.DRIFT)
        timers.clear(Routine.RECORD_SOON)
        timers.set(Routine.REFRESH, Instant(now + (REFRESH_S if self._brokered() else REFRESH_ALONE_S)))
        state = self._portrait(sessions, kv_bytes, now)
        self._published = now
        self._tables.state = replace(state, version=1 if told is None else told.version + 1)
        self._voice.say(self._tables.state, now, out, retain=True, direct=self._directly())

    def tell(self, digest: DigestTold, now: Instant, out: Outbox) -> None:
        """Say how busy this node's light services are; soon it is not true any more."""
        self._voice.say(digest, now, out, direct=self._directly(), ttl_ms=DIGEST_TTL_MS)

    def _portrait(self, sessions: int, kv_bytes: int, now: Instant) -> NodeState:
        """What this node is now, as its next record would tell."""
        tables, sampled = self._tables, self._voice.sampled
        owed = min(round(tables.budgets.moved), OWED_S_MAX)
        return NodeState(
            version=0,
            phase=tables.phase,
            data=self._config.data,
            api=self._config.api,
            capacity=sampled.capacity,
            load=replace(sampled.load, session_count=sessions, kv_bytes=kv_bytes, moved_owed_s=owed),
            hosted=tuple(self._hosted()),
            models=tuple(sorted(tables.models)),
            services=tables.services,
            software=self._config.software,
            links=paced(tables.links, sampled.rates),
            stage_permille=tables.stage_permille,
            locked=tables.locked,
            demands=tables.demands.measured(now),
        )

    def _hosted(self) -> list[HostedStage]:
        held = []
        for tenure in self._tables.tenures.all():
            for stage in tenure.open_stages:
                part = tenure.plan.stages[stage]
                held.append(HostedStage(tenure.plan.deployment, tenure.plan.epoch, part.first_block, part.last_block))
        return held

    def _brokered(self) -> bool:
        return any(self._tables.brokers.values())

    def _directly(self) -> list[NodeId]:
        """Who is told by frames: nobody while a broker is up."""
        if self._brokered():
            return []
        company = (*self.circle, *self._neighbours)
        return [peer for peer in company if peer not in self._dead and self._tables.membership.peer(peer) is not None]

    # --- company ----------------------------------------------------------------------------------------------------

    def regroup(self, out: Outbox) -> None:
        """Plans came or went: see with whom this node has to do now, and listen to their shares."""
        tables = self._tables
        self.circle = circle_of((tenure.plan for tenure in tables.tenures.all()), self._node)
        shards = tuple(sorted({self.home, *map(self.records.shard_of, self.circle)}))
        if shards == self.shards:
            return
        self.shards = shards
        out.add(Listen(shards))
        for node in self.records.keep(shards):
            tables.membership.forget(node)

    def round(self, dead: Collection[NodeId], now: Instant, out: Outbox) -> None:
        """The regular round of anti-entropy; ``dead`` are those this node holds for dead."""
        self.regroup(out)
        self._dead = frozenset(dead)
        peers = self._peers()
        if now >= self._redraw_at or len(self._neighbours) < NEIGHBOURS:
            self._redraw_at = Instant(now + REDRAW_S)
            others = [peer for peer in peers if peer not in self.circle and peer not in self._dead]
            self._neighbours = tuple(self._rng.sample(others, min(NEIGHBOURS, len(others))))
        self._exchange.round(peers, self._dead, now, out)

    def seek(self, peer: NodeId, now: Instant, out: Outbox) -> None:
        """``peer`` knows more than this node: ask it."""
        self._exchange.seek(peer, now, out)

    def pursue(self, now: Instant, out: Outbox) -> None:
        """Go on with an exchange that is not over."""
        self._exchange.pursue(now, out)

    def _peers(self) -> tuple[NodeId, ...]:
        """Whoever is known of the own share, and the circle."""
        known = [peer.node for peer in self._tables.membership.peers()]
        return tuple(node for node in known if node in self.circle or self.records.shard_of(node) == self.home)

    def linked(self, peer: NodeId, *, up: bool) -> None:
        """A link of the data plane stands, or is gone."""
        self._exchange.linked(peer, up=up)

    def departed(self, node: NodeId, now: Instant) -> None:
        """``node`` is dead or said goodbye."""
        self.records.departed(node, now)

    # --- hearing ----------------------------------------------------------------------------------------------------

    def heard(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox, *, fresh: bool) -> list[Fact]:
        """A verified word; unless ``fresh``, a broker kept it. What concerns gossip alone is over with this."""
        message, sender = envelope.message, envelope.sender
        if sender == self._node:
            return [*self._lives.spoken(envelope, wire, now, out)]
        life, shard = self.records.place(sender)
        if envelope.incarnation < life:
            # The gate never met the later life, which others told of.
            latest = self.records.latest(sender)
            if latest is not None:
                self._remind(sender, latest[1].wire, now, out)
                return []
        match message:
            case Heartbeat():
                self._tables.membership.heard(sender, envelope.incarnation, message, now)
                if shard == self.home:
                    self._exchange.beaten(sender, message.root, now, out)
                return []
            case NodeState() | PhaseReported():
                return self._record(envelope, wire, now, out, fresh=fresh)
            case DigestTold():
                self._tables.digests.heard(sender, envelope.incarnation, envelope.sequence, message, now)
                return []
            case Syn() | SynAck() | Ack():
                return self._exchanged(sender, message, now, out)
            case _:
                return []

    def _record(
        self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox, *, fresh: bool, relayed: bool = False
    ) -> list[Fact]:
        """Keep a record of a share this node listens to; phases of others pass by."""
        message, sender = envelope.message, envelope.sender
        if self.records.shard_of(sender) not in self.shards:
            return []
        merge = self.records.merge(envelope, wire)
        out.count("records", merge.value)
        if merge is Merge.FORKED:
            return self._forked(sender, now, out)
        if merge is not Merge.NEWER:
            return []
        if isinstance(message, NodeState):
            self._tables.membership.merge(sender, envelope.incarnation, message, now, fresh=fresh)
            if message.phase is NodePhase.DISCONNECTED:
                self.records.departed(sender, now)
        return [Relayed(envelope, wire)] if relayed else []

    def _forked(self, node: NodeId, now: Instant, out: Outbox) -> list[Fact]:
        """One proof is enough, whatever else it says."""
        proof = self.records.proof(node)
        if proof is None or node in self._forks:
            return []
        self._forks[node] = None
        self._tables.rejected["equivocation"] += 1
        out.count("messages_rejected", "equivocation")
        self._tables.story.tell(now, node, "said two things under one number")
        return [Forked(node, *proof)]

    def _exchanged(self, sender: NodeId, message: Syn | SynAck | Ack, now: Instant, out: Outbox) -> list[Fact]:
        if message.to != self._node:
            return self._refuse("misdirected", out)
        match message:
            case Syn():
                self._exchange.asked(sender, message, now, out)
                return []
            case SynAck():
                if not self._exchange.expects(sender, now):
                    return self._refuse("unasked", out)
                facts = self._open(message.deltas, now, out)
                self._exchange.complete(sender, message, now, out, taught=bool(facts))
                return facts
            case Ack():
                # Uninvited, it may show this node one word of its own: see Rebirth.
                invited = self._exchange.invited(sender, now)
                return self._open(message.deltas if invited else message.deltas[:1], now, out)

    def _refuse(self, reason: str, out: Outbox) -> list[Fact]:
        self._tables.rejected[reason] += 1
        out.count("messages_rejected", reason)
        return []

    def _open(self, deltas: tuple[bytes, ...], now: Instant, out: Outbox) -> list[Fact]:
        """Words that a peer handed on; each stands and falls by itself."""
        facts: list[Fact] = []
        for wire in deltas:
            try:
                envelope = self._gate.reopen(wire)
            except RemoteProtocolError as fault:
                self._refuse(fault.reason, out)
                continue
            if envelope.sender == self._node:
                facts += self._lives.spoken(envelope, wire, now, out)
            elif isinstance(envelope.message, RECORD_KINDS):
                facts += self._record(envelope, wire, now, out, fresh=False, relayed=True)
            elif isinstance(envelope.message, PROOFS):
                facts.append(Relayed(envelope, wire))
            else:
                self._refuse("relayed", out)
        return facts

    # --- rebirth ----------------------------------------------------------------------------------------------------

    def replayed(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox) -> list[Fact]:
        """A word that the gate held for old: show a speaker from the past its later life."""
        sender = envelope.sender
        facts: list[Fact] = []
        latest = self.records.latest(sender)
        if sender == self._node or latest is None:
            return facts
        if isinstance(envelope.message, RECORD_KINDS) and self.records.merge(envelope, wire) is Merge.FORKED:
            facts = self._forked(sender, now, out)
        life, record = latest
        if wire != record.wire and (envelope.incarnation, envelope.sequence) <= (life, record.sequence):
            self._remind(sender, record.wire, now, out)
        return facts

    def _remind(self, speaker: NodeId, later: bytes, now: Instant, out: Outbox) -> None:
        if self._lives.may_remind(speaker, now):
            self._exchange.hand(speaker, later, now, out)
