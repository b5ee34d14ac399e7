"""One member of a chamber: its council, its disk, and whether it is up. And the names that all of them share."""

from dataclasses import replace
from random import Random
from typing import Final

from shoal_agent.core.council import Council
from shoal_agent.core.effects import Broadcast, Persist, SendFrame
from shoal_agent.core.events import Sampled
from shoal_agent.core.facts import Adopted, Behind, Convicted, Disputed, JudgementWanted
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import VoteDue, WordDue
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_protocol.envelope import open_envelope
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.ids import ClusterId, DeploymentId, Incarnation
from shoal_protocol.messages import (
    Capacity,
    Certified,
    Endpoint,
    EvidenceFound,
    Load,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteCast,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from tests.support.protocol import node_of

CLUSTER: Final = ClusterId("ab" * 16)
DEPLOYMENT: Final = DeploymentId("toy")
WALL_MS: Final = 1_700_000_000_000
OPERATORS: Final = tuple(Ed25519Sealer(bytes([200 + index]) * 32) for index in range(3))
READING: Final = Sampled(Capacity(1, 1, 1, 1, 1, ()), Load(0, 1, None, 0, 0), WALL_MS)


def roster_of(keys):
    root = Ed25519Sealer(bytes([1]) * 32)
    members = [Member(node_of(key), key.public_key, (Role.AGENT,), "home", key.public_key) for key in keys]
    members += [Member(node_of(key), key.public_key, (Role.OPERATOR,), "", b"") for key in OPERATORS]
    roster = Roster(CLUSTER, 1, 4_000_000_000, (root.public_key,), 1, tuple(members))
    return TrustedRoster.open(sign_roster(roster, [root]), (root.public_key,), 1, WALL_MS // 1000)


class Delegate:
    """One member: its council, its disk, and whether it is up."""

    def __init__(self, chamber, key):
        self.chamber = chamber
        self.key = key
        self.name = node_of(key)
        self.disk = {}
        self.life = 0
        self.up = False
        self.liar = False
        self.adopted = {}
        self.armed = None

    def boot(self):
        """Start with what is on the disk."""
        self.life += 1
        self.up = True
        self.tables = Tables()
        identity = Identity(self.name, Incarnation(self.life), self.key, self.chamber.roster)
        self.voice = Voice(CoreConfig(CLUSTER, Endpoint("", 1), "", 1, ""), identity)
        self.voice.sense(replace(READING, wall_ms=self.chamber.wall_ms()), self.chamber.now)
        self.council = Council(self.tables, self.voice, Random(self.chamber.rng.random()))
        names = list(self.disk)
        self.chamber.rng.shuffle(names)
        for name in names:
            self.do(lambda out, name=name: self.council.restored(name, self.disk[name], self.chamber.now, out))
        self.do(lambda out: self.council.publish(self.chamber.now, out))

    def do(self, act):
        """One call of the council, its effects and its facts."""
        out = Outbox(self.name)
        facts = act(out) or []
        if self.perform(out.effects):
            for fact in facts:
                self.take(fact)
        self.wake()

    def perform(self, effects):
        """In order, until a crash; False if it came."""
        for effect in effects:
            if self.chamber.strikes(self):
                return False
            match effect:
                case Persist(name, data):
                    self.disk[name] = data
                case Broadcast(_, wire) if not self.liar:
                    self.chamber.broadcast(self, wire)
                case SendFrame(peer, _, wire) if not self.liar:
                    self.chamber.send(self, peer, wire)
        return True

    def take(self, fact):
        match fact:
            case Adopted(plan, digest, how):
                self.chamber.adopt(self, plan, digest, how)
            case JudgementWanted(plan, digest):
                self.judge(plan, digest)
            case Behind(_, peer):
                self.chamber.catch_up(self, self.chamber.delegates[peer])
            case Convicted(node):
                self.chamber.convicted.add(node)
            case Disputed():
                self.chamber.disputes.append(fact)

    def judge(self, plan, digest):
        verdict = self.chamber.judgement(self, plan)
        self.do(
            lambda out: self.council.judged(
                plan.deployment, digest, self.chamber.now, out, verdict=verdict, reason="capacity"
            )
        )

    def hear(self, wire):
        """What the gate would let through; replays included."""
        envelope = open_envelope(wire, self.chamber.roster, CLUSTER)
        message, now = envelope.message, self.chamber.now
        handlers = {
            PlanAnnounced: lambda out: self.council.announced(message, wire, now, out),
            Certified: lambda out: self.council.certified(envelope, message, now, out),
            RecoveryOrdered: lambda out: self.council.ordered(envelope, message, wire, now, out),
            EvidenceFound: lambda out: self.council.evidence(message, now, out),
            Proposed: lambda out: self.council.spoken(envelope, message, wire, now, out),
            VoteCast: lambda out: self.council.spoken(envelope, message, wire, now, out),
        }
        try:
            self.do(handlers[type(message)])
        except RemoteProtocolError as fault:
            self.chamber.rejected.append((self.name, fault.reason, str(fault)))

    def wake(self):
        deadline = self.tables.timers.deadline()
        if deadline is not None and self.up and self.armed != (self.life, deadline):
            self.armed = self.life, deadline
            self.chamber.later(max(0.0, deadline - self.chamber.now), lambda armed=self.armed: self.ring(armed))

    def ring(self, armed):
        if self.up and armed == self.armed:
            self.armed = None
            for alarm in self.tables.timers.due(self.chamber.now):
                assert isinstance(alarm, VoteDue | WordDue)
                if self.up:
                    self.do(lambda out, alarm=alarm: self.council.rang(alarm, self.chamber.now, out))
            self.wake()

    @property
    def epoch(self):
        heads = self.council.heads()
        return heads[0].epoch if heads else -1
