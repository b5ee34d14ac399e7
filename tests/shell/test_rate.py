"""A rate, on a clock of the test's own."""

import pytest

from shoal_agent.shell.rate import BURST_S, Rate


def test_what_is_booked_leaves_at_the_rate_one_after_the_other():
    rate = Rate(1000)
    waits = [rate.take(500, 10.0) for _ in range(4)]
    assert waits == pytest.approx([0.5 - BURST_S, 1.0 - BURST_S, 1.5 - BURST_S, 2.0 - BURST_S])


def test_a_pause_saves_up_a_burst_and_no_more():
    rate = Rate(1000)
    rate.take(1000, 0.0)
    assert rate.take(int(1000 * BURST_S), 1000.0) == 0.0
    assert rate.take(1000, 1000.0) == pytest.approx(1.0)


@pytest.mark.parametrize("bytes_per_s", [1, 10_000, 10**9])
def test_over_any_time_the_rate_holds(bytes_per_s):
    rate, now, sent = Rate(bytes_per_s), 0.0, 0
    for size in (1, 300, 70_000, 262_144) * 50:
        now += rate.take(size, now)
        sent += size
    assert sent <= bytes_per_s * (now + BURST_S) * (1 + 1e-9)
    assert sent >= bytes_per_s * now * (1 - 1e-9)


def test_no_limit():
    rate = Rate(0)
    assert rate.take(10**12, 0.0) == 0.0
    assert rate.wait_s(10**12, 0.0) == 0.0


def test_what_waits_is_known_beforehand():
    rate = Rate(1000)
    assert rate.wait_s(500, 0.0) == pytest.approx(0.5)
    rate.take(1000, 0.0)
    assert rate.wait_s(500, 0.0) == pytest.approx(1.5 - BURST_S)
    assert rate.wait_s(500, 100.0) == pytest.approx(0.5)
