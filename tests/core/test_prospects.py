"""Whether a request can be done in time, and when to ask again."""

import pytest

from shoal_agent.core.prospects import RETRY_S_MAX, done_s, late_s
from shoal_agent.core.resume import Speed

SPEEDS = (Speed(0.01, 0.001), Speed(0.03, 0.002))


def test_alone_it_takes_all_stages_for_every_token():
    assert late_s(0, 100, 50, SPEEDS, 0.3 + 50 * 0.04) is None
    assert late_s(0, 100, 50, SPEEDS, 0.3 + 50 * 0.04 - 0.01) is not None


@pytest.mark.parametrize("others", [1, 2, 10])
def test_among_others_it_waits_for_the_slowest_stage(others):
    done_s = 0.3 + 50 * max(0.04, (others + 1) * 0.03)
    assert late_s(others, 100, 50, SPEEDS, done_s + 1e-9) is None
    assert late_s(others, 100, 50, SPEEDS, done_s - 0.01) is not None


def test_the_way_around_is_gone_for_the_prompt_and_for_every_token_unless_others_fill_the_time():
    assert done_s(0, 100, 50, SPEEDS, 0.02) == pytest.approx(0.3 + 0.02 + 50 * 0.06)
    assert done_s(9, 100, 50, SPEEDS, 0.02) == pytest.approx(0.3 + 0.02 + 50 * 0.3)
    assert late_s(0, 100, 50, SPEEDS, 3.33, 0.02) is None
    assert late_s(0, 100, 50, SPEEDS, 3.31, 0.02) is not None


def test_who_is_refused_is_told_when_enough_of_the_others_are_over():
    assert late_s(10, 0, 50, SPEEDS, 50 * 10 * 0.03 + 0.1) == pytest.approx(1 * 50 * 0.03)
    assert late_s(10, 0, 50, SPEEDS, 50 * 8 * 0.03 + 0.1) == pytest.approx(3 * 50 * 0.03)
    assert late_s(255, 0, 5000, SPEEDS, 1.0) == RETRY_S_MAX


def test_what_takes_no_time_is_always_done():
    assert late_s(255, 1000, 1000, (Speed(0.0, 0.0),), 0.1) is None
    assert late_s(255, 1000, 1000, (Speed(0.0, 1.0),), 0.1) == 0.0
