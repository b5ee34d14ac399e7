from collections import deque
from math import ceil, inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.queues import BudgetQueue, DeadlineQueue, QualityQueue, ServiceQueue, delay_bound_slots, urgency

AMOUNTS = st.floats(0, 1e6)
BAD = st.sampled_from([nan, inf, -inf, -1.0])


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), max_size=40))
def test_work_waits_as_the_formula_says(slots):
    queue, waiting, delayed = ServiceQueue(2.0, 0.5, 3.0), 0.0, 0.0
    for arrived, served, received, sent in slots:
        delayed = max(delayed + (0.5 - served - sent if waiting > 0 else -3.0), 0.0)
        waiting = max(waiting - served - sent, 0.0) + arrived + received
        queue.step(arrived=arrived, served=served, received=received, sent=sent)
        assert queue.waiting == pytest.approx(waiting)
        assert queue.delayed == pytest.approx(delayed)
        assert queue.backlog == queue.waiting / 2.0
        assert queue.pressure == pytest.approx((waiting + delayed) / 2.0)


def longest_wait(seed, slots, load, growth):
    """Slots that any task waits, first come first served, and the bound by what Q and W reached."""
    rng, queue, tasks = Random(seed), ServiceQueue(1.0, growth, 6.0), deque()
    longest, waiting_max, delayed_max = 0, 0.0, 0.0
    for now in range(slots):
        served = rng.choice([0.0, 0.0, rng.uniform(0, 6), 3.0])
        arrived = [rng.expovariate(1.0) for _ in range(rng.choice([0, 0, 1, 2, 5]) if rng.random() < load else 0)]
        left = served
        while tasks and left > 0:
            took = min(left, tasks[0][1])
            left -= took
            tasks[0][1] -= took
            if tasks[0][1] <= 1e-12:
                longest = max(longest, now - tasks.popleft()[0])
        tasks.extend([now, work] for work in arrived)
        queue.step(arrived=sum(arrived), served=served)
        assert queue.waiting == pytest.approx(sum(work for _, work in tasks), abs=1e-6)
        waiting_max, delayed_max = max(waiting_max, queue.waiting), max(delayed_max, queue.delayed)
    if tasks:
        longest = max(longest, slots - tasks[0][0])
    return longest, delay_bound_slots(waiting_max, delayed_max, growth)


@given(st.integers(0, 2**32), st.floats(0.1, 1.0), st.floats(0.05, 3.0))
def test_no_work_waits_longer_than_the_bound(seed, load, growth):
    longest, bound = longest_wait(seed, 150, load, growth)
    assert longest <= bound


def test_the_bound_is_worth_something():
    """It holds by less than ten times where the load is steady, so it is not true for being huge."""
    longest, bound = longest_wait(7, 4000, 0.6, 1.0)
    assert bound / 10 < longest <= bound


def test_a_short_queue_that_nobody_serves_becomes_urgent():
    queue = ServiceQueue(1.0, 0.5, 4.0)
    queue.step(arrived=1.0, served=0.0)
    for _ in range(10):
        queue.step(arrived=0.0, served=0.0)
    assert (queue.backlog, queue.pressure) == (1.0, 6.0)
    queue.step(arrived=0.0, served=1.0)
    queue.step(arrived=0.0, served=0.0)
    queue.step(arrived=0.0, served=0.0)
    assert queue.pressure == 0.0, "when nothing waits it forgets"


def test_the_bound_is_rounded_up():
    assert delay_bound_slots(3.0, 2.5, 2.0) == ceil(5.5 / 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=200), st.floats(0.01, 0.5))
def test_the_late_share_is_within_epsilon_but_for_what_z_still_owes(slots, epsilon):
    queue = DeadlineQueue(epsilon, reference=2.0)
    for late, met in slots:
        queue.step(late=late, ended=late + met)
    late, ended = sum(late for late, _ in slots), sum(late + met for late, met in slots)
    assert late <= epsilon * ended + queue.late + 1e-6
    assert queue.level == queue.late / 2.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 1e5))
