"""The ballots of an agreement: what can be said in a round, and the box in which it is counted.

A voter casts one ballot of each kind in a round. One that casts two is a liar: both are kept and both count, because
safety holds for up to f liars whatever they say, and because the pair is the evidence against it. A third would add
nothing but memory.
"""

from dataclasses import dataclass, field
from typing import Final

from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind

NO_ROUND: Final = -1
VERSIONS_MAX: Final = 2
"""Differing statements of one voter that are kept: the second one is the evidence, a third adds nothing."""


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


@dataclass(slots=True)
class Ballots:
    """What was heard: per kind, round and value, who said it."""

    proposals: dict[int, list[Proposal]] = field(default_factory=dict)
    votes: dict[tuple[VoteKind, int], dict[NodeId, list[Vote]]] = field(default_factory=dict)
    speakers: dict[int, dict[NodeId, None]] = field(default_factory=dict)

    def propose(self, proposal: Proposal) -> bool:
        """Keep a proposal; at most two differing ones of a round matter."""
        known = self.proposals.setdefault(proposal.round, [])
        if proposal in known or len(known) >= VERSIONS_MAX:
            return False
        known.append(proposal)
        return True

    def vote(self, voter: NodeId, vote: Vote) -> Vote | None:
        """Keep a ballot; the voter's other ballot of the same kind and round, if it cast one."""
        cast = self.votes.setdefault((vote.kind, vote.round), {}).setdefault(voter, [])
        if vote in cast or len(cast) >= VERSIONS_MAX:
            return None
        cast.append(vote)
        return cast[0] if len(cast) > 1 else None

    def speak(self, voter: NodeId, round_: int) -> None:
        """``voter`` is known to have been in ``round_``."""
        self.speakers.setdefault(round_, {})[voter] = None

    def voters_for(self, kind: VoteKind, round_: int, value: Digest | None) -> tuple[NodeId, ...]:
        """Who cast ``value``, by id."""
        cast = self.votes.get((kind, round_), {})
        return tuple(sorted(voter for voter, votes in cast.items() if any(vote.value == value for vote in votes)))

    def turnout(self, kind: VoteKind, round_: int) -> int:
        """How many cast anything."""
        return len(self.votes.get((kind, round_), {}))
