import numpy as np
import pytest

from shoal_agent.experiments.laws.one_queue import Kind, delays, served


def test_delays_by_hand():
    # Two tasks of 1 come at once, half a unit is served in each slot; a third comes in slot 3.
    waited = delays(np.array([2, 0, 0, 1, 0, 0]), 1.0, np.full(6, 0.5))
    assert waited.tolist() == [1, 3, 2]


def test_what_never_ends_is_not_counted():
    assert delays(np.array([9, 0]), 1.0, np.full(2, 0.5)).tolist() == [1]


def test_service_that_is_not_used_is_lost():
    assert delays(np.array([0, 0, 2, 0]), 1.0, np.full(4, 1.0)).tolist() == [0, 1]


def test_an_mm1_like_queue_waits_as_theory_says():
    chance = np.random.default_rng(0)
    service = served(Kind("exponential", 1.0), 400_000, 1, chance)
    waited = delays(chance.poisson(0.5, 400_000), 1.0, service)
    one, two, three = ((waited > slots).mean() for slots in (3, 6, 9))
    assert two / one == pytest.approx(three / two, rel=0.1)


def test_weather_keeps_the_mean_and_correlates():
    chance = np.random.default_rng(1)
    work = served(Kind("gusty", 50.0, 0.5, 20.0), 200_000, 1, chance)
    assert work.mean() == pytest.approx(1.0, rel=0.03)
    assert np.corrcoef(work[:-1], work[1:])[0, 1] > 0.8


def test_instances_add_up():
    assert served(Kind("gamma", 1.5), 50_000, 3, np.random.default_rng(2)).mean() == pytest.approx(3.0, rel=0.02)
