import pytest

from shoal_agent.experiments.laws.greedy import instance, ratios, run
from shoal_agent.experiments.options import Options, silent


def test_a_seed_is_an_instance():
    assert instance(3) == instance(3) != instance(4)
    assert ratios(0) == ratios(0)


def test_a_few_instances():
    report = run(Options(), silent, wanted=4)
    assert report.passed, report.as_markdown()
    assert [row.method for row in report.rows] == ["search", "search-guided"]


@pytest.mark.long
def test_two_hundred_instances():
    report = run(Options(), silent)
    assert report.passed, report.as_markdown()
