"""KV of one range of blocks on its way to one node.

    next ──► ExportKv ──► exported ──► KvRows ──► KvKept ──► kept_before ──► next

One frame is under way at a time: the answer to it is the flow control, and says where the other really is, which is how
a gap heals: whoever forgot says 0, and all is sent again; whoever has more than we knew is spared what it has. Single
tokens go in increments of ``INCREMENT_TOKENS``, because each frame costs an export, a frame and an import: eight tokens
more to run again after a loss are below 0.1 s on the lost stage. What comes in chunks (a prompt) goes at once. The
first frame is small whatever there is to send: it asks how much of it the other has.

Rows are only exported before ``finished``, the first position whose run is not over. When positions are run again
(``rewind``), an export that reaches beyond may be half of the old and half of the new run, so its answer is dropped.
Answers that bring no progress are counted, and so are answers that do not come: a frame can be lost though the link
stands. Who keeps forgetting, or keeps silent, is given up after ``STALLS_MAX`` times in a row.

A decision costs the same for every token, however long the session is.
"""

from dataclasses import dataclass, field
from typing import Final

from shoal_protocol.ids import Epoch, Instant, NodeId

INCREMENT_TOKENS: Final = 8
NEAR_TOKENS: Final = 16
"""Two increments: one that is not full yet, and one under way. A stream that lacks no more keeps up."""
STALLS_MAX: Final = 8
"""A node may be busy for a frame or two; who answers so often without having kept anything never will."""
ANSWER_S_MAX: Final = 5.0
"""From sending rows to the answer: rows stand in line behind everything else, but not for so long on any link."""
_BEGINNING: Final = Instant(0.0)


@dataclass(slots=True)
class KvStream:
    """Rows of blocks ``first_block..last_block`` to ``target``, as ``stage`` of ``epoch`` there."""

    target: NodeId
    epoch: Epoch
    stage: int
    first_block: int
    last_block: int
    rows_max: int
    """Positions one frame may have."""
    kept: int = 0
    """The target has the rows of all positions before."""
    sent: bool = False
    """What is under way has left: the target may have it."""
    sent_at: Instant = _BEGINNING
    stalls: int = 0
    answered: bool = False
    _under_way: tuple[int, int] | None = None
    _void: list[tuple[int, int]] = field(default_factory=list)
    """Exports that were asked for and are not wanted any more."""

    @property
    def under_way(self) -> bool:
        """Whether an export or an answer is awaited."""
        return self._under_way is not None

    def next(self, finished: int, *, flush: bool) -> tuple[int, int] | None:
        """Position and number of the rows to export now, if any; ``flush``: do not wait for an increment."""
        lacking = finished - self.kept
        if self._under_way is not None or lacking <= 0 or (lacking < INCREMENT_TOKENS and not flush):
            return None
        most = self.rows_max if self.answered else min(self.rows_max, INCREMENT_TOKENS)
        self._under_way, self.sent = (self.kept, min(lacking, most)), False
        return self._under_way

    def awaits(self, first_block: int, last_block: int, position: int, token_count: int) -> bool:
        """Whether it asked for these rows, wanted or not any more."""
        asked = (position, token_count)
        mine = (first_block, last_block) == (self.first_block, self.last_block)
        return mine and (asked in self._void or (asked == self._under_way and not self.sent))

    def exported(self, position: int, token_count: int, now: Instant) -> bool:
        """The rows it awaited are there: whether to send them."""
        if (position, token_count) in self._void:
            self._void.remove((position, token_count))
            return False
        self.sent, self.sent_at = True, now
        return True

    def unanswered(self, now: Instant) -> bool:
        """Whether what was sent must be lost: then it is asked for anew."""
        if not self.sent or now < self.sent_at + ANSWER_S_MAX:
            return False
        self.stalls += 1
        self._under_way, self.sent, self.answered = None, False, False
        return True

    def kept_before(self, position: int, finished: int) -> None:
        """The target answers: it has all rows before ``position``, if not more."""
        assert self.sent, "an answer to what was sent"
        before, self.kept = self.kept, min(position, finished)
        self.stalls = 0 if self.kept > before else self.stalls + 1
        self.answered = True
        self._under_way, self.sent = None, False

    def rewind(self, position: int) -> None:
        """Positions from ``position`` on are going to be run again."""
        self.kept = min(self.kept, position)
        if self._under_way is not None and not self.sent and sum(self._under_way) > position:
            self._void.append(self._under_way)
            self._under_way = None

    def check(self, finished: int) -> None:
        """Assert that nothing is claimed, or under way, that is not there."""
        assert 0 <= self.kept <= finished
        assert self._under_way is None or self.sent or sum(self._under_way) <= finished
        assert self.rows_max > 0
        assert self.sent <= self.under_way
