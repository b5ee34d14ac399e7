"""AGREE/1: its rules one by one, then in a seeded world within and outside its fault model, then its mutants.

Safety is that no two voters decide differently; liveness, that all decide.
"""

import pytest

from shoal_agent.core import agreement
from shoal_agent.core.agreement import (
    Agreement,
    Alarm,
    Arm,
    Cast,
    Decided,
    Equivocated,
    Memory,
    Propose,
    Remember,
    Step,
)
from shoal_agent.core.ballots import NO_ROUND, Proposal, Vote
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import VoteKind
from tests.support.voters import World, X, Y

A, B, C, D, E = (NodeId(letter * 32) for letter in "abcde")


def conflicts(seeds, *args, **options):
    return [seed for seed in seeds if len(World(seed, *args, **options).run().values) > 1]


def undecided(seeds, *args, **options):
    worlds = [(seed, World(seed, *args, **options).run()) for seed in seeds]
    assert all(len(world.values) <= 1 for _, world in worlds)
    return [seed for seed, world in worlds if len(world.decided) < len(world.honest)]


# --- a table of single rules -----------------------------------------------------------------------------------------


def voter(me=A, memory=None, faulty=0, voters=(A, B, C)):
    node = Agreement(me, voters, faulty, memory)
    return node, node.begin()


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
    facts = node.proposed(A, Proposal(0, X, NO_ROUND), acceptable=True)
    for index, fact in enumerate(facts):
        if isinstance(fact, Cast):
            before = facts[index - 1]
            assert isinstance(before, Remember)
            assert fact.vote in before.memory.cast


def test_a_plan_this_voter_cannot_live_with_gets_a_vote_for_nothing():
    node, _ = voter(me=B)
    assert casts(node.proposed(A, Proposal(0, X, NO_ROUND), acceptable=False)) == [prevote(0, None)]


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
    assert node.proposed(sender, proposal, acceptable=True) == []
    assert node.step is Step.PROPOSE


def test_a_stranger_has_no_vote():
    node, _ = voter(me=B)
    node.proposed(A, Proposal(0, X, NO_ROUND), acceptable=True)
    assert node.voted(D, precommit(0, X)) == node.voted(E, precommit(0, X)) == []
    assert node.decision is None


def test_a_quorum_of_prevotes_locks_and_a_quorum_of_precommits_decides():
    node, _ = voter(me=B)
    node.proposed(A, Proposal(0, X, NO_ROUND), acceptable=True)
    facts = node.voted(A, prevote(0, X))
    assert casts(facts) == [precommit(0, X)]
    assert facts[0].memory.locked == X
    assert node.voted(C, precommit(0, X))[-1] == Decided(X, 0, (B, C))
    assert node.proof() == Proposal(0, X, NO_ROUND)
    assert node.voted(A, precommit(0, X)) == []


def locked_on_x():
    return Memory(1, X, 0, X, 0, (prevote(0, X), precommit(0, X)))


def test_a_locked_voter_refuses_another_plan_without_proof():
    node, _ = voter(me=C, memory=locked_on_x())
    assert casts(node.proposed(B, Proposal(1, Y, NO_ROUND), acceptable=True)) == [prevote(1, None)]


def test_a_locked_voter_gives_way_to_a_later_quorum():
    node, _ = voter(me=A, memory=Memory(2, X, 0, X, 0, (prevote(0, X), precommit(0, X))))
    assert node.proposed(C, Proposal(2, Y, 1), acceptable=True) == [], "it waits for the proof"
    node.voted(B, prevote(1, Y))
    assert casts(node.voted(C, prevote(1, Y))) == [prevote(2, Y)]


def test_who_was_locked_proposes_that_plan_again_and_shows_why():
    node, facts = voter(me=B, memory=locked_on_x())
    assert [fact.proposal for fact in facts if isinstance(fact, Propose)] == [Proposal(1, X, 0)]
    node.voted(A, prevote(0, X))
    assert node.support == ((A, prevote(0, X)), (B, prevote(0, X)))


