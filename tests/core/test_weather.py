from math import log
from random import Random

import pytest

from shoal_agent.core.effective_capacity import Blocks
from shoal_agent.core.weather import DOUBLINGS, Step


def noted(slots, lasting, seed=0, doublings=DOUBLINGS, epsilon=0.01):
    """Service that is half as fast for a while, then half as fast again; ``lasting`` 1: from slot to slot."""
    rng = Random(seed)
    blocks, slow = Blocks(epsilon, doublings=doublings), False
    for _ in range(slots):
        slow ^= rng.random() < (1 / lasting if lasting > 1 else 0.5)
        blocks.slot(rng.gammavariate(1.5, 1 / 1.5) * (0.5 if slow else 1.5))
    return blocks


def test_independent_slots_ask_no_step():
    blocks = noted(40_000, 1)
    assert blocks.scales == (blocks,)


def test_weather_asks_steps():
    assert len(noted(40_000, 20).scales) == 1 + DOUBLINGS


def test_faint_weather_is_seen_by_who_watches_long_enough():
    """Of 4 slots: neighbouring blocks agree by 0.04, which 600 pairs of them do not tell and 12,000 do."""
    assert noted(10_000, 4).scales[1:] == ()
    assert len(noted(200_000, 4, doublings=1, epsilon=0.001).scales) == 2


def test_few_blocks_ask_none():
    blocks = noted(2000, 20)
    assert blocks.scales == (blocks,)


def test_blocks_that_are_not_doubled_have_no_steps():
    blocks = noted(10_000, 20, doublings=0)
    assert blocks.scales == (blocks,)


def test_a_step_is_free_of_what_the_first_slots_add():
    """Capacity by single blocks is too much; by the first step it is nearly that of long ones."""
    blocks = noted(80_000, 20)
    first, last = blocks.scales[1], blocks.scales[-1]
    assert isinstance(first, Step)
    theta = -0.1
    single, step, long = (flow.log_moment(theta)[0] / theta for flow in (blocks, first, last))
    assert long < step < single < blocks.mean
    assert step - long < 0.6 * (single - long)


def foretold(theta, lasting, slots):
    """``ln E e^(theta work)`` of so many slots of that weather, exactly: by the chain's own matrix."""
    turn = 1 / lasting
    stay = [[1 - turn, turn], [turn, 1 - turn]]
    grow = [(1 - theta * pace / 1.5) ** -1.5 for pace in (0.5, 1.5)]
    share, scale = [0.5, 0.5], 0.0
    for _ in range(slots):
        share = [sum(share[w] * stay[w][to] for w in (0, 1)) * grow[to] for to in (0, 1)]
        total = sum(share)
        share, scale = [part / total for part in share], scale + log(total)
    return scale


def test_the_onset_is_what_the_growth_leaves():
    step = noted(200_000, 20).scales[2]
    for theta in (-0.1, -0.35, -0.6):
        growth = (foretold(theta, 20, 2000) - foretold(theta, 20, 1000)) / 1000
        exact = foretold(theta, 20, 1000) - 1000 * growth
        assert -1.0 < exact < 0.0
        assert step.log_moment(theta)[0] == pytest.approx(growth, rel=0.03)
        assert step.onset(theta, growth) == pytest.approx(exact, rel=0.15)


def test_an_onset_never_makes_a_tail_more_likely():
    step = noted(40_000, 20).scales[1]
    assert step.onset(-0.3, -10.0) == 0.0


def test_a_step_believes_no_single_block():
    step = noted(40_000, 20).scales[1]
    assert step.believed(-0.05)
    assert not step.believed(-50.0)


def test_a_step_is_a_flow():
    blocks = noted(20_000, 20)
    step = blocks.scales[1]
    assert step.mean == blocks.mean == pytest.approx(1.0, rel=0.1)
    assert step.sigma > blocks.sigma
    assert step.blocks < blocks.blocks
