"""What moves in an agreement: the steps of a round, and what a voter's rules ask to be done.

The steps are a table, because SPEC.md draws it; the facts come out of ``agreement`` in the order in which they must be
performed: a ``Remember`` is durable before whatever follows it leaves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shoal_agent.core.ballots import Memory, Proposal, Vote
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind


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
    PAUSE = "pause"
    LULL = "lull"


TRANSITIONS: Final[Mapping[Step, Mapping[Step, str]]] = {
    Step.PROPOSE: {Step.PREVOTE: "the proposal is judged, or none will come, or time is over"},
    Step.PREVOTE: {Step.PRECOMMIT: "a quorum prevoted one plan or nothing, or time is over"},
    Step.PRECOMMIT: {},
}
"""Within a round: from a step to the next, and why. A new round begins at PROPOSE."""

STEPS: Final[Mapping[VoteKind, Step]] = {VoteKind.PREVOTE: Step.PREVOTE, VoteKind.PRECOMMIT: Step.PRECOMMIT}
"""Where casting a ballot leads."""


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
    """Come back with ``rang(alarm, round)`` after ``seconds``, and not when asked before."""

    alarm: Alarm
    round: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Judge:
    """Can this voter live with ``value``? Answer with ``judged``, by when the proposal's time is over."""

    value: Digest


@dataclass(frozen=True, slots=True)
class Decided:
    """``value`` is the plan of this epoch; ``voters`` precommitted it in ``round``."""

    value: Digest
    round: int
    voters: tuple[NodeId, ...]


Fact = Remember | Propose | Cast | Arm | Judge | Decided
