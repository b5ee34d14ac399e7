"""Why did this happen? The last few hundred decisions of a node, each with its moment and its cause.

A bounded ring: a node must be able to run for years, and what an operator asks about is recent. Only decisions are
kept (a plan accepted, a stage loaded, a session refused), never tokens: a story must not grow with traffic.

Every entry has a number, and may name the number of another one as its cause: a plan was wished because a host was
found dead, which was found because pings went unanswered. Following causes back is the answer to "why"; one that has
fallen out of the ring answers nothing, and nothing is made up in its place.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from shoal_protocol.ids import Instant

STORY_ENTRIES_MAX: Final = 512
"""A day of a quiet cluster, or the last minutes of a wild one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: ``subject`` is what it was about, ``text`` what was decided and why; ``cause`` another's number."""

    at: Instant
    subject: str
    text: str
    number: int = 0
    cause: int | None = None


class Story:
    """A ring of decisions."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=STORY_ENTRIES_MAX)
        self._last: dict[str, int] = {}
        self.told = 0
        """Decisions ever added."""

    def tell(self, at: Instant, subject: str, text: str, *, cause: int | None = None) -> int:
        """Add a decision; the oldest one falls out when the ring is full. Its number, to be named as a cause."""
        self.told += 1
        if len(self._entries) == STORY_ENTRIES_MAX:
            oldest = self._entries[0]
            if self._last.get(oldest.subject) == oldest.number:
                del self._last[oldest.subject]
        self._entries.append(Entry(at, subject, text, self.told, cause))
        self._last[subject] = self.told
        return self.told

    def last(self, subject: str) -> int | None:
        """The number of what was told last about ``subject``, while it is remembered."""
        return self._last.get(subject)

    def about(self, subject: str) -> tuple[Entry, ...]:
        """Everything still remembered about ``subject``, oldest first."""
        return tuple(entry for entry in self._entries if entry.subject == subject)

    def why(self, subject: str) -> tuple[Entry, ...]:
        """Everything about ``subject`` and, followed back as far as it is remembered, what caused it; oldest first."""
        known = {entry.number: entry for entry in self._entries}
        wanted = [entry.number for entry in self.about(subject)]
        found: dict[int, Entry] = {}
        while wanted:
            entry = known.get(wanted.pop())
            if entry is not None and entry.number not in found:
                found[entry.number] = entry
                wanted += [] if entry.cause is None else [entry.cause]
        return tuple(found[number] for number in sorted(found))

    def entries(self) -> tuple[Entry, ...]:
        """Everything still remembered, oldest first."""
        return tuple(self._entries)
