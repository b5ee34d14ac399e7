from dataclasses import replace

import numpy as np
import pytest

from shoal_agent.experiments.laws.setting import Service, circle, draw


def test_a_circle_has_hot_and_cool_dear_and_cheap_nodes_and_three_neighbours_each():
    world = circle(24, 10)
    assert world.nodes == 24
    assert world.loads[8] == world.loads[0] > world.loads[1]
    assert {len(near) for near in world.neighbours} == {3}
    assert all(here not in near for here, near in enumerate(world.neighbours))


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_small_circles_name_nobody_twice(nodes):
    assert all(len(near) == len({*near}) > 0 for near in circle(nodes, 1).neighbours)


def test_a_load_multiplies_every_rate():
    assert circle(8, 1).times(2).loads[0] == (6.4,)


def test_a_seed_is_a_trace():
    one, same, other = draw(circle(8, 50), 1), draw(circle(8, 50), 1), draw(circle(8, 50), 2)
    assert one == same
    assert one.digest != other.digest


def test_arrivals_and_service_have_the_means_that_were_asked_for():
    world = replace(circle(8, 3000), services=(Service(rate=0.9, shape=1.5),))
    trace = draw(world, 0)
    assert np.mean(trace.arrivals, axis=0)[0, 0] == pytest.approx(3.2, rel=0.05)
    served = np.array(trace.served)
    assert served[:, :, 0, 0].max() == 0
    assert served[:, :, 0, 1].mean() == pytest.approx(0.9, rel=0.05)
    assert served[:, :, 0, 1].var() == pytest.approx(0.9**2 / 1.5, rel=0.1)


def test_weather_lasts():
    calm, gusty = circle(1, 4000), replace(circle(1, 4000), slow=0.2, slow_slots=50.0)
    together = [np.array(draw(world, 3).served)[:, 0, 0, 6] for world in (calm, gusty)]
    blocks = [work.reshape(-1, 20).sum(axis=1).std() for work in together]
    assert blocks[1] > 2 * blocks[0]
    assert together[1].mean() == pytest.approx(together[0].mean(), rel=0.15)
