from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.knobs import Option, Weights, score, turn
from shoal_agent.core.queues import BudgetQueue

FULL = Option("full", cost=3.0, work=3.0, latency=0.6, loss=0.0, joules=3.0)
EXIT = Option("exit-12", cost=1.5, work=1.5, latency=0.3, loss=0.02, joules=1.5)
EARLY = Option("exit-6", cost=1.0, work=0.8, latency=0.15, loss=0.2, joules=0.8)
OPTIONS = (FULL, EXIT, EARLY)
LEVELS = st.floats(0, 1e6)


@given(LEVELS, LEVELS, LEVELS, LEVELS, LEVELS)
def test_the_least_drift_plus_penalty_wins(v, pressure, urgency, energy, quality):
    weights = Weights(v, pressure, urgency, energy, quality)
    assert score(turn(OPTIONS, weights), weights) == min(score(option, weights) for option in OPTIONS)


def test_each_weight_turns_the_knob_its_way():
    assert turn(OPTIONS, Weights(0.0, urgency=0.0)) is FULL, "nothing presses, so nothing is lost"
    assert turn(OPTIONS, Weights(0.0, quality=100.0)) is FULL
    assert turn(OPTIONS, Weights(0.0, pressure=10.0, quality=100.0)) is EXIT
    for pressed in (Weights(9.0), Weights(0.0, pressure=9.0), Weights(0.0, urgency=9.0), Weights(0.0, energy=9.0)):
        assert turn(OPTIONS, pressed) is EARLY


def test_the_quality_budget_holds_under_lasting_pressure():
    """The knob is turned so that the mean loss is what is tolerated."""
    budget, lost = BudgetQueue(allowed=0.05, reference=0.05), 0.0
    for _ in range(4000):
        option = turn(OPTIONS, Weights(0.0, pressure=8.0, quality=budget.level))
        budget.step(option.loss)
        lost += option.loss
    assert 0.04 < lost / 4000 <= 0.06


def test_one_option_is_no_choice_and_none_no_knob():
    assert turn((FULL,), Weights(5.0)) is FULL
    with pytest.raises(ValueError, match="without options"):
        turn((), Weights(1.0))


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_no_figure_that_is_none_becomes_an_option_or_a_weight(bad):
    for name in ("cost", "work", "latency", "loss", "joules"):
        figures = {"cost": 1.0, "work": 1.0, "latency": 1.0, "loss": 0.0, name: bad}
        with pytest.raises(ValueError, match=f"{name} of option 'full'"):
            Option("full", **figures)
    for name in ("v", "pressure", "urgency", "energy", "quality"):
        with pytest.raises(ValueError, match=name):
            Weights(**{"v": 1.0, name: bad})
