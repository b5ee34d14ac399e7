from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.budgets import HOUR_S, MARGIN_C, REFERENCE_S, Budgets, PowerModel, Terms

POWER = PowerModel(idle_w=4.0, busy_w=10.0)
TERMS = Terms(
    power_w=6.0, price_per_hour=0.5, money_per_hour=0.6, moved_bytes_per_s=1e6, heat_limit_c=80.0, power=POWER
)


def test_the_power_model_lies_between_idle_and_busy():
    assert POWER.joules(0.0, 10.0) == 40.0
    assert POWER.joules(0.5, 10.0) == 70.0
    assert POWER.joules(7.0, 10.0) == 100.0, "nobody is more than busy"


def test_who_uses_half_of_a_node_pays_half():
    assert TERMS.price(0.5, HOUR_S) == 0.25
    assert TERMS.price(3.0, HOUR_S / 2) == 0.25


def test_what_is_owed_for_a_minute_is_a_level_of_one():
    budgets = Budgets(TERMS, slot_s=0.1)
    for _ in range(int(REFERENCE_S / 0.1)):
        budgets.step(joules=2 * 0.6, money=2 * 0.6 / HOUR_S * 0.1, moved_bytes=2e5)
    assert budgets.energy == pytest.approx(1.0)
    assert budgets.money == pytest.approx(1.0)
    assert budgets.moved == pytest.approx(1.0)


def test_within_the_budgets_nothing_is_owed():
    budgets = Budgets(TERMS, slot_s=0.1)
    for slot in range(1000):
        budgets.step(joules=POWER.joules(slot % 2 / 2, 0.1), money=0.0, moved_bytes=0.0)
    assert (budgets.energy, budgets.money, budgets.moved) == (pytest.approx(0.0, abs=1e-3), 0.0, 0.0)


def test_without_a_budget_nothing_is_ever_owed():
    budgets = Budgets(Terms())
    budgets.step(joules=1e9, money=1e9, moved_bytes=1e9)
    assert (budgets.energy, budgets.money, budgets.moved) == (0.0, 0.0, 0.0)
    assert budgets.coolness(200.0) == 1.0


@given(st.floats(-50, 150), st.floats(0, 30))
def test_heat_takes_processors_away_and_gives_them_back(temperature_c, warmer):
    budgets = Budgets(TERMS)
    share = budgets.coolness(temperature_c)
    assert 0 <= budgets.coolness(temperature_c + warmer) <= share <= 1


def test_heat_is_a_limit_and_not_an_average():
    budgets = Budgets(TERMS)
    assert budgets.coolness(None) == 1.0, "nothing is sensed"
    assert budgets.coolness(80.0 - MARGIN_C) == 1.0
    assert budgets.coolness(80.0 - MARGIN_C / 2) == pytest.approx(0.5)
    assert budgets.coolness(80.0) == budgets.coolness(95.0) == 0.0


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_negative_prices_and_figures_that_are_none_are_refused(bad):
    for name in ("power_w", "price_per_hour", "money_per_hour", "moved_bytes_per_s", "heat_limit_c"):
        with pytest.raises(ValueError, match=name):
            Terms(**{name: bad})
    for name in ("idle_w", "busy_w"):
        with pytest.raises(ValueError, match=name):
            PowerModel(**{"idle_w": 1.0, "busy_w": 2.0, name: bad})
    budgets = Budgets(TERMS)
    for name in ("joules", "money", "moved_bytes"):
        with pytest.raises(ValueError, match=name):
            budgets.step(**{"joules": 0.0, "money": 0.0, "moved_bytes": 0.0, name: bad})
    assert budgets.energy == budgets.money == budgets.moved == 0.0
    if bad != -1.0:
        with pytest.raises(ValueError, match="temperature_c"):
            budgets.coolness(bad)


def test_budgets_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"busy_w must be at least idle_w: 3.0 W is less than 5.0 W"):
        PowerModel(5.0, 3.0)
    with pytest.raises(ValueError, match=r"a budget of 3.0 W cannot be kept: idle the node draws 4.0 W"):
        Terms(power_w=3.0, power=POWER)
    with pytest.raises(ValueError, match=r"a budget of 0.5 an hour means nothing"):
        Terms(money_per_hour=0.5)
