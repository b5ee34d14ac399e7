from random import Random

import pytest

from shoal_agent.sim.faults import FAULTS, storm
from shoal_agent.sim.oracles import LIVENESS
from shoal_agent.sim.weather import Weather
from tests.support.sim import judged, request

SEEN_WHEN_STAGING = ("slow-disk",)
"""Nothing is written and no block opened while a cluster only serves."""


def stage_again(world):
    for name in world.names:
        world.crash(name, amnesia=True)
        world.boot(name)
    world.run(1.0)
    world.deploy()


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_does_something_and_ends(name):
    """A world with the fault is another world than one without; once it ended, the cluster finds back."""
    world, judge = judged()
    quiet, _ = judged()
    end = FAULTS[name](world, judge, Random(3))
    for each in (world, quiet):
        if name in SEEN_WHEN_STAGING:
            stage_again(each)
        for number in range(4):
            each.ask(each.names[-1], request(number, tokens_max=60))
        each.run(3.0)
    assert world.trace.hexdigest() != quiet.trace.hexdigest()
    end()
    assert world.weather == Weather()
    assert all(not machine.paused for machine in world.living())
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
        assert len(world.living()) == len(world.names)
        assert all(not machine.paused for machine in world.living())
    assert len(subsets) == 12
    assert all(set(subset) < set(FAULTS) and subset for subset in subsets)


def test_no_fault_is_calm():
    world, judge = judged()
    assert storm(world, judge, (), Random(1), world.agenda.now + 5.0) == ()


def test_one_allowed_fault_is_always_drawn():
    world, judge = judged()
    assert {storm(world, judge, ("pause",), Random(seed), 0.0) for seed in range(20)} == {("pause",)}
