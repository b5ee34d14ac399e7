"""How long a voter waits. Nothing here bears on safety: a wrong figure costs time, never a second decision.

Time-outs grow with the rounds since this voter last had a new reason to hurry, because only a wait that exceeds the
real delays lets a round succeed, and nobody knows these. A proposer has PROPOSE_S (it may have to solve a plan), votes
VOTE_S: both far above a broker's delay, they only matter when somebody is missing.

After as many rounds of nothing in a row as there are voters, each of them has had its turn and been refused: they do
not want a plan now. The pauses that follow double up to PAUSE_S_MAX. Who has nothing to propose waits for others, for
as long as it takes. A new wish, or a plan that finds a quorum, starts all of it again.
"""

import math
from dataclasses import dataclass
from typing import Final

PROPOSE_S: Final = 3.0
PROPOSE_GROWTH_S: Final = 1.5
VOTE_S: Final = 2.0
VOTE_GROWTH_S: Final = 0.5
GROWTH_ROUNDS_MAX: Final = 16
"""Waits grow no further: to half a minute. Where words take longer, nothing can be served either."""
PAUSE_S_MAX: Final = 60.0
_DOUBLINGS_MAX: Final = 8
"""Enough to get from VOTE_S beyond PAUSE_S_MAX."""


@dataclass(slots=True)
class Patience:
    """Of one voter, in one life: ``voters`` of them take turns, and ``fresh_round`` was the last new beginning."""

    voters: int
    fresh_round: int
    nil_rounds: int = 0

    def hurry(self, round_: int) -> None:
        """There is a new reason: waits are short again."""
        self.fresh_round = round_
        self.nil_rounds = 0

    def proposal_s(self, round_: int) -> float:
        """How long to wait for the proposal of a round."""
        return PROPOSE_S + PROPOSE_GROWTH_S * self._rounds(round_)

    def votes_s(self, round_: int) -> float:
        """How long to wait for the votes that are missing when a quorum has voted."""
        return VOTE_S + VOTE_GROWTH_S * self._rounds(round_)

    def lull_s(self, round_: int) -> float:
        """How long a round may take, once somebody is known to be in a later one."""
        return self.proposal_s(round_) + 2 * self.votes_s(round_)

    def _rounds(self, round_: int) -> int:
        return min(round_ - self.fresh_round, GROWTH_ROUNDS_MAX)

    def lost_s(self, *, wishful: bool) -> float:
        """One more round came to nothing; how long to wait before the next, if this voter has a plan to propose."""
        self.nil_rounds += 1
        if self.nil_rounds < self.voters:
            return 0.0
        if not wishful:
            return math.inf
        return min(PAUSE_S_MAX, VOTE_S * (1 << min(self.nil_rounds - self.voters, _DOUBLINGS_MAX)))
