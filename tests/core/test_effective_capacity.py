from itertools import pairwise, product
from math import exp, expm1, inf, log1p
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal_agent.core.effective_capacity import (
    BLOCKS_TIMES_EPSILON,
    Blocks,
    GammaService,
    PoissonTasks,
    bandwidth,
    capacity,
    matching_theta,
    size,
    tail,
)

SHAPES = st.floats(0.2, 5)
LOADS = st.floats(0.05, 0.97)


def measured(draws, epsilon=0.05, block_slots=8):
    blocks = Blocks(epsilon, block_slots)
    for work in draws:
        blocks.slot(float(work))
    return blocks


def late_shares(tasks, service, instances, delays, tasks_about=300_000, seed=0):
    """Simulated, first come first served: a task needs all work before it and its own served within the delay."""
    rng = np.random.default_rng(seed)
    slots = int(min(tasks_about / tasks.rate, 200_000))
    counts = rng.poisson(tasks.rate, slots)
    served = rng.gamma(service.shape * instances, service.scale, slots)
    walk = np.cumsum(np.concatenate([[0], counts[:-1] * tasks.work]) - served)
    before = walk - np.minimum(np.minimum.accumulate(walk), 0)
    offered = np.concatenate([[0], np.cumsum(served)])
    last = slots - max(delays) - 2
    slot = np.repeat(np.arange(last), counts[:last])
    first = np.concatenate([[0], np.cumsum(counts[:last])[:-1]])
    load = before[slot] + (np.arange(len(slot)) - first[slot] + 1) * tasks.work
    return [float(np.mean(offered[slot + 1 + d] - offered[slot + 1] < load - 1e-9)) for d in delays]


@given(SHAPES, st.floats(0.1, 10), st.floats(0.001, 2))
def test_capacity_of_a_gamma_service_is_its_closed_form(shape, scale, theta):
    service = GammaService(shape, scale)
    assert capacity(service, theta) == pytest.approx(shape * log1p(theta * scale) / theta)
    assert capacity(service, 0.0) == pytest.approx(shape * scale) == service.mean


@pytest.mark.parametrize(("shape", "scale"), [(1.5, 10.0), (1.0, 1.0), (4.0, 0.5)])
def test_capacity_from_measured_blocks_meets_the_closed_form(shape, scale):
    rng = np.random.default_rng(3)
    blocks = measured(rng.gamma(shape, scale, 32_000), epsilon=0.01)
    for theta_mean in (0.05, 0.2, 0.5):
        theta = theta_mean / (shape * scale)
        assert capacity(blocks, theta) == pytest.approx(capacity(GammaService(shape, scale), theta), rel=0.02)
    assert blocks.sigma == pytest.approx(GammaService(shape, scale).sigma, rel=0.05)


def test_bandwidth_from_measured_blocks_meets_that_of_poisson_tasks():
    tasks = PoissonTasks(2.0, 1.25)
    blocks = measured(np.random.default_rng(4).poisson(2.0, 32_000) * 1.25, epsilon=0.01)
    for theta in (0.05, 0.2, 0.4):
        assert bandwidth(tasks, theta) == pytest.approx(2.0 * expm1(1.25 * theta) / theta)
        assert bandwidth(blocks, theta) == pytest.approx(bandwidth(tasks, theta), rel=0.03)


@given(st.lists(st.floats(0, 100), min_size=8, max_size=80), st.floats(1e-4, 10))
def test_bins_change_a_moment_by_little(works, theta):
    blocks = measured(works, block_slots=1)
    sums = [theta * work for work in works]
    exact = max(sums) + np.log(np.mean(np.exp(np.array(sums) - max(sums))))
    assert blocks.log_moment(theta)[0] == pytest.approx(exact, rel=0.05, abs=1e-9)


@given(SHAPES, LOADS, st.floats(0.05, 4), st.integers(1, 20), st.data())
def test_capacity_falls_bandwidth_rises_and_they_meet(shape, load, tasks_of, instances, data):
    service = GammaService(shape, 1.0)
    work = tasks_of * shape
    tasks = PoissonTasks(load * instances * service.mean / work, work)
    low, high = sorted(data.draw(st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1))))
    assert capacity(service, high) <= capacity(service, low) * (1 + 1e-9) <= service.mean * (1 + 2e-9)
    assert bandwidth(tasks, high) >= bandwidth(tasks, low) * (1 - 1e-9) >= tasks.mean * (1 - 2e-9)
    theta = matching_theta(tasks, service, instances)
    assert 0 < theta < inf
    assert bandwidth(tasks, theta) == pytest.approx(instances * capacity(service, theta), rel=1e-5)


@given(SHAPES, LOADS, st.floats(0.05, 4), st.floats(1, 50))
def test_more_servers_or_more_time_are_never_worse(shape, load, tasks_of, delay):
    service, work = GammaService(shape, 1.0), tasks_of * shape
    tasks = PoissonTasks(load * 3 * shape / work, work)
    shares = [tail(tasks, service, count, delay, work) for count in range(1, 9)]
    assert all(0 <= share <= 1 for share in shares)
    assert all(after <= before + 1e-9 for before, after in pairwise(shares))
    assert tail(tasks, service, 4, 2 * delay, work) <= tail(tasks, service, 4, delay, work)


