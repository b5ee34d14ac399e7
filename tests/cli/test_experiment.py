import pytest

from shoal_agent.errors import ExitCode
from shoal_agent.experiments import catalogue
from shoal_agent.experiments.catalogue import Experiment
from shoal_agent.experiments.report import Band, Chart, Report, Row
from tests.support.commands import shoal

SEEN = []


def report(high: float) -> Report:
    chart = Chart("line", "A line", "x", "y", lines={"ours": [(0.0, 1.0), (1.0, 2.0)]})
    rows, bands = [Row("ours", 2.0, on_time=0.95)], [Band("on time", 0.95, high=high)]
    return Report("toy", "abc", ["it is a toy"], rows, bands, [chart])


@pytest.fixture
def toy(monkeypatch):
    """An experiment whose band passes unless its regime is "bad"."""

    def run(options, progress):
        SEEN.append(options)
        progress(1, 1, "toy")
        return report(0.5 if options.regime == "bad" else 1.0)

    monkeypatch.setattr(Experiment, "load", lambda self: run)
    monkeypatch.setitem(catalogue.EXPERIMENTS, "toy", Experiment("toy", "A toy.", "nowhere"))


def test_one_object_for_scripts(toy):
    ended = shoal("experiment", "toy", "--json")
    assert ended.code == 0
    assert set(ended.json) == {"trace_hash", "assumptions", "rows", "bands"}
    assert ended.err == ""


def test_a_table_for_people(toy):
    ended = shoal("experiment", "toy")
    assert ended.out.startswith("# toy")
    assert "- it is a toy" in ended.out


def test_every_option_arrives(toy):
    options = ["--seeds", 3, "--loads", "1, 1.5", "--methods", "ours,ga", "--regime", "R1", "--trace", "harsh"]
    assert shoal("experiment", "toy", *options, "--fp32", "--jobs", 2).code == 0
    seen = SEEN[-1]
    assert (seen.seeds, seen.loads, seen.methods) == (3, (1.0, 1.5), ("ours", "ga"))
    assert (seen.regime, seen.trace, seen.width, seen.jobs) == ("R1", "harsh", "fp32", 2)


def test_a_figure_outside_its_band_ends_with_a_code(toy):
    ended = shoal("experiment", "toy", "--regime", "bad")
    assert ended.code == ExitCode.FAILED
    assert "FAIL: on time" in ended.out


def test_files_on_request(toy, tmp_path):
    ended = shoal("experiment", "toy", "--out", tmp_path / "new", "--json")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["line.svg", "toy.json", "toy.md"]
    assert (tmp_path / "new" / "toy.md").read_text() == report(1.0).as_markdown()
    assert "wrote" in ended.err


@pytest.mark.parametrize("options", [["nope"], ["toy", "--loads", "two"], ["toy", "--seeds", 0], ["toy", "--jobs", 0]])
def test_what_cannot_be_meant_is_refused(toy, options):
    assert shoal("experiment", *options).code == ExitCode.USAGE
