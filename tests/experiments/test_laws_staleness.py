import pytest

from shoal_agent.experiments.laws.staleness import run
from shoal_agent.experiments.options import Options, silent


def test_every_age_is_there_and_who_hears_nobody_runs_once():
    report = run(Options(seeds=1, methods=("ours", "none")), silent, slots=40, periods=(0, 1, 5))
    assert [row.extra["period"] for row in report.rows] == [0.0, 1.0, 5.0, 0.0]
    assert report.rows[0].extra["c_estimate"] == 0.0
    assert len(report.bands) == 3


@pytest.mark.long
def test_old_digests_cost_money_but_not_stability():
    report = run(Options(seeds=1), silent)
    assert report.passed, report.as_markdown()
