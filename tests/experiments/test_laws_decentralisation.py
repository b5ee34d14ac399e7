import pytest

from shoal_agent.experiments.laws.decentralisation import (
    AWAY,
    METHODS,
    ROUND_TRIPS,
    SIZES,
    Key,
    control,
    keys_of,
    run,
    setting,
)
from shoal_agent.experiments.laws.runs import ROUND_TRIP_SLOTS, Case, play
from shoal_agent.experiments.options import Options, silent


def test_every_size_is_there_and_the_price_of_the_centre_is_one():
    report = run(Options(seeds=1, methods=("ours", "central")), silent, node_slots=1, sizes=(5,))
    assert [row.extra["nodes"] for row in report.rows] == [5.0] * 5
    assert [row.extra["price"] for row in report.rows if row.method == "central"] == [1.0]
    assert len(report.bands) == 4


def test_ours_is_run_at_every_size_and_age_and_centres_at_every_distance():
    keys = keys_of(METHODS, SIZES)
    assert len({(key.nodes, key.period) for key in keys if key.method == "ours"}) == 4 * len(SIZES)
    centres = [key for key in keys if key.method == "central-rtt" and key.nodes == 20]
    assert {(key.round_trip, key.away) for key in centres} == {
        (far, away) for far in ROUND_TRIPS for away in (0.0, AWAY)
    }
    assert len(set(keys)) == len(keys)


def test_only_the_distant_centre_is_late_and_away():
    world = setting(5, 1)
    assert control(Key("central", 5), world) == control(Key("ours", 5), world)
    distant = control(Key("central-rtt", 5, 1, ROUND_TRIP_SLOTS, AWAY), world)
    (begin, end), *_ = distant.away
    assert world.warm_slots < begin < end < world.slots
    assert (end - begin) * 10 == world.slots - world.warm_slots
    assert distant.observed_slots == ROUND_TRIP_SLOTS
    assert control(Key("central-rtt", 5, 1, 5), world).away == ()


def test_a_task_waits_for_the_word_of_a_distant_centre():
    """And a centre that is near and never fails is the one that sees everything."""
    world = setting(5, 1)
    near, far = (
        play(Case("central-rtt", world, 0, control(Key("central-rtt", 5, 1, trip), world))) for trip in (0, 10)
    )
    assert near.values == play(Case("central", world, 0, control(Key("central", 5), world))).values
    assert far.values["p95_ms"] >= near.values["p95_ms"] + 900
    assert far.values["on_time"] < near.values["on_time"]


@pytest.mark.long
def test_the_price_is_small():
    report = run(Options(seeds=1), silent)
    assert report.passed, report.as_markdown()