def check_tail(instances, shape, load, tasks_of, tasks_about):
    service, work = GammaService(shape, 1.0), tasks_of * shape
    tasks = PoissonTasks(load * instances * shape / work, work)
    delays = (1, 2, 3, 5, 8, 12)
    for delay, late in zip(delays, late_shares(tasks, service, instances, delays, tasks_about), strict=True):
        if late >= 0.01:
            assert late / 1.5 <= tail(tasks, service, instances, delay, work) <= late * 1.5


@pytest.mark.parametrize(
    ("instances", "shape", "load", "tasks_of"),
    [(1, 1.0, 0.6, 2.0), (1, 2.0, 0.75, 0.5), (3, 1.0, 0.75, 0.5), (3, 2.0, 0.9, 2.0), (8, 1.0, 0.75, 2.0)],
)
def test_tail_is_within_one_and_a_half_times_of_what_happens(instances, shape, load, tasks_of):
    check_tail(instances, shape, load, tasks_of, 300_000)


@pytest.mark.long
@pytest.mark.parametrize("tasks_of", [0.1, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("load", [0.6, 0.75, 0.9])
@pytest.mark.parametrize(("instances", "shape"), [(1, 1.0), (3, 1.0), (3, 2.0), (8, 2.0)])
def test_tail_holds_for_tasks_of_any_size(instances, shape, load, tasks_of):
    check_tail(instances, shape, load, tasks_of, 4_000_000)


def test_tail_at_low_load_is_on_the_safe_side():
    service = GammaService(1.0, 1.0)
    for instances, tasks_of in product((1, 4, 8), (0.5, 1.0)):
        tasks = PoissonTasks(0.4 * instances / tasks_of, tasks_of)
        (late,) = late_shares(tasks, service, instances, (1,))
        assert tail(tasks, service, instances, 1, tasks_of) >= late * 0.95


def test_overload_is_always_late_and_a_peak_below_capacity_never():
    assert tail(PoissonTasks(2.0, 1.0), GammaService(2.0, 1.0), 1, 10) == 1.0
    steady, fast = measured([1.0] * 80), measured([2.0] * 80)
    assert matching_theta(steady, fast, 1) == inf
    assert tail(steady, fast, 1, 1) == 0.0
    assert tail(fast, steady, 1, 1) == 1.0


@pytest.mark.parametrize(
    ("shape", "scale", "rate", "work", "delay", "epsilon"),
    [(1.5, 2, 2, 1.25, 3, 0.05), (1.5, 2, 4, 1.25, 3, 0.05), (1.5, 2, 2, 1.25, 5, 0.01), (1, 3, 3, 2, 4, 0.05)],
)
def test_the_size_keeps_the_promise_and_one_less_does_not(shape, scale, rate, work, delay, epsilon):
    service, tasks = GammaService(shape, scale), PoissonTasks(rate, work)
    chosen = size(tasks, service, delay, epsilon, task=work)
    assert chosen.assured
    assert late_shares(tasks, service, chosen.instances, (delay,))[0] <= epsilon
    assert late_shares(tasks, service, chosen.instances - 1, (delay,))[0] > epsilon / 1.5
    assert 0 < chosen.rate < service.mean
    assert chosen.tails[chosen.instances] <= epsilon < chosen.tails[chosen.instances - 1]


def test_the_size_from_measurements_is_that_of_the_formula():
    rng = np.random.default_rng(5)
    service, tasks = GammaService(1.5, 2.0), PoissonTasks(4.0, 1.25)
    needed = int(BLOCKS_TIMES_EPSILON / 0.05) * 8
    seen = size(measured(rng.poisson(4.0, needed) * 1.25), measured(rng.gamma(1.5, 2.0, needed)), 3.0, 0.05, task=1.25)
    assert seen.assured
    assert abs(seen.instances - size(tasks, service, 3.0, 0.05, task=1.25).instances) <= 1


def test_correlated_service_is_worth_less_than_its_shuffled_self():
    rng = np.random.default_rng(6)
    weather = np.repeat(rng.choice([0.2, 1.0], 500), 16) * rng.gamma(4.0, 0.25, 8000)
    theta = 0.5
    assert capacity(measured(weather), theta) < 0.8 * capacity(measured(rng.permutation(weather)), theta)


def test_few_blocks_are_judged_by_two_sigma():
    rng = np.random.default_rng(7)
    arrivals, service = measured(rng.poisson(3.0, 400)), measured(rng.gamma(2.0, 1.0, 400))
    guess = size(arrivals, service, 10.0, 0.05)
    assert not guess.assured
    assert guess.rate == pytest.approx(service.mean - 2 * service.sigma / 8**0.5)
    assert guess.instances * guess.rate >= arrivals.mean + 2 * arrivals.sigma / 8**0.5
    assert (guess.instances - 1) * guess.rate < arrivals.mean + 2 * arrivals.sigma / 8**0.5


def test_nothing_known_is_one_instance_if_there_is_work_and_none_if_not():
    nothing = Blocks(0.05)
    assert size(measured([1.0] * 16), nothing, 5.0, 0.05).instances == 1
    assert size(nothing, nothing, 5.0, 0.05).instances == 0


def test_no_work_needs_nobody():
    service = GammaService(1.0, 1.0)
    assert size(PoissonTasks(0.0, 1.0), service, 5.0, 0.05).instances == 0


def test_a_promise_that_nobody_can_keep_asks_for_all():
    chosen = size(PoissonTasks(50.0, 1.0), GammaService(1.0, 1.0), 1.0, 0.01, instances_max=8)
    assert (chosen.instances, chosen.tails) == (8, (1.0,) * 9)
    assert chosen.rate > 0


def test_what_was_long_ago_is_forgotten():
    blocks = measured([1.0] * 8 * 2000 + [3.0] * 8 * 6000, epsilon=0.05)
    assert blocks.mean == pytest.approx(3.0, rel=0.05)
    assert blocks.blocks <= 2 * BLOCKS_TIMES_EPSILON / 0.05


def test_only_busy_time_counts():
    rng, blocks = Random(1), Blocks(0.05)
    for _ in range(4000):
        busy = rng.choice([0.0, 0.25, 1.0])
        blocks.slot(5.0 * busy, busy)
    assert blocks.mean == pytest.approx(5.0, rel=1e-9)


@given(st.lists(st.floats(0, 1e12), max_size=60), st.lists(st.floats(0, 1e12), max_size=60), st.floats(0.1, 1e4))
def test_no_measurement_leads_to_a_nan(arrivals, served, delay):
    # Blocks of one slot, and epsilon near 1, so that few of them suffice.
    came, went = measured(arrivals, 0.999, 1), measured(served, 0.999, 1)
    chosen = size(came, went, delay, 0.999, task=1.0)
    assert 0 <= chosen.rate < inf
    assert 0 <= chosen.instances <= 64
    assert all(0 <= share <= 1 for share in chosen.tails)
    assert all(after <= before for before, after in pairwise(chosen.tails))


@pytest.mark.parametrize("bad", [float("nan"), inf, -1.0])
def test_no_figure_that_is_none_gets_in(bad):
    with pytest.raises(ValueError, match="work"):
        Blocks(0.05).slot(bad)
    with pytest.raises(ValueError, match="busy"):
        Blocks(0.05).slot(1.0, bad)
    with pytest.raises(ValueError, match="epsilon"):
        Blocks(bad)
    with pytest.raises(ValueError, match="delay_slots"):
        size(Blocks(0.05), Blocks(0.05), bad, 0.05)
    with pytest.raises(ValueError, match="scale"):
        GammaService(1.0, bad)
    with pytest.raises(ValueError, match="rate"):
        PoissonTasks(bad, 1.0)


@given(LOADS, st.floats(1, 30))
def test_fluid_work_waits_no_longer_than_tasks(load, delay):
    assume(load > 0.1)
    service = GammaService(1.0, 1.0)
    tasks = PoissonTasks(load, 1.0)
    assert tail(tasks, service, 1, delay) <= tail(tasks, service, 1, delay, 1.0)
    theta = matching_theta(tasks, service, 1)
    assert tail(tasks, service, 1, delay, 1.0) <= 8 * exp(-theta * capacity(service, theta) * (delay - 1))


def weathered(slots, lasting, seed):
    """Service of mean 1 that is half as fast for a while, then half as fast again."""
    rng = Random(seed)
    slow = False
    work = []
    for _ in range(slots):
        slow ^= rng.random() < 1 / lasting
        work.append(rng.gammavariate(1.5, 1 / 1.5) * (0.5 if slow else 1.5))
    return work


def test_weather_longer_than_a_block_is_seen():
    calm, gusty = Blocks(0.01), Blocks(0.01)
    work = weathered(80_000, 20, 0)
    for amount in work:
        gusty.slot(amount)
    for amount in sorted(work, key=lambda amount: (amount * 1e6) % 1):  # the same slots, shuffled
        calm.slot(amount)
    assert len(calm.scales) == 1
    assert len(gusty.scales) > 1
    tasks = PoissonTasks(0.7, 1.0)
    # Simulated: 0.05 of the tasks wait longer than 37 slots in such weather.
    assert tail(tasks, gusty, 1, 37, 1.0) == pytest.approx(0.05, rel=0.6)
    assert tail(tasks, calm, 1, 37, 1.0) < 0.005


def test_a_moment_says_how_many_blocks_it_rests_on():
    blocks = Blocks(0.1, 1, 0)
    for amount in (1.0, 1.0, 1.0, 9.0):
        blocks.slot(amount)
    assert blocks.telling(0.0) == pytest.approx(4.0)
    assert blocks.telling(50.0) == pytest.approx(1.0)
    assert blocks.telling(-50.0) == pytest.approx(3.0)
