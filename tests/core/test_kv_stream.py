import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.kv_stream import ANSWER_S_MAX, INCREMENT_TOKENS, STALLS_MAX, KvStream
from shoal_protocol.ids import Epoch, Instant, NodeId

N = INCREMENT_TOKENS
NOW = Instant(50.0)


def stream(rows_max=64):
    return KvStream(NodeId("b" * 32), Epoch(0), 1, 4, 7, rows_max)


def answered(made, finished, *, flush=False, position=None):
    """One round: what was exported; the target answers that it kept it, or its ``position``."""
    rows = made.next(finished, flush=flush)
    assert rows is not None
    assert made.awaits(4, 7, *rows)
    assert made.exported(*rows, NOW)
    made.kept_before(sum(rows) if position is None else position, finished)
    made.check(finished)
    return rows


def test_single_tokens_wait_for_an_increment():
    made = stream()
    assert made.next(N - 1, flush=False) is None
    assert answered(made, N) == (0, N)
    assert made.kept == N
    assert made.next(2 * N - 1, flush=False) is None
    assert answered(made, 2 * N) == (N, N)


def test_a_flush_waits_for_nothing_but_there_must_be_something():
    made = stream()
    assert made.next(0, flush=True) is None
    assert answered(made, 3, flush=True) == (0, 3)
    assert made.next(3, flush=True) is None


def test_one_frame_is_under_way_at_a_time():
    made = stream()
    rows = made.next(20, flush=True)
    assert made.next(40, flush=True) is None
    made.exported(*rows, NOW)
    assert made.next(40, flush=True) is None
    made.kept_before(sum(rows), 40)
    assert made.next(40, flush=True) is not None


def test_the_first_frame_asks_and_the_others_are_full():
    made = stream(rows_max=20)
    assert answered(made, 100) == (0, N)
    assert answered(made, 100) == (N, 20)
    small = stream(rows_max=3)
    assert answered(small, 100) == (0, 3)


def test_a_target_that_has_more_is_spared_it():
    made = stream()
    answered(made, 100, position=90)
    assert made.kept == 90
    assert answered(made, 100) == (90, 10)


def test_a_target_that_forgot_gets_all_of_it():
    made = stream()
    answered(made, 100)
    answered(made, 100, position=0)
    assert answered(made, 100) == (0, 64)


def test_a_target_has_no_more_than_there_is():
    made = stream()
    answered(made, 10, position=10**6)
    assert made.kept == 10


def test_answers_without_progress_are_counted_in_a_row():
    made = stream()
    answered(made, 100)
    for count in range(STALLS_MAX + 1):
        answered(made, 100, position=made.kept)
        assert made.stalls == count + 1
    answered(made, 100)
    assert made.stalls == 0


def test_an_export_that_reaches_beyond_a_rewind_is_dropped():
    made = stream()
    rows = made.next(20, flush=False)
    made.rewind(4)
    made.check(4)
    assert made.awaits(4, 7, *rows)
    assert not made.exported(*rows, NOW)
    assert not made.awaits(4, 7, *rows)
    assert made.next(9, flush=True) == (0, N)


def test_an_export_of_what_stays_is_sent():
    made = stream()
    answered(made, N)
    rows = made.next(2 * N, flush=False)
    made.rewind(2 * N)
    assert made.exported(*rows, NOW)


def test_the_same_rows_may_be_asked_for_again_before_the_dropped_ones_come():
    made = stream()
    first = made.next(N, flush=False)
    made.rewind(0)
    assert made.next(N, flush=False) == first
    assert not made.exported(*first, NOW)
    assert made.exported(*first, NOW)


def test_what_was_sent_before_a_rewind_is_still_answered():
    made = stream()
    rows = made.next(N, flush=False)
    made.exported(*rows, NOW)
    made.rewind(3)
    assert made.under_way
    made.kept_before(N, 3)
    assert made.kept == 3


def test_a_rewind_takes_back_what_was_kept_of_it():
    made = stream()
    answered(made, 100)
    made.rewind(5)
    assert made.kept == 5
    made.check(5)


def test_an_answer_that_does_not_come_is_asked_for_anew():
    made = stream()
    answered(made, 100)
    rows = made.next(100, flush=False)
    assert not made.unanswered(Instant(NOW + 99.0)), "they were not sent yet"
    made.exported(*rows, NOW)
    assert not made.unanswered(Instant(NOW + ANSWER_S_MAX - 0.1))
    assert made.unanswered(Instant(NOW + ANSWER_S_MAX))
    assert made.stalls == 1
    assert made.next(100, flush=False) == (N, N), "a small frame asks where the other is"


def test_it_does_not_answer_for_other_rows():
    made = stream()
    rows = made.next(N, flush=False)
    assert not made.awaits(4, 6, *rows)
    assert not made.awaits(4, 7, rows[0] + 1, rows[1])
    made.exported(*rows, NOW)
    assert not made.awaits(4, 7, *rows), "they have come"


def test_an_answer_to_nothing_is_a_mistake_of_ours():
    with pytest.raises(AssertionError):
        stream().kept_before(0, 0)


@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from(["run", "chunk", "rewind"]), st.integers(0, 30))))
def test_in_the_end_the_target_has_every_row_once_finished(rows_max, steps):
    """A target that keeps what begins where it ends, whatever the stream goes through."""
    made, finished, depth = stream(rows_max), 0, 0
    for action, amount in steps:
        if action == "rewind":
            finished = min(finished, amount)
            depth = min(depth, finished)
            made.rewind(finished)
        else:
            finished += amount
        rows = made.next(finished, flush=action == "chunk")
        if rows is not None and made.exported(*rows, NOW):
            assert sum(rows) <= finished
            depth = sum(rows) if rows[0] == depth else depth
            made.kept_before(depth, finished)
        made.check(finished)
    while (rows := made.next(finished, flush=True)) is not None:
        if made.exported(*rows, NOW):
            depth = sum(rows) if rows[0] == depth else depth
            made.kept_before(depth, finished)
    assert made.kept == depth == finished