def test_a_budget_holds_on_average_but_for_what_is_owed(spent, allowed):
    queue = BudgetQueue(allowed, 10.0)
    for amount in spent:
        queue.step(amount)
    assert sum(spent) <= allowed * len(spent) + queue.owed + 1e-3
    assert queue.level == queue.owed / 10.0


def test_urgency_grows_past_the_deadline_and_never_falls_below_its_floor():
    assert urgency(1.0, age=3.0, deadline=10.0) == 1.0
    assert urgency(4.0, age=12.0, deadline=10.0) == 6.0
    assert urgency(0.0, age=0.0, deadline=10.0, floor=0.5) == 0.5


@given(BAD, st.sampled_from(["arrived", "served", "received", "sent"]))
def test_no_nan_enters_a_service_queue(bad, name):
    queue = ServiceQueue(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=name):
        queue.step(**{"arrived": 1.0, "served": 1.0, name: bad})
    assert queue.pressure == 0.0, "a refused slot leaves the queue as it was"


@given(BAD)
def test_no_nan_enters_a_promise(bad):
    queue, budget = DeadlineQueue(0.1), BudgetQueue(1.0, 1.0)
    with pytest.raises(ValueError, match=r"late|ended"):
        queue.step(late=bad, ended=1.0)
    with pytest.raises(ValueError, match=r"late|ended|requests"):
        queue.step(late=1.0, ended=bad)
    with pytest.raises(ValueError, match="spent"):
        budget.step(bad)
    assert queue.level == budget.level == 0.0


def test_more_late_than_ended_is_refused():
    with pytest.raises(ValueError, match="2 of 1 requests"):
        DeadlineQueue(0.1).step(late=2, ended=1)


@pytest.mark.parametrize("bad", [nan, inf, 0.0, -1.0])
def test_references_are_divisors(bad):
    for name, build in (
        ("reference", lambda: ServiceQueue(bad, 1.0, 1.0)),
        ("growth", lambda: ServiceQueue(1.0, bad, 1.0)),
        ("served_max", lambda: ServiceQueue(1.0, 1.0, bad)),
        ("reference", lambda: DeadlineQueue(0.1, bad)),
        ("epsilon", lambda: DeadlineQueue(bad)),
        ("reference", lambda: BudgetQueue(1.0, bad)),
    ):
        with pytest.raises(ValueError, match=name):
            build()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 5000)), max_size=100))
def test_a_is_what_was_lost_beyond_what_may_be(answers):
    """The mean holds as far as A is small, whatever came in whatever order."""
    queue = QualityQueue(tolerated=5e4, reference=4096.0)
    for loss, tokens in answers:
        queue.step(loss=loss, tokens=tokens)
    lost, drawn = sum(loss * tokens for loss, tokens in answers), sum(tokens for _, tokens in answers)
    assert lost <= 5e4 * drawn + queue.owed + 1e-3
    assert queue.level == queue.owed / (5e4 * 4096.0) >= 0


def test_an_answer_adds_what_it_loses_beyond_what_it_may_and_takes_nothing_away_before_it_ends():
    queue = QualityQueue(tolerated=100.0, reference=10.0)
    assert queue.adds(loss=300.0, tokens=20) == 4.0
    assert queue.adds(loss=50.0, tokens=20) == 0.0
    queue.step(loss=300.0, tokens=20)
    assert queue.level == 4.0
    queue.step(loss=0.0, tokens=10)
    assert queue.level == 3.0
    queue.step(loss=0.0, tokens=1000)
    assert queue.level == 0.0


@pytest.mark.parametrize("bad", [nan, inf, -1.0, 0.0])
def test_no_tolerance_is_none_or_negative(bad):
    with pytest.raises(ValueError, match="tolerated"):
        QualityQueue(tolerated=bad, reference=1.0)
    if bad:
        with pytest.raises(ValueError, match="loss"):
            QualityQueue(1.0, 1.0).step(loss=bad, tokens=1.0)
