from random import Random

import pytest

from shoal_agent.core.bench import BOOT, REFERENCE_WORK, RUN, Bench, work_of
from shoal_agent.core.facts import CallId
from shoal_agent.core.fading import FADE_S
from shoal_agent.core.instances import Prices
from shoal_agent.core.queues import SLOT_S
from shoal_protocol.codec import encode_header
from shoal_protocol.ids import Instant
from shoal_protocol.light import LoadTold

SERVICE = "tokenizer:00"


def at(now: float) -> Instant:
    return Instant(now)


def warm(pace_s: float = 0.01, work: float = 4.0) -> Bench:
    """A bench whose pace is known at 100 s."""
    bench = Bench(SERVICE)
    bench.begin(CallId(1), 1.0, at(90.0))
    bench.end(CallId(1), at(95.0), measure=True)
    assert bench.pace.mean == 0, "the call that boots a service tells nothing of its pace"
    bench.begin(CallId(2), work, at(100.0 - pace_s * work))
    bench.end(CallId(2), at(100.0), measure=True)
    return bench


@pytest.mark.parametrize(("size", "work"), [(0, 1.0), (1, 1.0), (1024, 1.0), (10_240, 10.0)])
def test_work_is_counted_in_kibibytes(size, work):
    assert work_of(size) == work


def test_the_pace_is_what_an_instance_took():
    bench = warm(0.01)
    assert bench.pace.mean == pytest.approx(0.01)
    assert bench.best_s == pytest.approx(0.01)


def test_a_call_in_line_begins_when_the_one_before_it_ends():
    bench = warm(0.01)
    bench.begin(CallId(3), 10.0, at(100.0))
    bench.begin(CallId(4), 10.0, at(100.0))
    assert (bench.busy, bench.under_way, bench.outstanding) == (1, 2, 20.0)
    bench.end(CallId(3), at(100.2), measure=False)
    bench.end(CallId(4), at(100.3), measure=True)
    assert bench.pace.mean == pytest.approx(0.01, rel=0.05), "0.1 s for ten, and not 0.3"
    assert bench.outstanding == 0


def test_two_instances_take_two_calls():
    bench = warm()
    bench.scale(2, at(100.0))
    for call in (3, 4, 5):
        bench.begin(CallId(call), 1.0, at(100.0))
    assert (bench.busy, bench.under_way) == (2, 3)
    bench.scale(3, at(100.1))
    assert bench.busy == 3


def test_what_was_measured_fades_and_a_new_figure_replaces_it():
    bench = warm(0.1)
    assert bench.faded(at(100.0 + FADE_S)) == pytest.approx(0.05)
    later = 100.0 + 20 * FADE_S
    bench.begin(CallId(3), 1.0, at(later))
    bench.end(CallId(3), at(later + 0.01), measure=True)
    assert bench.pace.mean == pytest.approx(0.01, rel=0.01)


def test_a_call_that_failed_is_not_measured():
    bench = warm(0.01)
    bench.begin(CallId(3), 1.0, at(100.0))
    bench.end(CallId(3), at(105.0), measure=False)
    assert bench.pace.mean == pytest.approx(0.01)


def test_the_wait_is_what_stands_before_it():
    bench = warm(0.01)
    assert bench.wait_slots(10.0, at(100.0)) == pytest.approx(0.1 / SLOT_S)
    bench.begin(CallId(3), 40.0, at(100.0))
    assert bench.wait_slots(10.0, at(100.0)) == pytest.approx(0.5 / SLOT_S)
    bench.scale(2, at(100.0))
    assert bench.wait_slots(10.0, at(100.0)) == pytest.approx(0.3 / SLOT_S)


def test_waiting_work_becomes_urgent():
    bench = warm()
    bench.begin(CallId(3), REFERENCE_WORK, at(100.0))
    before = bench.pressure
    for _ in range(20):
        bench.step()
    assert before == pytest.approx(1.0)
    assert bench.pressure > before + 1.0
    bench.end(CallId(3), at(102.0), measure=True)
    bench.rest()
    assert bench.pressure == 0


PRICES = Prices(1.0)
IDLE_SLOTS = round(BOOT / RUN)


def settled(bench: Bench, slots: int = 1, now: float = 100.1) -> int:
    for _ in range(slots):
        bench.step()
        light = bench.settled(bench.light(0, at(now)), PRICES)
    return light.settled


def test_who_has_lost_the_price_of_a_start_may_go():
    bench = warm()
    settled(bench)  # what came while the pace was measured
    bench.scale(3, at(100.0))
    assert settled(bench, IDLE_SLOTS - 3) == 3, "not before its rent has come to that of a start"
    assert settled(bench, 5) == 0
    bench.begin(CallId(3), 5.0, at(100.1))
    assert settled(bench) == 1, "who has a call stays"


def test_an_instance_earns_by_calls_that_are_over_before_the_slot_is():
    bench = warm(0.01)
    for call in range(3, 3 + 2 * IDLE_SLOTS):
        bench.begin(CallId(call), REFERENCE_WORK, at(100.0))
        bench.end(CallId(call), at(100.05), measure=True)
        assert settled(bench) == 1


def test_a_new_instance_does_not_inherit_what_the_last_one_lost():
    bench = warm()
    settled(bench, 2 * IDLE_SLOTS)
    bench.scale(0, at(100.1))
    bench.begin(CallId(3), 5.0, at(100.1))
    bench.end(CallId(3), at(100.1), measure=False)
    assert settled(bench) == 1


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_the_book_balances_and_can_be_told(seed):
    rng, bench, now, under_way = Random(seed), Bench(SERVICE), 0.0, []
    for number in range(400):
        now += rng.choice((0.0, 0.001, 0.1, 5.0))
        match rng.randrange(4):
            case 0 | 1:
                bench.begin(CallId(number), work_of(rng.randrange(1 << 20)), at(now))
                under_way.append(CallId(number))
            case 2 if under_way:
                bench.end(under_way.pop(rng.randrange(len(under_way))), at(now), measure=rng.random() < 0.8)
            case 3 if bench.running:
                bench.scale(rng.randint(max(1, bench.busy), 4), at(now)) if bench.busy <= 4 else None
                bench.step()
                light = bench.settled(bench.light(rng.randrange(2), at(now)), PRICES)
                assert light.busy <= light.settled <= light.running
        bench.check()
        assert encode_header(LoadTold(1, bench.load(at(now))))
    assert bench.under_way == len(under_way)
