"""A chain of plans to test with: three voters, their signatures, operators' orders."""

from dataclasses import replace
from typing import Final

from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import seal
from shoal_protocol.ids import Digest, Epoch, Incarnation, Sequence, digest_of
from shoal_protocol.limits import EPOCH_LEAP, TTL_MS_MAX
from shoal_protocol.messages import (
    Ballot,
    Cause,
    Certified,
    Plan,
    PlanAnnounced,
    PlanStage,
    RecoveryOrdered,
    Terms,
    VoteCast,
    VoteKind,
)
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.votes import sign_recovery, sign_vote
from tests.support.delegate import CLUSTER, DEPLOYMENT, OPERATORS, WALL_MS, roster_of
from tests.support.protocol import node_of

KEYS: Final = [Ed25519Sealer(bytes([10 + index]) * 32) for index in range(4)]
NAMES: Final = [node_of(key) for key in KEYS]
ROSTER: Final = roster_of(KEYS)
TERMS: Final = Terms(operators_min=2)


def genesis(**changes):
    """The bytes of a first plan; its voters are the first three."""
    stages = (PlanStage(NAMES[0], 0, 3), PlanStage(NAMES[1], 4, 7))
    plan = Plan(DEPLOYMENT, Epoch(0), Digest(bytes(32)), digest_of(b"model"), 64, stages, TERMS, tuple(NAMES[:3]))
    return encode_plan(replace(plan, **changes))


def successor(before, **changes):
    """The bytes of a plan after the one in the bytes ``before``."""
    plan = decode_plan(before)
    after = replace(plan, epoch=Epoch(plan.epoch + 1), parent=digest_of(before), cause=Cause.GAIN)
    return encode_plan(replace(after, **changes))


def chain(length, **changes):
    """The bytes of ``length`` plans, each after the one before."""
    raws = [genesis(**changes)]
    while len(raws) < length:
        raws.append(successor(raws[-1]))
    return raws


def ballot(key, raw, round_=0, kind=VoteKind.PRECOMMIT):
    plan = decode_plan(raw)
    signature = sign_vote(key, CLUSTER, DEPLOYMENT, plan.epoch, round_, kind, digest_of(raw))
    return Ballot(node_of(key), signature)


def certificate(raw, keys=KEYS[:2], round_=0):
    return Certified(raw, round_, tuple(ballot(key, raw, round_) for key in keys))


def cast(key, raw, round_=0, kind=VoteKind.PREVOTE, epoch=1):
    """One voter's ballot for the plan in ``raw``, None for nothing."""
    value = None if raw is None else digest_of(raw)
    signature = sign_vote(key, CLUSTER, DEPLOYMENT, Epoch(epoch), round_, kind, value)
    return VoteCast(DEPLOYMENT, Epoch(epoch), round_, kind, value, "", signature)


def recovery(before, keys=OPERATORS[:2], leap=EPOCH_LEAP, **changes):
    """Operators' order of a plan in the place of the one in the bytes ``before``."""
    plan = decode_plan(before)
    after = replace(plan, epoch=Epoch(plan.epoch + leap), parent=digest_of(before), cause=Cause.RECOVERY)
    raw = encode_plan(replace(after, **changes))
    return RecoveryOrdered(raw, tuple(sign_recovery(key, CLUSTER, raw) for key in keys))


def sealed(message, key=OPERATORS[0], number=1):
    """``message`` as ``key`` would send it."""
    name = node_of(key)
    return seal(key, CLUSTER, name, Incarnation(1), Sequence(number), TTL_MS_MAX, WALL_MS, message)


def announced(raw):
    return PlanAnnounced(raw), sealed(PlanAnnounced(raw))
