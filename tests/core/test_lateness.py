from random import Random

import pytest

from shoal_agent.core.lateness import CALM, CROWD_S, MET, MISSED, SILENCE_S, SLOW, Lateness
from shoal_protocol.ids import DeploymentId, Instant

TOY = DeploymentId("toy")


def told(lates, gap=2.0):
    """What is said after each of ``lates``, one every ``gap`` seconds; and whether it was said to be slow since it."""
    lateness, said = Lateness(), []
    for number, late in enumerate(lates):
        now = Instant(100.0 + gap * number)
        since = lateness.ended(TOY, now, late=late)
        said.append((since, lateness.slow(TOY, now)))
    return said


def first_slow(lates, gap=2.0):
    return next((index for index, (since, _) in enumerate(told(lates, gap)) if since), None)


def test_five_late_ones_in_a_row_are_slow_and_it_is_said_once():
    said = told([True] * 8)
    assert [since for since, _ in said] == [False] * 4 + [True] + [False] * 3
    assert [text is not None for _, text in said] == [False] * 4 + [True] * 4
    assert said[4][1] == "5 of 5 requests missed their deadline in 8 s"


def test_those_in_time_take_evidence_back():
    assert first_slow([True, False] * 20) == 10, "36 - 1 + 8 after the sixth late one"
    assert first_slow(([True] + [False] * MISSED) * 100, gap=0.2) is None, "one in nine for ever"


def test_the_count_begins_where_evidence_was_last_nothing():
    said = told([True, *[False] * MISSED, *[True] * 5])
    assert said[-1][1].startswith("5 of 5 ")


def test_a_crowd_is_one_accident():
    assert first_slow([True] * 100, gap=CROWD_S / 101) is None
    assert first_slow([True] * 100, gap=CROWD_S / 10) in range(10, 15)


def test_it_is_over_after_as_many_in_time_as_took_it_to_calm():
    said = told([True] * 9 + [False] * 30, gap=0.5)
    slow = [text is not None for _, text in said]
    assert slow.count(True) == 9 - 4 + (SLOW - CALM) // MET
    assert not slow[-1]


def test_silence_ends_it():
    lateness = Lateness()
    for number in range(6):
        lateness.ended(TOY, Instant(100.0 + number), late=True)
    assert lateness.slow(TOY, Instant(105.0 + SILENCE_S)) is not None
    assert lateness.slow(TOY, Instant(105.1 + SILENCE_S)) is None
    assert first_slow([True] * 50, gap=SILENCE_S + 0.1) is None, "rare requests say nothing about now"


def test_a_new_plan_begins_anew_and_others_are_others():
    lateness = Lateness()
    for number in range(6):
        lateness.ended(TOY, Instant(100.0 + number), late=True)
    assert lateness.slow(DeploymentId("other"), Instant(105.0)) is None
    lateness.forget(TOY)
    assert lateness.slow(TOY, Instant(105.0)) is None


@pytest.mark.parametrize(("share", "low", "high"), [(0.05, 1000, 10**9), (0.2, 10, 100), (0.6, 4, 16)])
def test_how_many_requests_it_takes(share, low, high):
    """False alarms are as rare as promised, and real ones are quick."""
    rng, took = Random(5), []
    for _ in range(40):
        lates = (rng.random() < share for _ in range(4000))
        index = first_slow(lates, gap=0.25)
        took.append(4000 if index is None else index)
    assert low <= sum(took) / len(took) <= high
