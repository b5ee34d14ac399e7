"""Do this node's own clients wait too long? Deadlines met and missed, window by window.

A deployment is slow when in each of ``WINDOWS`` windows in a row some requests missed their deadline, and at least one
in ``SHARE`` of those that ended. One missed deadline is an accident, and a minute of them in a row is the client's
patience, not ours; three windows are half a minute. A window without requests says nothing and ends the row.

What says something is how many requests ended, not how long it took: a window is over early once ``ENOUGH`` did. Where
requests are short and many, half a minute of them is a hundred, and most of what could have been saved is lost by then
(paper (b)'s experiment in docs/control.md).

Requests that were cancelled or failed are not counted: what made them fail is somebody else's to notice.
"""

from dataclasses import dataclass
from typing import Final

from shoal_protocol.ids import DeploymentId, Instant

WINDOW_S: Final = 10.0
"""The longest."""
WINDOW_S_MIN: Final = 2.0
"""The shortest: as often as it is asked."""
ENOUGH: Final = 8
"""With fewer, a single late one is a large share."""
WINDOWS: Final = 3
SHARE: Final = 10
"""One late request in so many."""


@dataclass(slots=True)
class _Window:
    """The window that is open, and how many late ones came just before it."""

    begun: Instant
    ended: int = 0
    late: int = 0
    row: int = 0
    told: str = ""


class Lateness:
    """All deployments that this node is an ingress of."""

    def __init__(self) -> None:
        self._windows: dict[DeploymentId, _Window] = {}

    def ended(self, deployment: DeploymentId, *, late: bool) -> None:
        """A request is over; it counts in the window that is open when ``slow`` is asked next."""
        window = self._windows.setdefault(deployment, _Window(Instant(0.0)))
        window.ended += 1
        window.late += late

    def slow(self, deployment: DeploymentId, now: Instant) -> str | None:
        """What there is to say of ``deployment`` if it is slow; to be asked at least once in a window."""
        window = self._windows.get(deployment)
        if window is None:
            return None
        if now >= window.begun + (WINDOW_S_MIN if window.ended >= ENOUGH else WINDOW_S):
            missed = window.late > 0 and window.late * SHARE >= window.ended
            row = window.row + 1 if missed and now < window.begun + 2 * WINDOW_S else int(missed)
            span_s = now - window.begun
            told = f"{window.late} of {window.ended} requests missed their deadline in the last {span_s:.0f} s"
            window = self._windows[deployment] = _Window(now, row=row, told=told)
        return f"{window.told}, so for {window.row} windows in a row" if window.row >= WINDOWS else None

    def forget(self, deployment: DeploymentId) -> None:
        """A new plan is in force: begin anew."""
        self._windows.pop(deployment, None)
