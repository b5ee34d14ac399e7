from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.forecast import RETRY_S_MAX, Admitted, Refused, Step, finish_ms, judge
from shoal_agent.core.service_classes import RequestClass

CHAT = RequestClass("chat", 300.0, 0.05)
AMOUNTS = st.floats(0, 1e4)


@st.composite
def pipelines(draw):
    steps = []
    for index in range(draw(st.integers(1, 8))):
        after = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        steps.append(Step(tuple(sorted(after)), draw(AMOUNTS), draw(AMOUNTS), draw(AMOUNTS)))
    return steps


def paths(steps, last):
    """Every way from a first step to ``last``."""
    if not steps[last].after:
        return [[last]]
    return [[*path, last] for before in steps[last].after for path in paths(steps, before)]


@given(pipelines())
def test_the_finish_is_the_longest_way_through(steps):
    took = [step.transfer_ms + step.wait_ms + step.service_ms for step in steps]
    longest = max(sum(took[k] for k in path) for last in range(len(steps)) for path in paths(steps, last))
    assert finish_ms(steps) == pytest.approx(longest)


def asked(wait_ms, level=0.0, **given_):
    figures = {"late_chance": 0.1, "pressure": 1.0, "work": 1.0, "worth": 5.0} | given_
    return judge(CHAT, [Step((), 10.0, wait_ms, 40.0)], level=level, **figures)


def test_who_will_be_in_time_comes_in():
    assert asked(100.0) == Admitted(150.0)


def test_who_will_be_late_is_told_when_to_come_again():
    word = asked(2800.0)
    assert word == Refused(2850.0, 3, "it would take 2850 ms, and has 300 ms")
    assert asked(1e9).retry_after_s == RETRY_S_MAX


def test_who_is_not_worth_the_wait_he_causes_is_refused_until_his_class_is_owed_enough():
    assert isinstance(asked(100.0, pressure=50.0), Refused)
    assert isinstance(asked(100.0, pressure=50.0, level=60.0), Admitted)


@given(AMOUNTS, AMOUNTS, AMOUNTS, st.floats(0, 1), AMOUNTS)
def test_a_class_that_is_owed_more_is_never_refused_sooner(wait_ms, level, pressure, chance, more):
    figures = {"pressure": pressure, "late_chance": chance}
    if isinstance(asked(wait_ms, level, **figures), Admitted):
        assert isinstance(asked(wait_ms, level + more, **figures), Admitted)


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_no_figure_that_is_none_is_predicted_with(bad):
    for name in ("transfer_ms", "wait_ms", "service_ms"):
        with pytest.raises(ValueError, match=name):
            Step((), **{"transfer_ms": 1.0, "wait_ms": 1.0, "service_ms": 1.0, name: bad})
    for name in ("level", "late_chance", "pressure", "work", "worth"):
        with pytest.raises(ValueError, match=name):
            asked(1.0, **{name: bad})


def test_a_chance_is_no_more_than_certainty():
    with pytest.raises(ValueError, match="late_chance"):
        asked(1.0, late_chance=1.5)


@pytest.mark.parametrize("after", [(0,), (1,), (-1,)])
def test_a_step_comes_after_earlier_ones_only(after):
    with pytest.raises(ValueError, match="step 0"):
        finish_ms([Step(after, 0.0, 0.0, 0.0)])
