import pytest

from shoal_agent.core.facts import StageSpan
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.toy import MODEL, toy_blocks, toy_facts
from shoal_agent.sim.toy_kv import ToyKv
from shoal_protocol.ids import Epoch

FACTS = toy_facts()
VALUES = [5, 6, 7, 8, 9, 10]


def kv(first=0, last=7):
    return ToyKv(FACTS, StageSpan(TOY, Epoch(0), MODEL, first, last), len(VALUES))


def whole():
    memory = {}
    return [toy_blocks(value, 0, 7, memory) for value in VALUES]


def test_it_computes_what_the_toy_model_does():
    one = kv()
    assert one.run(VALUES[:4], 0) + one.run(VALUES[4:5], 4) + one.run(VALUES[5:], 5) == whole()


def test_positions_may_be_run_again():
    one = kv()
    one.run([*VALUES[:2], 77, 78, 79], 0)
    assert one.run(VALUES[2:], 2) == whole()[2:]


def test_rows_are_as_good_as_computed_ones():
    one, other = kv(), kv()
    one.run(VALUES, 0)
    assert other.write(0, 7, 0, 3, one.read(0, 7, 0, 3)) == ""
    assert other.write(0, 7, 3, 1, one.read(0, 7, 3, 1)) == ""
    assert other.run(VALUES[4:], 4) == whole()[4:]


def test_rows_of_two_stages_serve_a_stage_cut_otherwise():
    front, back, middle = kv(0, 3), kv(4, 7), kv(2, 5)
    hidden = front.run(VALUES, 0)
    back.run(hidden, 0)
    assert middle.write(2, 3, 0, 6, front.read(2, 3, 0, 6)) == ""
    assert middle.write(4, 5, 0, 6, back.read(4, 5, 0, 6)) == ""
    expected = kv(2, 5)
    expected.run(kv(0, 1).run(VALUES, 0), 0)
    assert middle.read(2, 5, 0, 6) == expected.read(2, 5, 0, 6)


def test_a_row_takes_what_the_facts_promise():
    one = kv()
    one.run(VALUES, 0)
    assert len(one.read(2, 4, 1, 5)) == 3 * 5 * FACTS.blocks[0].kv_bytes_per_token


def test_rows_of_another_size_change_nothing():
    one = kv()
    one.run(VALUES[:3], 0)
    assert one.write(0, 7, 1, 1, b"x") == "1 bytes came, 512 are 1 rows"
    assert one.run(VALUES[3:], 3) == whole()[3:]


@pytest.mark.parametrize(
    "act",
    [lambda one: one.run([1], 4), lambda one: one.read(0, 7, 2, 2), lambda one: one.write(0, 7, 4, 1, bytes(512))],
    ids=["run", "read", "write"],
)
def test_nobody_counts_on_kv_that_is_not_there(act):
    one = kv()
    one.run(VALUES, 0)
    one.run(VALUES[2:3], 2)
    with pytest.raises(AssertionError):
        act(one)


@pytest.mark.parametrize(
    "act",
    [lambda one: one.run([1], 6), lambda one: one.write(0, 7, 5, 2, bytes(1024))],
    ids=["run", "write"],
)
def test_nobody_goes_beyond_what_the_session_was_opened_for(act):
    one = kv()
    one.run(VALUES, 0)
    with pytest.raises(AssertionError, match="fewer"):
        act(one)


def test_only_blocks_of_the_span_have_rows():
    front = kv(0, 3)
    front.run(VALUES, 0)
    with pytest.raises(KeyError):
        front.read(3, 4, 0, 1)
