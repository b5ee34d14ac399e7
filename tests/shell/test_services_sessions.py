import pytest

from shoal_agent.shell.services.sessions import ServiceBusyError, ServiceError, Sessions
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import SERVICE_SESSION_IDLE_S_MAX, SESSIONS_MAX


def sid(number):
    return SessionId(number.to_bytes(16, "big"))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def full(clock):
    sessions: Sessions[int] = Sessions(clock)
    for number in range(SESSIONS_MAX):
        sessions.open(sid(number), number)
    return sessions


def test_a_session_is_found_until_it_is_forgotten():
    sessions = full(Clock())
    assert sessions.get(sid(3)) == 3
    sessions.forget(sid(3))
    sessions.forget(sid(3))
    with pytest.raises(ServiceError, match="no such session"):
        sessions.get(sid(3))
    assert len(sessions) == SESSIONS_MAX - 1


def test_a_full_table_of_living_sessions_refuses_the_next_but_not_one_of_its_own():
    sessions = full(Clock())
    with pytest.raises(ServiceBusyError, match="are open"):
        sessions.open(sid(SESSIONS_MAX), 0)
    sessions.open(sid(5), 99)
    assert sessions.get(sid(5)) == 99


def test_the_session_idle_longest_makes_room_once_it_is_older_than_any_deadline():
    clock = Clock()
    sessions = full(clock)
    clock.now = SERVICE_SESSION_IDLE_S_MAX - 1
    sessions.get(sid(0))
    clock.now = SERVICE_SESSION_IDLE_S_MAX
    sessions.open(sid(SESSIONS_MAX), -1)
    assert sessions.get(sid(0)) == 0
    assert len(sessions) == SESSIONS_MAX
    with pytest.raises(ServiceError):
        sessions.get(sid(1))
