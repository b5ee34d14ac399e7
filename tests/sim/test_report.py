from dataclasses import replace

import pytest

from shoal_agent.errors import ExitCode, UserError
from shoal_agent.sim.oracles import UNDECIDED, Violation
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.report import FAILURES_MAX, Report, chosen, nodes_of, percentile, seeds_of
from shoal_agent.sim.scenarios import SCENARIOS


def outcome(seed=1, violations=(), nodes=4, agreements=()):
    return Outcome("calm", seed, nodes, tuple(violations), "00", 10.0, 400, 8000, 5, tuple(agreements))


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
        "failures": [],
        "beyond": {"runs": 0, "fired": 0},
    }


def test_a_failure_says_how_to_replay_it_once_per_oracle():
    report = Report()
    report.add(
        outcome(7, [Violation("tokens", 1.5, "a"), Violation("tokens", 2.0, "b"), Violation("drains", 3.0, "c")])
    )
    told = report.as_json(range(7, 8))
    assert told["violations"] == 3
    assert [failure["oracle"] for failure in told["failures"]] == ["tokens", "drains"]
    replay = "shoal sim --scenario calm --seeds 7..7 --nodes 4"
    assert told["failures"][0] == {"scenario": "calm", "seed": 7, "oracle": "tokens", "replay": replay}
    assert report.failed == {"calm": 1}


def test_the_undecided_are_counted_by_themselves():
    report = Report()
    report.add(outcome(7, [Violation(UNDECIDED, 60.0, "no plan")]))
    told = report.as_json(range(7, 8))
    assert (told["violations"], told["undecided"]) == (0, 1)
    assert told["failures"][0]["oracle"] == UNDECIDED


def test_worlds_of_several_sizes_are_lists():
    report = Report()
    report.add(outcome(nodes=40))
    report.add(outcome())
    told = report.as_json(range(1))
    assert told["nodes"] == [4, 40]
    assert told["messages_per_node_s"] == [10.0, 1.0]
    assert told["bytes_per_node_s"] == [200.0, 20.0]


def test_agreements_of_all_runs_count_together():
    report = Report()
    report.add(outcome(agreements=[0.5, 2.0]))
    report.add(outcome(agreements=[1.0]))
    assert report.as_json(range(1))["agreement_s"] == {"p50": 1.0, "p99": 2.0}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([3.0], 1, 3.0), ([3.0], 99, 3.0), (range(1, 101), 50, 50), (range(1, 101), 99, 99)],
)
def test_percentiles(values, percent, expected):
    assert percentile(list(values), percent) == expected


def test_failures_are_bounded():
    report = Report()
    for seed in range(FAILURES_MAX + 5):
        report.add(outcome(seed, [Violation("tokens", 1.0, "")]))
    assert len(report.failures) == FAILURES_MAX
    assert report.violations == FAILURES_MAX + 5


def test_no_run_has_no_rate():
    assert Report().as_json(range(0))["messages_per_node_s"] == []


def test_what_happens_beyond_the_fault_model_is_apart_unless_it_was_asked_for():
    fallen = replace(outcome(7, [Violation("one-certificate", 1.5, "two")]), scenario="two-of-four-lie")
    held = replace(outcome(8), scenario="two-of-four-lie")
    for apart, failed in ((True, 0), (False, 1)):
        report = Report(apart=apart)
        report.add(fallen)
        report.add(held)
        told = report.as_json(range(7, 9))
        assert (told["violations"], len(told["failures"])) == (failed, failed)
        assert told["beyond"] == ({"runs": 2, "fired": 1} if apart else {"runs": 0, "fired": 0})


def test_scenarios_are_chosen_by_name_or_all():
    assert chosen("all") == list(SCENARIOS)
    assert chosen("two-of-four-lie") == ["two-of-four-lie"]
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


def test_sizes_of_worlds():
    assert nodes_of("5") == [5]
    assert nodes_of("3..5,10,4") == [3, 4, 5, 10]


@pytest.mark.parametrize("text", ["", "1", "10001", "5..3", "3,", "a"])
def test_what_is_no_size(text):
    with pytest.raises(UserError):
        nodes_of(text)
