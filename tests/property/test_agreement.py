"""AGREE/1 in seeded worlds within and outside its fault model, then its mutants.

Safety is that no two voters decide differently; liveness, that all decide.
"""

import pytest

from shoal_agent.core import agreement
from shoal_agent.core.agreement import Agreement
from shoal_agent.core.motions import Step
from shoal_agent.core.patience import PROPOSE_S
from shoal_protocol.messages import VoteKind
from tests.support.voters import World


def conflicts(seeds, *args, **options):
    return [seed for seed in seeds if len(World(seed, *args, **options).run().values) > 1]


def undecided(seeds, *args, **options):
    worlds = [(seed, World(seed, *args, **options).run()) for seed in seeds]
    assert all(len(world.values) <= 1 for _, world in worlds)
    return [seed for seed, world in worlds if len(world.decided) < len(world.honest)]


@pytest.mark.parametrize(
    ("voters", "faulty", "liars", "seeds"), [(3, 0, 0, 200), (5, 0, 0, 100), (7, 0, 0, 40), (4, 1, 1, 60), (7, 2, 2, 6)]
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
        assert world.now < PROPOSE_S


def test_one_vote_fewer_than_a_quorum_is_noticed(monkeypatch):
    whole = agreement.quorum
    monkeypatch.setattr(agreement, "quorum", lambda voters, faulty: whole(voters, faulty) - 1)
    assert conflicts(range(100), 3)


def test_a_vote_that_ignores_its_lock_is_noticed(monkeypatch):
    def unlocked(node):
        proposals = node._heard.proposals.get(node.round)
        if node._step is not Step.PROPOSE or not proposals:
            return False
        node._cast(VoteKind.PREVOTE, proposals[0].value)
        return True

    monkeypatch.setattr(Agreement, "_answer_proposal", unlocked)
    assert conflicts(range(400), 3) or conflicts(range(200), 4, 1, 1)


def test_a_certificate_that_is_not_passed_on_is_noticed():
    worlds = [World(seed, 4, 1, 1, certificates=False).run() for seed in range(6)]
    assert any(len(world.decided) < len(world.honest) for world in worlds)
