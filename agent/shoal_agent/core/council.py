"""What everybody does: this node's part in deciding the plans of all deployments, by AGREE/1.

    council     all deployments; who lies
    seat        one deployment: the chain of proven plans, the right to vote, who must be told
    sitting     one epoch: what is said, heard and signed
    agreement   the rules, and nothing else

The council takes in what is said and what happens, and returns what came of it (``Resolved``): a new plan to bring to
life, a plan to be judged, a peer that knows more. Whether a plan is good is not decided here: ``wish`` names one,
``judged`` answers for one.

Whoever is proven to have said two things (its own envelopes are the proof, and are shown to everybody) is not listened
to any more by this node; operators have to take it off the roster. What others relay of it still counts, since the
theory allows for f such voters whatever they say, but not for voters that count differently.

A node that has lived before and finds an empty disk has lost its past, whoever noticed it first: the node itself, by
its boot counter and the ``LIFE`` record that should be there, or others who remember more of it than it does. What it
hears of in the next LISTEN_S may be part of that past (``franchise``); what it first hears of later is new.

Memory is bounded by the roster: only members speak, and only operators found deployments, DEPLOYMENTS_MAX of them.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from shoal_agent.core.chain import Proof
from shoal_agent.core.effects import Persist
from shoal_agent.core.facts import Convicted, How, JudgementWanted, Resolved, SeatView
from shoal_agent.core.franchise import LISTEN_S
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.seat import Seat, SeatFact
from shoal_agent.core.sitting import Caught
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import CouncilAlarm
from shoal_agent.core.voice import Voice
from shoal_agent.core.votelog import read
from shoal_protocol.codec import KIND_OF, decode_message, decode_plan
from shoal_protocol.envelope import Envelope, open_envelope
from shoal_protocol.errors import MalformedMessage, OversizedMessage, RemoteProtocolError
from shoal_protocol.evidence import culprit_of
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId
from shoal_protocol.limits import EVIDENCE_BYTES_MAX
from shoal_protocol.messages import (
    Certified,
    EvidenceFound,
    Head,
    Plan,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteCast,
)

DEPLOYMENTS_MAX: Final = 256
"""As many as a sender has replay windows: beyond that a node could not tell old words from new ones anyway."""


RECORDS: Final = ("council", "vote", "cert", "order", "plan")
"""What names of stored records begin with, in the best order to read them back: diaries before the plans that ask for
them, and the beginning of a chain last, so that all of it is adopted at once."""
LIFE: Final = "council.life"
"""Written when a node begins to live, so that one that has lived before and finds nothing knows that it lost it."""
_WHOLE, _LOST = b"whole", b"lost"


class Council:
    """This node's part in all agreements."""

    def __init__(self, tables: Tables, voice: Voice, rng: Random) -> None:
        self._tables = tables
        self._voice = voice
        self._rng = rng
        self._seats: dict[DeploymentId, Seat] = {}
        self._liars: dict[NodeId, None] = {}
        self._life: bytes | None = None
        self._lost_at: Instant | None = None

    # --- what is proven ---------------------------------------------------------------------------------------------

    def announced(self, message: PlanAnnounced, wire: bytes, now: Instant, out: Outbox) -> list[Resolved]:
        """An operator founds a deployment; ``wire`` is the verified envelope."""
        seat = self._seat(decode_plan(message.plan).deployment, now, out)
        return self._resolve(seat.announced(message, wire, now, out, How.ANNOUNCED), now, out)

    def certified(self, envelope: Envelope, message: Certified, now: Instant, out: Outbox) -> list[Resolved]:
        """A certificate, from whomever."""
        seat = self._seat(decode_plan(message.plan).deployment, now, out)
        return self._resolve(seat.certified(message, envelope.sender, now, out, How.HEARD), now, out)

    def ordered(
        self, envelope: Envelope, message: RecoveryOrdered, wire: bytes, now: Instant, out: Outbox
    ) -> list[Resolved]:
        """Operators replace a plan; ``wire`` is the verified envelope."""
        seat = self._seat(decode_plan(message.plan).deployment, now, out)
        return self._resolve(seat.ordered(message, wire, envelope.sender, now, out, How.ORDERED), now, out)

    def restored(self, name: str, data: bytes, now: Instant, out: Outbox) -> list[Resolved]:
        """What an earlier life stored, in any order; other names are not the council's and change nothing."""
        kind = name.split(".", 1)[0]
        self._tables.restored = now
        try:
            if name == LIFE:
                self._life = data
            elif kind == "vote":
                diary = read(data)
                self._stored_seat(diary.deployment).remember(diary, now)
            elif kind == "cert":
                certified = decode_message(KIND_OF[Certified], data)
                assert isinstance(certified, Certified), "the number says so"
                seat = self._stored_seat(decode_plan(certified.plan).deployment)
                return self._resolve(seat.certified(certified, None, now, out, How.RESTORED), now, out)
            elif kind in ("plan", "order"):
                return self._reopened(data, now, out)
        except RemoteProtocolError as fault:
            # What this says is lost: a plan comes again from others; without its diary a voter stays silent.
            out.count("records_refused", kind)
            out.note("error", "stored record refused", name=name, why=str(fault))
        return []

    def _reopened(self, wire: bytes, now: Instant, out: Outbox) -> list[Resolved]:
        roster = self._voice.identity.roster
        message = open_envelope(wire, roster, roster.cluster).message
        match message:
            case PlanAnnounced():
                seat = self._stored_seat(decode_plan(message.plan).deployment)
                return self._resolve(seat.announced(message, wire, now, out, How.RESTORED), now, out)
            case RecoveryOrdered():
                seat = self._stored_seat(decode_plan(message.plan).deployment)
                return self._resolve(seat.ordered(message, wire, None, now, out, How.RESTORED), now, out)
            case _:
                raise MalformedMessage("neither plan nor order")

    # --- what is said -----------------------------------------------------------------------------------------------

    def spoken(
        self, envelope: Envelope, message: Proposed | VoteCast, wire: bytes, now: Instant, out: Outbox
    ) -> list[Resolved]:
        """A proposal or a ballot, in a verified envelope; RemoteProtocolError if it is not what it says."""
        if envelope.sender in self._liars:
            out.count("messages_rejected", "liar")
            return []
        seat = self._seat(message.deployment, now, out)
        return self._resolve(seat.spoken(envelope, message, wire, now, out), now, out)

    def evidence(self, message: EvidenceFound, now: Instant, out: Outbox) -> list[Resolved]:
        """Somebody shows that a member said two things; RemoteProtocolError if it does not."""
        roster = self._voice.identity.roster
        culprit = culprit_of(message, roster, roster.cluster)
        words = [open_envelope(wire, roster, roster.cluster).message for wire in (message.first, message.second)]
        if all(isinstance(word, Proposed | VoteCast) for word in words):
            return self._convict(culprit, now, out)
        # One number for two other words: a lie, or a disk that was lost in the first life. It has no say in a vote.
        out.count("agreements", "forked")
        self._tables.story.tell(now, culprit, "said two things under one number")
        return []

    # --- what this node thinks --------------------------------------------------------------------------------------

    def wish(self, deployment: DeploymentId, raw: bytes, now: Instant, out: Outbox) -> list[Resolved]:
        """This node would like the plan ``raw`` to be the next; it replaces what it wished before."""
        return self._resolve(self._seat(deployment, now, out).wish(raw, now, out), now, out)

    def withdraw(self, deployment: DeploymentId, now: Instant, out: Outbox) -> list[Resolved]:
        """This node wishes no change any more."""
        return self._resolve(self._seat(deployment, now, out).withdraw(now, out), now, out)

    def judged(
        self, deployment: DeploymentId, digest: Digest, now: Instant, out: Outbox, *, verdict: bool | None, reason: str
    ) -> list[Resolved]:
        """Whether this node can live with a plan; None: not sure yet, which counts as no when time is over."""
        if verdict is None:
            return []
        seat = self._seat(deployment, now, out)
        return self._resolve(seat.judged(digest, now, out, acceptable=verdict, reason=reason), now, out)

    # --- what happens -----------------------------------------------------------------------------------------------

    def stood(self, node: NodeId, now: Instant, out: Outbox, *, gone: bool) -> list[Resolved]:
        """``node`` is dead or has left, or is back: nobody waits for a proposer that is gone."""
        facts = [fact for seat in self._all() for fact in seat.absent(node, now, out, gone=gone)]
        return self._resolve(facts, now, out)

    def rang(self, alarm: CouncilAlarm, now: Instant, out: Outbox) -> list[Resolved]:
        """A time-out."""
        return self._resolve(self._seat(alarm.deployment, now, out).rang(alarm, now, out), now, out)

    def lose(self, now: Instant, out: Outbox) -> None:
        """This node has lived before and remembers nothing of it: it must not vote as if it had said nothing."""
        self._lost_at = now
        self._write_life(_LOST, out)
        for seat in self._all():
            seat.lose(now, out)

    def _look_back(self, now: Instant, out: Outbox) -> None:
        """See whether there was an earlier life that is not remembered, and when its time to be heard of is over."""
        if self._life is None and self._voice.identity.incarnation > 1 and not self._seats:
            out.note("warning", "an earlier life of this node is lost, and with it what it voted")
            self.lose(now, out)
        elif self._life == _LOST and self._lost_at is None:
            self.lose(now, out)
        elif self._life is None or (self._lost_at is not None and now - self._lost_at >= LISTEN_S):
            self._lost_at = None
            self._write_life(_WHOLE, out)

    def _write_life(self, life: bytes, out: Outbox) -> None:
        if self._life != life:
            self._life = life
            out.add(Persist(LIFE, life))

    def publish(self, now: Instant, out: Outbox) -> None:
        """A broker is back: it should keep the newest certificates."""
        self._look_back(now, out)
        for seat in self._all():
            seat.publish(now, out)

    # --- what is known ----------------------------------------------------------------------------------------------

    def heads(self) -> tuple[Head, ...]:
        """The newest proven plan of every deployment, by deployment."""
        return tuple(Head(seat.deployment, seat.chain.head.epoch) for seat in self._all() if seat.chain.head)

    def after(self, deployment: DeploymentId, epoch: Epoch | None, now: Instant) -> Iterator[bytes]:
        """What proves the plans of ``deployment`` after ``epoch`` (None: all of them), sealed, in order."""
        seat = self._seats.get(deployment)
        for link in seat.chain.after(-1 if epoch is None else epoch) if seat is not None else ():
            assert seat is not None, "there is a link"
            yield seat.sealed(link, now)

    def plan(self, deployment: DeploymentId, epoch: Epoch | None = None) -> tuple[Plan, Digest] | None:
        """The proven plan of ``epoch`` (None: the newest) and its name, if there is one."""
        seat = self._seats.get(deployment)
        link = None if seat is None else seat.chain.head if epoch is None else seat.chain.link(epoch)
        return None if link is None else (decode_plan(link.raw), link.digest)

    def proof(self, deployment: DeploymentId, epoch: Epoch) -> Proof | None:
        """What proves the plan of ``epoch``, if it is known."""
        seat = self._seats.get(deployment)
        link = None if seat is None else seat.chain.link(epoch)
        return None if link is None else link.proof

    def wanted(self) -> list[JudgementWanted]:
        """Judgements this node still owes: to be asked again whenever what it sees has changed."""
        return [each for seat in self._all() for each in seat.wanted]

    def view(self) -> tuple[SeatView, ...]:
        """How agreement about each deployment stands."""
        return tuple(view for seat in self._all() if (view := seat.view()) is not None)

    # --- within -----------------------------------------------------------------------------------------------------

    def _all(self) -> list[Seat]:
        return [self._seats[deployment] for deployment in sorted(self._seats)]

    def _seat(self, deployment: DeploymentId, now: Instant, out: Outbox) -> Seat:
        """The seat of ``deployment``, as this life finds it."""
        self._look_back(now, out)
        seat = self._stored_seat(deployment)
        if self._lost_at is not None and seat.chain.head is None:
            seat.lose(self._lost_at, out)
        return seat

    def _stored_seat(self, deployment: DeploymentId) -> Seat:
        seat = self._seats.get(deployment)
        if seat is None:
            if len(self._seats) >= DEPLOYMENTS_MAX:
                raise OversizedMessage(f"more than {DEPLOYMENTS_MAX} deployments")
            seat = self._seats[deployment] = Seat(deployment, self._tables, self._voice, self._rng)
        return seat

    def _resolve(self, facts: Sequence[SeatFact], now: Instant, out: Outbox) -> list[Resolved]:
        resolved: list[Resolved] = []
        for fact in facts:
            if isinstance(fact, Caught):
                resolved += self._show(fact, now, out)
            else:
                resolved.append(fact)
        return resolved

    def _show(self, caught: Caught, now: Instant, out: Outbox) -> list[Resolved]:
        """Show everybody who lied, unless it is known."""
        if caught.voter not in self._liars and max(len(caught.first), len(caught.second)) <= EVIDENCE_BYTES_MAX:
            self._voice.say(EvidenceFound(caught.first, caught.second), now, out)
        return self._convict(caught.voter, now, out)

    def _convict(self, node: NodeId, now: Instant, out: Outbox) -> list[Resolved]:
        if node in self._liars or node == self._voice.identity.node:
            return []
        self._liars[node] = None
        out.count("agreements", "liar")
        out.note("error", "a member said two things", node=node)
        self._tables.story.tell(now, node, "said two things that cannot both be honest; not listened to any more")
        return [Convicted(node)]
