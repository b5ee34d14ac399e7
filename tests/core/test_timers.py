from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.timers import (
    HEAP_ENTRIES_MIN,
    STALE_PER_LIVE_MAX,
    HostDeadline,
    RequestDeadline,
    Routine,
    Timers,
)
from shoal_protocol.ids import Instant, SessionId

SESSION = SessionId(bytes(16))
NAMES = [*Routine, RequestDeadline(SESSION), HostDeadline(SESSION, 0), HostDeadline(SESSION, 1)]


def at(seconds: float) -> Instant:
    return Instant(seconds)


def test_nothing_is_due_where_nothing_is_set():
    timers = Timers()
    assert timers.deadline() is None
    assert timers.due(at(1e9)) == []


def test_the_deadline_is_the_earliest_alarm():
    timers = Timers()
    timers.set(Routine.REFRESH, at(5))
    timers.set(Routine.HEARTBEAT, at(2))
    assert timers.deadline() == 2
    assert timers.due(at(1.999)) == []
    assert timers.due(at(2)) == [Routine.HEARTBEAT]
    assert timers.deadline() == 5


def test_setting_again_replaces_also_to_an_earlier_moment():
    timers = Timers()
    timers.set(Routine.REFRESH, at(5))
    timers.set(Routine.REFRESH, at(9))
    assert timers.due(at(5)) == []
    timers.set(Routine.REFRESH, at(6))
    assert timers.due(at(20)) == [Routine.REFRESH]
    assert timers.deadline() is None


def test_what_is_cleared_does_not_ring_and_clearing_is_harmless():
    timers = Timers()
    timers.set(RequestDeadline(SESSION), at(1))
    timers.clear(RequestDeadline(SESSION))
    timers.clear(RequestDeadline(SESSION))
    assert RequestDeadline(SESSION) not in timers
    assert timers.due(at(2)) == []


def test_of_equal_moments_the_one_set_first_rings_first():
    timers = Timers()
    for name in reversed(NAMES):
        timers.set(name, at(1))
    assert timers.due(at(1)) == list(reversed(NAMES))


def test_cleared_alarms_do_not_pile_up():
    timers = Timers()
    for number in range(10_000):
        name = RequestDeadline(SessionId(number.to_bytes(16)))
        timers.set(name, at(600))
        timers.clear(name)
        assert len(timers._heap) <= HEAP_ENTRIES_MIN + STALE_PER_LIVE_MAX
    timers.set(Routine.REFRESH, at(700))
    assert timers.deadline() == 700


STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "clear", "due"]), st.sampled_from(NAMES), st.integers(0, 20)), max_size=200
)


@given(STEPS)
def test_it_rings_as_a_plain_table_would(steps):
    timers = Timers()
    table: dict[object, tuple[int, int]] = {}
    for order, (action, name, moment) in enumerate(steps):
        if action == "set":
            timers.set(name, at(moment))
            table[name] = (moment, order)
        elif action == "clear":
            timers.clear(name)
            table.pop(name, None)
        else:
            expected = sorted((key for key in table if table[key][0] <= moment), key=table.__getitem__)
            assert timers.due(at(moment)) == expected
            for key in expected:
                del table[key]
        assert timers.deadline() == min((when for when, _ in table.values()), default=None)
        assert all((key in timers) is (key in table) for key in NAMES)
