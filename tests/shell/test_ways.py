import itertools

from shoal_agent.shell.ways import FAILURES, RETRY_S_MAX, RETRY_S_MIN, Way


def test_a_way_is_blocked_after_failures_in_a_row():
    way = Way()
    blocked = []
    for _ in range(FAILURES + 1):
        blocked.append(way.blocked)
        way.failed(0.0)
    assert blocked == [False] * FAILURES + [True]


def test_a_blocked_way_is_tried_more_and_more_rarely_but_for_ever():
    way, now, waits = Way(), 100.0, []
    for _ in range(10):
        way.failed(now)
        waits.append(way.retry_at - now)
        now = way.retry_at
    assert waits[0] == RETRY_S_MIN
    assert waits[-1] == RETRY_S_MAX
    assert all(after == min(RETRY_S_MAX, 2 * before) for before, after in itertools.pairwise(waits))
