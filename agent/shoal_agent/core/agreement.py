"""AGREE/1: how the voters of one epoch agree on one plan, whoever crashes, lies or cannot be heard.

Single-shot Tendermint (Buchman, Kwon, Milosevic, arXiv 1807.04938) for one (deployment, epoch). Voters go through
rounds; each round has a proposer (the voters in rendezvous order, one after the other):

    PROPOSE    the proposer names a plan; a voter that finds it valid, and is not locked on another, prevotes it
    PREVOTE    a quorum of prevotes for one plan *locks* the voter on it; it precommits
    PRECOMMIT  a quorum of precommits for one plan decides it, for ever; these signatures are the certificate

    Q = floor((n + f) / 2) + 1          any two quorums share at least f + 1 voters, so at least one honest one

A locked voter prevotes another plan only if it is shown a quorum of prevotes for that plan in a round at least as
late as its lock; that is what makes two decisions impossible. Rounds exist only for liveness: who hears nothing
prevotes nothing, time-outs grow until they exceed any delay, and f + 1 voters in later rounds pull the others along.

Seven rules of the house.

*Durable.* A vote is remembered (``Remember``) before it is cast, so that a restart cannot make a voter say two things.
*Two-tongued.* Who says two things counts for both, which safety survives for up to f of them.

*Validity is each voter's own*, so here it is only asked for (``Judge``), of fresh proposals alone. A plan that a quorum
prevoted before passes unasked: f + 1 voters or more judged it. Asking again would block for ever if hosts of a plan
died while voters were locked on it. It is decided, fails to become ready, and the next epoch repairs that.

*A lost round is left at once.* When Q voters precommitted nothing in a round, no plan can gather Q precommits there:
the two quorums would share an honest voter that precommitted twice. And a vote for nothing is safe at any time: a voter
need not wait for a proposer it knows to be gone (``absent``), nor a proposer without a plan for the others' patience.

*Nobody is left behind.* If only Q voters speak, all are needed to leave a round. So a voter votes for nothing where it
leaves without having voted: a liar's word that others never hear may have freed it. And whoever is still in a round
after its longest time, while one voter is further, follows: that one may have gone to its own turn after a pause.

*Pause, never abandon.* After n rounds of nothing in a row the voters wait (``patience`` says how long). Who has a plan
goes on in the next round that is its own, since any later round will do, and at once if the plan is new; who has none
follows, soon even if it hears one voter only, for that may be the only one that noticed something. But one voter, who
may lie, moves nobody further than everybody's next turn. No lock is ever given up.

*Bounded.* Rounds further away than ROUNDS_KEPT are not kept, but for those that locks and proposals refer to.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from shoal_agent.core.ballots import NO_ROUND, Ballots, Memory, Proposal, Vote
from shoal_agent.core.motions import STEPS, TRANSITIONS, Alarm, Arm, Cast, Decided, Fact, Judge, Propose, Remember, Step
from shoal_agent.core.patience import VOTE_S, Patience
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.limits import ROUNDS_MAX
from shoal_protocol.messages import VoteKind
from shoal_protocol.votes import quorum

ROUNDS_KEPT: Final = 8
"""Rounds before and after its own of which a voter keeps the ballots: seven proposers have had their turn in eight."""


class Agreement:
    """One voter's part in one (deployment, epoch); ``voters`` in the order of their turns."""

    def __init__(self, me: NodeId, voters: Iterable[NodeId], faulty: int, memory: Memory | None = None) -> None:
        self._me = me
        self._voters = tuple(voters)
        self._faulty = faulty
        self._quorum = quorum(len(self._voters), faulty)
        self._memory = memory or Memory()
        self._step = Step.PROPOSE
        self._heard = Ballots()
        self._wish: Digest | None = None
        self._absent: dict[NodeId, None] = {}
        self._decided: Decided | None = None
        self._out: list[Fact] = []
        self._verdicts: dict[Digest, bool | None] = {}
        self._armed: dict[Alarm, float] = {}
        self._patience = Patience(len(self._voters), self._memory.round)
        for voter, statement in (*self.support, *((me, each) for each in self._memory.cast)):
            self._hear(voter, statement)

    @property
    def round(self) -> int:
        """The round this voter is in."""
        return self._memory.round

    @property
    def step(self) -> Step:
        """What it waits for there."""
        return self._step

    @property
    def memory(self) -> Memory:
        """What holds it and what it has said."""
        return self._memory

    @property
    def pausing(self) -> bool:
        """Whether its round is lost and the next not begun."""
        return Alarm.PAUSE in self._armed

    @property
    def decision(self) -> Decided | None:
        """The end of it, if it has come."""
        return self._decided

    @property
    def asked(self) -> tuple[Digest, ...]:
        """Plans of this round about which this voter was asked and has not answered."""
        return tuple(value for value, verdict in self._verdicts.items() if verdict is None)

    @property
    def support(self) -> tuple[tuple[NodeId, Vote], ...]:
        """The prevotes that make this voter's valid plan valid, to be shown along with what it says itself."""
        vote = Vote(VoteKind.PREVOTE, self._memory.valid_round, self._memory.valid)
        return tuple((voter, vote) for voter in self._memory.support)

    @property
    def values(self) -> tuple[Digest, ...]:
        """Every plan that may still be spoken of: keep their bytes."""
        held = [self._wish, self._memory.valid, self._memory.locked]
        named = [each.value for each in self._heard.known()]
        return tuple(dict.fromkeys(value for value in (*held, *named) if value is not None))

    def proposer(self, round_: int) -> NodeId:
        """Whose turn a round is."""
        return self._voters[round_ % len(self._voters)]

    def knows(self, proposal: Proposal) -> bool:
        """Whether ``proposal`` was heard, and proven if it needs proof."""
        return proposal in self._heard.known() and self._proven(proposal)

    # --- what happens -----------------------------------------------------------------------------------------------

    def begin(self) -> list[Fact]:
        """Start, or go on after a restart."""
        self._enter(self._memory.round)
        return self._flush()

    def wish(self, value: Digest | None) -> list[Fact]:
        """This voter would propose ``value``, which it finds valid, when it is its turn; None: nothing any more."""
        if value == self._wish:
            return []
        self._wish = value
        if value is not None:
            self._patience.hurry(self.round)
            if self.pausing:
                self._resume()
            else:
                self._propose()
        return self._flush()

    def judged(self, value: Digest, *, acceptable: bool) -> list[Fact]:
        """The answer to ``Judge``; one that comes when the round is over means nothing."""
        if value in self._verdicts:
            self._verdicts[value] = acceptable
        return self._flush()

    def absent(self, node: NodeId, *, gone: bool) -> list[Fact]:
        """``node`` is known to be gone, or back again."""
        if gone:
            self._absent[node] = None
        else:
            self._absent.pop(node, None)
        return self._flush()

    def proposed(self, sender: NodeId, proposal: Proposal) -> list[Fact]:
        """A proposal was heard."""
        if sender != self.proposer(proposal.round) or not NO_ROUND <= proposal.valid_round < proposal.round:
            return []
        self._hear(sender, proposal)
        return self._flush()

    def voted(self, sender: NodeId, vote: Vote) -> list[Fact]:
        """A ballot was heard."""
        if sender not in self._voters:
            return []
        self._hear(sender, vote)
        return self._flush()

    def rang(self, alarm: Alarm, round_: int) -> list[Fact]:
        """A time-out has passed; one of another round or step is stale and means nothing."""
        if self._decided is None and round_ == self.round:
            match alarm, self._step:
                case Alarm.PROPOSAL, Step.PROPOSE:
                    self._cast(VoteKind.PREVOTE, None)
                case Alarm.PREVOTES, Step.PREVOTE:
                    self._cast(VoteKind.PRECOMMIT, None)
                case Alarm.PRECOMMITS, _ if not self.pausing:
                    self._give_up(self.round + 1)
                case Alarm.LULL, _ if not self.pausing:
                    self._give_up(min(self._heard.round_reached(0), self.round + len(self._voters)))
                case Alarm.PAUSE, _ if self.pausing:
                    self._resume()
        return self._flush()

    def _hear(self, sender: NodeId, statement: Proposal | Vote) -> None:
        if not 0 <= statement.round < ROUNDS_MAX:
            return
        self._heard.speak(sender, statement.round)
        if not self.keeps(statement.round):
            return
        if isinstance(statement, Proposal):
            self._heard.propose(statement)
        else:
            self._heard.vote(sender, statement)

    def keeps(self, round_: int) -> bool:
        """Whether ballots of ``round_`` may still matter here."""
        if abs(round_ - self.round) <= ROUNDS_KEPT or round_ in (self._memory.valid_round, self._memory.locked_round):
            return True
        return any(each.valid_round == round_ for each in self._heard.known())

    # --- the rules --------------------------------------------------------------------------------------------------

    def _flush(self) -> list[Fact]:
        """Apply rules until none applies; what came of it, in order."""
        while self._decided is None and self._apply_one():
            pass
        out, self._out = self._out, []
        return out

    def _apply_one(self) -> bool:
        return (
            self._decide()
            or self._skip()
            or self._answer_proposal()
            or self._expect_nothing()
            or self._lock()
            or self._pass_over()
            or self._leave()
            or self._fall_behind()
        )

    def _decide(self) -> bool:
        """A quorum precommitted one plan, in whatever round."""
        for proposal in self._heard.known():
            voters = self._heard.voters_for(VoteKind.PRECOMMIT, proposal.round, proposal.value)
            if len(voters) >= self._quorum:
                self._decided = Decided(proposal.value, proposal.round, voters)
                self._out.append(self._decided)
                return True
        return False

    def _skip(self) -> bool:
        """More voters than may lie have come further: follow."""
        furthest = self._heard.round_reached(self._faulty)
        if furthest <= self.round:
            return False
        self._enter(furthest)
        return True

    def _answer_proposal(self) -> bool:
        """Prevote the round's proposal, or nothing if this voter cannot accept it."""
        proposals = self._heard.proposals.get(self.round)
        if self._step is not Step.PROPOSE or not proposals:
            return False
        accepted = self._opinion(proposals[0])
        if accepted is None:
            return False
        self._cast(VoteKind.PREVOTE, proposals[0].value if accepted else None)
        return True

    def _opinion(self, proposal: Proposal) -> bool | None:
        """Whether to prevote ``proposal``; None: that cannot be said yet."""
        memory, value = self._memory, proposal.value
        if proposal.valid_round != NO_ROUND:
            free = memory.locked_round <= proposal.valid_round or memory.locked == value
            return free if self._proven(proposal) else None
        if memory.locked is not None:
            return memory.locked == value
        if value == self._wish:
            return True
        if value not in self._verdicts:
            self._verdicts[value] = None
            self._out.append(Judge(value))
        return self._verdicts[value]

    def _proven(self, proposal: Proposal) -> bool:
        if proposal.valid_round == NO_ROUND:
            return True
        return len(self._heard.voters_for(VoteKind.PREVOTE, proposal.valid_round, proposal.value)) >= self._quorum

    def _expect_nothing(self) -> bool:
        """No proposal will come: its proposer is gone; or it is this voter, has no plan, and others wait no longer."""
        if self._step is not Step.PROPOSE or self._heard.proposals.get(self.round):
            return False
        proposer = self.proposer(self.round)
        idle = proposer == self._me and self._heard.turnout(VoteKind.PREVOTE, self.round) > 0
        if proposer not in self._absent and not idle:
            return False
        self._cast(VoteKind.PREVOTE, None)
        return True

    def _lock(self) -> bool:
        """A quorum prevoted a proposal of this round: lock on it and precommit, or only remember that it could be."""
        memory = self._memory
        for proposal in self._heard.proposals.get(self.round, ()):
            voters = self._heard.voters_for(VoteKind.PREVOTE, self.round, proposal.value)
            if self._step is Step.PROPOSE or len(voters) < self._quorum or memory.valid_round >= self.round:
                continue
            self._patience.nil_rounds = 0
            self._memory = replace(memory, valid=proposal.value, valid_round=self.round, support=voters)
            if self._step is Step.PREVOTE:
                self._memory = replace(self._memory, locked=proposal.value, locked_round=self.round)
                self._cast(VoteKind.PRECOMMIT, proposal.value)
            else:
                self._out.append(Remember(self._memory))
            return True
        return False

    def _pass_over(self) -> bool:
        """A quorum voted for nothing, or for nothing in particular: go on, at once or after a while."""
        if self._step is Step.PREVOTE:
            if len(self._heard.voters_for(VoteKind.PREVOTE, self.round, None)) >= self._quorum:
                self._cast(VoteKind.PRECOMMIT, None)
                return True
            if self._heard.turnout(VoteKind.PREVOTE, self.round) >= self._quorum:
                self._arm(Alarm.PREVOTES, self._patience.votes_s(self.round))
        if self._heard.turnout(VoteKind.PRECOMMIT, self.round) >= self._quorum:
            self._arm(Alarm.PRECOMMITS, self._patience.votes_s(self.round))
        return False

    def _leave(self) -> bool:
        """A quorum precommitted nothing: this round is lost. Begin the next, or pause if this happens again."""
        if len(self._heard.voters_for(VoteKind.PRECOMMIT, self.round, None)) < self._quorum:
            return False
        if self.pausing:
            if self._heard.round_reached(0) > self.round:
                self._arm(Alarm.PAUSE, VOTE_S)
            return False
        seconds = self._patience.lost_s(wishful=self._wishful)
        self._give_up(self.round + (seconds == 0))
        if seconds > 0:
            self._arm(Alarm.PAUSE, seconds)
        return seconds == 0

    def _fall_behind(self) -> bool:
        """Somebody is further: this round may take its time, and no longer."""
        if not self.pausing and self._heard.round_reached(0) > self.round:
            self._arm(Alarm.LULL, self._patience.lull_s(self.round))
        return False

    @property
    def _wishful(self) -> bool:
        return self._wish is not None or self._memory.valid is not None

    # --- what is done -------------------------------------------------------------------------------------------------

    def _enter(self, round_: int) -> None:
        if self.pausing and self._wish is None:
            self._patience.fresh_round = round_
        self._memory = replace(self._memory, round=round_)
        self._verdicts.clear()
        self._armed.clear()
        self._heard.forget(self.keeps)
        self._step = Step.PROPOSE
        for kind in VoteKind:
            # After a restart in mid-round: what was said stands, so the step is the one after it.
            self._step = STEPS[kind] if self._memory.spoke(kind) else self._step
        self._propose()
        if self._step is Step.PROPOSE:
            self._arm(Alarm.PROPOSAL, self._patience.proposal_s(round_))

    def _resume(self) -> None:
        """End a pause: with one's own proposal, or by following whoever went on."""
        turns = range(self.round + 1, self.round + 1 + len(self._voters))
        own = next(round_ for round_ in turns if self.proposer(round_) == self._me)
        others = min(max(turns[0], self._heard.round_reached(0)), turns[-1])
        self._enter(own if self._wishful else others)

    def _propose(self) -> None:
        memory = self._memory
        value = memory.valid if memory.valid is not None else self._wish
        if value is None or memory.spoke(None) or self._decided is not None or self.proposer(memory.round) != self._me:
            return
        proposal = Proposal(memory.round, value, memory.valid_round)
        self._say(proposal, Propose(proposal))

    def _cast(self, kind: VoteKind, value: Digest | None) -> None:
        assert STEPS[kind] in TRANSITIONS[self._step], f"no way from {self._step} to {STEPS[kind]}"
        assert not self._memory.spoke(kind), "one ballot of a kind in a round"
        self._step = STEPS[kind]
        vote = Vote(kind, self.round, value)
        self._say(vote, Cast(vote))

    def _give_up(self, round_: int) -> None:
        """Go on in ``round_``, with a vote for nothing where none was cast."""
        for kind in [kind for kind in VoteKind if not self._memory.spoke(kind)]:
            self._cast(kind, None)
        if round_ > self.round:
            self._enter(round_)

    def _say(self, statement: Proposal | Vote, fact: Propose | Cast) -> None:
        self._memory = self._memory.adding(statement, self.round - ROUNDS_KEPT)
        self._out += [Remember(self._memory), fact]
        self._hear(self._me, statement)

    def _arm(self, alarm: Alarm, seconds: float) -> None:
        """Ask for ``alarm`` in this round, unless it comes sooner anyway."""
        if alarm not in self._armed or seconds < self._armed[alarm]:
            self._armed[alarm] = seconds
            self._out += [Arm(alarm, self.round, seconds)] if seconds < math.inf else []
