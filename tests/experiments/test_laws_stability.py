import pytest

from shoal_agent.experiments.laws.stability import run
from shoal_agent.experiments.options import Options, silent


def test_inside_promises_hold_and_outside_the_queues_say_so():
    report = run(Options(seeds=1, loads=(0.7, 1.3)), silent, slots=100)
    assert report.passed, report.as_markdown()
    inside, outside = report.rows
    assert inside.on_time > 0.9 > outside.on_time


@pytest.mark.long
def test_every_load():
    report = run(Options(seeds=2), silent)
    assert report.passed, report.as_markdown()
