"""This node's seat in the council of one deployment: what it knows to be decided, and its part in what follows.

A seat holds the chain of plans and, while this node votes, the sitting about the next one. It adopts whatever is
proven, from wherever it comes: decided here, heard, ordered by operators, or read back from disk. What allows this node
to vote (``franchise``) is written before what asks it to.

Whoever decides says the certificate to all, to be kept by brokers, and directly to everybody whom the old plan or the
new one concerns. Whoever still speaks of a decided epoch is sent what it missed. Whoever speaks of one further on knows
more than this node, which is then ``Behind``.
"""

from dataclasses import replace
from random import Random
from typing import Final

from shoal_agent.core.chain import Chain, Conflict, Extended, Link, Outcome, Waiting
from shoal_agent.core.effects import Persist
from shoal_agent.core.facts import Adopted, Behind, Disputed, How, JudgementWanted, SeatView, Standing
from shoal_agent.core.franchise import Franchise
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import concerned_by, faults_of
from shoal_agent.core.sitting import Asked, Caught, Finding, Reached, Sitting
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import VoteDue, WordDue
from shoal_agent.core.voice import Voice
from shoal_agent.core.votelog import Diary
from shoal_protocol.codec import decode_plan, encode_message
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId, digest_of
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import Certified, Plan, PlanAnnounced, PlanStage, Proposed, RecoveryOrdered, VoteCast

SPACING_S: Final = 0.5
"""Between two answers to one peer, or two questions about one: what it repeats, it repeats no faster."""
ANSWER_LINKS_MAX: Final = 8
"""Plans sent to a voter that lags; whoever lags further fetches the rest by anti-entropy."""
WISHED: Final = "another plan is wished for"
"""The log's words for the moment in which a voter found a reason to change."""

SeatFact = Adopted | JudgementWanted | Behind | Disputed | Caught


