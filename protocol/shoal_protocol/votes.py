"""Votes and what enough of them prove: a certificate decides a plan, a recovery replaces one.

A vote is signed apart from the envelope that carries it, so that it can be shown to others without its envelope:

    vote      PAE("application/vnd.shoal.vote.v1+msgpack",     [cluster, vote, deployment, epoch, round, value])
    approval  PAE("application/vnd.shoal.recovery.v1+msgpack", [cluster, plan])

Nobody votes about a vote's form, so everything that gives it its meaning is under the signature, and nothing else: the
envelope's number, its time and the reason given in words would only make two votes of one.

    Q = floor((n + f) / 2) + 1

of the n voters whom plan e names decide plan e + 1, of whom f may lie: two sets of Q share at least 2Q - n >= f + 1
voters, so an honest one, and an honest one precommits to one plan only. n >= 3f + 1 lets the honest ones reach Q alone.

What proves itself needs no trusted messenger: a certificate is accepted from anybody, given the plan before it, and
so is a chain of them, back to the plan that an operator signed. It costs Q signature checks and never more: the first
Q ballots must stand, further ones are not looked at. A voter who left the roster no longer counts, because the roster
is the only source of keys; if that leaves a certificate short, its deployment needs a recovery.

**Recovery.** When the voters are lost, ``operators_min`` operators (the terms of the deployment say how many, and no
plan changes its terms) name a plan that leaps ``EPOCH_LEAP`` epochs ahead of what they know. Whatever the lost voters
decided beyond that, or may still decide, stays below it; so a node asks only that the order is above what it knows
itself, for it may know more than the operators did. Its ``parent`` is their newest plan and is not judged: the last one
may be lost with its voters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal_protocol.codec import decode_plan
from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.fields import encode, record
from shoal_protocol.ids import ClusterId, DeploymentId, Digest, Epoch, NodeId, digest_of, node_id_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import Ballot, Cause, Certified, Plan, Proposed, RecoveryOrdered, VoteKind
from shoal_protocol.roster import Member, Role, TrustedRoster
from shoal_protocol.sealing import Sealer, pae, verify

VOTE_TYPE: Final = "application/vnd.shoal.vote.v1+msgpack"
RECOVERY_TYPE: Final = "application/vnd.shoal.recovery.v1+msgpack"


@dataclass(frozen=True, slots=True)
class VoteStatement:
    """What a voter signs; the order of the fields is the wire format."""

    cluster: ClusterId
    vote: VoteKind
    deployment: DeploymentId
    epoch: Epoch
    round: int
    value: Digest | None


@dataclass(frozen=True, slots=True)
class RecoveryStatement:
    """What an operator signs who approves of a recovery; the order of the fields is the wire format."""

    cluster: ClusterId
    plan: bytes


_VOTE: Final = record(VoteStatement, signed=True)
_RECOVERY: Final = record(RecoveryStatement, signed=True)


def quorum(voters: int, faulty: int) -> int:
    """Votes that decide among ``voters`` of which ``faulty`` may lie."""
    return (voters + faulty) // 2 + 1


def sign_vote(
    sealer: Sealer,
    cluster: ClusterId,
    deployment: DeploymentId,
    epoch: Epoch,
    round_: int,
    vote: VoteKind,
    value: Digest | None,
) -> bytes:
    """The signature of one vote; LocalProtocolError if a field is out of range."""
    return sealer.sign(_signed(VoteStatement(cluster, vote, deployment, epoch, round_, value)))


def verify_vote(
    public_key: bytes,
    signature: bytes,
    cluster: ClusterId,
    deployment: DeploymentId,
    epoch: Epoch,
    round_: int,
    vote: VoteKind,
    value: Digest | None,
) -> None:
    """Returns if ``signature`` is the key's on this vote, else BadSignature."""
    verify(public_key, _signed(VoteStatement(cluster, vote, deployment, epoch, round_, value)), signature)


def _signed(statement: VoteStatement) -> bytes:
    return pae(VOTE_TYPE, encode(_VOTE, statement))


