import pytest

from shoal_agent.errors import ExitCode, UserError
from shoal_agent.sim.oracles import Violation
from shoal_agent.sim.play import Outcome
from shoal_agent.sim.report import FAILURES_MAX, Report, chosen, seeds_of
from shoal_agent.sim.scenarios import SCENARIOS


def outcome(seed=1, violations=()):
    return Outcome("calm", seed, 4, tuple(violations), "00", 10.0, 400, 8000, 5)


def test_the_object_has_every_key():
    report = Report()
    report.add(outcome())
    assert report.as_json(range(1)) == {
        "scenarios": ["calm"],
        "seeds": 1,
        "nodes": 4,
        "violations": 0,
        "undecided": 0,
        "agreement_s": {"p50": None, "p99": None},
        "messages_per_node_s": 10.0,
        "bytes_per_node_s": 200.0,
        "requests": 5,
        "failures": [],
    }


def test_a_failure_says_how_to_replay_it_once_per_oracle():
    report = Report()
    report.add(
        outcome(7, [Violation("tokens", 1.5, "a"), Violation("tokens", 2.0, "b"), Violation("drains", 3.0, "c")])
    )
    told = report.as_json(range(7, 8))
    assert told["violations"] == 3
    assert [failure["oracle"] for failure in told["failures"]] == ["tokens", "drains"]
    first = told["failures"][0]
    assert (first["scenario"], first["seed"], first["at_s"], first["detail"]) == ("calm", 7, 1.5, "a")
    assert first["replay"] == "shoal sim --scenario calm --seeds 7..7 --nodes 4"


def test_failures_are_bounded():
    report = Report()
    for seed in range(FAILURES_MAX + 5):
        report.add(outcome(seed, [Violation("tokens", 1.0, "")]))
    assert len(report.failures) == FAILURES_MAX
    assert report.violations == FAILURES_MAX + 5


def test_no_run_has_no_rate():
    assert Report().as_json(range(0))["messages_per_node_s"] is None


def test_scenarios_are_chosen_by_name_or_all():
    assert chosen("all") == list(SCENARIOS)
    assert chosen("lossy") == ["lossy"]
    with pytest.raises(UserError) as told:
        chosen("nope")
    assert all(name in told.value.hint for name in [*SCENARIOS, "all"])
    assert told.value.exit_code is ExitCode.USAGE


def test_ranges_of_seeds():
    assert seeds_of("3..5") == range(3, 6)
    assert seeds_of("3") == range(3, 4)


@pytest.mark.parametrize("text", ["", "a", "1..", "..2", "5..3", "1...3", "-1..3", "1,2"])
def test_what_is_no_range(text):
    with pytest.raises(UserError):
        seeds_of(text)
