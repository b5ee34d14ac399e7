from random import Random

import pytest

from shoal_agent.shell.backoff import Backoff


class Highest(Random):
    """Draws the upper end, so that ceilings can be seen."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_window_doubles_up_to_its_bound():
    backoff = Backoff(Highest())
    waits = [backoff.failed(0.0, refused=False) for _ in range(1000)]
    assert waits[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert set(waits[8:]) == {30.0}


def test_a_link_that_lasted_is_forgiven_its_past():
    backoff = Backoff(Highest())
    for _ in range(5):
        backoff.failed(0.0, refused=False)
    assert backoff.failed(29.9, refused=False) == 16.0
    assert backoff.failed(30.0, refused=False) == 0.5
    assert backoff.failed(0.0, refused=False) == 1.0


def test_attempts_are_spread_over_the_whole_window():
    waits = [Backoff(Random(seed)).failed(0.0, refused=False) for seed in range(300)]
    assert 0.0 <= min(waits) < 0.05
    assert 0.45 < max(waits) <= 0.5


@pytest.mark.parametrize("seed", range(20))
def test_who_is_refused_waits_long(seed):
    assert 30.0 <= Backoff(Random(seed)).failed(1e9, refused=True) <= 60.0
