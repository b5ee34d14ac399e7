from dataclasses import replace

from shoal_agent.core.ballots import NO_ROUND, Ballots, Memory, Proposal, Vote
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind

A, B = NodeId("a" * 32), NodeId("b" * 32)
X, Y = Digest(b"x" * 32), Digest(b"y" * 32)


def test_both_ballots_of_a_liar_count_and_a_third_does_not():
    box = Ballots()
    for value in (X, Y, X, None):
        box.vote(A, Vote(VoteKind.PREVOTE, 3, value))
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
    first, second, third = (Proposal(0, value, NO_ROUND) for value in (X, Y, Digest(b"z" * 32)))
    for version in (first, second, third, first):
        box.propose(version)
    assert box.known() == [first, second]


def test_rounds_nobody_wants_are_dropped_but_not_who_reached_them():
    box = Ballots()
    for voter, round_ in ((A, 1), (A, 7), (B, 5), (B, 2)):
        box.speak(voter, round_)
        box.vote(voter, Vote(VoteKind.PREVOTE, round_, X))
        box.propose(Proposal(round_, X, NO_ROUND))
    box.forget(lambda round_: round_ == 2)
    assert [each.round for each in box.known()] == [2]
    assert list(box.votes) == [(VoteKind.PREVOTE, 2)]
    assert [box.round_reached(beyond) for beyond in range(3)] == [7, 5, NO_ROUND]


def test_a_memory_tells_what_was_said_in_its_round_and_forgets_the_oldest():
    memory = Memory(round=3)
    memory = memory.adding(Vote(VoteKind.PREVOTE, 3, X), 0)
    assert [memory.spoke(kind) for kind in (None, *VoteKind)] == [False, True, False]
    memory = replace(memory, round=4).adding(Proposal(4, X, NO_ROUND), 0)
    assert [memory.spoke(kind) for kind in (None, *VoteKind)] == [True, False, False]
    assert replace(memory, round=9).adding(Vote(VoteKind.PRECOMMIT, 9, None), 4).cast == (
        Proposal(4, X, NO_ROUND),
        Vote(VoteKind.PRECOMMIT, 9, None),
    )


def test_what_is_said_again_are_votes_for_a_plan_and_everything_of_late():
    cast = (
        Proposal(0, X, NO_ROUND),
        Vote(VoteKind.PREVOTE, 0, X),
        Vote(VoteKind.PRECOMMIT, 0, None),
        Proposal(1, X, NO_ROUND),
        Vote(VoteKind.PREVOTE, 1, None),
        Proposal(2, Y, NO_ROUND),
    )
    assert Memory(round=2, cast=cast).standing == (cast[1], cast[4], cast[5])
