from dataclasses import replace

import pytest

from shoal_agent.experiments.laws import epochs
from shoal_agent.experiments.laws.epochs import SCENARIOS, run
from shoal_agent.experiments.options import Options, silent
from shoal_agent.sim.oracles import Violation
from shoal_agent.sim.play import play


def test_a_world_without_violations():
    report = run(Options(seeds=1, methods=("partition",)), silent)
    assert report.passed, report.as_markdown()
    assert report.rows[0].extra["worlds"] == 1.0


@pytest.mark.parametrize(
    ("oracle", "figure"), [("epoch-fence", "mixed"), ("certificates", "double"), ("tokens", "other")]
)
def test_a_violation_is_counted_where_it_belongs(monkeypatch, oracle, figure):
    seen = replace(play("calm", 0, 3), violations=(Violation(oracle, 1.0, "made up"),))
    monkeypatch.setattr(epochs, "play", lambda *_: seen)
    report = run(Options(seeds=2, methods=("partition",)), silent)
    assert report.rows[0].extra[figure] == 2.0
    assert not report.passed


@pytest.mark.long
def test_every_scenario():
    report = run(Options(seeds=10), silent)
    assert report.passed, report.as_markdown()
    assert len(report.rows) == len(SCENARIOS)