def open_certificate(certified: Certified, parent: bytes, roster: TrustedRoster, cluster: ClusterId) -> Plan:
    """The plan that ``certified`` decides, given ``parent``: the exact bytes of the proven plan of the epoch before.

    MalformedMessage if it is not the next plan of that deployment, BadSignature without a quorum of its voters.
    """
    plan, before = decode_plan(certified.plan), decode_plan(parent)
    if plan.epoch != before.epoch + 1 or plan.parent != digest_of(parent):
        raise MalformedMessage(f"{plan.deployment}/{plan.epoch} does not follow this plan of epoch {before.epoch}")
    _require_same_deployment(plan, before)
    value = digest_of(certified.plan)
    vote = VoteStatement(cluster, VoteKind.PRECOMMIT, plan.deployment, plan.epoch, certified.round, value)
    _require_quorum(certified.ballots, vote, before, roster)
    return plan


def check_support(proposed: Proposed, parent: Plan, roster: TrustedRoster, cluster: ClusterId) -> None:
    """Returns if a quorum of ``parent``'s voters prevoted the plan in the ``valid_round`` that ``proposed`` names.

    A fresh proposal names none and needs none. MalformedMessage or BadSignature otherwise.
    """
    if proposed.valid_round is None:
        return
    value = digest_of(proposed.plan)
    prevote = VoteStatement(cluster, VoteKind.PREVOTE, proposed.deployment, proposed.epoch, proposed.valid_round, value)
    _require_quorum(proposed.support, prevote, parent, roster)


def sign_recovery(sealer: Sealer, cluster: ClusterId, plan: bytes) -> Ballot:
    """The approval of ``plan``, in its exact bytes, by the operator whose key ``sealer`` is."""
    return Ballot(node_id_of(sealer.public_key), sealer.sign(_approved(cluster, plan)))


def verify_approval(public_key: bytes, signature: bytes, cluster: ClusterId, plan: bytes) -> None:
    """Returns if ``signature`` is the key's approval of ``plan``, in its exact bytes, else BadSignature."""
    verify(public_key, _approved(cluster, plan), signature)


def _approved(cluster: ClusterId, plan: bytes) -> bytes:
    return pae(RECOVERY_TYPE, encode(_RECOVERY, RecoveryStatement(cluster, plan)))


def open_recovery(order: RecoveryOrdered, known: bytes, roster: TrustedRoster, cluster: ClusterId) -> Plan:
    """The plan that operators put in the place of ``known``: the exact bytes of the newest proven plan.

    MalformedMessage if it does not replace that plan, BadSignature if too few operators approve of it.
    """
    plan, before = decode_plan(order.plan), decode_plan(known)
    if plan.cause is not Cause.RECOVERY or plan.epoch < EPOCH_LEAP or plan.epoch <= before.epoch:
        raise MalformedMessage(f"{plan.cause.name} {plan.epoch} recovers nothing at epoch {before.epoch}")
    _require_same_deployment(plan, before)
    signed = _approved(cluster, order.plan)
    operators = tuple(member.node for member in roster.members if Role.OPERATOR in member.roles)
    _require_signatures(order.approvals, operators, before.terms.operators_min, signed, roster)
    return plan


def _require_same_deployment(plan: Plan, before: Plan) -> None:
    """What was fixed at genesis stays fixed; MalformedMessage."""
    for name in ("deployment", "model", "terms", "context_tokens_max"):
        if getattr(plan, name) != getattr(before, name):
            raise MalformedMessage(f"{plan.deployment}/{plan.epoch} has another {name} than epoch {before.epoch}")


def _require_quorum(ballots: Sequence[Ballot], vote: VoteStatement, parent: Plan, roster: TrustedRoster) -> None:
    needed = quorum(len(parent.voters), parent.terms.faulty)
    _require_signatures(ballots, parent.voters, needed, _signed(vote), roster)


def _require_signatures(
    ballots: Sequence[Ballot], electorate: Sequence[NodeId], needed: int, signed: bytes, roster: TrustedRoster
) -> None:
    """The first ``needed`` ballots of members must be of different ones of ``electorate``, and signed."""
    nodes = [ballot.node for ballot in ballots]
    if len(set(nodes)) != len(nodes) or not all(node in electorate for node in nodes):
        raise MalformedMessage("a ballot twice, or of one who has none")
    counted = list(_members(ballots, roster))[:needed]
    if len(counted) < needed:
        raise BadSignature(f"{len(counted)} signed, {needed} must")
    for member, ballot in counted:
        verify(member.public_key, signed, ballot.signature)


def _members(ballots: Iterable[Ballot], roster: TrustedRoster) -> Iterable[tuple[Member, Ballot]]:
    for ballot in ballots:
        member = roster.member(ballot.node)
        if member is not None:
            yield member, ballot
