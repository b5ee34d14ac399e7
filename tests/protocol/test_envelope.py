import dataclasses

import msgpack
import pytest

from shoal_protocol.codec import MESSAGES, encode_plan
from shoal_protocol.envelope import KIND_NAMES, ROLES, check_age, open_envelope, payload_type, seal
from shoal_protocol.errors import (
    BadSignature,
    LocalProtocolError,
    MalformedMessage,
    OversizedMessage,
    StaleMessage,
    UnknownSender,
    WrongCluster,
)
from shoal_protocol.ids import ClusterId, DeploymentId, Epoch, Incarnation, Sequence, digest_of
from shoal_protocol.limits import CLOCK_SKEW_MS_MAX, ENVELOPE_BYTES_MAX, TTL_MS_MAX
from shoal_protocol.messages import (
    Certified,
    Heartbeat,
    LinkDeath,
    PhaseReported,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteKind,
)
from shoal_protocol.sealing import pae
from tests.support.protocol import (
    AGENT,
    CLUSTER,
    MEMBERS,
    NEXT,
    OBSERVER,
    OPERATOR,
    PLAN,
    RECOVERY,
    ROUND,
    SPEAKERS,
    STRANGER,
    TOY,
    WALL_MS,
    WITNESS,
    cast,
    node_of,
    said_by,
    sealed,
    trusted_roster,
)
from tests.support.protocol import (
    MESSAGES as SAMPLES,
)

ROSTER = trusted_roster()
BEAT = Heartbeat(beat=1, version=1)


def kind(message) -> str:
    return type(message).__name__


def reopen(wire: bytes):
    return open_envelope(wire, ROSTER, CLUSTER)


def rewritten(wire: bytes, sealer=None, **changes) -> bytes:
    """The statement of ``wire`` with fields changed; signed again if ``sealer`` is given."""
    statement, signature = msgpack.unpackb(wire)
    row = msgpack.unpackb(statement)
    names = ("version", "cluster", "kind", "sender", "incarnation", "sequence", "ttl_ms", "sent_ms", "body")
    for name, value in changes.items():
        row[names.index(name)] = value
    statement = msgpack.packb(row)
    if sealer is not None:
        signature = sealer.sign(pae(payload_type(row[2]), statement))
    return msgpack.packb([statement, signature])


@pytest.mark.parametrize("message", SAMPLES, ids=kind)
def test_every_kind_survives(message):
    envelope = reopen(sealed(message, 9))
    assert envelope.message == message
    assert (envelope.cluster, envelope.incarnation, envelope.sequence) == (CLUSTER, 2, 9)
    assert (envelope.ttl_ms, envelope.sent_ms) == (60_000, WALL_MS)
    assert envelope.sender == node_of(SPEAKERS.get(type(message), AGENT))


def test_every_kind_has_a_name_and_roles():
    assert set(KIND_NAMES) == set(ROLES) == set(MESSAGES)
    assert len(set(KIND_NAMES.values())) == len(MESSAGES)
    assert payload_type(1) == "application/vnd.shoal.node-state.v1+msgpack"


