import sys

import pytest

from shoal_agent.errors import ExitCode, UnavailableError
from shoal_agent.experiments.plots import draw
from shoal_agent.experiments.report import Chart

LINES = Chart("by-load", "On time", "load", "share", lines={"ours": [(1.0, 0.9), (2.0, 0.8)]}, log_x=True, log_y=True)
VIOLINS = Chart("spread", "Over seeds", "method", "share", violins={"ours": [0.9, 0.95, 1.0], "static": [0.2, 0.5]})


@pytest.mark.parametrize("chart", [LINES, VIOLINS])
def test_a_chart_is_a_file_that_is_the_same_every_time(chart, tmp_path):
    first = draw(chart, tmp_path).read_bytes()
    assert b"<svg" in first
    assert draw(chart, tmp_path).read_bytes() == first
    assert (tmp_path / f"{chart.name}.svg").is_file()


def test_without_the_extra_its_name_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnavailableError, match="matplotlib") as refused:
        draw(LINES, tmp_path)
    assert "shoal[plots]" in refused.value.hint
    assert refused.value.exit_code == ExitCode.UNAVAILABLE
