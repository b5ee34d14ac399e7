"""AGREE/1: its rules one by one. What they add up to is shown in ``tests/property/test_agreement.py``."""

from dataclasses import replace

import pytest

from shoal_agent.core.agreement import ROUNDS_KEPT, Agreement
from shoal_agent.core.ballots import NO_ROUND, Memory, Proposal, Vote
from shoal_agent.core.motions import Alarm, Arm, Cast, Decided, Judge, Propose, Remember, Step
from shoal_agent.core.patience import PAUSE_S_MAX, PROPOSE_GROWTH_S, PROPOSE_S, VOTE_S
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import VoteKind
from tests.support.voters import World, X, Y

A, B, C, D, E = (NodeId(letter * 32) for letter in "abcde")


# --- a table of single rules -----------------------------------------------------------------------------------------


def voter(me=A, memory=None, faulty=0, voters=(A, B, C)):
    node = Agreement(me, voters, faulty, memory)
    return node, node.begin()


def hears(node, sender, proposal, acceptable=True):
    """A proposal, and this voter's judgement of it if that is asked for."""
    facts = node.proposed(sender, proposal)
    for value in node.asked:
        facts = [*facts, *node.judged(value, acceptable=acceptable)]
    return [fact for fact in facts if not isinstance(fact, Judge)]


def casts(facts):
    return [fact.vote for fact in facts if isinstance(fact, Cast)]


def prevote(round_, value):
    return Vote(VoteKind.PREVOTE, round_, value)


def precommit(round_, value):
    return Vote(VoteKind.PRECOMMIT, round_, value)


def test_the_proposer_of_a_round_proposes_what_it_wishes_and_prevotes_it():
    node, _ = voter()
    facts = node.wish(X)
    assert [type(fact) for fact in facts] == [Remember, Propose, Remember, Cast]
    assert casts(facts) == [prevote(0, X)]
    assert node.wish(Y) == []


def test_a_ballot_is_remembered_before_it_is_cast():
    node, _ = voter(me=B)
    facts = hears(node, A, Proposal(0, X, NO_ROUND))
    for index, fact in enumerate(facts):
        if isinstance(fact, Cast):
            before = facts[index - 1]
            assert isinstance(before, Remember)
            assert fact.vote in before.memory.cast


def test_a_plan_this_voter_cannot_live_with_gets_a_vote_for_nothing():
    node, _ = voter(me=B)
    assert casts(hears(node, A, Proposal(0, X, NO_ROUND), acceptable=False)) == [prevote(0, None)]


@pytest.mark.parametrize(
    ("sender", "proposal"),
    [
        (C, Proposal(0, X, NO_ROUND)),
        (A, Proposal(0, X, 0)),
        (A, Proposal(0, X, -2)),
        (A, Proposal(1 << 30, X, NO_ROUND)),
    ],
)
def test_a_proposal_out_of_turn_or_out_of_range_is_nothing(sender, proposal):
    node, _ = voter(me=B)
    assert hears(node, sender, proposal) == []
    assert node.step is Step.PROPOSE


def test_a_stranger_has_no_vote():
    node, _ = voter(me=B)
    hears(node, A, Proposal(0, X, NO_ROUND))
    assert node.voted(D, precommit(0, X)) == node.voted(E, precommit(0, X)) == []
    assert node.decision is None


def test_a_quorum_of_prevotes_locks_and_a_quorum_of_precommits_decides():
    node, _ = voter(me=B)
    hears(node, A, Proposal(0, X, NO_ROUND))
    facts = node.voted(A, prevote(0, X))
    assert casts(facts) == [precommit(0, X)]
    assert facts[0].memory.locked == X
    assert node.voted(C, precommit(0, X))[-1] == Decided(X, 0, (B, C))
    assert node.voted(A, precommit(0, X)) == []


def locked_on_x():
    return Memory(1, X, 0, X, 0, (A, B), (prevote(0, X), precommit(0, X)))


def test_a_locked_voter_refuses_another_plan_without_proof():
    node, _ = voter(me=C, memory=locked_on_x())
    assert casts(hears(node, B, Proposal(1, Y, NO_ROUND))) == [prevote(1, None)]


