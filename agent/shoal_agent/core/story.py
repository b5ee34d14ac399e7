"""Why did this happen? The last few hundred decisions of a node, each with its moment and its cause.

A bounded ring: a node must be able to run for years, and what an operator asks about is recent. Only decisions are
kept (a plan accepted, a stage loaded, a session refused), never tokens: a story must not grow with traffic.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from shoal_protocol.ids import Instant

STORY_ENTRIES_MAX: Final = 512
"""A day of a quiet cluster, or the last minutes of a wild one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: ``subject`` is what it was about, ``text`` what was decided and why."""

    at: Instant
    subject: str
    text: str


class Story:
    """A ring of decisions."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=STORY_ENTRIES_MAX)
        self.told = 0
        """Decisions ever added."""

    def tell(self, at: Instant, subject: str, text: str) -> None:
        """Add a decision; the oldest one falls out when the ring is full."""
        self._entries.append(Entry(at, subject, text))
        self.told += 1

    def about(self, subject: str) -> tuple[Entry, ...]:
        """Everything still remembered about ``subject``, oldest first."""
        return tuple(entry for entry in self._entries if entry.subject == subject)

    def entries(self) -> tuple[Entry, ...]:
        """Everything still remembered, oldest first."""
        return tuple(self._entries)
