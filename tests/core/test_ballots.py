from shoal_agent.core.ballots import NO_ROUND, Ballots, Proposal, Vote
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind

A, B = NodeId("a" * 32), NodeId("b" * 32)
X, Y = Digest(b"x" * 32), Digest(b"y" * 32)


def test_a_second_ballot_is_answered_with_the_first_and_both_count():
    box = Ballots()
    first, second = Vote(VoteKind.PREVOTE, 3, X), Vote(VoteKind.PREVOTE, 3, Y)
    assert box.vote(A, first) is None
    assert box.vote(A, first) is None
    assert box.vote(A, second) == first
    assert box.vote(A, Vote(VoteKind.PREVOTE, 3, None)) is None
    assert box.voters_for(VoteKind.PREVOTE, 3, X) == box.voters_for(VoteKind.PREVOTE, 3, Y) == (A,)
    assert box.voters_for(VoteKind.PREVOTE, 3, None) == ()
    assert box.turnout(VoteKind.PREVOTE, 3) == 1


def test_kinds_and_rounds_are_counted_apart_and_voters_in_order():
    box = Ballots()
    for voter in (B, A):
        box.vote(voter, Vote(VoteKind.PREVOTE, 1, X))
    box.vote(B, Vote(VoteKind.PRECOMMIT, 1, X))
    assert box.voters_for(VoteKind.PREVOTE, 1, X) == (A, B)
    assert box.voters_for(VoteKind.PRECOMMIT, 1, X) == (B,)
    assert box.turnout(VoteKind.PREVOTE, 2) == 0


def test_two_versions_of_a_rounds_proposal_are_kept_and_no_more():
    box = Ballots()
    versions = [Proposal(0, value, NO_ROUND) for value in (X, Y, Digest(b"z" * 32))]
    assert [box.propose(version) for version in (*versions, versions[0])] == [True, True, False, False]
    assert box.proposals[0] == versions[:2]
