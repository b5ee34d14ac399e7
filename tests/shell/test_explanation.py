"""`/shoal/v1/explain` is an interface: its keys, its figures, and that everything in it is JSON."""

import json
from dataclasses import replace

import pytest

from shoal_agent.core.plan import voters_for
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import NO_DEMAND, Demand
from shoal_agent.shell.explanation import explanation_json
from shoal_protocol.messages import Terms
from tests.support.world import TOY, World


def explained(world, name, epoch=None, deployment=None):
    told = world.cells[name].node.explain(deployment, epoch, world.now)
    assert told is not None
    best = None if told.problem is None else split_model(told.problem)
    return json.loads(json.dumps(explanation_json(told, best, world.now)))


@pytest.fixture(scope="module")
def repaired():
    """Five nodes; one of two hosts died and was replaced."""
    world = World(5)
    world.start()
    plan = world.plan(world.names[:2])
    voters = voters_for(TOY, world.names[:2], world.names, 0)
    world.announce(replace(plan, voters=voters, terms=Terms(stages_min=2), reason="an operator's"))
    world.run_until(world.serving)
    world.run(5)
    world.kill(world.names[0])
    world.run(10)
    return world


def test_the_newest_plan_says_what_caused_it_and_who_decided(repaired):
    told = explained(repaired, repaired.names[1])
    dead, kept = repaired.names[:2]
    assert (told["deployment"], told["epoch"], told["cause"], told["mode"]) == (
        TOY,
        1,
        "HOST_LOST",
        "MAKE_BEFORE_BREAK",
    )
    assert told["reason"].startswith(f"host {dead[:8]} is dead")
    assert told["epochs"] == [0, 1]
    assert len(told["voters"]) == 3
    assert told["decided"]["round"] >= 0
    assert len(told["decided"]["ballots"]) == 2
    (run,) = told["moved"]
    assert (run["first_block"], run["last_block"], run["source"]) == (0, 3, dead)
    assert run["target"] not in (dead, kept)
    assert told["terms"] == {
        "objective": "latency",
        "stages_min": 2,
        "stages_max": 8,
        "sessions": 1,
        "zones": [],
        "faulty": 0,
        "gain": 0.2,
        "standbys": 1,
        "loss": 0.0,
        "guarded": [],
    }


def test_it_says_how_long_staging_took(repaired):
    outcome = explained(repaired, repaired.names[1])["outcome"]
    assert outcome["serving"]
    assert 0 < outcome["served_after_s"] < 5
    assert {host["phase"] for host in outcome["hosts"]} == {"ACTIVE"}
    assert len(outcome["hosts"]) == 4, "two stages, and a standby of each"


def test_it_says_who_stands_by_and_why_nobody_else(repaired):
    told = explained(repaired, repaired.names[1])
    for stage, now in zip(told["stages"], told["now"]["backing"], strict=True):
        ((standby,)) = stage["standbys"]
        assert (standby["open"], standby["detail"]) == (True, "")
        assert (now["standbys"], now["why_no_more"]) == ([standby["node"]], None)
        assert now["first_block"] == stage["first_block"]
    older = explained(repaired, repaired.names[1], epoch=0)
    assert [stage["standbys"] for stage in older["stages"]] == [[], []]


def test_everybody_is_compared_or_left_out_with_a_reason(repaired):
    now = explained(repaired, repaired.names[1])["now"]
    dead = repaired.names[0]
    assert [each["node"] for each in now["candidates"]] == sorted(repaired.names[1:])
    assert now["left_out"] == [{"node": dead, "why": "is gone or leaving"}]
    best = now["best"]
    used = {stage["node"] for stage in best["stages"]}
    for each in now["candidates"]:
        assert each["score_us_with"] >= best["score_us"]
        assert (each["score_us_with"] == best["score_us"]) or each["node"] not in used
        assert each["stores_package"]
    assert now["score_us"] >= best["score_us"]
    assert now["trigger"] is None
    assert now["cool_down_s"] > 0


def test_the_story_is_told_with_causes(repaired):
    story = explained(repaired, repaired.names[1])["story"]
    numbers = [entry["number"] for entry in story]
    assert numbers == sorted(numbers)
    wish = next(entry for entry in story if entry["text"].startswith(f"host {repaired.names[0][:8]} is dead"))
    cause = next(entry for entry in story if entry["number"] == wish["cause"])
    assert cause["subject"] == repaired.names[0]
    assert "dead" in cause["text"]
    assert all(entry["ago_s"] > 0 for entry in story)


def test_an_older_plan_is_explained_without_comparing_it_to_the_present(repaired):
    told = explained(repaired, repaired.names[2], epoch=0)
    assert (told["epoch"], told["cause"], told["reason"]) == (0, "GENESIS", "an operator's")
    assert told["now"] is None
    assert told["decided"] is None
    assert [(run["source"], run["first_block"], run["last_block"]) for run in told["moved"]] == [
        (None, 0, 3),
        (None, 4, 7),
    ]


def test_it_says_in_what_crowd_plans_are_priced(repaired):
    told = repaired.cells[repaired.names[1]].node.explain(None, None, repaired.now)
    assert told.account.outlook.problem.demand == NO_DEMAND
    busy = replace(told.account.outlook.problem, demand=Demand(12_000, 45_000))
    account = replace(told.account, outlook=replace(told.account.outlook, problem=busy))
    now = explanation_json(replace(told, account=account), None, repaired.now)["now"]
    assert now["demand"] == {"prompt_tokens_per_s": 12.0, "answer_tokens_per_s": 45.0}


def test_whoever_has_no_vote_can_compare_as_well(repaired):
    plan = repaired.cells[repaired.names[1]].node.explain(None, None, repaired.now).plan
    outsider = next(name for name in repaired.names[1:] if name not in plan.voters)
    now = explained(repaired, outsider)["now"]
    assert not now["votes"]
    assert now["best"]["score_us"] is not None


@pytest.mark.parametrize(("deployment", "epoch"), [(None, 7), ("other", None), ("toy", 2)])
def test_what_does_not_exist_is_not_explained(repaired, deployment, epoch):
    assert repaired.cells[repaired.names[1]].node.explain(deployment, epoch, repaired.now) is None


def test_a_node_that_does_not_know_the_model_says_less():
    world = World(2)
    one, two = world.cells.values()
    world.boot(one)
    world.boot(two, with_model=False)
    world.run(0.5)
    world.deploy([one.name])
    now = explained(world, two.name)["now"]
    assert (now["best"], now["score_us"], now["candidates"]) == (None, None, [])
