import pytest

from shoal_agent.experiments.laws.switching import run
from shoal_agent.experiments.options import Options, silent


def test_serving_the_longest_queue_loses_to_staying():
    report = run(Options(seeds=1, loads=(0.7,)), silent, slots=1500)
    backlog = {row.method: row.extra["backlog"] for row in report.rows}
    assert backlog["greedy"] > 3 * max(backlog["ours"], backlog["frames"])


@pytest.mark.long
def test_every_load():
    report = run(Options(seeds=2), silent)
    assert report.passed, report.as_markdown()
