"""One end of a relayed link: a stream of bytes in sealed messages, which a ``Link`` takes for its wire.

What the link writes in one turn of the loop leaves together, in as few messages of equal size as there must be. When
the window is full the link is told so, as a socket would. What arrives is handed on in order and acknowledged: at once
if much came, or something was missing or came twice; else a moment later, for several together.

Who says a message publishes it on one broker. If nothing is heard since it was sent, it goes by another one.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from shoal_agent.shell.circuit_window import ReceiveWindow, SendWindow
from shoal_agent.shell.faults import Fault
from shoal_agent.shell.links import Link
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import (
    REASON_CHARS_MAX,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_WINDOW_BYTES_MAX,
    RELAY_WINDOW_MESSAGES_MAX,
)
from shoal_protocol.relay import BODY_BYTES_MAX, CircuitBox, RelayKind, decode_ack, encode_ack

PIECE_BYTES: Final = BODY_BYTES_MAX
"""What one message carries at most."""
ACK_S: Final = 0.02
"""A lone message is acknowledged after this, well before it would be sent again; several share the answer."""
ACK_PART: Final = 4
"""At once when so large a part of the window (a quarter) came: the sender never waits for a moment to pass."""
_OVERHEAD: Final = RELAY_MESSAGE_BYTES_MAX - BODY_BYTES_MAX


class Say(Protocol):
    """Publishes a message for the other end; ``in_vain``: this way nothing comes of it any more."""

    def __call__(self, message: bytes, *, in_vain: bool = False) -> None: ...


class Circuit:
    """A wire to ``peer``. ``ended`` is called once, when nothing more is to come of it."""

    def __init__(self, peer: NodeId, link: Link, box: CircuitBox, say: Say, ended: Callable[["Circuit"], None]) -> None:
        self.peer = peer
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._box = box
        self._say = say
        self._ended = ended
        self._sending = SendWindow()
        self._receiving = ReceiveWindow()
        self._unsent = bytearray()
        self._high = 0
        self._full = False
        self._flushing: asyncio.Handle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._acking: asyncio.TimerHandle | None = None
        self._owed_bytes = self._owed = 0
        """Came since the last acknowledgement."""
        self._acks = 0
        self._heard_at = self._loop.time()
        self._closing = self._over = False

    @property
    def drained(self) -> bool:
        """Whatever was written is acknowledged."""
        return not self._unsent and not len(self._sending)

    # --- the wire of a link -------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send ``data`` with whatever else is written in this turn."""
        if self._over:
            return
        self._unsent += data
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)
        if len(self._unsent) > self._high and not self._full:
            self._full = True
            self.link.pause_writing()

    def set_write_buffer_limits(self, high: int) -> None:
        """The link is told to pause when more than ``high`` bytes wait."""
        self._high = high

    def close(self) -> None:
        """Go when everything is acknowledged."""
        self._closing = True
        self._leave_if_drained()

    def abort(self) -> None:
        """Go at once."""
        if not self._over:
            self._say(self._box.seal(RelayKind.CLOSE, 0, b"closed"))
            self._finish()
            self._loop.call_soon(self.link.connection_lost, None)

    def _leave_if_drained(self) -> None:
        if self._closing and self.drained:
            self.abort()

    def _finish(self) -> None:
        self._over = True
        for timer in (self._flushing, self._again, self._acking):
            if timer is not None:
                timer.cancel()
        self._unsent.clear()
        self._ended(self)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what the window allows."""
        self._flushing = None
        while self._unsent and not self._over:
            waiting = len(self._unsent)
            size = -(-waiting // -(-waiting // PIECE_BYTES))
            if size + _OVERHEAD > self._sending.room_bytes:
                break
            message = self._box.seal(RelayKind.DATA, self._sending.following, bytes(self._unsent[:size]))
            del self._unsent[:size]
            self._sending.add(message, self._loop.time())
            self._say(message)
        self._arm()
        if self._full and not self._unsent and not self._over:
            self._full = False
            self.link.resume_writing()

    def _arm(self) -> None:
        """Wake up when the oldest message must be sent again."""
        if self._again is not None:
            self._again.cancel()
        due = self._sending.due
        self._again = None if due is None or self._over else self._loop.call_at(due, self._repeat)

    def _repeat(self) -> None:
        due = self._sending.again(self._loop.time())
        if due is not None:
            message, sent_at = due
            self._say(message, in_vain=self._heard_at < sent_at)
        self._arm()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def open(self, message: bytes) -> tuple[RelayKind, int, bytes]:
        """What a message says that claims to be of this circuit: RemoteProtocolError if it is not."""
        return self._box.open(message)

    def received(self, kind: RelayKind, number: int, body: bytes) -> None:
        """A message was opened."""
        if self._over:
            return
        self._heard_at = self._loop.time()
        if kind is RelayKind.DATA:
            self._take(number, body)
        elif kind is RelayKind.ACK:
            self._acknowledged(body)
        else:
            reason = body.decode(errors="replace")[:REASON_CHARS_MAX]
            self._finish()
            self.link.connection_lost(ConnectionError(f"the peer says: {reason}"))

    def _take(self, number: int, body: bytes) -> None:
        news = self._receiving.expects(number)
        bodies = self._receiving.take(number, body)
        if bodies is None:
            self.link.misbehave(Fault.CIRCUIT, f"message {number} is beyond the window")
            return
        self._owed += 1
        self._owed_bytes += len(body)
        for each in bodies:
            self.link.data_received(each)
        if self._over:
            return
        much = (
            self._owed_bytes * ACK_PART >= RELAY_WINDOW_BYTES_MAX or self._owed * ACK_PART >= RELAY_WINDOW_MESSAGES_MAX
        )
        if much or not news or not bodies:
            self._acknowledge()
        elif self._acking is None:
            self._acking = self._loop.call_later(ACK_S, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
        self._owed = self._owed_bytes = 0
        self._say(self._box.seal(RelayKind.ACK, self._acks, encode_ack(self._receiving.ack)))
        self._acks += 1

    def _acknowledged(self, body: bytes) -> None:
        try:
            known = self._sending.acknowledged(decode_ack(body), self._loop.time())
        except MalformedMessage:
            known = False
        if not known:
            self.link.misbehave(Fault.CIRCUIT, "it acknowledges what was never sent")
            return
        self._flush()
        self._leave_if_drained()
