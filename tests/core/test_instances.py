from dataclasses import replace
from itertools import product
from math import inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.effective_capacity import GammaService, PoissonTasks, size
from shoal_agent.core.instances import INSTANCES_MAX, Light, Prices, decide, worth

IDLE = Light("tokenizer", (1.0,), 0, 0, 0, 0, backlog=0.0, pressure=0.0, rate=1.0, boot=4.0, run=1.0)
FREE = (8.0,)


def a_light(rng, resources, *, convex=False):
    """Any service; ``convex``: with tails that fall ever less, so that every next instance brings less."""
    running = rng.randint(0, 3)
    busy = rng.randint(0, running)
    backlog = rng.choice([0.0, rng.uniform(0, 20)])
    tails = sorted([1.0, *(rng.random() for _ in range(rng.randint(0, 5)))], reverse=True)
    return Light(
        name=str(rng.random()),
        needs=tuple(rng.uniform(0.5, 2) for _ in range(resources)),
        running=running,
        busy=busy,
        settled=rng.randint(busy, running),
        least=0,
        backlog=backlog,
        pressure=backlog + rng.uniform(0, 10),
        rate=rng.uniform(0.2, 3),
        boot=rng.uniform(0, 8),
        run=rng.uniform(0, 3),
        lateness=rng.choice([0.0, rng.uniform(0, 20)]),
        tails=tuple(0.5**k for k in range(6)) if convex else tuple(tails),
    )


def taken(lights, counts, resource):
    return sum(light.needs[resource] * count for light, count in zip(lights, counts, strict=True))


def total(lights, counts, prices):
    return sum(worth(light, count, prices) for light, count in zip(lights, counts, strict=True))


def best_of_all(lights, free, prices):
    """By enumeration; None if what must stay does not fit."""
    ranges = [
        range(light.settled, min(int(min(room / need for room, need in zip(free, light.needs, strict=True))), 20) + 1)
        for light in lights
    ]
    totals = [
        total(lights, counts, prices)
        for counts in product(*ranges)
        if all(taken(lights, counts, k) <= room + 1e-9 for k, room in enumerate(free))
    ]
    return max(totals, default=None)


def gains(resources, seed, count):
    """What greedy gains over standing still, as a share of what enumeration gains."""
    rng, found = Random(seed), []
    for _ in range(count):
        lights = [a_light(rng, resources) for _ in range(3)]
        free, prices = [rng.uniform(3, 10) for _ in range(resources)], Prices(rng.choice([0.5, 1.0, 2.0, 4.0]))
        best = best_of_all(lights, free, prices)
        if best is None:
            continue
        stay = total(lights, [light.settled for light in lights], prices)
        if best - stay > 1e-9:
            found.append((total(lights, decide(lights, free, prices), prices) - stay) / (best - stay))
    return found


@pytest.mark.parametrize("resources", [1, 2, 3])
def test_greedy_is_nearly_what_enumeration_finds(resources):
    found = gains(resources, seed=resources, count=160)
    assert len(found) > 30
    assert max(found) <= 1 + 1e-9
    assert sum(found) / len(found) > 0.99
    assert sum(share > 0.9 for share in found) > 0.95 * len(found)
    assert min(found) >= 0.5


def test_greedy_is_optimal_for_one_resource_with_equal_needs():
    rng = Random(4)
    for _ in range(60):
        lights = [replace(a_light(rng, 1, convex=True), needs=(1.0,), boot=0.0) for _ in range(3)]
        free = (float(sum(light.settled for light in lights) + rng.randint(0, 6)),)
        prices = Prices(rng.choice([0.5, 1.0, 2.0]))
        best = best_of_all(lights, free, prices)
        assert total(lights, decide(lights, free, prices), prices) == pytest.approx(best, abs=1e-6)


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 3))
def test_what_must_stay_stays_and_what_does_not_fit_is_not_added(seed, services, resources):
    rng = Random(seed)
    lights = [replace(a_light(rng, resources), least=rng.randint(0, 4)) for _ in range(services)]
    free = tuple(rng.uniform(0, 12) for _ in range(resources))
    counts = decide(lights, free, Prices(1.0))
    settled = [light.settled for light in lights]
    assert all(stay <= count <= INSTANCES_MAX for stay, count in zip(settled, counts, strict=True))
    for k, room in enumerate(free):
        assert taken(lights, counts, k) <= max(room, taken(lights, settled, k)) + 1e-6


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_nothing_is_added_that_brings_nothing(seed, services):
    rng = Random(seed)
    lights = [a_light(rng, 2) for _ in range(services)]
    counts = decide(lights, (8.0, 8.0), Prices(1.0))
    stay = [light.settled for light in lights]
    assert total(lights, counts, Prices(1.0)) >= total(lights, stay, Prices(1.0)) - 1e-9


