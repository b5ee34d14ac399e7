"""When instances may go."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.instances import Light, Prices
from shoal_agent.core.retirement import Losses

PRICES = Prices(2.0)
IDLE = Light(
    name="tokenizer:m",
    needs=(1.0,),
    running=2,
    busy=0,
    settled=0,
    least=0,
    backlog=0.0,
    pressure=0.0,
    rate=1.0,
    boot=4.0,
    run=1.0,
)


def slots_kept(light: Light, slots: int = 100) -> list[int]:
    losses = Losses()
    return [losses.stay(light, PRICES) for _ in range(slots)]


def test_idle_instances_stay_until_their_rent_has_reached_a_start():
    # A start costs 4, a slot 1: three slots of rent are less, four are not.
    assert slots_kept(IDLE, 6) == [2, 2, 2, 0, 0, 0]


def test_one_that_earns_its_rent_stays_for_ever():
    assert set(slots_kept(replace(IDLE, backlog=1.0, pressure=3.0))) == {1, 2}


def test_one_that_is_needed_now_and_then_stays():
    losses = Losses()
    busy = replace(IDLE, running=1, backlog=1.0, pressure=9.0)
    kept = [losses.stay(busy if slot % 4 == 0 else replace(IDLE, running=1), PRICES) for slot in range(100)]
    assert set(kept) == {1}


def test_a_busy_one_stays_whatever_it_loses():
    assert slots_kept(replace(IDLE, busy=1, settled=1), 50)[-1] == 1


def test_where_starting_costs_nothing_nothing_is_kept():
    assert slots_kept(replace(IDLE, boot=0.0), 3) == [0, 0, 0]


def test_who_left_takes_its_losses_along():
    losses = Losses()
    for _ in range(4):
        losses.stay(IDLE, PRICES)
    assert losses.stay(replace(IDLE, running=0), PRICES) == 0
    assert losses.stay(IDLE, PRICES) == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 9), st.floats(0, 9)), max_size=40))
def test_never_more_than_are_running(slots):
    losses = Losses()
    for running, backlog, pressure in slots:
        light = replace(IDLE, running=running, backlog=backlog, pressure=pressure)
        assert 0 <= losses.stay(light, PRICES) <= running
