"""How many bytes may be under way on one connection, at either end of it.

The receiver's Hello grants a number of bytes; every metered frame is taken from it, and Credit gives back what was
consumed. So a slow reader stops the writer, and what is buffered between them is at most the grant:

    left = granted - sent + returned        send if bytes <= left, or alone if bytes > granted

The receiver keeps the same account from its side, which makes overdrawing provable. It returns credit in quarters of
the grant: one small frame per quarter costs nothing, and three quarters always stay usable. A frame larger than those
three quarters could wait for ever for a rest that is being saved up, so its sender asks with a Probe, and everything
consumed is returned before a Probe is answered.
"""

from typing import Final

RETURN_PART: Final = 4
"""Credit goes back when this part of the grant (one quarter) was consumed."""


class SendCredit:
    """What the peer still lets us send."""

    __slots__ = ("_granted", "_left")

    def __init__(self, granted: int) -> None:
        self._granted = granted
        self._left = granted

    @property
    def in_flight(self) -> int:
        """Bytes sent and not returned."""
        return self._granted - self._left

    def covers(self, frame_bytes: int) -> bool:
        """Whether a frame may be sent now."""
        return frame_bytes <= self._left or (frame_bytes > self._granted and self._left == self._granted)

    def spares(self, frame_bytes: int) -> bool:
        """Whether a frame that nobody waits for may be sent now: half of the grant stays for the others."""
        return self._left - frame_bytes >= self._granted // 2 or self._left == self._granted

    def must_ask(self, frame_bytes: int) -> bool:
        """Whether what a receiver may hold back could keep this frame waiting for ever."""
        return frame_bytes > self._granted - self._granted // RETURN_PART

    def spend(self, frame_bytes: int) -> None:
        """A frame was sent."""
        assert self.covers(frame_bytes), "asked before"
        self._left -= frame_bytes

    def give_back(self, credit_bytes: int) -> bool:
        """The peer consumed; False, and nothing done, if it returns more than it ever got."""
        if self._left + credit_bytes > self._granted:
            return False
        self._left += credit_bytes
        return True


class ReceiveCredit:
    """What we still let the peer send."""

    __slots__ = ("_consumed", "_granted", "_left")

    def __init__(self, granted: int) -> None:
        self._granted = granted
        self._left = granted
        self._consumed = 0

    def receive(self, frame_bytes: int) -> bool:
        """A frame arrived; False, and nothing done, if the peer had no credit for it."""
        if frame_bytes > self._left and (frame_bytes <= self._granted or self._left != self._granted):
            return False
        self._left -= frame_bytes
        return True

    def consume(self, frame_bytes: int) -> int:
        """A frame was dealt with; the bytes to return now, usually 0."""
        self._consumed += frame_bytes
        return self.settle() if self._consumed * RETURN_PART >= self._granted else 0

    def settle(self) -> int:
        """Everything consumed and not returned so far, to be returned now."""
        due = self._consumed
        self._consumed = 0
        self._left += due
        return due
