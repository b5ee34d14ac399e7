from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.facts import TensorHandle
from shoal_agent.core.retention import Output, Retention
from shoal_protocol.ids import SessionId

ONE, OTHER, THIRD = ((SessionId(bytes([number]) * 16), number) for number in range(3))


@dataclass
class Book:
    """A retention and the handles it was given and gave back."""

    retention: Retention
    handles: int = 0
    held: set[int] = field(default_factory=set)

    def keep(self, key, position, count=1, size=10):
        self.handles += 1
        self.held.add(self.handles)
        output = Output(position, count, False, (1, count, 2), TensorHandle(self.handles), size)
        return self.gone(self.retention.keep(key, output))

    def gone(self, handles):
        for handle in handles:
            self.held.remove(handle)
        self.retention.check()
        return handles

    def spans(self, key, position=0):
        return [(output.position, output.end) for output in self.retention.since(key, position)]


def book(one=100, everyone=1000):
    return Book(Retention(one, everyone))


def test_what_was_sent_can_be_sent_again_from_any_position():
    kept = book()
    for position in range(5, 9):
        kept.keep(ONE, position)
    assert kept.retention.reaches_back(ONE, 9) == 5
    assert kept.spans(ONE, 7) == [(7, 8), (8, 9)]
    assert kept.spans(ONE, 9) == []
    assert kept.retention.byte_count == 40


def test_what_was_never_kept_cannot_be_sent_again():
    kept = book()
    assert kept.retention.reaches_back(ONE, 4) == 4
    kept.keep(ONE, 2, 2)
    assert kept.retention.reaches_back(ONE, 5) == 5, "they end before"
    assert kept.retention.reaches_back(OTHER, 4) == 4
    assert kept.spans(OTHER) == []


def test_a_chunk_is_sent_again_as_a_whole():
    kept = book()
    kept.keep(ONE, 0, 256)
    assert kept.spans(ONE, 100) == [(0, 256)]
    assert kept.spans(ONE, 256) == []


def test_the_oldest_of_a_session_make_room():
    kept = book(one=30)
    assert [len(kept.keep(ONE, position)) for position in range(5)] == [0, 0, 0, 1, 1]
    assert kept.spans(ONE) == [(2, 3), (3, 4), (4, 5)]


def test_the_newest_stays_whatever_it_takes():
    kept = book(one=30, everyone=50)
    kept.keep(ONE, 0)
    kept.keep(ONE, 1, 200, size=900)
    assert kept.spans(ONE) == [(1, 201)]
    kept.keep(OTHER, 0, 200, size=900)
    assert kept.spans(ONE) == [(1, 201)]
    kept.keep(ONE, 201)
    assert kept.spans(ONE) == [(201, 202)], "it is not the newest any more"


def test_the_oldest_of_all_make_room_for_any():
    kept = book(everyone=50)
    for position in range(3):
        kept.keep(ONE, position)
    for position in range(3):
        kept.keep(OTHER, position)
    assert kept.spans(ONE) == [(1, 2), (2, 3)]
    kept.keep(THIRD, 0)
    assert kept.spans(ONE) == [(2, 3)]
    kept.keep(THIRD, 1)
    assert (kept.spans(ONE), kept.spans(OTHER)) == ([(2, 3)], [(1, 2), (2, 3)])


@pytest.mark.parametrize(("position", "left"), [(0, []), (1, [(0, 1)]), (2, [(0, 1)]), (3, [(0, 1), (1, 3)])])
def test_what_is_run_again_is_not_kept(position, left):
    kept = book()
    for start, count in ((0, 1), (1, 2), (3, 1)):
        kept.keep(ONE, start, count)
    kept.gone(kept.retention.rewind(ONE, position))
    assert kept.spans(ONE) == left
    assert kept.retention.rewind(OTHER, 0) == []


def test_an_output_replaces_what_it_overlaps():
    kept = book()
    kept.keep(ONE, 0, 4)
    kept.keep(ONE, 4, 4)
    kept.keep(ONE, 4, 2)
    assert kept.spans(ONE) == [(0, 4), (4, 6)]
    kept.keep(ONE, 2, 9)
    assert kept.spans(ONE) == [(2, 11)], "a part cannot be kept, and nothing before a gap is worth anything"


def test_a_gap_makes_what_is_before_it_worthless():
    kept = book()
    kept.keep(ONE, 0, 4)
    assert kept.keep(ONE, 5) == [1]
    assert kept.retention.reaches_back(ONE, 6) == 5


def test_a_session_that_is_over_leaves_nothing():
    kept = book()
    kept.keep(ONE, 0)
    kept.keep(OTHER, 0)
    kept.gone(kept.retention.drop(ONE))
    assert kept.retention.sessions() == (OTHER,)
    assert kept.retention.drop(ONE) == []
    kept.gone(kept.retention.drop(OTHER))
    assert not kept.held
    assert kept.retention.byte_count == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ONE, OTHER, THIRD]),
            st.sampled_from(["keep", "keep", "keep", "rewind", "drop"]),
            st.integers(0, 12),
            st.integers(1, 5),
            st.integers(1, 60),
        ),
        max_size=60,
    )
)
def test_nothing_is_lost_or_released_twice(steps):
    kept = book(one=60, everyone=100)
    for key, action, position, count, size in steps:
        if action == "keep":
            kept.keep(key, position, count, size)
            assert kept.spans(key)[-1] == (position, position + count)
        else:
            retention = kept.retention
            kept.gone(retention.rewind(key, position) if action == "rewind" else retention.drop(key))
        spans = [kept.spans(each) for each in (ONE, OTHER, THIRD)]
        assert len(kept.held) == sum(len(each) for each in spans), "whatever was given is kept or given back"
        assert all(one[1] == other[0] for each in spans for one, other in pairwise(each))