def test_nobody_is_heard_and_the_round_passes():
    node, facts = voter(me=B)
    assert facts == [Arm(Alarm.PROPOSAL, 0, agreement.PROPOSE_S)]
    assert casts(node.rang(Alarm.PROPOSAL, 0)) == [prevote(0, None)]
    assert casts(node.voted(A, prevote(0, None))) == [precommit(0, None)]
    assert Arm(Alarm.PRECOMMITS, 0, agreement.VOTE_S) in node.voted(C, precommit(0, None))
    node.rang(Alarm.PRECOMMITS, 0)
    assert node.round == 1
    assert node.rang(Alarm.PRECOMMITS, 0) == node.rang(Alarm.PREVOTES, 1) == [], "stale alarms mean nothing"


def test_time_outs_grow_until_they_exceed_any_delay():
    _, first = voter(me=C, memory=Memory(0))
    _, tenth = voter(me=C, memory=Memory(10))
    assert tenth[0].seconds == first[0].seconds + 10 * agreement.PROPOSE_GROWTH_S


def test_more_voters_than_may_lie_pull_the_others_along():
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    node.voted(B, prevote(7, None))
    assert node.round == 0
    node.voted(C, prevote(7, None))
    assert node.round == 7


def test_two_ballots_of_one_voter_are_evidence_and_count_for_both():
    node, _ = voter(me=A, faulty=1, voters=(A, B, C, D))
    node.voted(B, prevote(0, X))
    assert node.voted(B, prevote(0, X)) == []
    assert node.voted(B, prevote(0, Y)) == [Equivocated(B, prevote(0, X), prevote(0, Y))]
    assert node.voted(B, prevote(0, None)) == [], "a third adds nothing"


def test_after_a_restart_nothing_is_said_twice_and_what_was_said_stands():
    memory = None
    node, _ = voter(me=B)
    for fact in node.proposed(A, Proposal(0, X, NO_ROUND), acceptable=True):
        memory = fact.memory if isinstance(fact, Remember) else memory
    again, facts = voter(me=B, memory=memory)
    assert casts(facts) == []
    assert again.step is Step.PREVOTE
    assert again.statements == (prevote(0, X),)
    assert casts(again.proposed(A, Proposal(0, Y, NO_ROUND), acceptable=True)) == []


# --- worlds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voters", "faulty", "liars", "seeds"), [(3, 0, 0, 400), (5, 0, 0, 200), (7, 0, 0, 60), (4, 1, 1, 60), (7, 2, 2, 8)]
)
def test_within_the_fault_model_all_decide_the_same(voters, faulty, liars, seeds):
    assert undecided(range(seeds), voters, faulty, liars) == []


@pytest.mark.parametrize(("voters", "faulty", "liars"), [(3, 0, 1), (4, 1, 2)])
def test_outside_the_fault_model_the_oracle_fires(voters, faulty, liars):
    assert conflicts(range(40), voters, faulty, liars)


def test_without_faults_one_round_is_enough():
    for seed in range(50):
        world = World(seed, 4, 1, faults=False).run()
        assert {done.round for done in world.decided.values()} == {0}
        assert world.now < agreement.PROPOSE_S


def test_liars_are_caught():
    worlds = [World(seed, 4, 1, 1).run() for seed in range(10)]
    assert all(world.evidence <= world.liars for world in worlds)
    assert any(world.evidence for world in worlds)


def test_one_vote_fewer_than_a_quorum_is_noticed(monkeypatch):
    whole = agreement.quorum
    monkeypatch.setattr(agreement, "quorum", lambda voters, faulty: whole(voters, faulty) - 1)
    assert conflicts(range(100), 3)


def test_a_vote_that_ignores_its_lock_is_noticed(monkeypatch):
    def unlocked(node):
        proposals = node._heard.proposals.get(node.round)
        if node._step is not Step.PROPOSE or not proposals:
            return False
        node._prevote(proposals[0].value)
        return True

    monkeypatch.setattr(Agreement, "_answer_proposal", unlocked)
    assert conflicts(range(400), 3) or conflicts(range(200), 4, 1, 1)


def test_a_certificate_that_is_not_passed_on_is_noticed():
    worlds = [World(seed, 4, 1, 1, certificates=False).run() for seed in range(6)]
    assert any(len(world.decided) < len(world.honest) for world in worlds)
