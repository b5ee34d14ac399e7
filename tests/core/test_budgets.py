from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.budgets import HOUR_S, MARGIN_C, Budgets, PowerModel, Terms

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


def test_a_level_is_what_is_allowed_in_a_second():
    budgets = Budgets(Terms(6.0, 1.2, 0.6, 1e6))
    for _ in range(12):
        budgets.step(seconds=5.0, joules=5.0 * 7.0, busy=1.0, moved_bytes=6e6)
    assert budgets.energy == pytest.approx(60 * 1.0 / 6.0)
    assert budgets.money == pytest.approx(60.0)
    assert budgets.moved == pytest.approx(12.0)
    assert budgets.watts == pytest.approx(7.0)


def test_within_the_budgets_nothing_is_owed():
    budgets = Budgets(TERMS)
    for slot in range(1000):
        # Half of the time idle (4 W), half of it at two thirds (8 W): 6 W, of which 6 W are allowed.
        busy = 2 / 3 if slot % 2 else 0.0
        budgets.step(seconds=0.1, joules=POWER.joules(busy, 0.1), busy=busy)
    assert budgets.energy == pytest.approx(0.0, abs=0.05)
    assert (budgets.money, budgets.moved) == (0.0, 0.0)


def test_the_mean_power_is_the_budget_when_the_level_turns_the_load():
    """Whoever stops working while much is owed keeps the budget on average."""
    budgets, joules = Budgets(TERMS), 0.0
    for _ in range(20_000):
        busy = 0.0 if budgets.energy > 5 else 1.0
        drawn = POWER.joules(busy, 0.1)
        joules += drawn
        budgets.step(seconds=0.1, joules=drawn, busy=busy)
    assert joules / 2000 == pytest.approx(6.0, rel=0.02)


def test_one_more_processor_is_charged_by_the_model_or_by_the_mean():
    assert Budgets(TERMS).core_energy(cores=4, seconds=0.1) == pytest.approx((10 - 4) / 4 * 0.1 / 6.0)
    measured = Budgets(Terms(power_w=6.0))
    assert measured.core_energy(4, 0.1) == 0.0
    measured.step(seconds=2.0, joules=24.0, busy=0.5)
    assert measured.core_energy(4, 0.1) == pytest.approx(12.0 / 4 * 0.1 / 6.0)
    assert Budgets(Terms()).core_energy(4, 0.1) == 0.0


def test_one_more_processor_is_charged_by_the_price_of_the_node():
    # 0.5 an hour for four processors; 0.6 an hour are allowed.
    assert Budgets(TERMS).core_money(cores=4, seconds=0.1) == pytest.approx(0.5 / 4 * 0.1 / 0.6)
    assert Budgets(Terms(price_per_hour=0.5)).core_money(4, 0.1) == 0.0


def test_money_is_charged_where_nothing_tells_energy():
    budgets = Budgets(replace(TERMS, money_per_hour=0.25))
    budgets.step(seconds=10.0, joules=100.0, busy=1.0)
    energy, money = budgets.energy, budgets.money
    budgets.step(seconds=10.0, joules=None, busy=1.0)
    assert budgets.energy == energy, "neither drawn nor allowed: nothing is known"
    assert budgets.money == pytest.approx(2 * money)
    assert budgets.watts == 0.0


def test_a_minute_is_credit_and_more_is_overdrawn():
    for terms in (Terms(power_w=6.0), Terms(price_per_hour=1.2, money_per_hour=0.6)):
        budgets = Budgets(terms)
        budgets.step(seconds=50.0, joules=50.0 * 12.0, busy=1.0)
        assert not budgets.overdrawn
        budgets.step(seconds=20.0, joules=20.0 * 12.0, busy=1.0)
        assert budgets.overdrawn
        budgets.step(seconds=20.0, joules=0.0, busy=0.0)
        assert not budgets.overdrawn


def test_without_a_budget_nothing_is_ever_owed():
    budgets = Budgets(Terms())
    budgets.step(seconds=1.0, joules=1e9, busy=1.0, moved_bytes=1e9)
    assert (budgets.energy, budgets.money, budgets.moved) == (0.0, 0.0, 0.0)
    assert budgets.coolness(200_000) == 1.0


def test_no_time_is_no_step():
    budgets = Budgets(TERMS)
    budgets.step(seconds=0.0, joules=5.0, busy=1.0)
    assert (budgets.energy, budgets.watts) == (0.0, 0.0)


@given(st.integers(-50_000, 150_000), st.integers(0, 30_000))
def test_heat_takes_processors_away_and_gives_them_back(millicelsius, warmer):
    budgets = Budgets(TERMS)
    share = budgets.coolness(millicelsius)
    assert 0 <= budgets.coolness(millicelsius + warmer) <= share <= 1


def test_heat_is_a_limit_and_not_an_average():
    budgets = Budgets(TERMS)
    assert budgets.coolness(None) == 1.0, "nothing is sensed"
    assert budgets.coolness(80_000 - int(MARGIN_C) * 1000) == 1.0
    assert budgets.coolness(80_000 - int(MARGIN_C) * 500) == pytest.approx(0.5)
    assert budgets.coolness(80_000) == budgets.coolness(95_000) == 0.0


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_negative_prices_and_figures_that_are_none_are_refused(bad):
    for name in ("power_w", "price_per_hour", "money_per_hour", "moved_bytes_per_s", "heat_limit_c"):
        with pytest.raises(ValueError, match=name):
            Terms(**{name: bad})
    for name in ("idle_w", "busy_w"):
        with pytest.raises(ValueError, match=name):
            PowerModel(**{"idle_w": 1.0, "busy_w": 2.0, name: bad})
    budgets = Budgets(TERMS)
    for name in ("seconds", "joules", "busy", "moved_bytes"):
        with pytest.raises(ValueError, match=name):
            budgets.step(**{"seconds": 1.0, "joules": 9.0, "busy": 0.0, "moved_bytes": 0.0, name: bad})
    assert budgets.energy == budgets.money == budgets.moved == 0.0


def test_budgets_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"busy_w must be at least idle_w: 3.0 W is less than 5.0 W"):
        PowerModel(5.0, 3.0)
    with pytest.raises(ValueError, match=r"a budget of 3.0 W cannot be kept: idle the node draws 4.0 W"):
        Terms(power_w=3.0, power=POWER)
    with pytest.raises(ValueError, match=r"a budget of 0.5 an hour means nothing"):
        Terms(money_per_hour=0.5)


def test_a_slot_of_a_processor_costs_what_is_owed_times_what_it_adds():
    budgets = Budgets(Terms(power_w=8.0, power=PowerModel(4.0, 12.0), price_per_hour=2.0, money_per_hour=1.0))
    assert budgets.slot_price(4, 0.1) == 0.0, "within the budgets nothing is dear"
    for _ in range(10):
        budgets.step(seconds=1.0, joules=12.0, busy=1.0)
    assert (budgets.energy, budgets.money) == (pytest.approx(5.0), pytest.approx(10.0))
    assert budgets.slot_price(4, 0.1) == pytest.approx(5.0 * (8.0 / 4 * 0.1 / 8.0) + 10.0 * (2.0 / 4 * 0.1))
    assert Budgets(Terms()).slot_price(4, 0.1) == 0.0
