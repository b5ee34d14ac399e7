from shoal_agent.sim.oracles import UNDECIDED, Violation
from shoal_agent.sim.outcome import Outcome


def outcome(*oracles):
    violations = tuple(Violation(oracle, 1.0, "") for oracle in oracles)
    return Outcome("calm", 3, 5, violations, "", 10.0, 1, 1, 0)


def test_to_be_undecided_is_not_to_be_broken():
    assert (outcome().undecided, outcome().broken) == (False, 0)
    assert (outcome(UNDECIDED).undecided, outcome(UNDECIDED).broken) == (True, 0)
    assert (outcome("votes", UNDECIDED, "votes").undecided, outcome("votes", UNDECIDED, "votes").broken) == (True, 2)


def test_three_words_replay_it():
    assert outcome().replay == "shoal sim --scenario calm --seeds 3..3 --nodes 5"
