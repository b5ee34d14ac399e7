"""A voter's diary: what it must find again after a crash, as one record that is written before anything is said.

A voter that forgets what it said may say the opposite, and no other voter can tell that from a lie. So the record
exists from the moment a node learns that it votes about a deployment, empty at first: then a record that is missing
means that one was *lost*, never that there was nothing to write. Who has lost it stays silent in every epoch in which
it may have spoken (``barred``); ``lost`` says that this node does not know yet how far that goes.

Besides ``Memory`` it holds what that refers to and no peer is bound to keep: the plans by which the voter is held, to
propose them again, and the signatures of those who made its valid plan valid.

The bytes are msgpack of the project's strict form and a digest over them: whatever was cut off, worn by a bad card or
written by another version is refused as a whole. A refused diary is a lost one.
"""

from dataclasses import dataclass, field
from typing import Final, cast

from shoal_agent.core.ballots import NO_ROUND, Memory, Proposal, Vote
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.fields import decode, encode, record
from shoal_protocol.ids import DIGEST_BYTES, DeploymentId, Digest, Epoch, digest_of
from shoal_protocol.messages import Ballot, VoteKind

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Diary:
    """Of one deployment: the agreement about ``epoch``, and the last epoch in which this voter stays silent."""

    deployment: DeploymentId
    epoch: Epoch
    barred: Epoch | None = None
    lost: bool = False
    memory: Memory = field(default_factory=Memory)
    plans: tuple[bytes, ...] = ()
    support: tuple[Ballot, ...] = ()
    """The prevotes of ``memory.support``, signed."""


@dataclass(frozen=True, slots=True)
class _Said:
    """A proposal, or a vote if ``vote`` is given."""

    vote: VoteKind | None
    round: int
    value: Digest | None
    valid_round: int | None


@dataclass(frozen=True, slots=True)
class _Held:
    """The bytes of one plan."""

    plan: bytes


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written; the order of the fields is the format."""

    version: int
    deployment: DeploymentId
    epoch: Epoch
    barred: Epoch | None
    lost: bool
    round: int
    locked: Digest | None
    locked_round: int | None
    valid: Digest | None
    valid_round: int | None
    cast: tuple[_Said, ...]
    held: tuple[_Held, ...]
    support: tuple[Ballot, ...]


_RECORD: Final = record(_Record, signed=True)


def write(diary: Diary) -> bytes:
    """``diary`` as it is kept."""
    memory = diary.memory
    assert memory.support == tuple(ballot.node for ballot in diary.support), "whose prevotes they are"
    data = encode(
        _RECORD,
        _Record(
            VERSION,
            diary.deployment,
            diary.epoch,
            diary.barred,
            diary.lost,
            memory.round,
            memory.locked,
            _round(memory.locked_round),
            memory.valid,
            _round(memory.valid_round),
            tuple(_said(each) for each in memory.cast),
            tuple(_Held(plan) for plan in diary.plans),
            diary.support,
        ),
    )
    return data + digest_of(data)


def read(data: bytes) -> Diary:
    """The diary in ``data``; MalformedMessage if it is not whole."""
    body = data[:-DIGEST_BYTES]
    if digest_of(body) != data[-DIGEST_BYTES:]:
        raise MalformedMessage("a diary that is damaged")
    kept = cast("_Record", decode(_RECORD, body))
    if kept.version != VERSION:
        raise MalformedMessage(f"diary of version {kept.version}, not {VERSION}")
    if (kept.locked is None) != (kept.locked_round is None) or (kept.valid is None) != (kept.valid_round is None):
        raise MalformedMessage("a plan without its round")
    plans = tuple(each.plan for each in kept.held)
    digests = [digest_of(plan) for plan in plans]
    if any(value is not None and value not in digests for value in (kept.locked, kept.valid)):
        raise MalformedMessage("a plan that holds the voter is missing")
    memory = Memory(
        kept.round,
        kept.locked,
        NO_ROUND if kept.locked_round is None else kept.locked_round,
        kept.valid,
        NO_ROUND if kept.valid_round is None else kept.valid_round,
        tuple(ballot.node for ballot in kept.support),
        tuple(_spoken(each) for each in kept.cast),
    )
    return Diary(kept.deployment, kept.epoch, kept.barred, kept.lost, memory, plans, kept.support)


def _round(round_: int) -> int | None:
    return None if round_ == NO_ROUND else round_


def _said(statement: Proposal | Vote) -> _Said:
    if isinstance(statement, Vote):
        return _Said(statement.kind, statement.round, statement.value, None)
    return _Said(None, statement.round, statement.value, _round(statement.valid_round))


def _spoken(said: _Said) -> Proposal | Vote:
    if said.vote is not None:
        if said.valid_round is not None:
            raise MalformedMessage("a vote has no earlier round")
        return Vote(said.vote, said.round, said.value)
    if said.value is None:
        raise MalformedMessage("a proposal names a plan")
    return Proposal(said.round, said.value, NO_ROUND if said.valid_round is None else said.valid_round)
