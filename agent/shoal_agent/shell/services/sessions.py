"""What a stateful light service remembers between two calls, per session, and no more than it must.

The core closes every session it opened here. A peer that uses this node's service may vanish instead, so a full table
makes room by dropping the session that was idle longest, if it was idle for longer than any deadline allows; a table
full of living sessions refuses the next.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from shoal_protocol.ids import SessionId
from shoal_protocol.limits import SERVICE_SESSION_IDLE_S_MAX, SESSIONS_MAX

S = TypeVar("S")


class ServiceError(Exception):
    """The service will not do this; the text is fit to show to the caller. Nothing has changed."""


class ServiceBusyError(ServiceError):
    """Not now: the same call may be answered later."""


class Sessions(Generic[S]):
    """Sessions by id, least recently used first. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._states: OrderedDict[SessionId, tuple[S, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def open(self, session: SessionId, state: S) -> None:
        """Begin, or begin again, with ``state``. ServiceBusyError if the table is full of living sessions."""
        now = self._clock()
        if session not in self._states and len(self._states) >= SESSIONS_MAX:
            oldest, (_, used) = next(iter(self._states.items()))
            if now - used < SERVICE_SESSION_IDLE_S_MAX:
                raise ServiceBusyError(f"{SESSIONS_MAX} sessions are open")
            del self._states[oldest]
        self._states[session] = (state, now)
        self._states.move_to_end(session)

    def get(self, session: SessionId) -> S:
        """What was kept; ServiceError if the session is not open."""
        entry = self._states.get(session)
        if entry is None:
            raise ServiceError("no such session is open")
        self._states[session] = (entry[0], self._clock())
        self._states.move_to_end(session)
        return entry[0]

    def forget(self, session: SessionId) -> None:
        """The session is over, if it ever began."""
        self._states.pop(session, None)
