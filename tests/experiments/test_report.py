import json

import pytest

from shoal_agent.experiments.report import Band, Report, Row

ROWS = (
    Row("ours", 2.0, on_time=0.95, cost=150.0, ci={"on_time": (0.94, 0.96)}, extra={"peak": 17.0}),
    Row("static", 2.0, on_time=float("nan")),
)


def report(*bands):
    return Report("paper-a", "abc", ("one user per device",), ROWS, bands)


@pytest.mark.parametrize(
    ("band", "passed"),
    [
        (Band("b", 0.94, low=0.94), True),
        (Band("b", 0.9399, low=0.94), False),
        (Band("b", 1.1, high=1.1), True),
        (Band("b", 1.2, low=1.0, high=1.1), False),
        (Band("b", 7.0), True),
        (Band("b", float("nan"), low=0.0), False),
        (Band("b", float("nan")), False),
    ],
)
def test_a_band_holds_its_ends_and_never_nan(band, passed):
    assert band.passed is passed


def test_one_band_outside_fails_the_report():
    assert report(Band("a", 1.0, low=0.5)).passed
    assert not report(Band("a", 1.0, low=0.5), Band("b", 1.0, high=0.5)).passed


def test_the_object_for_scripts_has_these_keys_and_is_json():
    told = json.loads(json.dumps(report(Band("a", float("inf"), low=0.5)).as_json(), allow_nan=False))
    assert set(told) == {"trace_hash", "assumptions", "rows", "bands"}
    keys = {"method", "load", "on_time", "qos", "failed", "incidents_per_h", "p95_ms", "cost", "ci"}
    assert set(told["rows"][0]) == {*keys, "peak"}
    assert told["rows"][0]["ci"] == {"on_time": [0.94, 0.96]}
    assert told["rows"][1]["on_time"] is None
    assert told["bands"] == [{"name": "a", "figure": None, "low": 0.5, "high": None, "passed": True}]


def test_the_table_shows_filled_columns_intervals_bands_and_assumptions():
    text = report(Band("on time", 0.9, low=0.94)).as_markdown()
    assert "| method | load | on_time | cost | peak |" in text
    assert "| ours | 2 | 0.95 (0.94 to 0.96) | 150 | 17 |" in text
    assert "- FAIL: on time: 0.9 (must be >= 0.94)" in text
    assert text.endswith("## Assumptions\n\n- one user per device\n")
    assert "Trace `abc`." in text


def test_a_figure_is_found_by_name():
    assert ROWS[0].figure("cost") == 150.0
    assert ROWS[0].figure("peak") == 17.0
    assert ROWS[1].figure("peak") is None
