import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol import votes
from shoal_protocol.codec import encode_plan
from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.ids import ClusterId, DeploymentId, Epoch, digest_of
from shoal_protocol.limits import EPOCH_LEAP, VOTERS_MAX
from shoal_protocol.messages import Ballot, Cause, Certified, Proposed, RecoveryOrdered, Terms, VoteKind
from shoal_protocol.roster import Member, Role
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.votes import (
    check_support,
    open_certificate,
    open_recovery,
    quorum,
    sign_recovery,
    sign_vote,
    verify_approval,
)
from tests.support.protocol import CLUSTER, PLAN, STRANGER, TOY, node_of, trusted_roster

KEYS = [Ed25519Sealer(bytes([100 + index]) * 32) for index in range(5)]
OPERATORS = [Ed25519Sealer(bytes([120 + index]) * 32) for index in range(3)]
OTHERS = ClusterId("00" * 16)


def member(key, *roles) -> Member:
    return Member(node_of(key), key.public_key, roles, "home", b"")


MEMBERS = (
    *[member(key, Role.WITNESS) for key in KEYS],
    *[member(key, Role.OPERATOR) for key in OPERATORS],
)
ROSTER = trusted_roster(MEMBERS)
FIRST = dataclasses.replace(
    PLAN, voters=tuple(node_of(key) for key in KEYS[:4]), terms=Terms(faulty=1, operators_min=2)
)
PARENT = encode_plan(FIRST)
SECOND = dataclasses.replace(FIRST, epoch=Epoch(1), parent=digest_of(PARENT), cause=Cause.GAIN)
RECOVERY = dataclasses.replace(SECOND, epoch=Epoch(EPOCH_LEAP), cause=Cause.RECOVERY)


def ballot(key, plan: bytes, *, round_=3, vote=VoteKind.PRECOMMIT, epoch=1, cluster=CLUSTER, deployment=TOY) -> Ballot:
    signature = sign_vote(key, cluster, deployment, Epoch(epoch), round_, vote, digest_of(plan))
    return Ballot(node_of(key), signature)


def certified(plan=SECOND, keys=KEYS[:3]) -> Certified:
    data = encode_plan(plan)
    return Certified(data, 3, tuple(ballot(key, data) for key in keys))


def opened(certificate: Certified, parent: bytes = PARENT, roster=ROSTER, cluster=CLUSTER):
    return open_certificate(certificate, parent, roster, cluster)


@given(st.integers(1, VOTERS_MAX), st.integers(0, 2))
def test_two_quorums_share_an_honest_voter_and_the_honest_make_one(voters, faulty):
    assert 2 * quorum(voters, faulty) - voters >= faulty + 1
    if voters >= 3 * faulty + 1:
        assert quorum(voters, faulty) <= voters - faulty
    assert 2 * (quorum(voters, faulty) - 1) - voters < faulty + 1


@pytest.mark.parametrize(
    ("voters", "faulty", "needed"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 3), (5, 0, 3), (5, 1, 4), (7, 0, 4), (7, 2, 5)],
)
def test_so_many_decide(voters, faulty, needed):
    assert quorum(voters, faulty) == needed


def test_a_quorum_of_precommits_decides_the_next_plan():
    assert opened(certified()) == SECOND
    assert opened(certified(keys=KEYS[:4])) == SECOND
    assert opened(certified(keys=KEYS[1:4])) == SECOND


def test_one_vote_fewer_does_not():
    with pytest.raises(BadSignature, match="2 signed, 3 must"):
        opened(certified(keys=KEYS[:2]))


def test_a_voter_counts_once():
    twice = certified(keys=[KEYS[0], KEYS[1], KEYS[1]])
    with pytest.raises(MalformedMessage, match="twice"):
        opened(twice)


@pytest.mark.parametrize("other", [KEYS[4], OPERATORS[0], STRANGER], ids=["another member", "operator", "stranger"])
def test_only_whom_the_plan_before_names_may_vote(other):
    with pytest.raises(MalformedMessage, match="has none"):
        opened(certified(keys=[*KEYS[:3], other]))