@pytest.mark.parametrize(
    "changes",
    [
        {"incarnation": 3},
        {"sequence": 2},
        {"ttl_ms": TTL_MS_MAX},
        {"sent_ms": WALL_MS + 1},
        {"body": msgpack.packb([2, 1, bytes(16), 0])},
        {"kind": 1},
        {"sender": msgpack.unpackb(msgpack.unpackb(said_by(WITNESS, BEAT))[0])[3]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_nothing_can_be_changed_without_the_key(changes):
    with pytest.raises(BadSignature):
        reopen(rewritten(sealed(BEAT), **changes))


def test_a_forged_signature_is_refused():
    with pytest.raises(BadSignature):
        reopen(rewritten(sealed(BEAT), sealer=STRANGER))


def test_the_signature_is_bound_to_the_kind():
    statement, _ = msgpack.unpackb(sealed(BEAT))
    signature = AGENT.sign(pae(payload_type(1), statement))
    with pytest.raises(BadSignature):
        reopen(msgpack.packb([statement, signature]))


def test_a_stranger_is_refused():
    with pytest.raises(UnknownSender):
        reopen(said_by(STRANGER, BEAT))


def test_another_cluster_is_refused():
    with pytest.raises(WrongCluster):
        reopen(sealed(BEAT, cluster=ClusterId("00" * 16)))
    with pytest.raises(WrongCluster):
        open_envelope(sealed(BEAT), ROSTER, ClusterId("00" * 16))


@pytest.mark.parametrize("message", SAMPLES, ids=kind)
@pytest.mark.parametrize(
    "sealer", [AGENT, WITNESS, OPERATOR, OBSERVER], ids=["agent", "witness", "operator", "observer"]
)
def test_only_a_role_that_may_say_it_is_heard(message, sealer):
    speakers = (OPERATOR,) if type(message) in SPEAKERS else (AGENT, WITNESS)
    if sealer in speakers:
        assert type(reopen(said_by(sealer, message)).message) is type(message)
    else:
        with pytest.raises(UnknownSender, match="role"):
            reopen(said_by(sealer, message))


def test_an_operator_begins_a_deployment_and_no_more():
    with pytest.raises(UnknownSender, match="epoch 1"):
        reopen(sealed(PlanAnnounced(encode_plan(NEXT))))


@pytest.mark.parametrize(
    "message", [message for message in SAMPLES if type(getattr(message, "plan", None)) is bytes], ids=kind
)
def test_whatever_carries_a_plan_carries_one_that_is_well_formed(message):
    if isinstance(message, PhaseReported):
        return  # its plan is a digest
    with pytest.raises(MalformedMessage):
        reopen(sealed(dataclasses.replace(message, plan=b"\x90")))


FIRST, SECOND, NAMED = encode_plan(PLAN), encode_plan(NEXT), encode_plan(RECOVERY)
UNFIT = {
    "a certificate of what nobody votes on": Certified(FIRST, 0, ()),
    "a recovery for another cause": RecoveryOrdered(SECOND, ()),
    "a proposal of another epoch's plan": Proposed(TOY, Epoch(2), 0, None, SECOND, ()),
    "a proposal of another deployment's plan": Proposed(DeploymentId("other"), NEXT.epoch, 0, None, SECOND, ()),
    "a proposal of a first plan": Proposed(TOY, Epoch(0), 0, None, FIRST, ()),
    "a proposal that knows of its own round": Proposed(TOY, NEXT.epoch, 3, 3, SECOND, ()),
}


@pytest.mark.parametrize("message", UNFIT.values(), ids=UNFIT.keys())
def test_what_contradicts_itself_is_refused(message):
    with pytest.raises(MalformedMessage):
        reopen(sealed(message))


def test_a_recovery_is_proposed_by_nobody_but_operators():
    assert reopen(sealed(RecoveryOrdered(NAMED, ()))).sender == node_of(OPERATOR)
    with pytest.raises(UnknownSender):
        reopen(said_by(AGENT, RecoveryOrdered(NAMED, ())))


@pytest.mark.parametrize(
    "changes",
    [
        {"deployment": DeploymentId("other")},
        {"epoch": Epoch(2)},
        {"round": ROUND + 1},
        {"vote": VoteKind.PREVOTE},
        {"value": digest_of(SECOND)},
        {"signature": bytes(64)},
        {"signature": cast(WITNESS, VoteKind.PRECOMMIT, ROUND, None).signature},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_vote_bears_its_voters_own_signature(changes):
    vote = cast(AGENT, VoteKind.PRECOMMIT, ROUND, None)
    assert reopen(sealed(vote)).message == vote
    with pytest.raises(BadSignature):
        reopen(sealed(dataclasses.replace(vote, **changes)))


def test_the_words_beside_a_vote_are_not_part_of_it():
    vote = dataclasses.replace(cast(AGENT, VoteKind.PRECOMMIT, ROUND, None), reason="for another reason")
    assert reopen(sealed(vote)).message == vote


def test_a_revoked_member_is_a_stranger():
    with pytest.raises(UnknownSender):
        open_envelope(sealed(BEAT), trusted_roster(MEMBERS[1:]), CLUSTER)


def test_the_body_is_not_read_before_the_signature_is_good():
    with pytest.raises(BadSignature):
        reopen(rewritten(sealed(BEAT), body=b"\xc1"))
    with pytest.raises(MalformedMessage):
        reopen(rewritten(sealed(BEAT), sealer=AGENT, body=b"\xc1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"kind": 16},
        {"kind": 0},
        {"sequence": -1},
        {"ttl_ms": TTL_MS_MAX + 1},
        {"sent_ms": True},
        {"cluster": b""},
        {"sender": bytes(19)},
        {"body": "text"},
    ],
    ids=str,
)
def test_even_a_member_must_keep_the_form(changes):
    statement, _ = msgpack.unpackb(rewritten(sealed(BEAT), **changes))
    signature = AGENT.sign(pae(payload_type(2), statement))
    with pytest.raises(MalformedMessage):
        reopen(msgpack.packb([statement, signature]))


@pytest.mark.parametrize("wire", [b"", b"\xc0", b"\x92\xc4\x00\xc4\x00", b"\x93\xc4\x00\xc4\x00\xc0", b"{}" * 50])
def test_what_is_no_envelope_is_refused(wire):
    with pytest.raises(MalformedMessage):
        reopen(wire)


def test_a_second_encoding_is_refused_though_its_signature_is_good():
    statement, signature = msgpack.unpackb(sealed(BEAT))
    row = msgpack.unpackb(statement)
    assert statement[0] == 0x99
    longer = b"\xdc\x00\x09" + statement[1:]
    assert msgpack.unpackb(longer) == row
    signature = AGENT.sign(pae(payload_type(2), longer))
    with pytest.raises(MalformedMessage, match="one encoding"):
        reopen(msgpack.packb([longer, signature]))


def test_an_oversized_envelope_is_refused_unread():
    with pytest.raises(OversizedMessage):
        reopen(bytes(ENVELOPE_BYTES_MAX + 1))


def test_our_own_oversized_message_is_our_mistake():
    record = dataclasses.replace(SAMPLES[0], services=("s" * 1000,) * 300)
    with pytest.raises(LocalProtocolError):
        sealed(record)


def test_nobody_seals_in_the_name_of_another():
    with pytest.raises(LocalProtocolError):
        seal(AGENT, CLUSTER, node_of(WITNESS), Incarnation(1), Sequence(1), 1, WALL_MS, BEAT)


SKEW = CLOCK_SKEW_MS_MAX


@pytest.mark.parametrize(
    ("age_ms", "ttl_ms", "known", "fresh"),
    [
        (0, 0, False, True),
        (10_000, 10_000, False, True),
        (10_000 + SKEW, 10_000, False, True),
        (10_000 + SKEW + 1, 10_000, False, False),
        (10_000 + SKEW + 1, 10_000, True, False),
        (365 * 86_400_000, TTL_MS_MAX, False, True),
        (-SKEW, 10_000, False, True),
        (-SKEW - 1, 10_000, False, False),
        (-SKEW - 1, 10_000, True, True),
        (-365 * 86_400_000, 10_000, True, True),
    ],
)
def test_age(age_ms, ttl_ms, known, fresh):
    envelope = reopen(sealed(BEAT, ttl_ms=ttl_ms))
    if fresh:
        check_age(envelope, WALL_MS + age_ms, known_sender=known)
    else:
        with pytest.raises(StaleMessage):
            check_age(envelope, WALL_MS + age_ms, known_sender=known)


def test_a_last_will_lives_as_long_as_it_says():
    envelope = reopen(sealed(LinkDeath(1, "broker"), ttl_ms=7 * 86_400_000))
    check_age(envelope, WALL_MS + 6 * 86_400_000, known_sender=True)