def test_a_locked_voter_gives_way_to_a_later_quorum():
    node, _ = voter(me=A, memory=replace(locked_on_x(), round=2))
    assert hears(node, C, Proposal(2, Y, 1)) == [], "it waits for the proof"
    node.voted(B, prevote(1, Y))
    assert casts(node.voted(C, prevote(1, Y))) == [prevote(2, Y)]


def test_who_was_locked_proposes_that_plan_again_and_shows_why():
    node, facts = voter(me=B, memory=locked_on_x())
    assert [fact.proposal for fact in facts if isinstance(fact, Propose)] == [Proposal(1, X, 0)]
    assert node.support == ((A, prevote(0, X)), (B, prevote(0, X))), "a restart has not forgotten it"


def test_nobody_is_heard_and_the_round_passes():
    node, facts = voter(me=B)
    assert facts == [Arm(Alarm.PROPOSAL, 0, PROPOSE_S)]
    assert casts(node.rang(Alarm.PROPOSAL, 0)) == [prevote(0, None)]
    assert casts(node.voted(A, prevote(0, None))) == [precommit(0, None)]
    assert Arm(Alarm.PRECOMMITS, 0, VOTE_S) in node.voted(C, precommit(0, X))
    node.rang(Alarm.PRECOMMITS, 0)
    assert node.round == 1
    assert node.rang(Alarm.PRECOMMITS, 0) == node.rang(Alarm.PREVOTES, 1) == [], "stale alarms mean nothing"


def test_time_outs_grow_with_the_rounds_until_there_is_a_new_reason():
    node, first = voter(me=C)
    tenth = node.voted(A, prevote(10, None))
    assert tenth[0].seconds == first[0].seconds + 10 * PROPOSE_GROWTH_S
    node.wish(X)
    assert node.voted(A, prevote(12, None))[0].seconds == first[0].seconds + 2 * PROPOSE_GROWTH_S


def test_more_voters_than_may_lie_pull_the_others_along():
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    node.voted(B, prevote(7, None))
    assert node.round == 0
    node.voted(C, prevote(7, None))
    assert node.round == 7


def test_two_ballots_of_one_voter_count_for_both():
    node, _ = voter(me=A, voters=(A, B, C))
    hears(node, A, Proposal(0, X, NO_ROUND))
    for value in (Y, X):
        node.voted(B, precommit(0, value))
    assert node.voted(C, precommit(0, X))[-1] == Decided(X, 0, (B, C))


def test_the_votes_of_the_round_before_are_repeated_for_those_still_in_it():
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    node.rang(Alarm.PROPOSAL, 0)
    for other in (B, C, D):
        node.voted(other, prevote(0, None))
        node.voted(other, precommit(0, None))
    assert node.round == 1
    assert node.memory.standing == (prevote(0, None), precommit(0, None))
    node.rang(Alarm.PROPOSAL, 1)
    node.voted(B, prevote(2, None))
    node.voted(C, prevote(2, None))
    assert node.round == 2
    assert node.memory.standing == (prevote(1, None),)


def test_after_a_restart_nothing_is_said_twice_and_what_was_said_stands():
    memory = None
    node, _ = voter(me=B)
    for fact in hears(node, A, Proposal(0, X, NO_ROUND)):
        memory = fact.memory if isinstance(fact, Remember) else memory
    again, facts = voter(me=B, memory=memory)
    assert casts(facts) == []
    assert again.step is Step.PREVOTE
    assert again.memory.standing == (prevote(0, X),)
    assert casts(hears(again, A, Proposal(0, Y, NO_ROUND))) == []


# --- judgement --------------------------------------------------------------------------------------------------------


def test_a_voter_is_asked_once_a_round_and_waits_for_the_answer():
    node, _ = voter(me=B)
    assert node.proposed(A, Proposal(0, X, NO_ROUND)) == [Judge(X)]
    assert node.proposed(A, Proposal(0, X, NO_ROUND)) == node.voted(A, prevote(0, X)) == []
    assert node.asked == (X,)
    assert casts(node.judged(X, acceptable=True)) == [prevote(0, X), precommit(0, X)]
    assert node.asked == ()