DATA = encode_plan(SECOND)
WRONG = {
    "another round": ballot(KEYS[2], DATA, round_=2),
    "a prevote": ballot(KEYS[2], DATA, vote=VoteKind.PREVOTE),
    "another plan": ballot(KEYS[2], PARENT),
    "another epoch": ballot(KEYS[2], DATA, epoch=2),
    "another deployment": ballot(KEYS[2], DATA, deployment=DeploymentId("other")),
    "another cluster": ballot(KEYS[2], DATA, cluster=OTHERS),
    "another's signature": Ballot(node_of(KEYS[2]), ballot(KEYS[3], DATA).signature),
    "no signature": Ballot(node_of(KEYS[2]), bytes(64)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_vote_for_anything_else_does_not_count(wrong):
    with pytest.raises(BadSignature):
        opened(Certified(DATA, 3, (*certified(keys=KEYS[:2]).ballots, wrong)))


def test_a_vote_for_nothing_is_not_one_for_a_plan():
    nothing = sign_vote(KEYS[2], CLUSTER, TOY, Epoch(1), 3, VoteKind.PRECOMMIT, None)
    with pytest.raises(BadSignature):
        opened(Certified(DATA, 3, (*certified(keys=KEYS[:2]).ballots, Ballot(node_of(KEYS[2]), nothing))))


NO_SUCCESSORS = {
    "an epoch skipped": {"epoch": Epoch(2)},
    "another parent": {"parent": digest_of(b"another")},
    "another deployment": {"deployment": DeploymentId("other")},
    "another model": {"model": digest_of(b"another")},
    "another context": {"context_tokens_max": 1},
    "other terms": {"terms": dataclasses.replace(FIRST.terms, faulty=0)},
}


@pytest.mark.parametrize("changes", NO_SUCCESSORS.values(), ids=NO_SUCCESSORS.keys())
def test_what_does_not_follow_is_refused_whoever_signed_it(changes):
    with pytest.raises(MalformedMessage):
        opened(certified(dataclasses.replace(SECOND, **changes), KEYS[:4]))


def test_the_chain_goes_on_from_each_plan_to_the_next():
    third = dataclasses.replace(
        SECOND, epoch=Epoch(2), parent=digest_of(DATA), terms=SECOND.terms, voters=tuple(map(node_of, KEYS[1:]))
    )
    data = encode_plan(third)
    decided = Certified(data, 0, tuple(ballot(key, data, round_=0, epoch=2) for key in KEYS[:3]))
    assert opened(decided, DATA) == third
    with pytest.raises(MalformedMessage, match="does not follow"):
        opened(decided, PARENT)


def test_nobody_follows_a_plan_without_voters():
    alone = dataclasses.replace(FIRST, voters=(), terms=Terms())
    after = dataclasses.replace(alone, epoch=Epoch(1), parent=digest_of(encode_plan(alone)), cause=Cause.GAIN)
    with pytest.raises(BadSignature, match="0 signed, 1 must"):
        opened(Certified(encode_plan(after), 3, ()), encode_plan(alone))


def test_a_voter_who_left_the_roster_does_not_count():
    left = trusted_roster(MEMBERS[1:])
    with pytest.raises(BadSignature, match="2 signed"):
        opened(certified(), roster=left)
    assert opened(certified(keys=KEYS[:4]), roster=left) == SECOND


def test_a_quorum_of_checks_is_the_most_it_costs(monkeypatch):
    checked = []
    verify = votes.verify
    monkeypatch.setattr(votes, "verify", lambda *args: (checked.append(1), verify(*args)))
    opened(certified(keys=KEYS[:4]))
    assert len(checked) == 3
    checked.clear()
    with pytest.raises(BadSignature):
        opened(certified(keys=KEYS[:2]))
    assert not checked


# --- support --------------------------------------------------------------------------------------------------------


def proposed(valid_round: int | None, *support: Ballot) -> Proposed:
    return Proposed(TOY, Epoch(1), 3, valid_round, DATA, support)


def prevotes(keys, round_=1) -> list[Ballot]:
    return [ballot(key, DATA, round_=round_, vote=VoteKind.PREVOTE) for key in keys]


def test_a_plan_proposed_again_shows_the_quorum_that_prevoted_it():
    check_support(proposed(None), FIRST, ROSTER, CLUSTER)
    check_support(proposed(1, *prevotes(KEYS[:3])), FIRST, ROSTER, CLUSTER)


@pytest.mark.parametrize(
    "support",
    [[], prevotes(KEYS[:2]), prevotes(KEYS[:3], round_=0), [ballot(key, DATA, round_=1) for key in KEYS[:3]]],
    ids=["none", "too few", "of another round", "precommits"],
)
def test_without_it_nobody_is_convinced(support):
    with pytest.raises(BadSignature):
        check_support(proposed(1, *support), FIRST, ROSTER, CLUSTER)


# --- recovery -------------------------------------------------------------------------------------------------------


def order(plan=RECOVERY, keys=OPERATORS[:2]) -> RecoveryOrdered:
    data = encode_plan(plan)
    return RecoveryOrdered(data, tuple(sign_recovery(key, CLUSTER, data) for key in keys))


def test_enough_operators_replace_a_plan_far_ahead():
    assert open_recovery(order(), PARENT, ROSTER, CLUSTER) == RECOVERY
    assert open_recovery(order(keys=OPERATORS), PARENT, ROSTER, CLUSTER) == RECOVERY
    lost = dataclasses.replace(RECOVERY, parent=digest_of(b"lost with its voters"))
    assert open_recovery(order(lost), PARENT, ROSTER, CLUSTER) == lost


def test_one_operator_does_not():
    with pytest.raises(BadSignature, match="1 signed, 2 must"):
        open_recovery(order(keys=OPERATORS[:1]), PARENT, ROSTER, CLUSTER)


def test_the_terms_that_count_are_those_that_were_fixed_before():
    easy = dataclasses.replace(RECOVERY, terms=dataclasses.replace(RECOVERY.terms, operators_min=1))
    with pytest.raises(MalformedMessage, match="terms"):
        open_recovery(order(easy, OPERATORS[:1]), PARENT, ROSTER, CLUSTER)


def test_voters_are_no_operators():
    with pytest.raises(MalformedMessage, match="has none"):
        open_recovery(order(keys=[OPERATORS[0], KEYS[0]]), PARENT, ROSTER, CLUSTER)


@pytest.mark.parametrize(
    "plan",
    [
        dataclasses.replace(RECOVERY, epoch=Epoch(EPOCH_LEAP - 1)),
        dataclasses.replace(RECOVERY, cause=Cause.GAIN),
        dataclasses.replace(RECOVERY, deployment=DeploymentId("other")),
    ],
    ids=["too near", "of another cause", "of another deployment"],
)
def test_what_recovers_nothing_is_refused(plan):
    with pytest.raises(MalformedMessage):
        open_recovery(order(plan), PARENT, ROSTER, CLUSTER)


@pytest.mark.parametrize(("known", "accepted"), [(7, True), (EPOCH_LEAP - 1, True), (EPOCH_LEAP, False)])
def test_a_node_that_knows_more_than_the_operators_did_accepts_their_order(known, accepted):
    parent = encode_plan(dataclasses.replace(FIRST, epoch=Epoch(known), cause=Cause.GAIN))
    if accepted:
        assert open_recovery(order(), parent, ROSTER, CLUSTER) == RECOVERY
    else:
        with pytest.raises(MalformedMessage, match="recovers nothing"):
            open_recovery(order(), parent, ROSTER, CLUSTER)


def test_an_approval_is_for_one_plan_in_one_cluster():
    data = encode_plan(RECOVERY)
    other = encode_plan(dataclasses.replace(RECOVERY, score_us=1))
    elsewhere = tuple(sign_recovery(key, OTHERS, data) for key in OPERATORS[:2])
    for moved in (RecoveryOrdered(other, order().approvals), RecoveryOrdered(data, elsewhere)):
        with pytest.raises(BadSignature):
            open_recovery(moved, PARENT, ROSTER, CLUSTER)


def test_a_single_approval_can_be_checked():
    [first, second] = order().approvals
    key = OPERATORS[0].public_key
    verify_approval(key, first.signature, CLUSTER, encode_plan(RECOVERY))
    for signature, cluster, plan in (
        (second.signature, CLUSTER, RECOVERY),
        (first.signature, OTHERS, RECOVERY),
        (first.signature, CLUSTER, SECOND),
    ):
        with pytest.raises(BadSignature):
            verify_approval(key, signature, cluster, encode_plan(plan))


def test_agreement_goes_on_after_a_recovery():
    parent = encode_plan(RECOVERY)
    after = dataclasses.replace(RECOVERY, epoch=Epoch(EPOCH_LEAP + 1), parent=digest_of(parent), cause=Cause.GAIN)
    data = encode_plan(after)
    decided = Certified(data, 0, tuple(ballot(key, data, round_=0, epoch=EPOCH_LEAP + 1) for key in KEYS[:3]))
    assert opened(decided, parent) == after
