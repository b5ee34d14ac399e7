"""The ballots of an agreement: what can be said in a round, what a voter must not forget of it, and the box.

A voter casts one ballot of each kind in a round, and its proposer names one plan. Who says two things is a liar: both
are kept and both count, because safety holds for up to f liars whatever they say, and because two halves of the voters
may each have heard one of them. A third would add nothing but memory.

What is kept is bounded by rounds: of rounds long past or far ahead the box remembers only that a voter has reached
them, which is all that a voter needs who must catch up. A decision of such a round comes as a certificate.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind

NO_ROUND: Final = -1
VERSIONS_MAX: Final = 2
"""Differing statements of one voter that are kept: a liar's two may both be needed to decide, a third never."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """``value`` is proposed in ``round``; ``valid_round``: where a quorum prevoted it before (NO_ROUND: nowhere)."""

    round: int
    value: Digest
    valid_round: int


@dataclass(frozen=True, slots=True)
class Vote:
    """One ballot; ``value`` None is a vote for nothing."""

    kind: VoteKind
    round: int
    value: Digest | None


@dataclass(frozen=True, slots=True)
class Memory:
    """What must survive a crash: where a voter is, what holds it, and every ballot it cast lately."""

    round: int = 0
    locked: Digest | None = None
    locked_round: int = NO_ROUND
    valid: Digest | None = None
    valid_round: int = NO_ROUND
    support: tuple[NodeId, ...] = ()
    """Who prevoted ``valid`` in ``valid_round``: one of them may be a liar who told this voter alone, and only once."""
    cast: tuple[Proposal | Vote, ...] = ()

    def spoke(self, kind: VoteKind | None) -> bool:
        """Whether the voter has cast its ballot of ``kind`` in its round; None: whether it has proposed."""
        now = [each for each in self.cast if each.round == self.round]
        return any(kind is (each.kind if isinstance(each, Vote) else None) for each in now)

    @property
    def standing(self) -> tuple[Proposal | Vote, ...]:
        """What must be said again until all have decided.

        Votes for a plan, of any round: others may lack them to decide, or to believe a proposal. Votes of the round
        before: whoever is still there needs a quorum of them to leave. Nobody can be further behind, for it takes more
        than f honest voters to leave a round, and so many pull along whoever is not there.
        """
        return tuple(
            each
            for each in self.cast
            if each.round == self.round
            or (isinstance(each, Vote) and (each.value is not None or each.round == self.round - 1))
        )

    def adding(self, statement: Proposal | Vote, oldest_round: int) -> "Memory":
        """The memory of one who also said ``statement``; what is older than ``oldest_round`` is forgotten."""
        return replace(self, cast=(*(each for each in self.cast if each.round >= oldest_round), statement))


@dataclass(slots=True)
class Ballots:
    """What was heard: per kind, round and value, who said it; and how far each voter is known to have come."""

    proposals: dict[int, list[Proposal]] = field(default_factory=dict)
    votes: dict[tuple[VoteKind, int], dict[NodeId, list[Vote]]] = field(default_factory=dict)
    furthest: dict[NodeId, int] = field(default_factory=dict)

    def propose(self, proposal: Proposal) -> None:
        """Keep a proposal; at most two of a round matter."""
        known = self.proposals.setdefault(proposal.round, [])
        if proposal not in known and len(known) < VERSIONS_MAX:
            known.append(proposal)

    def vote(self, voter: NodeId, vote: Vote) -> None:
        """Keep a ballot; at most two of a voter in one round matter."""
        cast = self.votes.setdefault((vote.kind, vote.round), {}).setdefault(voter, [])
        if vote not in cast and len(cast) < VERSIONS_MAX:
            cast.append(vote)

    def speak(self, voter: NodeId, round_: int) -> None:
        """``voter`` is known to have been in ``round_``."""
        self.furthest[voter] = max(round_, self.furthest.get(voter, NO_ROUND))

    def forget(self, keep: Callable[[int], bool]) -> None:
        """Drop every round that ``keep`` does not want."""
        self.proposals = {round_: known for round_, known in self.proposals.items() if keep(round_)}
        self.votes = {box: cast for box, cast in self.votes.items() if keep(box[1])}

    def known(self) -> list[Proposal]:
        """Every proposal that is kept, by round."""
        return [each for round_ in sorted(self.proposals) for each in self.proposals[round_]]

    def voters_for(self, kind: VoteKind, round_: int, value: Digest | None) -> tuple[NodeId, ...]:
        """Who cast ``value``, by id."""
        cast = self.votes.get((kind, round_), {})
        return tuple(sorted(voter for voter, votes in cast.items() if any(vote.value == value for vote in votes)))

    def turnout(self, kind: VoteKind, round_: int) -> int:
        """How many cast anything."""
        return len(self.votes.get((kind, round_), {}))

    def round_reached(self, beyond: int) -> int:
        """The latest round that more than ``beyond`` voters have reached; NO_ROUND if so many never spoke."""
        rounds = sorted(self.furthest.values(), reverse=True)
        return rounds[beyond] if len(rounds) > beyond else NO_ROUND
