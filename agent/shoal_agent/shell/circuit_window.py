"""What is under way on one direction of a circuit: nothing is lost, nothing is out of order, and little is held.

MQTT promises neither: a broker drops what it cannot keep, a broker that dies takes what it had, and two brokers know
nothing of each other's order. So the sender keeps what was not acknowledged and sends it again; the receiver keeps
what came too early and hands on what is next. It is TCP's arithmetic (RFC 6298), on numbered messages::

    wait = clamp(srtt + 4 * rttvar, WAIT_S_MIN, WAIT_S_MAX), doubled each time the oldest one is sent in vain

Only the oldest message is ever sent again: by far the most losses are one broker's whole share, and each
acknowledgement makes the next missing one the oldest. Round trips of messages that were sent twice are not measured
(Karn): nobody knows which of the two was acknowledged. What the receiver has beyond a gap still counts as under way,
for it lies in the receiver's memory.
"""

from dataclasses import dataclass
from typing import Final

from shoal_protocol.limits import RELAY_WINDOW_BYTES_MAX, RELAY_WINDOW_MESSAGES_MAX
from shoal_protocol.relay import Ack

WAIT_S_MIN: Final = 0.25
"""A busy interpreter answers within this; a message sent twice costs more than one that comes late."""
WAIT_S_MAX: Final = 1.0
"""A broker that comes back is met soon: whoever waits longer would sooner be declared silent."""


@dataclass(slots=True)
class _Sent:
    message: bytes
    sent_at: float
    times: int = 1
    kept: bool = False
    """The receiver has it, and waits for one before it."""


class SendWindow:
    """What was sent and not acknowledged."""

    def __init__(self) -> None:
        self._sent: dict[int, _Sent] = {}
        self._following = 0
        self._bytes = 0
        self._srtt_s = 0.0
        self._rttvar_s = 0.0
        self._vain = 0
        """How often the oldest one was sent in vain."""

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def following(self) -> int:
        """The number of the next message."""
        return self._following

    @property
    def room_bytes(self) -> int:
        """How large the next message may be."""
        return RELAY_WINDOW_BYTES_MAX - self._bytes if len(self._sent) < RELAY_WINDOW_MESSAGES_MAX else 0

    def add(self, message: bytes, now: float) -> None:
        """``message`` leaves, under the number ``following``."""
        assert len(message) <= self.room_bytes, "asked before"
        self._sent[self._following] = _Sent(message, now)
        self._following += 1
        self._bytes += len(message)

    def acknowledged(self, ack: Ack, now: float) -> bool:
        """The other side has these; False, and nothing done, if it speaks of what was never sent."""
        if max(ack.following, ack.following + 1 + ack.beyond.bit_length() if ack.beyond else 0) > self._following:
            return False
        for number, sent in [item for item in self._sent.items() if _covers(ack, item[0])]:
            if sent.times == 1 and not sent.kept:
                self._measured(now - sent.sent_at)
            sent.kept = True
            if number < ack.following:
                del self._sent[number]
                self._bytes -= len(sent.message)
                self._vain = 0
        return True

    def _measured(self, took_s: float) -> None:
        if not self._srtt_s:
            self._srtt_s, self._rttvar_s = took_s, took_s / 2
        else:
            self._rttvar_s += (abs(self._srtt_s - took_s) - self._rttvar_s) / 4
            self._srtt_s += (took_s - self._srtt_s) / 8

    @property
    def due(self) -> float | None:
        """When the oldest message is to be sent again; None: everything is acknowledged."""
        oldest = next(iter(self._sent.values()), None)
        if oldest is None:
            return None
        wait_s = max(WAIT_S_MIN, self._srtt_s + 4 * self._rttvar_s)
        return oldest.sent_at + min(WAIT_S_MAX, wait_s * 2.0**self._vain)

    def again(self, now: float) -> tuple[bytes, float] | None:
        """The oldest message, if it is due, and when it was last sent."""
        due = self.due
        if due is None or now < due:
            return None
        oldest = next(iter(self._sent.values()))
        before, oldest.sent_at = oldest.sent_at, now
        oldest.times += 1
        self._vain = min(self._vain + 1, _VAIN_MAX)
        return oldest.message, before


_VAIN_MAX: Final = 8
"""Beyond any wait: 2^8 times the least one."""


def _covers(ack: Ack, number: int) -> bool:
    beyond = number - ack.following - 1
    return number < ack.following or (beyond >= 0 and bool(ack.beyond >> beyond & 1))


class ReceiveWindow:
    """What came too early."""

    def __init__(self) -> None:
        self._early: dict[int, bytes] = {}
        self._following = 0
        self._bytes = 0

    @property
    def ack(self) -> Ack:
        """What is here."""
        return Ack(self._following, sum(1 << (number - self._following - 1) for number in self._early))

    def expects(self, number: int) -> bool:
        """Whether ``number`` is not here yet."""
        return number >= self._following and number not in self._early

    def take(self, number: int, body: bytes) -> list[bytes] | None:
        """The bodies that are next in line now; None, and nothing kept, if no sender may be so far ahead."""
        if not self.expects(number):
            return []
        if number >= self._following + RELAY_WINDOW_MESSAGES_MAX or self._bytes + len(body) > RELAY_WINDOW_BYTES_MAX:
            return None
        self._early[number] = body
        self._bytes += len(body)
        ready = []
        while self._following in self._early:
            ready.append(self._early.pop(self._following))
            self._bytes -= len(ready[-1])
            self._following += 1
        return ready
