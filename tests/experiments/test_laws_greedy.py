import pytest

from shoal_agent.experiments.laws.greedy import RATIO_MIN, instance, ratios, run
from shoal_agent.experiments.options import Options, silent


def test_a_seed_is_an_instance():
    assert instance(3) == instance(3) != instance(4)
    assert ratios(0) == ratios(0)


def test_a_few_instances():
    report = run(Options(), silent, wanted=4)
    assert report.passed, report.as_markdown()
    assert [row.method for row in report.rows] == ["search", "search-guided"]


def test_the_cluster_in_which_nothing_was_found():
    """The one machine beside n02 that is trusted enough for s0 is the cheapest for everybody else."""
    answer = ratios(161)[1]
    assert answer is not None
    assert min(answer) >= RATIO_MIN


@pytest.mark.long
def test_two_hundred_instances():
    report = run(Options(), silent)
    assert report.passed, report.as_markdown()