def test_an_idle_node_runs_what_it_promised_and_no_more():
    assert decide([IDLE, replace(IDLE, least=2)], FREE, Prices(1.0)) == (0, 2)
    idle = replace(IDLE, running=3, busy=0, settled=0)
    assert decide([idle], FREE, Prices(1.0)) == (0,)
    assert decide([replace(idle, settled=2, busy=1)], FREE, Prices(1.0)) == (2,)


@pytest.mark.parametrize(("price", "count"), [(0.0, 6), (1.0, 6), (2.0, 0)])
def test_a_boot_is_made_when_the_wait_is_worth_it(price, count):
    waiting = replace(IDLE, backlog=6.0, pressure=7.0)
    assert decide([waiting], FREE, Prices(price)) == (count,)
    assert decide([replace(waiting, running=6)], FREE, Prices(price)) == (6,), "these are booted already"


def test_no_more_than_the_backlog_needs():
    assert decide([replace(IDLE, backlog=2.5, pressure=50.0)], FREE, Prices(0.1)) == (3,)


def test_every_budget_that_is_owed_makes_instances_dearer():
    light = replace(IDLE, backlog=6.0, pressure=7.0, joules=1.0, money=1.0, boot_bytes=1.0)
    for owed in (Prices(1.0, money=8.0), Prices(1.0, energy=8.0), Prices(1.0, moved=8.0)):
        assert decide([light], FREE, Prices(1.0)) == (6,)
        assert decide([light], FREE, owed) == (0,)


def test_late_classes_buy_instances_that_the_queue_alone_would_not():
    chosen = size(PoissonTasks(4.0, 1.0), GammaService(2.0, 1.0), 3.0, 0.05, task=1.0)
    calm = replace(IDLE, rate=chosen.rate, tails=chosen.tails)
    assert decide([calm], FREE, Prices(1.0)) == (0,)
    assert decide([replace(calm, lateness=1000.0)], FREE, Prices(1.0))[0] >= chosen.instances


def test_a_step_over_counts_that_bring_nothing_is_found():
    """Below the load everybody is late, whether there are one or three instances."""
    light = replace(IDLE, boot=0.5, run=0.1, lateness=20.0, tails=(1.0, 1.0, 1.0, 1.0, 0.1))
    assert decide([light], FREE, Prices(1.0)) == (4,)
    assert decide([light], (3.0,), Prices(1.0)) == (0,)


def test_starts_are_limited_but_promises_are_not():
    waiting = replace(IDLE, backlog=6.0, pressure=7.0, running=1)
    assert decide([waiting], FREE, Prices(0.1), starts=1) == (2,)
    assert decide([replace(waiting, least=5)], FREE, Prices(0.1), starts=1) == (5,)


def test_promises_of_the_latest_class_come_first():
    calm, late = replace(IDLE, least=5), replace(IDLE, least=5, lateness=1.0, tails=(0.0,))
    assert decide([calm, late], (6.0,), Prices(1.0)) == (1, 5)


def test_without_room_nothing_starts_and_nothing_breaks():
    waiting = replace(IDLE, backlog=6.0, pressure=7.0, least=2)
    assert decide([waiting], (0.0,), Prices(0.0)) == (0,)
    assert decide([replace(waiting, running=2, busy=2, settled=2)], (1.0,), Prices(0.0)) == (2,)
    assert decide([replace(waiting, needs=(0.0,))], (0.0,), Prices(0.0)) == (6,)
    assert decide([], FREE, Prices(1.0)) == ()


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
@pytest.mark.parametrize(
    "name", ["backlog", "pressure", "rate", "boot", "run", "boot_bytes", "joules", "money", "lateness"]
)
def test_no_figure_that_is_none_becomes_a_service(name, bad):
    with pytest.raises(ValueError, match=name):
        replace(IDLE, **{name: bad})


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_no_figure_that_is_none_becomes_a_price_a_need_or_room(bad):
    for name in ("v", "money", "energy", "moved"):
        with pytest.raises(ValueError, match=name):
            Prices(**{"v": 1.0, name: bad})
    with pytest.raises(ValueError, match="needs"):
        replace(IDLE, needs=(bad,))
    with pytest.raises(ValueError, match="tails"):
        replace(IDLE, tails=(1.0, bad))
    if bad != -1.0:
        with pytest.raises(ValueError, match="free"):
            decide([IDLE], (bad,), Prices(1.0))


@pytest.mark.parametrize(
    "counts", [{"busy": 1}, {"running": 2, "settled": 3}, {"running": 65}, {"least": -1}, {"running": 2, "busy": 1}]
)
def test_counts_that_contradict_each_other_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        replace(IDLE, **counts)


@pytest.mark.parametrize("running", [0, 60, INSTANCES_MAX])
def test_never_more_run_than_can_be_told_whatever_waits_and_fits(running):
    """The next slot would refuse them."""
    light = Light("a", (1.0,), running, 0, running, 0, backlog=1e6, pressure=1e6, rate=1.0, boot=1.0, run=1.0)
    assert decide([light], (1000.0,), Prices(1.0)) == (INSTANCES_MAX,)
