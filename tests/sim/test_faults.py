"""Every fault strikes a world in which it can be seen, and after it the cluster finds back."""

from random import Random

import pytest

from shoal_agent.sim.faults import FAULTS, storm
from shoal_agent.sim.oracles import LIVENESS
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.weather import Weather
from tests.support.sim import judged, request

SEEN_WHEN_DECIDING = ("slow-disk", "voter-crash", "staging-failure", "ballot-cut", "mute")
"""Nothing is written, voted or opened while a cluster only serves."""
WORLDS = {"join": {"nodes": 4, "late": 1}, "voters-lost": {"nodes": 4}}
"""What a world needs beyond three nodes: somebody to join, and somebody to be left."""


def need_a_plan(world, judge):
    """A host goes, and comes back when others had the time to take its place."""
    host = judge.agreed.newest(TOY).stages[0].node
    world.crash(host)
    world.run(3.0)
    world.boot(host)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_does_something_and_ends(name):
    """A world with the fault is another world than one without; once it ended, the cluster finds back."""
    world, judge = judged(**WORLDS.get(name, {}))
    quiet, quiet_judge = judged(**WORLDS.get(name, {}))
    end = FAULTS[name](world, judge, Random(3))
    for each, sees in ((world, judge), (quiet, quiet_judge)):
        if name in SEEN_WHEN_DECIDING:
            need_a_plan(each, sees)
        for number in range(4):
            each.ask(each.names[-1], request(number, tokens_max=60))
        each.run(3.0)
    assert world.trace.hexdigest() != quiet.trace.hexdigest()
    end()
    assert world.weather == Weather()
    assert all(not machine.paused for machine in world.living())
    if name == "voters-lost":
        world.recover(judge.agreed.newest(TOY))  # as operators would
    for _ in range(80):
        missing = {key: fault for key, oracle in LIVENESS.items() if (fault := oracle(world, judge)) is not None}
        if not missing:
            break
        world.run(0.5)
    assert missing == {}
    assert judge.violations == []


def test_a_storm_draws_a_subset_and_is_over_in_time():
    subsets = set()
    for seed in range(12):
        world, judge = judged()
        end_s = world.agenda.now + 8.0
        subsets.add(storm(world, judge, tuple(FAULTS), Random(seed), end_s))
        world.run(8.0)
        assert world.weather == Weather()
        assert {*world.lost, *(machine.name for machine in world.living())} == set(world.names)
        assert all(not machine.paused for machine in world.living())
    assert len(subsets) == 12
    assert all(set(subset) < set(FAULTS) and subset for subset in subsets)


def test_no_fault_is_calm():
    world, judge = judged()
    assert storm(world, judge, (), Random(1), world.agenda.now + 5.0) == ()


def test_one_allowed_fault_is_always_drawn():
    world, judge = judged()
    assert {storm(world, judge, ("pause",), Random(seed), 0.0) for seed in range(20)} == {("pause",)}
