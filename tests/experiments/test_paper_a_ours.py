import pytest

from shoal_agent.experiments.paper_a.ours import Centre
from tests.support.paper_a import on_time, played


def test_the_same_seed_gives_the_same_run():
    one, two = played("ours"), played("ours")
    assert [task.done_ms for task in one.tasks] == [task.done_ms for task in two.tasks]
    assert one.cost == two.cost


def test_decentralised_is_as_good_as_the_centre_within_a_few_tasks():
    ours, central = played("ours"), played("central")
    assert on_time(ours) >= on_time(central) - 0.05
    assert ours.cost <= 1.1 * central.cost


def test_a_round_trip_per_stage_costs_time():
    ends = [sum(task.done_ms or 50.0 for task in played(name).tasks) for name in ("central-rtt", "central")]
    assert ends[0] > ends[1] + len(played("central").tasks)


def test_a_centre_is_down_when_it_is():
    centre = Centre(1, 3, 5)
    assert [slot for slot in range(8) if centre.is_down(slot)] == [3, 4]


@pytest.mark.parametrize("regime", ["R1", "R1-slots", "R1-literal"])
def test_held_instances_are_never_taken_twice(regime):
    """The world would refuse: the run ends."""
    one = played("ours", regime=regime)
    assert any(task.done_ms is not None for task in one.tasks)
