from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol.trust import GuardedBlocks, allowed, zones_by_block

ENDS = (GuardedBlocks(0, 1, ("home",)), GuardedBlocks(5, 5, ("home", "lab")))


def test_every_block_knows_its_zones():
    assert zones_by_block(ENDS, 6) == (("home",), ("home",), (), (), (), ("home", "lab"))
    assert zones_by_block((), 6) == ()


def test_a_guard_may_reach_beyond_the_model():
    assert zones_by_block((GuardedBlocks(1, 1000, ("home",)),), 3) == ((), ("home",), ("home",))


@given(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["home", "lab", "moon"]))
def test_a_run_is_allowed_where_each_of_its_blocks_is(one, other, zone):
    first, last = sorted((one, other))
    zones = zones_by_block(ENDS, 6)[first : last + 1]
    assert allowed(ENDS, first, last, zone) == all(not each or zone in each for each in zones)
