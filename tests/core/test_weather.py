from random import Random

import pytest

from shoal_agent.core.effective_capacity import Blocks
from shoal_agent.core.weather import DOUBLINGS, Step


def noted(slots, lasting, seed=0, doublings=DOUBLINGS):
    """Service that is half as fast for a while, then half as fast again; ``lasting`` 1: from slot to slot."""
    rng = Random(seed)
    blocks, slow = Blocks(0.01, doublings=doublings), False
    for _ in range(slots):
        slow ^= rng.random() < (1 / lasting if lasting > 1 else 0.5)
        blocks.slot(rng.gammavariate(1.5, 1 / 1.5) * (0.5 if slow else 1.5))
    return blocks


def test_independent_slots_ask_no_step():
    blocks = noted(40_000, 1)
    assert blocks.scales == (blocks,)


def test_weather_asks_steps():
    assert len(noted(40_000, 20).scales) == 1 + DOUBLINGS


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
