import math

import numpy as np
import pytest

from shoal_agent.experiments.statistics import fit, interval, mean, percentile


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        low, high = interval(rng.exponential(1.0, size=40))
        held += low <= 1.0 <= high
    assert 0.87 <= held / 200 <= 0.99


def test_the_same_values_give_the_same_interval():
    assert interval([1.0, 2.0, 5.0]) == interval([1.0, 2.0, 5.0])
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_nothing_measured_is_nan():
    assert all(math.isnan(value) for value in (mean([]), percentile([], 95), *interval([])))


def test_mean_and_percentile():
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert percentile(list(range(101)), 95) == 95.0


def test_a_straight_line_is_found_and_noise_costs_r2():
    line = fit([1, 2, 4, 8], [5, 7, 11, 19])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((2.0, 3.0, 1.0))
    assert fit([1, 2, 3, 4], [1, -1, 1, -1]).r2 < 0.3
    assert fit([1, 2], [4, 4]).r2 == 1.0


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([1, 2], [1]), ([2, 2], [1, 3])])
def test_no_line_through_too_little(x, y):
    with pytest.raises(ValueError, match="line"):
        fit(x, y)
