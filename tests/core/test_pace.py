from dataclasses import replace

import pytest

from shoal_agent.core.pace import FRESH_S, HALF_LIFE_S, PERMILLE_MAX, RUNS_MIN, Pace
from shoal_protocol.ids import Instant
from tests.support.stand import STEP, Stand

SPEED = 10**9
MACS = 5 * 10**6
"""Predicted: 5 ms a token."""


def paced(took_s, runs=RUNS_MIN, at=100.0, pace=None):
    pace = pace or Pace()
    for _ in range(runs):
        pace.ran(took_s, MACS, Instant(at))
    return pace


def said(pace, at=100.0, hosting=True):
    return pace.permille(SPEED, Instant(at), hosting=hosting)


@pytest.mark.parametrize(
    ("took_s", "permille"),
    [(0.005, 1000), (0.010, 2000), (0.0025, 500), (0.00512, 1000), (0.00513, 1050), (1e-9, 50), (9.0, PERMILLE_MAX)],
)
def test_the_ratio_comes_in_steps(took_s, permille):
    assert said(paced(took_s)) == permille


def test_a_few_runs_say_nothing():
    assert said(paced(0.010, RUNS_MIN - 1)) == 0
    assert said(Pace()) == 0


def test_runs_without_a_prediction_do_not_count():
    pace = Pace()
    for _ in range(RUNS_MIN):
        pace.ran(1.0, 0, Instant(1.0))
    assert said(pace) == 0


def test_one_slow_run_does_not_matter_and_many_do():
    pace = paced(0.005, 200)
    pace.ran(0.010, MACS, Instant(101.0))
    assert said(pace, 101.0) == 1050
    assert 1800 <= said(paced(0.010, 60, 102.0, pace), 102.0) <= 1950


def test_a_host_without_runs_says_nothing_and_remembers():
    pace = paced(0.010)
    assert said(pace, 100 + FRESH_S) == 2000
    assert said(pace, 100.1 + FRESH_S) == 0
    assert said(paced(0.010, 1, 500.0, pace), 500.0) == 2000


def test_what_a_relieved_node_measured_fades():
    pace = paced(0.010)
    ages = (0, HALF_LIFE_S, 2 * HALF_LIFE_S, 10 * HALF_LIFE_S)
    assert [said(pace, 100 + age, hosting=False) for age in ages] == [2000, 1500, 1250, 1000]


def test_how_long_decode_runs_take_is_measured_and_prompts_are_not():
    stand = Stand()
    pace, speed = stand.cell().node._tables.pace, 10**9
    stand.cell().run_s = 0.0008  # twice what the profile predicts for four blocks
    stand.open_both()
    stand.feed(STEP)
    stand.world.run(0.05)
    assert pace._runs == 0
    for position in range(3, 3 + RUNS_MIN):
        stand.feed(replace(STEP, position=position, token_count=1, shape=(1, 1)), (7,))
        stand.world.run(0.05)
    assert pace.permille(speed, stand.world.now, hosting=True) == 2000
