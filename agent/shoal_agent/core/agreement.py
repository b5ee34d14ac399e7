"""AGREE/1: how the voters of one epoch agree on one plan, whoever crashes, lies or cannot be heard.

Single-shot Tendermint (Buchman, Kwon, Milosevic, arXiv 1807.04938) for one (deployment, epoch). Voters go through
rounds; each round has a proposer (the voters in rendezvous order, one after the other):

    PROPOSE    the proposer names a plan; a voter that finds it valid, and is not locked on another, prevotes it
    PREVOTE    a quorum of prevotes for one plan *locks* the voter on it; it precommits
    PRECOMMIT  a quorum of precommits for one plan decides it, for ever; these signatures are the certificate

    Q = floor((n + f) / 2) + 1          any two quorums share at least f + 1 voters, so at least one honest one

A locked voter prevotes another plan only if it is shown a quorum of prevotes for that plan in a round at least as
late as its lock; that is what makes two decisions impossible. Rounds exist only for liveness: who hears nothing
prevotes nothing, and time-outs grow with the round until they exceed any delay. f + 1 voters in a later round pull the
others along: at least one of them is honest.

Four rules of the house. A vote is remembered (``Remember``, durable) before it is cast, so that a restart cannot make
a voter say two things. Whoever says two things is *evidence*, and counts for both, which safety survives for up to f
of them. Nothing here reads a clock: time-outs leave as ``Arm`` and come back as ``rang``. And validity is not decided
here: the caller says of each proposal whether this voter, looking at itself, can live with it.

Constants: a proposer has 3 s in round 0 (it may have to solve a plan), votes 2 s; both are far above a broker's delay
and only matter when somebody is missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from shoal_agent.core.ballots import NO_ROUND, Ballots, Proposal, Vote
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind
from shoal_protocol.votes import quorum

PROPOSE_S: Final = 3.0
PROPOSE_GROWTH_S: Final = 1.5
VOTE_S: Final = 2.0
VOTE_GROWTH_S: Final = 0.5
ROUND_MAX: Final = 1 << 16
"""Rounds end here; with growing time-outs that is years away, so a higher number is somebody's nonsense."""


class Step(Enum):
    """What a voter waits for in its round."""

    PROPOSE = "propose"
    PREVOTE = "prevote"
    PRECOMMIT = "precommit"


class Alarm(Enum):
    """What a voter may wait for too long."""

    PROPOSAL = "proposal"
    PREVOTES = "prevotes"
    PRECOMMITS = "precommits"


TRANSITIONS: Final[Mapping[Step, tuple[Step, ...]]] = {
    Step.PROPOSE: (Step.PREVOTE,),
    Step.PREVOTE: (Step.PRECOMMIT,),
    Step.PRECOMMIT: (),
}
"""Within a round; a new round begins at PROPOSE."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What must survive a crash: where a voter is, what holds it, and every ballot it cast."""

    round: int = 0
    locked: Digest | None = None
    locked_round: int = NO_ROUND
    valid: Digest | None = None
    valid_round: int = NO_ROUND
    cast: tuple[Proposal | Vote, ...] = ()


@dataclass(frozen=True, slots=True)
class Remember:
    """Make ``memory`` durable before anything that follows in the list."""

    memory: Memory


@dataclass(frozen=True, slots=True)
class Propose:
    """Tell every voter."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class Cast:
    """Tell every voter."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class Arm:
    """Come back with ``rang(alarm, round)`` after ``seconds``."""

    alarm: Alarm
    round: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Decided:
    """``value`` is the plan of this epoch; ``voters`` precommitted it in ``round``."""

    value: Digest
    round: int
    voters: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Equivocated:
    """``voter`` cast two ballots of one kind in one round."""

    voter: NodeId
    first: Vote
    second: Vote


Fact = Remember | Propose | Cast | Arm | Decided | Equivocated


