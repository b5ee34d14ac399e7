"""Whole runs: nothing may be violated in any of them, and each must be the same wherever it is run."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from shoal_agent.core.plan import folded
from shoal_agent.sim import play as playing
from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.play import play
from shoal_agent.sim.scenarios import SCENARIOS

RUNS_CI = 500
RUNS_LONG = 20_000
SEEDS_BEYOND = 80
"""One world in ten falls to its liars: they must be asked to propose, and the others must be awake."""
PART = 20
"""Runs one process takes at a time."""
RUN_S_MAX = 60
CROWDED = ("scale",)
"""Counted, not judged: ``test_scale``."""


def runs(first, count):
    """So many runs: all scenarios in turn, worlds of 3 to 7 nodes."""
    names = [name for name, rules in SCENARIOS.items() if name not in CROWDED and not rules.beyond]
    return [(names[seed % len(names)], seed, 3 + seed // len(names) % 5) for seed in range(first, first + count)]


def failures(part):
    """The violations of several runs, with what replays each."""
    outcomes = [play(*run) for run in part]
    return [f"{outcome.replay}: {outcome.violations[0]}" for outcome in outcomes if outcome.violations]


def found_in(first, count):
    """All violations, found by as many processes as there are processors."""
    wanted = runs(first, count)
    parts = [wanted[at : at + PART] for at in range(0, count, PART)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return [failure for part in pool.map(failures, parts) for failure in part]


def test_nothing_is_violated():
    found = found_in(0, RUNS_CI)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("scenario", "seed", "nodes"),
    [
        pytest.param("staging-failure", 2052, 3, id="the only node that could stand by had failed once"),
        pytest.param("liar", 2047, 4, id="a liar freed one voter of a round, and three are needed to leave it"),
        pytest.param("staging-failure", 2088, 3, id="the only host that was left had failed once"),
        pytest.param("mixed", 5146, 3, id="whoever the operator could name was about to restart"),
    ],
)
def test_what_was_violated_once_is_not_again(scenario, seed, nodes):
    assert play(scenario, seed, nodes).violations == ()


def test_where_the_ends_are_guarded_plans_are_bent_and_stay_so_through_repairs(monkeypatch):
    judges = []
    monkeypatch.setattr(playing, "Judge", lambda *made: judges.append(Judge(*made)) or judges[-1])
    assert play("u-shape", 103, 4).violations == ()
    plans = [plan for _, _, plan in judges[0].agreed._plans.values()]
    repaired = [plan for plan in plans if plan.epoch]
    assert all(folded(plan.stages) for plan in plans if not plan.epoch)
    assert [folded(plan.stages) for plan in repaired].count(True) >= 2


@pytest.mark.long
def test_nothing_is_violated_in_many_worlds():
    found = found_in(RUNS_CI, RUNS_LONG)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("scenario", ["mixed", "liar-lite"])
def test_a_run_is_the_same_in_every_process(scenario):
    code = f"from shoal_agent.sim.play import play; print(play({scenario!r}, 7, 5).trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            check=True,
        ).stdout.strip()
        for seed in ("1", "4242")
    }
    traces.add(play(scenario, 7, 5).trace)
    assert len(traces) == 1


def test_every_part_of_the_name_counts():
    traces = {play(*name).trace for name in [("calm", 1, 3), ("calm", 2, 3), ("calm", 1, 4), ("lossy", 1, 3)]}
    assert len(traces) == 4


def test_an_outcome_says_what_was_run():
    outcome = play("calm", 3, 4)
    assert (outcome.scenario, outcome.seed, outcome.nodes) == ("calm", 3, 4)
    assert outcome.replay == "shoal sim --scenario calm --seeds 3..3 --nodes 4"
    assert outcome.violations == ()
    assert outcome.requests > 0
    assert outcome.messages > 100
    assert outcome.message_bytes > outcome.messages
    assert SCENARIOS["calm"].storm_s < outcome.seconds < 60.0


def test_a_cluster_that_cannot_begin_is_a_violation(monkeypatch):
    monkeypatch.setattr(playing.World, "deploy", lambda world: None)
    outcome = play("calm", 1, 3)
    assert [violation.oracle for violation in outcome.violations] == ["decides"]
    assert "not deployed" in outcome.violations[0].detail


def test_what_never_recovers_is_a_violation(monkeypatch):
    monkeypatch.setitem(playing.LIVENESS, "drains", lambda world, judge: "never")
    monkeypatch.setattr(playing, "CALM_S_MAX", 2.0)
    outcome = play("calm", 1, 3)
    assert ("drains", "never") in [(violation.oracle, violation.detail) for violation in outcome.violations]


def test_nobody_to_name_in_the_place_of_lost_voters_is_a_violation(monkeypatch):
    monkeypatch.setattr(playing, "CALM_S_MAX", 2.0)
    monkeypatch.setattr(playing.World, "ready", lambda _world: [])
    assert "nobody is left" in play("mixed", 5146, 3).violations[0].detail


def test_a_broken_world_is_a_violation(monkeypatch):
    def broken(world, _, __, ___):
        raise playing.BrokenWorld("it raised")

    monkeypatch.setattr(playing.workload, "begin", broken)
    assert [violation.oracle for violation in play("calm", 1, 3).violations] == ["invariants"]


@pytest.mark.parametrize(("scenario", "nodes"), [("one-of-three-lies", 3), ("two-of-four-lie", 5)])
def test_beyond_the_fault_model_the_oracles_fire(scenario, nodes):
    """More liars than the terms allow for break safety, and it is seen: two plans for one epoch."""
    for seed in range(SEEDS_BEYOND):
        if any(violation.oracle == "certificates" for violation in play(scenario, seed, nodes).violations):
            return
    pytest.fail("nothing was noticed")
