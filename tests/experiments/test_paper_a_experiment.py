import math

import pytest

from shoal_agent.errors import UserError
from shoal_agent.experiments.options import Options, silent
from shoal_agent.experiments.paper_a import backbone
from shoal_agent.experiments.paper_a.experiment import Job, Outcome, Run, play, report, run

METHODS = ("ours", "central", "gateway", "propavg")


def job(seed, load=2.0, arrivals_ms=15):
    return Job("R2", load, seed, METHODS, arrivals_ms, 30)


def test_two_seeds_have_structure_pairing_bands_and_are_the_same_again():
    jobs = [job(seed) for seed in (0, 1)]
    outcomes = [play(one) for one in jobs]
    found = report(jobs, outcomes)
    assert [row.method for row in found.rows] == list(METHODS)
    for outcome in outcomes:
        assert len({len(one.latencies_ms) for one in outcome.runs.values()}) == 1
    assert outcomes[0].trace != outcomes[1].trace
    again = play(jobs[0])
    assert again == outcomes[0]
    assert any("nothing ever waited" in line and line.endswith("load: 2: 1.000.") for line in found.assumptions)
    rows = {row.method: row for row in found.rows}
    assert rows["ours"].on_time >= 0.9
    assert rows["ours"].cost <= 1.1 * rows["central"].cost
    assert rows["propavg"].on_time < rows["ours"].on_time
    names = [band.name for band in found.bands]
    assert any("0.84" not in name and "cost of ours over central" in name for name in names)
    assert len(found.charts) == 3


def made(on_time, cost):
    return Run(on_time, 0.0, cost, 0.0, (1.0, 2.0))


def test_bands_say_what_is_claimed():
    runs = {"ours": made(0.95, 110.0), "central": made(0.96, 100.0), "gateway": made(0.96, 1.0)}
    one = Job("R2", 2.0, 0, tuple(runs))
    bands = {band.name: band.passed for band in report([one], [Outcome("x", runs)]).bands}
    assert bands == {
        "ours on time at load 2": True,
        "R2, load 2: ours on time": True,
        "R2, load 2: cost of ours over central": True,
        "R2, load 2: ours over gateway, lower end of 95 %": False,
    }


def test_a_seed_without_placement_is_named_and_left_out():
    jobs = [Job("R2", 2.0, seed, ("ours",)) for seed in (0, 1)]
    found = report(jobs, [Outcome("x", {}), Outcome("y", {"ours": made(0.5, 1.0)})])
    assert any("load 2 seed 0" in line for line in found.assumptions)
    assert found.rows[0].on_time == 0.5
    nothing = report(jobs[:1], [Outcome("x", {})])
    assert math.isnan(nothing.rows[0].on_time)
    assert not nothing.passed


def test_where_least_loaded_finds_no_room_its_cores_stand_where_the_others_do(monkeypatch):
    monkeypatch.setattr(backbone, "least_loaded", lambda scenario, regime: None)
    one = Job("R2", 2.0, 0, ("lbrr", "static"), 5, 10)
    assert set(play(one).runs) == {"lbrr", "static"}


def test_what_the_radio_brings_too_late_is_out_of_reach():
    late = play(Job("R1", 1.0, 0, ("static",), 30, 60))
    assert 0.5 < late.in_reach < 1.0
    assert late.runs["static"].on_time <= late.in_reach + 0.05


def test_no_placement_means_no_runs(monkeypatch):
    monkeypatch.setattr(backbone, "place", lambda scenario, regime: None)
    assert play(job(0)).runs == {}


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="no method 'nope'"):
        run(Options(seeds=1, methods=("nope",)), silent)
    with pytest.raises(UserError, match="no regime 'R9'"):
        run(Options(seeds=1, regime="R9"), silent)