class Agreement:
    """One voter's part in one (deployment, epoch)."""

    def __init__(self, me: NodeId, voters: Iterable[NodeId], faulty: int, memory: Memory | None = None) -> None:
        self._me = me
        self._voters = tuple(voters)
        self._faulty = faulty
        self._quorum = quorum(len(self._voters), faulty)
        self._memory = memory or Memory()
        self._step = Step.PROPOSE
        self._heard = Ballots()
        self._acceptable: dict[Digest, bool] = {}
        self._armed: dict[tuple[Alarm, int], None] = {}
        self._wish: Digest | None = None
        self._decided: Decided | None = None
        self._out: list[Fact] = []
        for statement in self._memory.cast:
            self._hear(me, statement)

    @property
    def round(self) -> int:
        """The round this voter is in."""
        return self._memory.round

    @property
    def step(self) -> Step:
        """What it waits for there."""
        return self._step

    @property
    def decision(self) -> Decided | None:
        """The end of it, if it has come."""
        return self._decided

    @property
    def statements(self) -> tuple[Proposal | Vote, ...]:
        """Everything this voter has said, to be said again until all have decided."""
        return self._memory.cast

    @property
    def support(self) -> tuple[tuple[NodeId, Vote], ...]:
        """The prevotes that make this voter's valid plan valid, to be shown along with what it says itself.

        A proposal that names an earlier round is only believed by voters who know that round's prevotes. Some of them
        may be a liar's, who showed them to this voter alone: unless they are passed on, the proposal never passes.
        """
        memory = self._memory
        if memory.valid is None:
            return ()
        voters = self._heard.voters_for(VoteKind.PREVOTE, memory.valid_round, memory.valid)
        vote = Vote(VoteKind.PREVOTE, memory.valid_round, memory.valid)
        return tuple((voter, vote) for voter in voters)

    def proof(self) -> Proposal:
        """The proposal that was decided."""
        assert self._decided is not None, "asked after the decision"
        done = self._decided
        return next(each for each in self._heard.proposals[done.round] if each.value == done.value)

    def proposer(self, round_: int) -> NodeId:
        """Whose turn a round is."""
        return self._voters[round_ % len(self._voters)]

    # --- what happens -----------------------------------------------------------------------------------------------

    def begin(self) -> list[Fact]:
        """Start, or go on after a restart."""
        self._enter(self._memory.round)
        return self._flush()

    def wish(self, value: Digest) -> list[Fact]:
        """This voter would propose ``value``, which it finds valid, when it is its turn."""
        self._wish = value
        self._acceptable[value] = True
        self._propose()
        return self._flush()

    def proposed(self, sender: NodeId, proposal: Proposal, *, acceptable: bool) -> list[Fact]:
        """A proposal was heard; ``acceptable`` is this voter's own judgement of its plan."""
        if sender != self.proposer(proposal.round) or not self._plausible(proposal.round):
            return []
        if not NO_ROUND <= proposal.valid_round < proposal.round:
            return []
        self._acceptable.setdefault(proposal.value, acceptable)
        self._hear(sender, proposal)
        return self._flush()

    def voted(self, sender: NodeId, vote: Vote) -> list[Fact]:
        """A ballot was heard."""
        if sender not in self._voters or not self._plausible(vote.round):
            return []
        self._hear(sender, vote)
        return self._flush()

    def rang(self, alarm: Alarm, round_: int) -> list[Fact]:
        """A time-out has passed; one of another round or step is stale and means nothing."""
        if self._decided is None and round_ == self.round:
            match alarm, self._step:
                case Alarm.PROPOSAL, Step.PROPOSE:
                    self._prevote(None)
                case Alarm.PREVOTES, Step.PREVOTE:
                    self._precommit(None)
                case Alarm.PRECOMMITS, _:
                    self._enter(self.round + 1)
                case _:
                    pass
        return self._flush()

    @staticmethod
    def _plausible(round_: int) -> bool:
        return 0 <= round_ <= ROUND_MAX

    def _hear(self, sender: NodeId, statement: Proposal | Vote) -> None:
        self._heard.speak(sender, statement.round)
        if isinstance(statement, Proposal):
            self._heard.propose(statement)
            return
        other = self._heard.vote(sender, statement)
        if other is not None:
            self._out.append(Equivocated(sender, other, statement))

    # --- the rules --------------------------------------------------------------------------------------------------

    def _flush(self) -> list[Fact]:
        """Apply rules until none applies; what came of it, in order."""
        while self._decided is None and self._apply_one():
            pass
        out, self._out = self._out, []
        return out

    def _apply_one(self) -> bool:
        return self._decide() or self._skip() or self._answer_proposal() or self._lock() or self._pass_over()

    def _decide(self) -> bool:
        """A quorum precommitted one plan, in whatever round."""
        for round_ in sorted(self._heard.proposals):
            for proposal in self._heard.proposals[round_]:
                voters = self._heard.voters_for(VoteKind.PRECOMMIT, round_, proposal.value)
                if len(voters) >= self._quorum:
                    self._decided = Decided(proposal.value, round_, voters)
                    self._out.append(self._decided)
                    return True
        return False

    def _skip(self) -> bool:
        """More voters than may lie are in a later round: go there."""
        later = [round_ for round_, voters in self._heard.speakers.items() if len(voters) > self._faulty]
        furthest = max(later, default=self.round)
        if furthest <= self.round:
            return False
        self._enter(furthest)
        return True

    def _answer_proposal(self) -> bool:
        """Prevote the round's proposal, or nothing if this voter cannot accept it."""
        proposals = self._heard.proposals.get(self.round)
        if self._step is not Step.PROPOSE or not proposals:
            return False
        proposal, memory = proposals[0], self._memory
        if proposal.valid_round == NO_ROUND:
            free = memory.locked_round == NO_ROUND or memory.locked == proposal.value
        elif len(self._heard.voters_for(VoteKind.PREVOTE, proposal.valid_round, proposal.value)) >= self._quorum:
            free = memory.locked_round <= proposal.valid_round or memory.locked == proposal.value
        else:
            return False
        self._prevote(proposal.value if free and self._acceptable[proposal.value] else None)
        return True

    def _lock(self) -> bool:
        """A quorum prevoted a proposal of this round: lock on it and precommit, or only remember that it could be."""
        memory = self._memory
        for proposal in self._heard.proposals.get(self.round, ()):
            voters = self._heard.voters_for(VoteKind.PREVOTE, self.round, proposal.value)
            if self._step is Step.PROPOSE or len(voters) < self._quorum or memory.valid_round >= self.round:
                continue
            self._memory = replace(memory, valid=proposal.value, valid_round=self.round)
            if self._step is Step.PREVOTE:
                self._memory = replace(self._memory, locked=proposal.value, locked_round=self.round)
                self._precommit(proposal.value)
            else:
                self._out.append(Remember(self._memory))
            return True
        return False

    def _pass_over(self) -> bool:
        """A quorum voted for nothing, or for nothing in particular: go on, at once or after a while."""
        if self._step is Step.PREVOTE:
            if len(self._heard.voters_for(VoteKind.PREVOTE, self.round, None)) >= self._quorum:
                self._precommit(None)
                return True
            if self._heard.turnout(VoteKind.PREVOTE, self.round) >= self._quorum:
                self._arm(Alarm.PREVOTES, VOTE_S + VOTE_GROWTH_S * self.round)
        if self._heard.turnout(VoteKind.PRECOMMIT, self.round) >= self._quorum:
            self._arm(Alarm.PRECOMMITS, VOTE_S + VOTE_GROWTH_S * self.round)
        return False

    # --- what is done -------------------------------------------------------------------------------------------------

    def _enter(self, round_: int) -> None:
        self._memory = replace(self._memory, round=round_)
        self._step = Step.PROPOSE
        for statement in self._memory.cast:
            # After a restart in mid-round: what was said stands, so the step is the one after it.
            if isinstance(statement, Vote) and statement.round == round_:
                self._step = Step.PREVOTE if statement.kind is VoteKind.PREVOTE else Step.PRECOMMIT
        self._propose()
        if self._step is Step.PROPOSE:
            self._arm(Alarm.PROPOSAL, PROPOSE_S + PROPOSE_GROWTH_S * round_)

    def _propose(self) -> None:
        memory = self._memory
        value = memory.valid if memory.valid is not None else self._wish
        spoke = any(isinstance(each, Proposal) and each.round == memory.round for each in memory.cast)
        if value is None or spoke or self._decided is not None or self.proposer(memory.round) != self._me:
            return
        self._acceptable.setdefault(value, True)
        proposal = Proposal(memory.round, value, memory.valid_round)
        self._say(proposal, Propose(proposal))

    def _prevote(self, value: Digest | None) -> None:
        self._go(Step.PREVOTE)
        self._vote(Vote(VoteKind.PREVOTE, self.round, value))

    def _precommit(self, value: Digest | None) -> None:
        self._go(Step.PRECOMMIT)
        self._vote(Vote(VoteKind.PRECOMMIT, self.round, value))

    def _go(self, step: Step) -> None:
        assert step in TRANSITIONS[self._step], f"no way from {self._step} to {step}"
        self._step = step

    def _vote(self, vote: Vote) -> None:
        said = any(
            isinstance(each, Vote) and (each.kind, each.round) == (vote.kind, vote.round) for each in self._memory.cast
        )
        assert not said, "one ballot of a kind in a round"
        self._say(vote, Cast(vote))

    def _say(self, statement: Proposal | Vote, fact: Propose | Cast) -> None:
        self._memory = replace(self._memory, cast=(*self._memory.cast, statement))
        self._out += [Remember(self._memory), fact]
        self._hear(self._me, statement)

    def _arm(self, alarm: Alarm, seconds: float) -> None:
        if (alarm, self.round) not in self._armed:
            self._armed[alarm, self.round] = None
            self._out.append(Arm(alarm, self.round, seconds))