def test_a_voter_that_is_not_sure_in_time_votes_for_nothing_and_is_asked_again_in_the_next_round():
    node, _ = voter(me=C)
    node.proposed(A, Proposal(0, X, NO_ROUND))
    assert casts(node.rang(Alarm.PROPOSAL, 0)) == [prevote(0, None)]
    assert casts(node.judged(X, acceptable=True)) == [], "too late"
    node.voted(A, prevote(1, None))
    assert node.proposed(B, Proposal(1, X, NO_ROUND)) == [Judge(X)]


def test_its_own_wish_and_its_own_lock_need_no_judgement():
    node, _ = voter(me=B)
    node.wish(X)
    assert casts(node.proposed(A, Proposal(0, X, NO_ROUND))) == [prevote(0, X)]
    node, _ = voter(me=C, memory=locked_on_x())
    assert casts(node.proposed(B, Proposal(1, X, NO_ROUND))) == [prevote(1, X)]


def test_what_a_quorum_prevoted_passes_unasked():
    """Else voters locked on a plan whose host died since could accept neither it nor another, for ever."""
    node, _ = voter(me=C, memory=Memory(1))
    assert node.proposed(B, Proposal(1, X, 0)) == []
    node.voted(A, prevote(0, X))
    assert casts(node.voted(B, prevote(0, X))) == [prevote(1, X)]


def test_voters_that_change_their_mind_about_a_locked_plan_do_not_block():
    worlds = [World(seed, 3, doubt=0.4).run() for seed in range(100)]
    assert all(len(world.decided) == 3 for world in worlds)


# --- rounds that come to nothing -----------------------------------------------------------------------------------


def test_a_quorum_of_precommits_for_nothing_ends_the_round_at_once():
    node, _ = voter(me=C)
    node.voted(A, precommit(0, None))
    assert node.round == 0
    assert Arm(Alarm.PROPOSAL, 1, PROPOSE_S + PROPOSE_GROWTH_S) in node.voted(B, precommit(0, None))
    assert node.round == 1


def test_who_leaves_a_round_has_voted_in_it_because_others_may_need_that_to_leave():
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    for other in (B, C):
        assert casts(node.voted(other, precommit(0, None))) == []
    assert casts(node.voted(D, precommit(0, None))) == [prevote(0, None), precommit(0, None)], "D may tell it A alone"
    assert node.round == 1
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    node.wish(X)
    for other, value in ((B, X), (C, None), (D, None)):
        node.voted(other, precommit(0, value))
    assert casts(node.rang(Alarm.PRECOMMITS, 0)) == [precommit(0, None)]
    assert node.round == 1


@pytest.mark.parametrize(("heard", "entered"), [(1, 1), (3, 3), (60_000, 4)])
def test_whoever_is_further_is_followed_when_a_round_has_had_its_time(heard, entered):
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    node.rang(Alarm.PROPOSAL, 0)
    assert node.voted(B, prevote(heard, None)) == [Arm(Alarm.LULL, 0, PROPOSE_S + 2 * VOTE_S)]
    assert node.voted(B, precommit(heard, None)) == [], "once a round"
    assert casts(node.rang(Alarm.LULL, 0)) == [precommit(0, None)]
    assert node.round == entered
    assert node.rang(Alarm.LULL, 0) == [], "of a round that is over"


def test_nobody_waits_for_a_proposer_that_is_gone():
    node, _ = voter(me=B)
    assert casts(node.absent(A, gone=True)) == [prevote(0, None)]
    early, _ = voter(me=B)
    early.proposed(A, Proposal(0, X, NO_ROUND))
    assert casts(early.absent(A, gone=True)) == [], "it spoke before it went"
    back, _ = voter(me=B)
    back.absent(C, gone=True)
    back.absent(C, gone=False)
    assert casts(back.voted(A, prevote(2, None))) == []


def test_a_proposer_that_is_gone_is_passed_over_in_every_later_round():
    node, _ = voter(me=B)
    node.absent(A, gone=True)
    assert prevote(3, None) in casts(node.voted(C, prevote(3, None)))


