import json

import pytest

from shoal_agent.errors import UserError
from shoal_agent.experiments.options import Options, silent
from shoal_agent.experiments.paper_b.methods import METHODS
from shoal_agent.experiments.paper_b.study import goodput, study
from shoal_agent.experiments.report import Row

SHORT_S = 90.0


def options(**others):
    return Options(**{"seeds": 2, "methods": ("ours", "static"), **others})


@pytest.fixture(scope="module")
def report():
    return study(options(), silent, SHORT_S)


def test_the_report_has_a_row_for_each_method_and_every_band(report):
    assert [row.method for row in report.rows] == ["ours", "static"]
    assert len(report.bands) == 7
    assert {band.name for band in report.bands if band.high == 0.0} == {
        "ours: runs of private blocks on machines without trust",
        "ours: answers with legs of two epochs",
    }
    for row in report.rows:
        assert set(row.ci) == {"qos", "failed", "incidents_per_h", "p95_ms"}
        assert row.ci["qos"][0] <= row.qos <= row.ci["qos"][1]
    told = json.loads(json.dumps(report.as_json()))
    assert set(told) == {"trace_hash", "assumptions", "rows", "bands"}
    assert len(told["assumptions"]) > 10


def test_the_same_again_is_the_same(report):
    assert study(options(), silent, SHORT_S) == report


def test_methods_meet_the_same_trace_whoever_else_runs(report):
    alone = study(options(methods=("static",)), silent, SHORT_S)
    assert alone.trace_hash == report.trace_hash
    assert alone.rows == report.rows[1:]
    assert alone.bands == []


def test_other_weather_is_another_trace_with_fewer_bands(report):
    harsh = study(options(trace="harsh", width="fp32"), silent, SHORT_S)
    assert harsh.trace_hash != report.trace_hash
    assert len(harsh.bands) == 3


def test_several_loads_are_compared_by_sustainable_goodput():
    loads = study(options(seeds=1, loads=(0.5, 1.0)), silent, 30.0)
    assert [(row.method, row.load) for row in loads.rows] == [
        ("ours", 0.5),
        ("static", 0.5),
        ("ours", 1.0),
        ("static", 1.0),
    ]
    assert loads.bands[-1].name.startswith("sustainable goodput")
    assert [chart.name for chart in loads.charts] == ["paper-b-qos"]


def test_goodput_ends_where_quality_does():
    rows = [Row("a", load, qos=qos) for load, qos in [(3.0, 0.99), (1.0, 0.97), (2.0, 0.9)]]
    assert goodput("a", rows) == 1.0
    assert goodput("b", rows) == 0.0


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UserError, match="trace"):
        study(options(trace="calm"), silent, SHORT_S)
    with pytest.raises(UserError, match="method"):
        study(options(methods=("magic",)), silent, SHORT_S)
    assert len(set(METHODS)) == len(METHODS)


@pytest.mark.long
def test_adapting_beats_the_best_static_split_in_an_hour():
    hour = study(options(seeds=2), silent, 3600.0)
    ours, static = hour.rows
    assert ours.qos > static.qos + 0.05
    assert ours.failed < 0.02
    assert (ours.extra["breaches"], ours.extra["mixed"]) == (0.0, 0.0)
