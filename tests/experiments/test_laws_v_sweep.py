import pytest

from shoal_agent.experiments.laws.v_sweep import run
from shoal_agent.experiments.options import Options, silent


def test_the_table_has_every_octave_and_backlog_rises_with_v():
    report = run(Options(seeds=1), silent, slots=100, octaves=(1.0, 2.0, 4.0))
    assert [row.extra["v"] for row in report.rows] == [1.0, 2.0, 4.0]
    backlogs = [row.extra["backlog"] for row in report.rows]
    assert backlogs == sorted(backlogs)
    assert {band.name for band in report.bands} >= {"R2 of cost over 1/V", "R2 of backlog over V"}


@pytest.mark.long
def test_cost_and_backlog_are_straight_lines():
    report = run(Options(seeds=2), silent)
    assert report.passed, report.as_markdown()
