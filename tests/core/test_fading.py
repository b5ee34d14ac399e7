"""What was measured: a mean that follows what is new, and is believed less and less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.fading import NAMES_MAX, WEIGHT, Fading, FadingByName
from shoal_protocol.ids import Instant

NOW = Instant(100.0)


def test_the_first_figure_is_the_mean_and_half_of_it_is_left_after_the_half_life():
    fading = Fading(4.0)
    assert fading.believed(NOW) == 0.0
    fading.measured(8.0, NOW)
    assert fading.believed(NOW) == 8.0
    assert fading.believed(Instant(NOW + 4.0)) == pytest.approx(4.0)
    assert fading.believed(Instant(NOW + 8.0)) == pytest.approx(2.0)


def test_a_fresh_mean_moves_by_the_weight_and_a_stale_one_is_replaced():
    fading = Fading(4.0)
    fading.measured(8.0, NOW)
    fading.measured(18.0, NOW)
    assert fading.mean == pytest.approx(8.0 + WEIGHT * 10.0)
    fading.measured(1.0, Instant(NOW + 400.0))
    assert fading.mean == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 60)), max_size=20))
def test_it_is_never_more_than_the_most_nor_less_than_nothing(measured):
    fading, now, most = Fading(4.0), NOW, 0.0
    for value, passed_s in measured:
        now, most = Instant(now + passed_s), max(most, value)
        fading.measured(value, now)
        assert 0.0 <= fading.believed(Instant(now + passed_s)) <= fading.believed(now) <= most * (1 + 1e-9)


def test_names_are_bounded_and_those_not_heard_of_longest_go():
    figures = FadingByName(4.0)
    for number in range(NAMES_MAX):
        figures.measured(str(number), 1.0, NOW)
    figures.measured("0", 1.0, NOW)
    figures.measured("new", 1.0, NOW)
    assert len(figures) == NAMES_MAX
    assert figures.believed("0", NOW) == figures.believed("new", NOW) == 1.0
    assert figures.believed("1", NOW) == figures.believed("nobody", NOW) == 0.0
