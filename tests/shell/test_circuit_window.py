"""The windows of a circuit over a network that loses, repeats and mixes up; all in virtual time."""

import heapq
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_agent.shell.circuit_window import WAIT_S_MAX, WAIT_S_MIN, ReceiveWindow, SendWindow
from shoal_protocol.limits import RELAY_WINDOW_BYTES_MAX, RELAY_WINDOW_MESSAGES_MAX
from shoal_protocol.relay import Ack

NOW = 100.0


def carried(bodies: list[bytes], seed: int, loses: float, repeats: float, delay_s: float) -> tuple[list[bytes], float]:
    """What arrives of ``bodies`` in order, and when; by brokers of which each delays as it likes."""
    rng, ties = Random(seed), count()
    sender, receiver = SendWindow(), ReceiveWindow()
    now, heard, waiting = 0.0, [], list(bodies)
    heap: list[tuple[float, int, object]] = []

    def post(item: object) -> None:
        for _ in range(1 + (rng.random() < repeats)):
            if rng.random() >= loses:
                heapq.heappush(heap, (now + rng.random() * delay_s, next(ties), item))

    while waiting or len(sender):
        while waiting and len(waiting[0]) <= sender.room_bytes:
            number = sender.following
            post((number, waiting[0]))
            sender.add(waiting.pop(0), now)
        due = sender.due
        assert due is not None, "what is under way is waited for"
        if heap and heap[0][0] < due:
            now, _, item = heapq.heappop(heap)
            if isinstance(item, Ack):
                assert sender.acknowledged(item, now)
            else:
                ready = receiver.take(*item)
                assert ready is not None, "a sender within its window is never too far ahead"
                heard += ready
                post(receiver.ack)
        else:
            now = max(now, due)
            again = sender.again(now)
            assert again is not None
            message, _ = again
            post((_number_of(sender, message), message))
        assert now < 10_000, "it ends"
    return heard, now


def _number_of(sender: SendWindow, message: bytes) -> int:
    return next(number for number, sent in sender._sent.items() if sent.message is message)


@given(
    st.lists(st.integers(1, RELAY_WINDOW_BYTES_MAX), max_size=40),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.001, 0.2, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_everything_arrives_once_and_in_order(sizes, seed, loses, repeats, delay_s):
    bodies = [bytes([index]) * min(size, 1 + size % 1000) for index, size in enumerate(sizes)]
    assert carried(bodies, seed, loses, repeats, delay_s)[0] == bodies


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_messages_cross_a_bad_network(seed):
    bodies = [bytes([index]) * 5000 for index in range(200)]
    heard, _ = carried(bodies, seed, loses=0.3, repeats=0.3, delay_s=0.05)
    assert heard == bodies


def test_the_window_bounds_messages_and_bytes():
    many, large = SendWindow(), SendWindow()
    for _ in range(RELAY_WINDOW_MESSAGES_MAX):
        assert many.room_bytes > 0
        many.add(b"x", NOW)
    assert many.room_bytes == 0
    large.add(bytes(RELAY_WINDOW_BYTES_MAX - 10), NOW)
    assert large.room_bytes == 10
    assert large.acknowledged(Ack(1, 0), NOW)
    assert large.room_bytes == RELAY_WINDOW_BYTES_MAX
    assert large.due is None


def test_an_acknowledgement_of_what_was_never_sent_is_a_lie():
    window = SendWindow()
    for _ in range(3):
        window.add(b"x", NOW)
    for lie in (Ack(4, 0), Ack(0, 0b100), Ack(2, 0b1), Ack(3, 1), Ack(2**64 - 1, 2**64 - 1)):
        assert not window.acknowledged(lie, NOW)
        assert len(window) == 3
    assert window.acknowledged(Ack(1, 0b1), NOW)
    assert len(window) == 2, "what lies beyond a gap is under way"
    assert window.acknowledged(Ack(0, 0), NOW), "an old one, played back, says nothing"
    assert len(window) == 2
    assert window.acknowledged(Ack(3, 0), NOW)
    assert len(window) == 0


def test_only_the_oldest_is_sent_again_and_the_next_one_right_after_its_acknowledgement():
    window = SendWindow()
    for index in range(3):
        window.add(bytes([index]), NOW)
    assert window.due == NOW + WAIT_S_MIN
    assert window.again(NOW + WAIT_S_MIN / 2) is None
    assert window.again(NOW + WAIT_S_MIN) == (b"\x00", NOW)
    assert window.again(NOW + WAIT_S_MIN) is None
    assert window.acknowledged(Ack(1, 0), NOW + WAIT_S_MIN + 0.01)
    assert window.again(NOW + WAIT_S_MIN + 0.01) == (b"\x01", NOW)


def test_whoever_does_not_answer_is_asked_more_and_more_rarely_but_never_given_up():
    window, now, waits = SendWindow(), NOW, []
    window.add(b"x", now)
    for _ in range(12):
        assert window.due is not None
        waits.append(round(window.due - now, 6))
        before, now = now, window.due
        assert window.again(now) == (b"x", before)
    assert waits[0] == WAIT_S_MIN
    assert waits == sorted(waits)
    assert waits[-1] == WAIT_S_MAX
    window.add(b"y", now)
    assert window.acknowledged(Ack(1, 0), now)
    assert window.due == now + WAIT_S_MIN, "patience comes back with the first answer"


def test_a_slow_network_is_given_its_time_and_repetitions_are_not_measured():
    window = SendWindow()
    for index in range(8):
        window.add(b"x", NOW + index)
        assert window.acknowledged(Ack(index + 1, 0), NOW + index + 0.4)
    window.add(b"x", NOW + 10)
    assert window.due is not None
    assert NOW + 10.4 < window.due < NOW + 10 + WAIT_S_MAX
    due = window.due
    assert window.again(due) is not None
    assert window.acknowledged(Ack(9, 0), due + 0.0001)
    window.add(b"x", NOW + 20)
    assert window.due - (NOW + 20) == pytest.approx(due - (NOW + 10))


def test_nothing_is_kept_that_no_sender_may_have_sent():
    window = ReceiveWindow()
    assert window.take(RELAY_WINDOW_MESSAGES_MAX, b"x") is None
    assert window.take(1, bytes(RELAY_WINDOW_BYTES_MAX)) == []
    assert window.take(2, b"x") is None, "more bytes than a window holds"
    assert window.ack == Ack(0, 0b1)
    assert window.take(1, b"another") == []
    assert window.take(0, b"") == [b"", bytes(RELAY_WINDOW_BYTES_MAX)]
    assert window.ack == Ack(2, 0)
    assert not window.expects(1)
    assert window.take(0, b"again") == []