def test_a_proposer_without_a_plan_does_not_keep_others_waiting():
    node, _ = voter(me=A)
    assert casts(node.voted(B, prevote(0, None))) == [prevote(0, None), precommit(0, None)]


def lost(node, round_):
    """Two voters precommit nothing."""
    return node.voted(B, precommit(round_, None)) + node.voted(C, precommit(round_, None))


def test_after_as_many_lost_rounds_as_voters_who_wishes_pauses_until_its_own_turn():
    node, _ = voter(me=B)
    node.wish(X)
    pauses, proposed = [], []
    for _ in range(9):
        round_ = node.round
        facts = node.voted(A, precommit(round_, None)) + node.voted(C, precommit(round_, None))
        pauses += [fact.seconds for fact in facts if isinstance(fact, Arm) and fact.alarm is Alarm.PAUSE]
        assert node.pausing == bool(pauses)
        facts = node.rang(Alarm.PAUSE, round_)
        proposed += [fact.proposal.round for fact in facts if isinstance(fact, Propose)]
    assert pauses == [VOTE_S, 2 * VOTE_S, 4 * VOTE_S, 8 * VOTE_S, 16 * VOTE_S, PAUSE_S_MAX, PAUSE_S_MAX]
    assert proposed == [4, 7, 10, 13, 16, 19, 22]


def test_who_wishes_nothing_pauses_until_others_go_on():
    node, _ = voter(me=A)
    facts = [fact for round_ in range(3) for fact in lost(node, round_)]
    assert node.pausing
    assert not any(isinstance(fact, Arm) and fact.alarm is Alarm.PAUSE for fact in facts)
    node.voted(B, prevote(4, None))
    assert node.round == 4


def test_a_new_wish_ends_the_pause_at_once():
    node, _ = voter(me=A)
    for round_ in range(3):
        lost(node, round_)
    assert node.pausing
    facts = node.wish(X)
    assert node.round == 3
    assert [fact.proposal for fact in facts if isinstance(fact, Propose)] == [Proposal(3, X, NO_ROUND)]
    assert not node.pausing


@pytest.mark.parametrize(("heard", "entered"), [(4, 4), (6, 6), (7, 7), (60_000, 7)])
def test_one_voter_ahead_shortens_the_pause_but_leads_nobody_astray(heard, entered):
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    for round_ in range(4):
        for other in (B, C, D):
            node.voted(other, precommit(round_, None))
    assert node.pausing
    assert node.voted(B, prevote(heard, None)) == [Arm(Alarm.PAUSE, 3, VOTE_S)]
    node.rang(Alarm.PAUSE, 3)
    assert node.round == entered


def test_a_wish_withdrawn_is_not_proposed():
    node, _ = voter(me=B)
    node.wish(X)
    node.wish(None)
    assert not any(isinstance(fact, Propose) for fact in node.voted(A, prevote(1, None)))


def test_the_alarm_for_missing_precommits_does_not_end_a_pause():
    node, _ = voter(me=A)
    for round_ in range(3):
        lost(node, round_)
    node.rang(Alarm.PRECOMMITS, 2)
    assert node.round == 2


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_liar_that_speaks_of_a_thousand_rounds_fills_no_memory():
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    for round_ in range(1000):
        node.voted(B, prevote(round_, X))
        node.proposed(node.proposer(round_), Proposal(round_, X, NO_ROUND))
    rounds = {round_ for _, round_ in node._heard.votes} | set(node._heard.proposals)
    assert len(rounds) <= 2 * ROUNDS_KEPT + 1 + 4


def test_what_holds_a_voter_is_kept_however_old_it_is():
    node, _ = voter(me=C, memory=locked_on_x())
    node.voted(A, prevote(100, None))
    assert node.round == 100
    assert [who for who, _ in node.support] == [A, B]
    assert node._heard.voters_for(VoteKind.PREVOTE, 0, X) == (A, B, C)
    assert node.memory.locked == X


def test_an_old_proof_is_kept_for_the_proposal_that_names_it():
    node, _ = voter(me=C, memory=Memory(100))
    node.proposed(B, Proposal(100, X, 3))
    node.voted(A, prevote(3, X))
    assert casts(node.voted(B, prevote(3, X))) == [prevote(100, X)]
