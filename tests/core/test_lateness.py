import pytest

from shoal_agent.core.lateness import ENOUGH, SHARE, WINDOW_S, WINDOW_S_MIN, WINDOWS, Lateness
from shoal_protocol.ids import DeploymentId, Instant

TOY = DeploymentId("toy")


def row(*windows, gap=WINDOW_S):
    """What is said after each window of (ended in time, late)."""
    lateness, now, said = Lateness(), 100.0, []
    lateness.ended(TOY, late=False)
    lateness.slow(TOY, Instant(now))
    for met, missed in windows:
        for late in [False] * met + [True] * missed:
            lateness.ended(TOY, late=late)
        now += gap
        said.append(lateness.slow(TOY, Instant(now)))
    return said


def test_three_windows_in_a_row_are_slow():
    said = row(*[(3, 1)] * 4)
    assert [text is not None for text in said] == [False, False, True, True]
    assert said[WINDOWS - 1] == "1 of 4 requests missed their deadline in the last 10 s, so for 3 windows in a row"


@pytest.mark.parametrize(
    "between", [(5, 0), (0, 0), (SHARE, 1)], ids=["all in time", "nobody asked", "one in many was late"]
)
def test_a_window_without_ends_the_row(between):
    assert row((0, 2), (0, 2), between, (0, 2), (0, 2)) == [None] * 5


def test_windows_that_were_slept_through_are_no_row():
    assert row(*[(0, 2)] * 5, gap=2 * WINDOW_S) == [None] * 5


def test_windows_of_many_requests_are_over_early():
    assert row(*[(ENOUGH - 1, 1)] * 3, gap=WINDOW_S_MIN)[-1] is not None
    assert row(*[(ENOUGH - 2, 1)] * 3, gap=WINDOW_S_MIN) == [None] * 3, "too few to say anything so soon"


def test_within_a_window_the_answer_stays():
    lateness = Lateness()
    for number in range(40):
        lateness.ended(TOY, late=True)
        lateness.slow(TOY, Instant(100.0 + number))
    assert lateness.slow(TOY, Instant(140.5)) == lateness.slow(TOY, Instant(141.0)) is not None


def test_a_new_plan_begins_anew_and_others_are_others():
    lateness = Lateness()
    for number in range(40):
        lateness.ended(TOY, late=True)
        lateness.slow(TOY, Instant(100.0 + number))
    assert lateness.slow(DeploymentId("other"), Instant(140.0)) is None
    lateness.forget(TOY)
    assert lateness.slow(TOY, Instant(140.0)) is None
