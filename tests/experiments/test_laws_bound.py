from dataclasses import replace
from math import inf

import pytest

from shoal_agent.experiments.laws.bound import edge_of_region, least_cost
from shoal_agent.experiments.laws.setting import Setting, circle


def pair(here: float, there: float, *, price: float = 1.0, room: int = 2) -> Setting:
    return Setting(((here,), (there,)), (price, 1.0), ((1,), (0,)), 1, room=room)


def test_at_home_where_home_is_cheap():
    assert least_cost(pair(0.9, 0.9)) == pytest.approx(2.0)


def test_sent_where_that_is_cheaper():
    # A task here costs 2 / 0.9, there 1 / 0.9 and 0.3 for the way.
    assert least_cost(pair(0.9, 0.0, price=2.0)) == pytest.approx(1.0 + 0.27)


def test_what_does_not_fit_goes_the_dear_way():
    # Two instances there take 1.8; the other 0.9 must stay.
    assert least_cost(pair(2.7, 0.0, price=2.0)) == pytest.approx(1.8 / 0.9 + 1.8 * 0.3 + 2.0)


def test_no_answer_beyond_the_room():
    assert least_cost(pair(4.0, 0.0)) == inf


def test_sent_work_may_be_taken_back():
    """Node 2 has only node 1; what node 0 sent there first has to go to node 3."""
    world = Setting(((1.8,), (0.0,), (1.8,), (0.0,)), (9.0, 1.0, 9.0, 2.0), ((1, 3), (), (1,), ()), 1, room=2, send=0.0)
    assert least_cost(world) == pytest.approx(1.8 / 0.9 * (1.0 + 2.0))


def test_the_edge_of_the_region():
    assert edge_of_region(pair(1.0, 1.0)) == pytest.approx(1.8, rel=1e-5)
    assert edge_of_region(replace(circle(8, 1), room=2)) == pytest.approx(8 * 1.8 / 9.0, rel=1e-5)


def test_a_circle_costs_the_same_per_node_whatever_its_size():
    assert least_cost(circle(64, 1)) / 8 == pytest.approx(least_cost(circle(8, 1)), rel=0.02)
