import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.pings import OPEN_MAX, RELAYS_MAX, RELAYS_PER_ASKER_MAX, ROUND_TRIPS, Asker, Pings
from shoal_protocol.ids import Instant, NodeId

ONE, TWO = NodeId("a" * 32), NodeId("b" * 32)
START = Instant(100.0)


def at(seconds: float) -> Instant:
    return Instant(START + seconds)


def test_an_answer_belongs_to_its_question():
    pings = Pings()
    nonce = pings.ask(ONE, START)
    assert pings.answered(TWO, nonce, at(1)) is None
    assert pings.answered(ONE, nonce + 1, at(1)) is None
    assert pings.answered(ONE, nonce, at(0.003)) == pytest.approx(0.003)
    assert pings.answered(ONE, nonce, at(1)) is None, "once"


def test_a_late_answer_is_still_recognised():
    pings = Pings()
    first = pings.ask(ONE, START)
    pings.ask(ONE, at(0.5))
    assert pings.answered(ONE, first, at(2.0)) == pytest.approx(2.0)


def test_an_answer_that_waited_for_us_says_nothing_of_the_link():
    pings = Pings()
    first = pings.ask(ONE, START)
    pings.overslept()
    second = pings.ask(ONE, at(5.0))
    assert pings.answered(ONE, first, at(5.0001)) == 0.0
    assert pings.rtt_us(ONE) is None
    assert pings.answered(ONE, second, at(5.002)) == pytest.approx(0.002)
    assert 1990 <= pings.rtt_us(ONE) <= 2010


def test_another_link_is_measured_from_the_beginning():
    pings = Pings()
    pings.anew(ONE)
    for index in range(2):
        assert pings.answered(ONE, pings.ask(ONE, at(index)), at(index + 0.001)) is not None
    under_way = pings.ask(ONE, at(5))
    pings.anew(ONE)
    assert pings.rtt_us(ONE) is None
    assert pings.answered(ONE, under_way, at(5.004)) == pytest.approx(0.004)
    assert 3990 <= pings.rtt_us(ONE) <= 4010


def test_what_was_asked_before_an_answered_question_is_closed():
    pings = Pings()
    first, second, third = (pings.ask(ONE, at(index)) for index in range(3))
    assert pings.answered(ONE, second, at(3)) == pytest.approx(2.0)
    assert pings.answered(ONE, first, at(3)) is None
    assert pings.answered(ONE, third, at(3)) == pytest.approx(1.0)


def test_open_questions_are_bounded():
    pings = Pings()
    nonces = [pings.ask(ONE, at(index)) for index in range(OPEN_MAX + 1)]
    assert len(set(nonces)) == len(nonces)
    assert pings.answered(ONE, nonces[0], at(20)) is None
    assert pings.answered(ONE, nonces[1], at(20)) is not None


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=30))
def test_the_round_trip_is_the_best_of_the_last(trips_us):
    pings = Pings()
    assert pings.rtt_us(ONE) is None
    for trip_us in trips_us:
        nonce = pings.ask(ONE, START)
        pings.answered(ONE, nonce, at(trip_us / 1_000_000))
    best = min(trips_us[-ROUND_TRIPS:])
    assert best - 1 <= pings.rtt_us(ONE) <= best
    pings.forget(ONE)
    assert pings.rtt_us(ONE) is None


def test_whoever_waits_is_told_once():
    pings = Pings()
    assert pings.relay(ONE, TWO, 7)
    assert pings.relay(ONE, NodeId("c" * 32), 1)
    assert pings.settle(ONE) == [Asker(TWO, 7), Asker(NodeId("c" * 32), 1)]
    assert pings.settle(ONE) == []
    assert pings.settle(TWO) == []


def test_work_for_others_is_bounded_for_each_and_in_all():
    pings = Pings()
    taken = [pings.relay(NodeId(f"{index:032}"), TWO, index) for index in range(RELAYS_PER_ASKER_MAX + 2)]
    assert taken == [True] * RELAYS_PER_ASKER_MAX + [False] * 2
    for index in range(RELAYS_MAX - RELAYS_PER_ASKER_MAX):
        assert pings.relay(ONE, NodeId(f"{index:032}"), 1)
    assert not pings.relay(ONE, NodeId("z" * 32), 1)
    pings.settle(ONE)
    assert pings.relay(ONE, NodeId("z" * 32), 1)
