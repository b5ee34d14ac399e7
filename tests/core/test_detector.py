from math import erfc, inf, log10, sqrt
from random import Random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.detector import (
    CROSSING_SIGMAS,
    INTERVAL_S_MAX,
    PHI_MAX,
    SILENCE_S_MAX,
    WINDOW,
    Detector,
    phi_of,
)
from shoal_protocol.ids import Instant, NodeId

ONE, TWO = NodeId("a" * 32), NodeId("b" * 32)


def fed(beats: list[float], node: NodeId = ONE) -> Detector:
    detector = Detector()
    for beat in beats:
        detector.heard(node, Instant(beat))
    return detector


def silent_after(detector: Detector, last: float, node: NodeId = ONE) -> float:
    """Seconds after ``last`` at which ``node`` counts as silent, to the millisecond."""
    return next(step / 1000 for step in range(20_000) if detector.is_silent(node, Instant(last + step / 1000)))


@pytest.mark.parametrize("sigmas", [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 5.612])
def test_phi_is_the_tail_of_a_gaussian(sigmas):
    tail = NormalDist().cdf(-sigmas)
    assert phi_of(1.0 + sigmas * 0.2, 1.0, 0.2) == pytest.approx(-log10(tail), rel=1e-6)


def test_phi_is_eight_where_the_closed_form_crosses():
    assert phi_of(3.0 + CROSSING_SIGMAS * 0.7, 3.0, 0.7) == pytest.approx(8.0, abs=1e-3)
    assert erfc(CROSSING_SIGMAS / sqrt(2.0)) / 2 == pytest.approx(1e-8, rel=1e-2)


def test_phi_of_an_endless_silence_has_a_number():
    assert phi_of(1e9, 1.0, 0.1) == PHI_MAX


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 6, 20, 400])
def test_regular_beats_are_silent_after_1_7_s(seed, count):
    rng, now, beats = Random(seed), 100.0, []
    for _ in range(count):
        now += rng.uniform(0.9, 1.1)
        beats.append(now)
    detector = fed(beats)
    assert silent_after(detector, now) == pytest.approx(1.7, abs=0.04)
    assert detector.phi(ONE, Instant(now + 1.8)) >= 8.0
    assert detector.phi(ONE, Instant(now + 1.1)) < 2.0


def test_who_comes_late_now_and_then_gets_longer():
    rng, now, beats = Random(1), 0.0, []
    for index in range(100):
        now += rng.uniform(0.9, 1.1) + (0.5 if index % 7 == 0 else 0.0)
        beats.append(now)
    assert 1.9 < silent_after(fed(beats), now) <= SILENCE_S_MAX


def test_nobody_gets_longer_than_a_ping_is_cheap():
    beats, now = [], 0.0
    for index in range(100):
        now += 0.1 if index % 2 else 3.0
        beats.append(now)
    assert silent_after(fed(beats), now) == pytest.approx(SILENCE_S_MAX, abs=0.002)


def test_a_burst_after_a_stalled_broker_does_not_hurry():
    beats = [float(index) for index in range(100)] + [104.0 + index / 1000 for index in range(90)]
    assert silent_after(fed(beats), beats[-1]) >= 1.69


def test_an_absence_is_not_jitter():
    beats = [float(index) for index in range(50)]
    gone = beats[-1] + INTERVAL_S_MAX + 60.0
    assert silent_after(fed([*beats, gone]), gone) == pytest.approx(1.7, abs=0.01)


def test_old_weather_is_forgotten():
    beats, now = [], 0.0
    for index in range(3 * WINDOW):
        now += 1.0 if index >= 2 * WINDOW else (0.2 if index % 2 else 2.4)
        beats.append(now)
    assert silent_after(fed(beats[: 2 * WINDOW]), beats[2 * WINDOW - 1]) > 2.4
    assert silent_after(fed(beats), now) == pytest.approx(1.7, abs=0.01)


@given(st.lists(st.floats(0.0, 6.0), min_size=1, max_size=250))
def test_the_sums_are_those_of_the_window(intervals):
    """What is kept incrementally is what a calculation from scratch finds."""
    detector, now = Detector(), 50.0
    window = [1000] * 5
    detector.heard(ONE, Instant(now))
    for interval in intervals:
        before, now = now, now + interval
        detector.heard(ONE, Instant(now))
        gap_ms = int((now - before) * 1000)
        if now - before <= INTERVAL_S_MAX:
            window.append(gap_ms)
    window = window[-WINDOW:]
    mean = max(sum(window) / len(window), 1000)
    about = sum(window) / len(window)
    sigma = max(sqrt(sum((ms - about) ** 2 for ms in window) / len(window)), mean / 8)
    expected = min((mean + CROSSING_SIGMAS * sigma) / 1000, SILENCE_S_MAX)
    assert not detector.is_silent(ONE, Instant(now + expected - 0.001))
    assert detector.is_silent(ONE, Instant(now + expected + 0.001))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 700)), min_size=1, max_size=200))
def test_the_earliest_look_misses_nobody(steps):
    """Looking only when ``earliest`` has come finds the same silences, at the same looks, as looking always."""
    lazy, eager, now = Detector(), Detector(), 0.0
    for who, gap_ms in steps:
        node = NodeId(f"{who:032}")
        now += gap_ms / 1000
        due = lazy.earliest <= now
        found = lazy.fell_silent(Instant(now))
        truly = [peer for peer in map(NodeId, (f"{i:032}" for i in range(6))) if peer in eager._awaited]
        truly = [peer for peer in truly if eager.is_silent(peer, Instant(now))]
        for peer in truly:
            del eager._awaited[peer]
        assert sorted(found) == sorted(truly)
        assert due or not found
        lazy.heard(node, Instant(now))
        eager.heard(node, Instant(now))


def test_a_silence_is_named_once_until_the_peer_is_heard_again():
    detector = fed([0.0, 1.0, 2.0])
    detector.heard(TWO, Instant(3.5))
    assert detector.fell_silent(Instant(3.6)) == []
    assert detector.fell_silent(Instant(3.8)) == [ONE]
    assert detector.fell_silent(Instant(3.9)) == []
    assert detector.earliest == pytest.approx(5.2, abs=0.01)
    detector.heard(ONE, Instant(4.0))
    assert detector.fell_silent(Instant(6.5)) == [TWO, ONE]
    assert detector.earliest == inf


def test_who_is_forgotten_is_not_awaited():
    detector = fed([0.0, 1.0])
    detector.forget(ONE)
    assert detector.fell_silent(Instant(9.0)) == []
    assert detector.is_silent(ONE, Instant(9.0))
    assert detector.phi(ONE, Instant(9.0)) == 0.0
    detector.heard(ONE, Instant(60.0))
    assert silent_after(detector, 60.0) == pytest.approx(1.7, abs=0.01)


def test_looks_are_rare():
    """A visit per peer and 0.6 beats, however many peers there are."""
    rng, detector, looks = Random(3), Detector(), 0
    due = sorted(
        (index + rng.uniform(0, 1.0) + rng.uniform(-0.1, 0.1), peer) for index in range(60) for peer in range(50)
    )
    for at, peer in due:
        detector.heard(NodeId(f"{peer:032}"), Instant(at))
        if detector.earliest <= at:
            looks += 1
            detector.fell_silent(Instant(at))
    assert looks < 150
