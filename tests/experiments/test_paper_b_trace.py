from dataclasses import replace

import pytest

from shoal_agent.experiments.paper_b.trace import BURST, HARSH, MILD, Steps, burst_at, delayed, draw


def drawn(seed=0, load=1.0, weather=MILD):
    return draw(weather, seed, 4, (0,), load, 1200.0)


def test_the_same_seed_is_the_same_trace_and_another_is_another():
    assert drawn(3) == drawn(3)
    assert drawn(3).digest() == drawn(3).digest()
    assert len({drawn(seed).digest() for seed in range(4)} | {drawn(weather=HARSH).digest()}) == 5


def test_another_load_changes_the_arrivals_and_nothing_else():
    base, more = drawn(), drawn(load=2.0)
    assert replace(more, arrivals=base.arrivals, rate_per_s=base.rate_per_s) == base
    assert len(more.arrivals) == pytest.approx(2 * len(base.arrivals), rel=0.1)


def test_every_number_counts_for_the_digest():
    base = drawn()
    later = replace(base, arrivals=(*base.arrivals[:-1], base.arrivals[-1] + 1e-9))
    assert later.digest() != base.digest()


def test_the_steady_never_fail_and_outages_of_the_others_are_in_order():
    trace = draw(HARSH, 1, 6, (0, 5), 1.0, 20_000.0)
    assert trace.outages[0] == trace.outages[5] == ()
    for outages in trace.outages[1:5]:
        assert outages
        ends = [0.0]
        for outage in outages:
            assert ends[-1] < outage.begins_s < outage.begins_s + outage.found_s < outage.ends_s
            ends.append(outage.ends_s)


def test_bursts_come_every_third_five_minutes():
    assert [burst_at(300.0 * part) for part in range(6)] == [1.0, 1.0, BURST, 1.0, 1.0, BURST]
    arrivals = draw(MILD, 0, 1, (0,), 10.0, 900.0).arrivals
    calm, burst = sum(time_s < 600 for time_s in arrivals) / 2, sum(time_s >= 600 for time_s in arrivals)
    assert burst / calm == pytest.approx(BURST, rel=0.05)


def test_steps_hold_their_value_and_have_a_mean_over_time():
    steps = Steps((0.0, 10.0), (1.0, 3.0))
    assert [steps.at(time_s) for time_s in (0.0, 9.9, 10.0, 99.0)] == [1.0, 1.0, 3.0, 3.0]
    assert steps.mean(20.0) == 2.0
    assert steps.mean(40.0) == 2.5


def test_a_change_is_told_at_once_but_no_two_words_come_close():
    steps = Steps((0.0, 20.0, 23.0, 26.0, 50.0), (1.0, 2.0, 3.0, 4.0, 5.0))
    assert delayed(steps, 10.0) == Steps((0.0, 20.0, 30.0, 50.0), (1.0, 2.0, 4.0, 5.0))
    assert delayed(steps, 0.0) == steps
