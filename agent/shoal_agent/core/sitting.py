"""One voter's part in one epoch: ``agreement`` decides what to say, and a sitting says it, hears it, and keeps proof.

Between the rules and the world stand four things. *Signatures*: a vote counts if its voter signed it, whoever brought
it, and is kept with its signature, for enough of them are the certificate. *Plans*: the rules know digests; their bytes
are kept as long as one may be spoken of. *Durability*: the diary is written before a word leaves. *Repetition*: brokers
lose what they acknowledged, so a voter says what stands again, sealed anew, every REPEAT_S_MIN at first, ever more
slowly while nothing changes, until the epoch is decided.

Two contradicting words of one voter are kept as they were sealed: the pair convicts it.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, assert_never

from shoal_agent.core.agreement import Agreement
from shoal_agent.core.ballots import NO_ROUND, Memory, Proposal, Vote
from shoal_agent.core.chain import Link
from shoal_agent.core.effects import Persist
from shoal_agent.core.motions import Alarm, Arm, Cast, Decided, Fact, Judge, Propose, Remember
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import faults_of, faults_of_successor, rendezvous_order
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import VoteDue, WordDue
from shoal_agent.core.voice import Voice
from shoal_agent.core.votelog import Diary, write
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import Digest, Epoch, Instant, NodeId, digest_of
from shoal_protocol.messages import Ballot, Certified, Plan, Proposed, VoteCast, VoteKind
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.votes import check_support, quorum, sign_vote, verify_vote

REPEAT_S_MIN: Final = 0.5
REPEAT_S_MAX: Final = 2.0
REPEAT_PAUSED_S_MAX: Final = 16.0
"""While a voter pauses nobody waits for it; whoever missed its last words hears them within this time."""
REPEAT_GROWTH: Final = 1.5
REPEAT_JITTER: Final = 0.2


@dataclass(frozen=True, slots=True)
class Reached:
    """The epoch is decided."""

    certified: Certified


@dataclass(frozen=True, slots=True)
class Asked:
    """Whether this node can live with ``plan`` is for it to say."""

    plan: Plan
    digest: Digest


@dataclass(frozen=True, slots=True)
class Caught:
    """These two envelopes of one voter contradict each other."""

    voter: NodeId
    first: bytes
    second: bytes


Finding = Reached | Asked | Caught

_Word = tuple[VoteKind | None, int, Digest | None, NodeId]
"""What a voter said: kind (None: a proposal), round, value."""


def turns(plan: Plan) -> list[NodeId]:
    """The voters of the epoch after ``plan`` in the order in which they propose."""
    return rendezvous_order(f"{plan.deployment}/{plan.epoch + 1}".encode(), plan.voters)


class Sitting:
    """The agreement about the epoch after ``link``, whose plan is ``before``; ``diary`` is what it remembers."""

    def __init__(self, tables: Tables, voice: Voice, link: Link, before: Plan, diary: Diary, rng: Random) -> None:
        self._tables = tables
        self._voice = voice
        self._link = link
        self._before = before
        self._diary = diary
        self._rng = rng
        self.deployment = before.deployment
        self.epoch = Epoch(before.epoch + 1)
        self._plans = {digest_of(raw): raw for raw in diary.plans}
        self._signatures: dict[_Word, bytes] = {}
        self._wires: dict[_Word, bytes] = {}
        self._refused = (NO_ROUND, "")
        self._memory = diary.memory
        """As it was last written, which is what may be said."""
        self._proofs: dict[int, tuple[Ballot, ...]] = {}
        """Of what this voter proposed again, by round; in the diary a later proof may have taken the place of it."""
        self._repeat_s = REPEAT_S_MIN
        memory = diary.memory
        for ballot in diary.support:
            self._signatures[VoteKind.PREVOTE, memory.valid_round, memory.valid, ballot.node] = ballot.signature
        self.agreement = Agreement(voice.identity.node, turns(before), before.terms.faulty, memory)
        for statement in memory.cast:
            if isinstance(statement, Vote):
                self._sign(statement)

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What this node was asked and has not answered."""
        return tuple(Asked(decode_plan(self._plans[value]), value) for value in self.agreement.asked)

    # --- what happens -----------------------------------------------------------------------------------------------

    def begin(self, absent: tuple[NodeId, ...], now: Instant, out: Outbox) -> list[Finding]:
        """Start, or go on after a restart; ``absent`` are voters known to be gone."""
        facts = self.agreement.begin()
        for node in absent:
            facts += self.agreement.absent(node, gone=True)
        self._again(now)
        return self._perform(facts, now, out)

    def wish(self, raw: bytes | None, now: Instant, out: Outbox) -> list[Finding]:
        """Propose the plan ``raw`` when it is this voter's turn; None: nothing."""
        value = None if raw is None else digest_of(raw)
        if raw is not None and value is not None:
            self._plans[value] = raw
        return self._perform(self.agreement.wish(value), now, out)

    def judged(self, value: Digest, now: Instant, out: Outbox, *, acceptable: bool, reason: str) -> list[Finding]:
        """This node's own answer about a plan it was asked about."""
        if not acceptable:
            self._refused = (self.agreement.round, reason)
        return self._perform(self.agreement.judged(value, acceptable=acceptable), now, out)

    def absent(self, node: NodeId, now: Instant, out: Outbox, *, gone: bool) -> list[Finding]:
        """A voter is known to be gone, or is back."""
        return self._perform(self.agreement.absent(node, gone=gone), now, out)

    def rang(self, alarm: VoteDue, now: Instant, out: Outbox) -> list[Finding]:
        """A time-out."""
        return self._perform(self.agreement.rang(Alarm(alarm.waited), alarm.round), now, out)

    def proposed(self, envelope: Envelope, message: Proposed, wire: bytes, now: Instant, out: Outbox) -> list[Finding]:
        """A proposal for this epoch; RemoteProtocolError if it is none."""
        if envelope.sender != self.agreement.proposer(message.round):
            raise MalformedMessage(f"round {message.round} is not {envelope.sender}'s")
        plan, value = decode_plan(message.plan), digest_of(message.plan)
        valid_round = NO_ROUND if message.valid_round is None else message.valid_round
        faults = faults_of_successor(plan, self._before, self._link.digest)
        if faults or valid_round >= message.round:
            raise MalformedMessage("; ".join(faults) or f"round {valid_round} is not before {message.round}")
        proposal = Proposal(message.round, value, valid_round)
        if self.agreement.knows(proposal):
            return []
        who = self._voice.identity
        check_support(message, self._before, who.roster, who.roster.cluster)
        self._plans[value] = message.plan
        caught = self._keep((None, message.round, value, envelope.sender), wire)
        facts = self.agreement.proposed(envelope.sender, proposal)
        prevote = Vote(VoteKind.PREVOTE, valid_round, value)
        for ballot in self._verified(message.support, who.roster) if valid_round != NO_ROUND else ():
            self._signatures[VoteKind.PREVOTE, valid_round, value, ballot.node] = ballot.signature
            facts += self.agreement.voted(ballot.node, prevote)
        return caught + self._perform(facts, now, out)

    def _verified(self, support: tuple[Ballot, ...], roster: TrustedRoster) -> list[Ballot]:
        """The ballots that ``check_support`` looked at, and no further ones."""
        needed = quorum(len(self._before.voters), self._before.terms.faulty)
        return [ballot for ballot in support if roster.member(ballot.node) is not None][:needed]

    def voted(self, envelope: Envelope, message: VoteCast, wire: bytes, now: Instant, out: Outbox) -> list[Finding]:
        """A ballot for this epoch; RemoteProtocolError if its voter did not sign it."""
        vote = Vote(message.vote, message.round, message.value)
        word = (*_box(vote), envelope.sender)
        if word not in self._signatures:
            who = self._voice.identity
            member = who.roster.member(envelope.sender)
            assert member is not None, "the gate lets members speak only"
            verify_vote(
                member.public_key,
                message.signature,
                who.roster.cluster,
                self.deployment,
                self.epoch,
                message.round,
                message.vote,
                message.value,
            )
            self._signatures[word] = message.signature
        caught = self._keep(word, wire)
        return caught + self._perform(self.agreement.voted(envelope.sender, vote), now, out)

    def repeat(self, now: Instant, out: Outbox) -> None:
        """Say again what stands; ever more slowly."""
        for statement in self.agreement.memory.standing:
            self._say(statement, now, out)
        longest = REPEAT_PAUSED_S_MAX if self.agreement.pausing else REPEAT_S_MAX
        self._repeat_s = min(self._repeat_s * REPEAT_GROWTH, longest)
        self._again(now)

    def _again(self, now: Instant) -> None:
        jitter = 1 + REPEAT_JITTER * (2 * self._rng.random() - 1)
        self._tables.timers.set(WordDue(self.deployment), Instant(now + self._repeat_s * jitter))

    # --- what is done -----------------------------------------------------------------------------------------------

    def _perform(self, facts: list[Fact], now: Instant, out: Outbox) -> list[Finding]:
        found: list[Finding] = []
        pending = list(facts)
        while pending:
            fact = pending.pop(0)
            match fact:
                case Remember(memory):
                    self._remember(memory, out)
                case Propose(statement) | Cast(statement):
                    self._repeat_s = REPEAT_S_MIN
                    self._say(statement, now, out)
                    self._again(now)
                case Arm(alarm, round_, seconds):
                    due = VoteDue(self.deployment, self.epoch, alarm.value, round_)
                    self._tables.timers.set(due, Instant(now + seconds))
                case Judge(value):
                    pending += self._judge(value, now, found)
                case Decided(value, round_, voters):
                    found.append(Reached(self._certificate(value, round_, voters)))
                case _:
                    assert_never(fact)
        self._forget()
        return found

    def _remember(self, memory: Memory, out: Outbox) -> None:
        self._memory = memory
        named = [memory.locked, memory.valid]
        named += [each.value for each in memory.cast if isinstance(each, Proposal) and each.round == memory.round]
        plans = tuple(self._plans[value] for value in dict.fromkeys(named) if value is not None)
        barred, lost = self._diary.barred, self._diary.lost
        diary = Diary(self.deployment, self.epoch, barred, lost, memory, plans, self._support(memory))
        out.add(Persist(f"vote.{self.deployment}", write(diary)))

    def _say(self, statement: Proposal | Vote, now: Instant, out: Outbox) -> None:
        if isinstance(statement, Vote):
            reason = self._refused[1] if (statement.value, statement.round) == (None, self._refused[0]) else ""
            message: Proposed | VoteCast = VoteCast(
                self.deployment,
                self.epoch,
                statement.round,
                statement.kind,
                statement.value,
                reason,
                self._sign(statement),
            )
        else:
            proof = self._proof(statement)
            if statement.valid_round != NO_ROUND and not proof:
                return
            valid_round = None if statement.valid_round == NO_ROUND else statement.valid_round
            raw = self._plans[statement.value]
            message = Proposed(self.deployment, self.epoch, statement.round, valid_round, raw, proof)
        self._voice.say(message, now, out, direct=self._before.voters)

    def _proof(self, proposal: Proposal) -> tuple[Ballot, ...]:
        """What shows that ``proposal`` was prevoted before; nothing if that was forgotten in a crash."""
        memory = self._memory
        if (memory.valid, memory.valid_round) == (proposal.value, proposal.valid_round):
            self._proofs[proposal.round] = self._support(memory)
        return self._proofs.get(proposal.round, ())

    def _support(self, memory: Memory) -> tuple[Ballot, ...]:
        return tuple(
            Ballot(node, self._signatures[VoteKind.PREVOTE, memory.valid_round, memory.valid, node])
            for node in memory.support
        )

    def _sign(self, vote: Vote) -> bytes:
        who = self._voice.identity
        word = (*_box(vote), who.node)
        if word not in self._signatures:
            self._signatures[word] = sign_vote(
                who.sealer, who.roster.cluster, self.deployment, self.epoch, vote.round, vote.kind, vote.value
            )
        return self._signatures[word]

    def _judge(self, value: Digest, now: Instant, found: list[Finding]) -> list[Fact]:
        """Ask this node, unless the plan is wrong whoever looks at it."""
        plan = decode_plan(self._plans[value])
        faults = faults_of(plan, self._voice.identity.roster)
        if not faults:
            found.append(Asked(plan, value))
            return []
        self._tables.story.tell(now, f"{self.deployment}/{self.epoch}", f"refused a proposal: {'; '.join(faults)}")
        self._refused = (self.agreement.round, "invalid")
        return self.agreement.judged(value, acceptable=False)

    def _certificate(self, value: Digest, round_: int, voters: tuple[NodeId, ...]) -> Certified:
        ballots = tuple(Ballot(node, self._signatures[VoteKind.PRECOMMIT, round_, value, node]) for node in voters)
        return Certified(self._plans[value], round_, ballots)

    def _keep(self, word: _Word, wire: bytes) -> list[Finding]:
        """Remember what a voter sealed; two values where there may be one convict it."""
        others = [other for kept, other in self._wires.items() if (kept[:2], kept[3]) == (word[:2], word[3])]
        if word in self._wires or len(others) > 1:
            return []
        self._wires[word] = wire
        return [Caught(word[3], other, wire) for other in others]

    def _forget(self) -> None:
        """Drop what belongs to rounds and plans that nobody can speak of any more."""
        values, keeps = self.agreement.values, self.agreement.keeps
        self._plans = {value: raw for value, raw in self._plans.items() if value in values}
        self._proofs = {at: proof for at, proof in self._proofs.items() if at == self.agreement.round}
        self._signatures = {word: signature for word, signature in self._signatures.items() if keeps(word[1])}
        self._wires = {word: wire for word, wire in self._wires.items() if keeps(word[1])}


def _box(statement: Proposal | Vote) -> tuple[VoteKind | None, int, Digest | None]:
    return (statement.kind if isinstance(statement, Vote) else None), statement.round, statement.value