class Seat:
    """One deployment."""

    def __init__(self, deployment: DeploymentId, tables: Tables, voice: Voice, rng: Random) -> None:
        self._tables = tables
        self._voice = voice
        self._rng = rng
        self.deployment = deployment
        self.chain = Chain(deployment)
        self._franchise = Franchise(deployment, voice.identity.node)
        self._before: Plan | None = None
        """The newest plan, while a newer one is being taken in."""
        self._checked = True
        self._sitting: Sitting | None = None
        self._wish: bytes | None = None
        self._answered: dict[NodeId, Instant] = {}
        self._asked: dict[NodeId, Instant] = {}

    @property
    def wanted(self) -> list[JudgementWanted]:
        """Judgements this node still owes."""
        asked = () if self._sitting is None else self._sitting.asked
        return [JudgementWanted(each.plan, each.digest) for each in asked]

    def view(self) -> SeatView | None:
        """What this seat looks like; None before there is a plan."""
        if self.chain.head is None:
            return None
        plan, voter = self.chain.plan, self._voice.identity.node in self.chain.plan.voters
        view = SeatView(self.deployment, plan.epoch, self.chain.head.digest, voter, self._franchise.barred)
        if self._sitting is None:
            return view
        state = self._sitting.agreement
        return replace(
            view, round=state.round, step=state.step.value, locked=state.memory.locked, pausing=state.pausing
        )

    # --- what is proven ---------------------------------------------------------------------------------------------

    def announced(self, message: PlanAnnounced, wire: bytes, now: Instant, out: Outbox, how: How) -> list[SeatFact]:
        """A genesis plan, in an operator's verified envelope."""
        if how is not How.RESTORED and not self._is_sound(message.plan, now, out):
            return []
        if self.chain.head is None:
            self._franchise.meet(now, again=how is How.RESTORED)
        roster = self._voice.identity.roster
        return self._take(self.chain.begin(message, wire, roster, roster.cluster), None, now, out, how)

    def certified(
        self, message: Certified, sender: NodeId | None, now: Instant, out: Outbox, how: How
    ) -> list[SeatFact]:
        """A certificate; ``sender`` None: this node's own."""
        roster = self._voice.identity.roster
        outcome = self.chain.certify(message, roster, roster.cluster, proven=sender is None)
        return self._take(outcome, sender, now, out, how)

    def ordered(
        self, message: RecoveryOrdered, wire: bytes, sender: NodeId | None, now: Instant, out: Outbox, how: How
    ) -> list[SeatFact]:
        """An order of operators, in a verified envelope."""
        if how is not How.RESTORED and not self._is_sound(message.plan, now, out):
            return []
        roster = self._voice.identity.roster
        outcome = self.chain.order(message, wire, roster, roster.cluster, proven=how is How.RESTORED)
        return self._take(outcome, sender, now, out, how)

    def _is_sound(self, raw: bytes, now: Instant, out: Outbox) -> bool:
        """Whether this node can believe that operators meant the plan ``raw``."""
        plan = decode_plan(raw)
        faults = faults_of(plan, self._voice.identity.roster)
        if faults:
            subject, why = f"{plan.deployment}/{plan.epoch}", "; ".join(faults)
            self._tables.rejected["invalid-plan"] += 1
            out.count("plans_rejected", "invalid")
            out.note("warning", "plan refused", plan=subject, why=why)
            self._tables.story.tell(now, subject, f"refused: {why}")
        return not faults

    def _take(self, outcome: Outcome, sender: NodeId | None, now: Instant, out: Outbox, how: How) -> list[SeatFact]:
        match outcome:
            case Extended(links):
                return [self._adopt(links, now, out, how)]
            case Waiting() if sender is not None:
                return self._behind(sender, now)
            case Conflict(epoch, held, other):
                self._tables.rejected["equivocation"] += 1
                out.count("plans_rejected", "equivocation")
                out.note("error", "two plans are proven for one epoch", deployment=self.deployment, epoch=epoch)
                told = f"refused {other.hex()[:16]}: plan {held.hex()[:16]} holds this epoch already"
                self._tables.story.tell(now, f"{self.deployment}/{epoch}", told)
                return [Disputed(self.deployment, epoch, held, other)]
            case _:
                return []

    def _adopt(self, links: tuple[Link, ...], now: Instant, out: Outbox, how: How) -> Adopted:
        """Go on from a new head."""
        plan, head = self.chain.plan, links[-1]
        if how is How.RESTORED:
            self._checked = False
            self._tables.timers.set(WordDue(self.deployment), self._franchise.settled_at)
        else:
            self._franchise.advance(self._before, plan, now)
            self._franchise.open_diary(plan, out)
            for link in links:
                out.add(_stored(self.deployment, link))
            self._tables.timers.clear(WordDue(self.deployment))
        self._before = plan
        self._sitting = None
        self._wish = None
        stages = ", ".join(_told(stage) for stage in plan.stages)
        told = f"plan {head.digest.hex()[:16]} {how.value}: {stages}; {plan.cause.name.lower()} {plan.reason}".strip()
        self._tables.story.tell(now, f"{self.deployment}/{plan.epoch}", told)
        out.count("agreements", how.value)
        return Adopted(plan, head.digest, how)

    def remember(self, diary: Diary, now: Instant) -> None:
        """What this voter wrote in an earlier life."""
        self._franchise.remember(diary, now)

    def lose(self, now: Instant, out: Outbox) -> None:
        """This node does not know what it said in an earlier life."""
        head = self.chain.head
        self._sitting = None
        self._franchise.lose(None if head is None else Epoch(head.epoch + 1), now)
        if head is not None:
            self._franchise.open_diary(self.chain.plan, out)
            self._tell_barred(now, out, "it has lost its earlier life")

    def _tell_barred(self, now: Instant, out: Outbox, why: str) -> None:
        subject = f"{self.deployment}/{self.chain.plan.epoch + 1}"
        out.count("agreements", "barred")
        out.note("warning", "this node does not vote", deployment=self.deployment, why=why)
        self._tables.story.tell(now, subject, f"this node does not vote: {why}")

    # --- voting -----------------------------------------------------------------------------------------------------

    def _sit(self, now: Instant, out: Outbox) -> list[SeatFact]:
        """Open the sitting about the next plan, if this node votes about it and may already."""
        head = self.chain.head
        if self._sitting is not None or head is None or now < self._franchise.settled_at:
            return []
        plan = self.chain.plan
        self._check(now, out)
        diary = self._franchise.diary(plan, now)
        if diary is None:
            return []
        self._sitting = Sitting(self._tables, self._voice, head, plan, diary, self._rng)
        told = f"this node votes, from round {self._sitting.agreement.round} on"
        self._tables.story.tell(now, f"{self.deployment}/{plan.epoch + 1}", told)
        standing = self._tables.membership.standing
        gone = tuple(node for node in plan.voters if standing(node) in (Standing.DEAD, Standing.LEFT))
        found = self._sitting.begin(gone, now, out)
        if self._wish is not None:
            found += self._sitting.wish(self._wish, now, out)
        return self._facts(found, now, out)

    def _check(self, now: Instant, out: Outbox) -> None:
        """Once everything is read back from disk, see whether the diary is there."""
        if not self._checked:
            self._checked = True
            if not self._franchise.check(self.chain.plan, out):
                self._tell_barred(now, out, "its vote log is lost")

    def wish(self, raw: bytes, now: Instant, out: Outbox) -> list[SeatFact]:
        """This node would like the plan ``raw`` to be the next."""
        plan, head = decode_plan(raw), self.chain.head
        if head is None or plan.parent != head.digest or self._voice.identity.node not in self.chain.plan.voters:
            return []
        self._wish = raw
        told = f"this node wishes plan {digest_of(raw).hex()[:16]}: {plan.reason}"
        self._tables.story.tell(now, f"{self.deployment}/{plan.epoch}", told)
        out.note("info", WISHED, deployment=self.deployment, epoch=plan.epoch, why=plan.reason)
        if self._sitting is not None:
            return self._facts(self._sitting.wish(raw, now, out), now, out)
        if now < self._franchise.settled_at:
            self._tables.timers.set(WordDue(self.deployment), self._franchise.settled_at)
        return self._sit(now, out)

    def withdraw(self, now: Instant, out: Outbox) -> list[SeatFact]:
        """This node wishes nothing any more."""
        self._wish = None
        return [] if self._sitting is None else self._facts(self._sitting.wish(None, now, out), now, out)

    def judged(self, value: Digest, now: Instant, out: Outbox, *, acceptable: bool, reason: str) -> list[SeatFact]:
        """This node's answer about a plan it was asked about."""
        if self._sitting is None:
            return []
        return self._facts(self._sitting.judged(value, now, out, acceptable=acceptable, reason=reason), now, out)

    def absent(self, node: NodeId, now: Instant, out: Outbox, *, gone: bool) -> list[SeatFact]:
        """A node is known to be gone, or is back."""
        if self._sitting is None or node not in self.chain.plan.voters:
            return []
        return self._facts(self._sitting.absent(node, now, out, gone=gone), now, out)

    def rang(self, alarm: VoteDue | WordDue, now: Instant, out: Outbox) -> list[SeatFact]:
        """A time-out, or time to say things again."""
        if isinstance(alarm, VoteDue):
            if self._sitting is None or self._sitting.epoch != alarm.epoch:
                return []
            return self._facts(self._sitting.rang(alarm, now, out), now, out)
        if self._sitting is not None:
            self._sitting.repeat(now, out)
            return []
        self._check(now, out)
        if self._wish is not None or self._franchise.spoke(self.chain.plan):
            return self._sit(now, out)
        return []

    def spoken(
        self, envelope: Envelope, message: Proposed | VoteCast, wire: bytes, now: Instant, out: Outbox
    ) -> list[SeatFact]:
        """A proposal or a ballot; RemoteProtocolError if it cannot be what it says."""
        sender = envelope.sender
        if self.chain.head is None or message.epoch > self.chain.plan.epoch + 1:
            return self._behind(sender, now)
        if message.epoch <= self.chain.plan.epoch:
            self._enlighten(sender, message.epoch, now, out)
            return []
        if sender not in self.chain.plan.voters:
            raise MalformedMessage(f"{sender} does not vote about {self.deployment}/{message.epoch}")
        self._franchise.listen(sender)
        facts = self._sit(now, out)
        if self._sitting is None:
            return facts
        if isinstance(message, Proposed):
            return facts + self._facts(self._sitting.proposed(envelope, message, wire, now, out), now, out)
        return facts + self._facts(self._sitting.voted(envelope, message, wire, now, out), now, out)

    def _facts(self, found: list[Finding], now: Instant, out: Outbox) -> list[SeatFact]:
        facts: list[SeatFact] = []
        for each in found:
            match each:
                case Reached(certified):
                    facts += self._reached(certified, now, out)
                case Asked(plan, value):
                    facts.append(JudgementWanted(plan, value))
                case Caught():
                    facts.append(each)
        return facts

    def _reached(self, certified: Certified, now: Instant, out: Outbox) -> list[SeatFact]:
        """The next plan is decided here: adopt it, and tell everybody whom the old one or the new one concerns."""
        before = self.chain.plan
        facts = self.certified(certified, None, now, out, How.AGREED)
        concerned = sorted({*concerned_by(before), *concerned_by(self.chain.plan)})
        self._voice.say(certified, now, out, retain=True, direct=concerned, ttl_ms=TTL_MS_MAX)
        return facts

    # --- telling and asking -----------------------------------------------------------------------------------------

    def publish(self, now: Instant, out: Outbox) -> None:
        """Have the brokers keep the newest certificate, if it concerns this node."""
        head = self.chain.head
        if head is None or not isinstance(head.proof, Certified):
            return
        if self._voice.identity.node in concerned_by(self.chain.plan):
            self._voice.say(head.proof, now, out, retain=True, ttl_ms=TTL_MS_MAX)

    def sealed(self, link: Link, now: Instant) -> bytes:
        """The proof of ``link`` as it travels."""
        return link.wire or self._voice.seal(link.proof, now, TTL_MS_MAX)

    def _enlighten(self, peer: NodeId, epoch: Epoch, now: Instant, out: Outbox) -> None:
        """Send a voter that lags what it missed."""
        if _due(self._answered, peer, now):
            for link in self.chain.after(epoch - 1)[:ANSWER_LINKS_MAX]:
                out.send(peer, Gossip(self._voice.topic_of(link.proof)), self.sealed(link, now))

    def _behind(self, peer: NodeId, now: Instant) -> list[SeatFact]:
        return [Behind(self.deployment, peer)] if _due(self._asked, peer, now) else []


def _told(stage: PlanStage) -> str:
    """Its primary, with those who stand by, and its blocks."""
    nodes = "+".join(node[:8] for node in (stage.node, *stage.standbys))
    return f"{nodes} {stage.first_block}-{stage.last_block}"


def _due(last: dict[NodeId, Instant], peer: NodeId, now: Instant) -> bool:
    """Whether it is ``peer``'s turn again; there are no more peers than the roster has members."""
    if now - last.get(peer, now - SPACING_S) < SPACING_S:
        return False
    last[peer] = now
    return True


def _stored(deployment: DeploymentId, link: Link) -> Persist:
    """What is kept of a link: operators' envelopes as they are, certificates bare, for they prove themselves."""
    match link.proof:
        case PlanAnnounced():
            return Persist(f"plan.{deployment}", link.wire)
        case RecoveryOrdered():
            return Persist(f"order.{deployment}.{link.epoch}", link.wire)
        case Certified():
            return Persist(f"cert.{deployment}.{link.epoch}", encode_message(link.proof)[1])
