import dataclasses

import pytest

from shoal_protocol.codec import encode_plan
from shoal_protocol.errors import BadSignature, MalformedMessage, RemoteProtocolError, UnknownSender
from shoal_protocol.evidence import culprit_of
from shoal_protocol.ids import DeploymentId, digest_of
from shoal_protocol.messages import EvidenceFound, Heartbeat, Proposed, VoteKind
from tests.support.protocol import (
    AGENT,
    CLUSTER,
    MESSAGES,
    NEXT,
    OBSERVER,
    STRANGER,
    TOY,
    WITNESS,
    by,
    cast,
    node_of,
    said_by,
    sealed,
    trusted_roster,
)

ROSTER = trusted_roster()
X, Y = digest_of(b"x"), digest_of(b"y")
OTHER_PLAN = dataclasses.replace(NEXT, score_us=1)


def vote(value, round_=0, kind=VoteKind.PREVOTE, reason=""):
    return cast(WITNESS, kind, round_, value, reason)


def proposed(plan, round_=0, valid_round=None):
    return Proposed(TOY, plan.epoch, round_, valid_round, encode_plan(plan), ())


def judged(first: bytes, second: bytes):
    return culprit_of(EvidenceFound(first, second), ROSTER, CLUSTER)


LIES = {
    "two values": (vote(X), vote(Y)),
    "a value and nothing": (vote(X), vote(None)),
    "two precommits": (vote(X, 4, VoteKind.PRECOMMIT), vote(Y, 4, VoteKind.PRECOMMIT)),
    "two plans": (proposed(NEXT), proposed(OTHER_PLAN)),
    "two plans, one of them from before": (proposed(NEXT, 3), proposed(OTHER_PLAN, 3, 1)),
}
HONEST = {
    "the same vote again": (vote(X), vote(X)),
    "in other words": (vote(None), vote(None, reason="no memory")),
    "of two rounds": (vote(X), vote(Y, 1)),
    "of two kinds": (vote(X), vote(Y, kind=VoteKind.PRECOMMIT)),
    "the same plan again": (proposed(NEXT), proposed(NEXT)),
    "another plan in another round": (proposed(NEXT), proposed(OTHER_PLAN, 1)),
    "a plan and a vote": (proposed(NEXT), vote(X)),
    "two heartbeats": (Heartbeat(1, 1), Heartbeat(2, 1)),
}


@pytest.mark.parametrize(("first", "second"), LIES.values(), ids=LIES.keys())
def test_who_says_two_things_is_named(first, second):
    one, other = said_by(WITNESS, first, 1), said_by(WITNESS, second, 2)
    assert judged(one, other) == judged(other, one) == node_of(WITNESS)


@pytest.mark.parametrize(("first", "second"), HONEST.values(), ids=HONEST.keys())
def test_who_repeats_itself_or_goes_on_is_not(first, second):
    with pytest.raises(MalformedMessage, match="contradict"):
        judged(said_by(WITNESS, first, 1), said_by(WITNESS, second, 2))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_one_number_stands_for_one_envelope_of_any_kind(message):
    one, other = sealed(message, 7), sealed(message, 7, ttl_ms=1)
    assert judged(one, other) == judged(other, one)
    assert judged(sealed(Heartbeat(1, 1), 7), sealed(Heartbeat(2, 1), 7)) == node_of(AGENT)
    with pytest.raises(MalformedMessage, match="contradict"):
        judged(one, one)
    with pytest.raises(MalformedMessage, match="contradict"):
        judged(one, sealed(message, 8, ttl_ms=1))


def test_two_lives_may_use_one_number():
    with pytest.raises(MalformedMessage):
        judged(sealed(Heartbeat(1, 1), 7), sealed(Heartbeat(2, 1), 7, incarnation=3))


def test_two_deployments_are_voted_on_apart():
    other = dataclasses.replace(NEXT, deployment=DeploymentId("other"))
    elsewhere = Proposed(other.deployment, other.epoch, 0, None, encode_plan(other), ())
    with pytest.raises(MalformedMessage):
        judged(said_by(WITNESS, proposed(NEXT), 1), said_by(WITNESS, elsewhere, 2))


def test_two_members_may_disagree():
    with pytest.raises(MalformedMessage):
        judged(said_by(WITNESS, vote(X), 1), said_by(AGENT, vote(Y), 2))


def test_nobody_is_accused_with_what_he_did_not_sign():
    lie = said_by(WITNESS, vote(X), 1)
    with pytest.raises(BadSignature):
        judged(lie, lie[:-1] + bytes([lie[-1] ^ 1]))
    with pytest.raises(BadSignature):
        judged(lie, lie[:-64] + bytes(64))
    with pytest.raises(UnknownSender):
        judged(*(sealed(Heartbeat(beat, 1), 1, **by(STRANGER)) for beat in (1, 2)))
    with pytest.raises(UnknownSender):
        judged(*(sealed(Heartbeat(beat, 1), 1, **by(OBSERVER)) for beat in (1, 2)))


@pytest.mark.parametrize("junk", [b"", b"\x92\xc4\x00\xc4\x00", bytes(100)])
def test_what_is_no_envelope_proves_nothing(junk):
    with pytest.raises(RemoteProtocolError):
        judged(junk, junk)


def test_evidence_within_evidence_is_judged_by_its_number_alone():
    nested = [EvidenceFound(b"nonsense", bytes([index])) for index in range(2)]
    with pytest.raises(MalformedMessage, match="contradict"):
        judged(sealed(nested[0], 1), sealed(nested[1], 2))
    assert judged(sealed(nested[0], 1), sealed(nested[1], 1)) == node_of(AGENT)
