"""A small world that serves, and one of its nodes under attack by everything a member with a key could send.

The attacker holds the keys of every agent and of the operator, so nothing that is wrong is stopped by its signature
unless it was meant to be. What the attacked node asks for is performed by the world's twins, which assert its side of
the contract, and its invariants are checked after every event: whatever is sent, nothing may raise.
"""

import dataclasses
from random import Random
from typing import Final

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import EnvelopeReceived, FrameReceived, PeerLost
from shoal_protocol import content, headers
from shoal_protocol.codec import encode_message, encode_plan
from shoal_protocol.envelope import SealedStatement, Statement, payload_type, seal
from shoal_protocol.errors import LocalProtocolError, RemoteProtocolError
from shoal_protocol.fields import encode, record
from shoal_protocol.frames import Frame, FrameReader, encode_frame
from shoal_protocol.ids import DeploymentId, Digest, Incarnation, NodeId, Sequence, SessionId, digest_of, node_id_of
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import (
    Certified,
    ControlMessage,
    EvidenceFound,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteCast,
    VoteKind,
)
from shoal_protocol.sealing import Ed25519Sealer, pae
from shoal_protocol.tensors import Dtype, TensorSpec
from shoal_protocol.topics import topic_for
from shoal_protocol.votes import sign_recovery, sign_vote
from tests.support.cell import Cell
from tests.support.corpus import ballots, cast, headers_of, messages_of, recovery, successor
from tests.support.forger import Forger, Pool
from tests.support.toy import MODEL
from tests.support.world import CLUSTER, TOY, World

STATEMENT: Final = record(Statement, signed=True)
SEALED: Final = record(SealedStatement, signed=True)
PAYLOADS: Final = (
    headers.OpenSession,
    headers.ServiceCall,
    headers.ServiceResult,
    headers.Gossip,
    content.ContentServed,
)
OPERATORS_SAY: Final = (PlanAnnounced, RecoveryOrdered)
NODES: Final = 4
HOSTS: Final = 3
FIRST_SEQUENCE: Final = 1_000_000
"""Beyond what the nodes themselves have come to, and within nobody's window."""
REST: Final = 40
"""After so many blows the world goes on for a moment, so that timers ring and answers travel."""
REST_S: Final = 0.25


