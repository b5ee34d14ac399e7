from dataclasses import replace

import pytest

from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import Case, dispatcher, play, play_all, row
from shoal_agent.experiments.laws.setting import circle
from shoal_agent.experiments.options import Options, silent

METHODS = ("ours", "ours-hasty", "ours-unprobed", "ours-naive", "central", "central-rtt", "none", "jsq-stale")


def case(method="ours", seed=0, **changes) -> Case:
    return Case(method, replace(circle(8, 60), warm_slots=20), seed, **changes)


@pytest.mark.parametrize("method", [*METHODS, "power-of-two", "random"])
def test_a_run_follows_from_its_case(method):
    one, same = play(case(method)), play(case(method))
    assert one == same
    assert 0 <= one.values["on_time"] <= 1
    assert one.values["cost"] > 0


def test_all_methods_meet_the_same_trace():
    assert len({play(case(method)).digest for method in METHODS}) == 1
    assert play(case(seed=1)).digest != play(case()).digest


def test_an_unknown_method_is_our_mistake():
    with pytest.raises(AssertionError):
        dispatcher(case("nope"))


def test_a_row_is_the_mean_over_seeds():
    runs = play_all([case(seed=seed) for seed in range(3)], Options(seeds=3), silent)
    told = row("ours", runs, 0.5, v=2.0)
    assert told.cost == pytest.approx(sum(one.values["cost"] for one in runs) / 3)
    assert told.ci["cost"][0] <= told.cost <= told.ci["cost"][1]
    assert (told.load, told.extra["v"]) == (0.5, 2.0)


def test_money_matters_more_with_a_larger_v():
    thrifty, generous = play(case(control=Control(v=16.0))), play(case(control=Control(v=0.25)))
    assert thrifty.values["backlog"] > generous.values["backlog"]