class Siege:
    """The attacked node is ``target``: it hosts the middle stage, votes, and is an ingress like any other."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.world = world = World(NODES, seed=seed)
        world.start()
        hosts = world.names[:HOSTS]
        self.genesis = dataclasses.replace(world.plan(hosts), voters=tuple(hosts))
        world.announce(self.genesis)
        world.run_until(world.serving)
        self.target: Cell = world.cells[world.names[1]]
        self.keys = {cell.name: cell.key for cell in world.cells.values()}
        self.session = world.ask(world.names[0], tokens_max=200)
        world.run(0.05)
        self._sequence = FIRST_SEQUENCE
        self._blows = 0
        self._carry = world.carry
        world.carry = self.carry  # type: ignore[method-assign]
        self.voters = {name: self.keys[name] for name in hosts}
        (state,) = [peer.state for peer in self.target.node.snapshot(world.now).nodes if peer.node == hosts[0]]
        bare = messages_of(state, self.genesis, self.voters, world.operator, self.target.name)
        wires = tuple(self.sealed(message, self.speaker(message)) for message in bare)
        self.messages = tuple(self._filled(message, wires) for message in bare)
        self.headers = headers_of(self.session, hosts[0], wires[1], bare[1])
        after = successor(self.genesis)
        known = (self.genesis, after, recovery(self.genesis))
        digests = (*(digest_of(encode_plan(plan)) for plan in known), MODEL, Digest(bytes(32)))
        sessions = (self.session, SessionId(bytes(16)))
        deployments = (TOY, DeploymentId("other"))
        pool = Pool(CLUSTER, tuple(world.names), deployments, digests, sessions, known, wires)
        self.forger = Forger(self.rng, pool)

    def _filled(self, message: ControlMessage, wires: tuple[bytes, ...]) -> ControlMessage:
        """``message`` with real envelopes where it carries some."""
        if isinstance(message, EvidenceFound):
            key = self.keys[self.world.names[2]]
            lies = (cast(key, 1, VoteKind.PREVOTE, plan) for plan in (encode_plan(self.genesis), None))
            return EvidenceFound(*(self.sealed(lie, key) for lie in lies))
        if hasattr(message, "deltas"):
            return dataclasses.replace(message, deltas=(wires[0], wires[3], wires[4]))
        return message

    # --- the attacker's means -------------------------------------------------------------------------------------

    def speaker(self, message: ControlMessage) -> Ed25519Sealer:
        """Who says ``message`` here: the first host, whose votes are in the corpus, or the operator."""
        if isinstance(message, OPERATORS_SAY):
            return self.world.operator
        return self.keys[self.world.names[0]]

    def sealed(
        self,
        message: ControlMessage,
        sealer: Ed25519Sealer | None = None,
        *,
        incarnation: int = 1,
        sequence: int | None = None,
        ttl_ms: int = TTL_MS_MAX,
        age_ms: int = 0,
    ) -> bytes:
        """``message`` under a number that was never used, if none is given."""
        sealer = sealer or self.speaker(message)
        if sequence is None:
            self._sequence += 1
            sequence = self._sequence
        number = (Incarnation(incarnation), Sequence(sequence))
        sent_ms = self.world.wall_ms() - age_ms
        return seal(sealer, CLUSTER, node_id_of(sealer.public_key), *number, ttl_ms, sent_ms, message)

    def nonsense(self, kind: int, body: bytes) -> bytes:
        """``body``, whatever it is, under a good signature of a member."""
        self._sequence += 1
        sealer = self.world.operator if kind in (4, 14) else self.keys[self.world.names[0]]
        sender, sent_ms = node_id_of(sealer.public_key), self.world.wall_ms()
        number = (Incarnation(1), Sequence(self._sequence))
        statement = encode(STATEMENT, Statement(1, CLUSTER, kind, sender, *number, TTL_MS_MAX, sent_ms, body))
        return encode(SEALED, SealedStatement(statement, sealer.sign(pae(payload_type(kind), statement))))

    def signed(self, message: ControlMessage, sealer: Ed25519Sealer) -> ControlMessage:
        """``message`` with every signature inside it made good: the attacker has all keys."""
        match message:
            case VoteCast():
                about = (message.deployment, message.epoch, message.round, message.vote, message.value)
                return dataclasses.replace(message, signature=sign_vote(sealer, CLUSTER, *about))
            case Certified():
                decided = ballots(self.voters, message.plan, message.round, VoteKind.PRECOMMIT)
                return dataclasses.replace(message, ballots=decided)
            case Proposed() if message.valid_round is not None:
                support = ballots(self.voters, message.plan, message.valid_round, VoteKind.PREVOTE)
                return dataclasses.replace(message, support=support)
            case RecoveryOrdered():
                approval = sign_recovery(self.world.operator, CLUSTER, message.plan)
                return dataclasses.replace(message, approvals=(approval,))
            case _:
                return message

    # --- blows ----------------------------------------------------------------------------------------------------

    def carry(self, source: Cell, effect: SendFrame) -> None:
        """As the world does; a node outside it cannot be reached, and the link says so."""
        if effect.peer in self.world.cells:
            self._carry(source, effect)
            return
        if effect.payload is not None:
            source.take(effect.payload)
        source.later(0.01, PeerLost(effect.peer, "unreachable"))

    def hear(self, wire: bytes, topic: str, broker: str = "a") -> None:
        """A broker brings ``wire``."""
        self.target.post(EnvelopeReceived(broker, topic, wire))

    def receive(self, frame: Frame, peer: NodeId | None = None) -> None:
        """A peer sends ``frame``, as its data plane would hand it over."""
        payload = None if frame.payload is None else bytes(frame.payload)
        peer = peer or self.rng.choice([name for name in self.world.names if name != self.target.name])
        if payload is not None and isinstance(frame.header, headers.Activation):
            handle = self.target.put(payload)
            self.target.post(FrameReceived(peer, frame.header, handle))
        else:
            self.target.post(FrameReceived(peer, frame.header, payload))

    def rest(self) -> None:
        """A blow was struck; now and then the world goes on."""
        self._blows += 1
        if self._blows % REST == 0:
            self.world.run(REST_S)
            self.world.log.clear()

    def refusals(self) -> int:
        """Envelopes the target refused or knew already."""
        names = ("messages_rejected", "messages_duplicate")
        return sum(count for (name, _), count in self.target.counts.items() if name in names)

    def strike(self) -> None:
        """One blow of any kind."""
        blow = self.rng.choice(
            (
                self.damaged_envelope,
                self.altered_envelope,
                self.altered_envelope,
                self.signed_nonsense,
                self.damaged_frames,
                self.altered_frame,
                self.altered_frame,
                self.gossiped,
            )
        )
        blow()
        self.rest()

    def damaged_envelope(self) -> None:
        """Bytes that nobody signed: refused, and counted once."""
        message = self.rng.choice(self.messages)
        wire = self.sealed(message)
        broken = self.forger.damaged(wire, self.forger.pool.envelopes)
        before = self.refusals()
        self.hear(broken, topic_for(CLUSTER, node_id_of(self.world.operator.public_key), message))
        if broken not in (wire, *self.forger.pool.envelopes):
            assert self.refusals() >= before + 1, "what nobody signed was accepted"

    def altered_envelope(self) -> None:
        """A member's word in the right form."""
        wire = self.altered()
        if wire is not None:
            self.hear(*wire, broker=self.rng.choice(("a", "b")))

    def altered(self) -> tuple[bytes, str] | None:
        """Envelope and topic of a message whose fields were drawn anew; None if that cannot be written at all."""
        message = self.forger.altered(self.rng.choice(self.messages))
        sealer = self.speaker(message)
        if sealer is not self.world.operator:
            sealer = self.rng.choice([key for name, key in self.keys.items() if name != self.target.name])
        if self.rng.random() < 0.7:
            message = self.signed(message, sealer)
        try:
            topic = topic_for(CLUSTER, node_id_of(sealer.public_key), message)
            return self.sealed(message, sealer, incarnation=2 if self.rng.random() < 0.02 else 1), topic
        except (RemoteProtocolError, LocalProtocolError):
            return None

    def signed_nonsense(self) -> None:
        """A member signs a body that is no message."""
        message = self.rng.choice(self.messages)
        kind, body = encode_message(message)
        wrong = self.forger.row(body) if self.rng.random() < 0.6 else self.forger.damaged(body, (body,))
        self.hear(self.nonsense(kind, wrong), topic_for(CLUSTER, self.world.names[0], message))

    def gossiped(self) -> None:
        """The same, over a link instead of a broker."""
        wire = self.altered()
        if wire is not None:
            envelope, topic = wire
            if self.rng.random() < 0.3:
                envelope = self.forger.damaged(envelope, self.forger.pool.envelopes)
            self.receive(_read(encode_frame(headers.Gossip(topic), envelope)))

    def altered_frame(self) -> None:
        """A frame in the right form, of anything."""
        header = self.rng.choice(self.headers)
        if self.rng.random() < 0.9:
            header = self.forger.altered(header)
        payload: bytes | None = None
        if isinstance(header, headers.Activation):
            header = dataclasses.replace(
                header, shape=header.shape[:3], dtype=self.rng.choice((header.dtype, Dtype.I64))
            )
            try:
                payload = bytes(min(TensorSpec(header.dtype, header.shape).byte_count, 1 << 16)) or None
            except RemoteProtocolError:
                return
        elif isinstance(header, PAYLOADS) and self.rng.random() < 0.7:
            payload = self.rng.randbytes(self.rng.choice((8, 16, 24, 3, 100)))
        try:
            wire = encode_frame(header, payload)
        except LocalProtocolError:
            return
        self.receive(_read(wire))

    def damaged_frames(self) -> None:
        """A stream of bytes that was damaged: what can still be read of it is received."""
        stream = self.forger.damaged(self._frame() + self._frame(), (self._frame(), b""))
        reader = FrameReader()
        try:
            for frame in reader.feed(stream):
                self.receive(frame)
        except RemoteProtocolError:
            return

    def _frame(self) -> bytes:
        header = self.rng.choice([header for header in self.headers if not isinstance(header, headers.Activation)])
        head, payload = encode_frame(header, b"payload!" if isinstance(header, PAYLOADS) else None)
        return head + bytes(payload or b"")


def _read(wire: tuple[bytes, bytes | memoryview | None]) -> Frame:
    head, payload = wire
    (frame,) = FrameReader().feed(head + bytes(payload or b""))
    return frame
