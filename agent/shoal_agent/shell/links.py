"""One connection of the data plane, after its TLS handshake.

A connection belongs to the pair (who dialled, who answered) and carries frames one way, from the dialler; back come
only Credit and answers to probes. Both say Hello first::

    dialler                                   answerer
       | Hello  ------------------------------>  |
       |  <------------------------------ Hello  |      frames wait until the peer's Hello grants credit
       | frame, frame, frame, Probe  --------->  |      each frame is posted in the turn in which it arrives
       |  <--------------- Credit, ProbeAnswered |

This is an asyncio.Protocol and not a pair of streams because a token crosses it: no task is woken, nothing is copied
that need not be. A small frame leaves as one write, hence one TLS record and one packet. A large payload leaves in
slices and only as fast as the socket takes them, so that no second copy of it, encrypted, piles up in memory.

Pings go ahead of all that waits, outside the credit: they ask whether the peer lives, not whether it keeps up. Bulk
(pieces of shards, rows of KV) waits in a line of its own and goes one frame at a time, when nothing else wants to leave
and half of the credit is still there. So a ping or a token waits for the rest of one frame and for what socket and TLS
hold (200 KB): 0.1 s over 4 MB/s. Pieces are dropped if too many wait: whoever wants one asks again. For rows nobody
would, so they are kept: a stream of them has one frame under way, which bounds what waits and lets sessions take turns.

A link ends once, for one reason. What the peer did wrong is reported apart, by a word from ``Fault``, because it is
counted; everything a peer can do ends in one of the two, never in an exception.
"""

import asyncio
import ssl
from collections import deque
from typing import Final, cast

from shoal_agent.core.facts import LinkFault
from shoal_agent.shell.credit import ReceiveCredit, SendCredit
from shoal_agent.shell.faults import Fault
from shoal_agent.shell.link_ends import Events, Here, Pace, Wire
from shoal_agent.shell.sockets import without_delay
from shoal_agent.shell.stretch import Stretch
from shoal_protocol.content import ContentServed
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.frames import URGENT, Frame, FrameReader, Payload, encode_frame, is_metered
from shoal_protocol.headers import Credit, Header, Hello, Probe, ProbeAnswered
from shoal_protocol.ids import Incarnation, NodeId
from shoal_protocol.limits import (
    BULK_FRAMES_MAX,
    CREDIT_BYTES,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUE_FRAMES_MAX,
    URGENT_FRAMES_MAX,
)

HELLO_VERSION: Final = 1
COALESCE_BYTES: Final = 16 * 1024
"""Up to one TLS record, copying head and payload together costs less than a second record and its packet."""
SLICE_BYTES: Final = 256 * 1024
"""How much of a large payload is encrypted at a time: 0.2 ms of the loop, and what a socket takes at once."""
BULK_SLICE_BYTES: Final = 32 * 1024
"""How much of a piece is encrypted at a time; what is encrypted cannot be overtaken."""
WRITE_BUFFER_BYTES: Final = 16 * 1024
"""A link counts as full with so much encrypted and not taken by the socket; asyncio would let 512 KiB pile up."""

Queue = deque[tuple[bytes, Payload | None, int]]
Waiting = tuple[Queue, deque[bytes], deque[tuple[bytes, Payload, int]]]
"""Frames as they were encoded, with what they take of the credit; pings; bulk."""


class Link(asyncio.Protocol):
    """One connection. ``dialled`` is whom we called, None if somebody called us. Frames may be sent from the start.

    ``relayed``: through a broker, by a circuit that knows whose it is.
    """

    def __init__(self, here: Here, events: Events, dialled: NodeId | None, *, relayed: bool = False) -> None:
        self.dialled = dialled
        self.relayed = relayed
        self.peer: NodeId | None = None
        self.incarnation = Incarnation(0)
        """The peer's, from its Hello."""
        self.was_open = False
        """The peer's Hello came, whatever happened since."""
        self.finished = asyncio.get_running_loop().create_future()
        """Done when the socket is gone."""
        self._loop = asyncio.get_running_loop()
        self._here = here
        self._events = events
        self._transport: Wire | None = None
        self._reader = FrameReader()
        self._stretch = Stretch()
        self._queue: Queue = deque()
        self._queued_bytes = 0
        self._urgent: deque[bytes] = deque(maxlen=URGENT_FRAMES_MAX)
        self._bulk: deque[tuple[bytes, Payload, int]] = deque()
        self._rest: memoryview | None = None
        self._slice_bytes = SLICE_BYTES
        self._sending = SendCredit(0)
        self._receiving = ReceiveCredit(here.credit_bytes)
        self._ended = False
        self._writable = True
        self._asked = False
        self._nonce = 0
        self._begun_at = self._loop.time()
        self._heard_at = self._begun_at

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, header: Header, payload: Payload | None) -> None:
        """Send now if the credit allows, else in turn; too much waiting ends the link."""
        assert self.dialled is not None, "frames go on the connection this node dialled"
        if self._ended:
            return
        head, payload = encode_frame(header, payload)
        if payload is None and isinstance(header, URGENT):
            self._urgent.append(head)
            if self.was_open:
                self._pump()
            return
        wire_bytes = len(head) + (0 if payload is None else memoryview(payload).nbytes)
        idle = self.was_open and self._writable and self._rest is None and not self._queue
        if idle and self._sending.covers(wire_bytes):
            self._sending.spend(wire_bytes)
            self._write(head, payload)
            if self._rest is not None:
                self._pump()
            return
        self._queue.append((head, payload, wire_bytes))
        self._queued_bytes += wire_bytes
        if len(self._queue) > SEND_QUEUE_FRAMES_MAX or self._queued_bytes > SEND_QUEUE_BYTES_MAX:
            self.end(f"too far behind: {len(self._queue)} frames of {self._queued_bytes} bytes wait")
            return
        if self.was_open:
            self._pump()

    def send_bulk(self, header: Header, payload: Payload) -> None:
        """Send when nothing else wants to leave; a piece of content is dropped if too much waits."""
        assert self.dialled is not None, "frames go on the connection this node dialled"
        if self._ended or (isinstance(header, ContentServed) and len(self._bulk) >= BULK_FRAMES_MAX):
            return
        head, _ = encode_frame(header, payload)
        self._bulk.append((head, payload, len(head) + memoryview(payload).nbytes))
        if self.was_open:
            self._pump()

    @property
    def waiting(self) -> Waiting:
        """What was not begun to be written."""
        return self._queue, self._urgent, self._bulk

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing is half written."""
        return self._rest is None and not any(self.waiting)

    def take_over(self, waiting: Waiting) -> None:
        """Send first what waits on another link to the same peer, which never stood."""
        queue, urgent, bulk = waiting
        self._queue.extendleft(reversed(queue))
        self._queued_bytes += sum(wire_bytes for _, _, wire_bytes in queue)
        self._urgent.extend(urgent)
        self._bulk.extend(bulk)

    def _write(self, head: bytes, payload: Payload | None, slice_bytes: int = SLICE_BYTES) -> None:
        """Begin a frame; of a large one only the head, the payload is left to ``_pump``."""
        transport = self._transport
        assert transport is not None
        if payload is None:
            transport.write(head)
        elif len(payload) <= COALESCE_BYTES:
            transport.write(b"".join((head, payload)))
        else:
            transport.write(head)
            self._rest, self._slice_bytes = memoryview(payload), slice_bytes

    def _pump(self) -> None:
        """Write whatever may be written: the rest of a payload, then what is queued."""
        transport = self._transport
        assert transport is not None
        while self._writable and not self._ended:
            if self._rest is not None:
                piece, rest = self._rest[: self._slice_bytes], self._rest[self._slice_bytes :]
                self._rest = rest if rest.nbytes else None
                transport.write(piece)
                continue
            if self._urgent:
                transport.write(self._urgent.popleft())
                continue
            if not self._queue:
                if not self._bulk or not self._begin_bulk():
                    return
                continue
            head, payload, wire_bytes = self._queue[0]
            if not self._sending.covers(wire_bytes):
                if self._sending.must_ask(wire_bytes):
                    self._ask()
                return
            del self._queue[0]
            self._queued_bytes -= wire_bytes
            self._sending.spend(wire_bytes)
            self._write(head, payload)

    def _begin_bulk(self) -> bool:
        """Begin one frame of bulk if the credit allows it."""
        head, payload, wire_bytes = self._bulk[0]
        if not self._sending.spares(wire_bytes):
            self._ask()
            return False
        del self._bulk[0]
        self._sending.spend(wire_bytes)
        self._write(head, payload, BULK_SLICE_BYTES)
        return True

    def _ask(self) -> None:
        """Make the receiver return what it is saving up."""
        if not self._asked:
            self._asked = True
            self._say(self._next_probe())

    def _next_probe(self) -> Probe:
        self._nonce += 1
        return Probe(self._nonce)

    def _say(self, header: Header) -> None:
        """Write a small frame outside flow control."""
        assert self._transport is not None
        self._transport.write(encode_frame(header, None)[0])

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done: learn who it is."""
        without_delay(transport.get_extra_info("socket"))
        session: ssl.SSLObject = transport.get_extra_info("ssl_object")
        owner = self._here.identify(session.getpeercert(binary_form=True) or b"")
        self.begin(cast("asyncio.Transport", transport), owner)

    def begin(self, wire: Wire, owner: NodeId | None) -> None:
        """There is a way to somebody, who is the member ``owner``: say Hello."""
        self._transport = wire
        if self._ended:
            wire.abort()
            return
        wire.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self.peer = owner
        if self.peer is None:
            self.misbehave(Fault.CERTIFICATE, "its certificate is not in the roster")
            return
        if self.dialled is not None and self.peer != self.dialled:
            self.misbehave(Fault.IDENTITY, f"{self.peer} answered at its address")
            return
        self._begun_at = self._heard_at = self._loop.time()
        self._events.identified(self)
        self._say(Hello(HELLO_VERSION, self._here.node, self._here.incarnation, self._here.credit_bytes))

    def data_received(self, data: bytes) -> None:
        """Read frames and deal with each at once."""
        if self._ended:
            return
        self._heard_at = self._loop.time()
        try:
            frames = self._reader.feed(data)
        except RemoteProtocolError as fault:
            self.misbehave(fault.reason, str(fault))
            return
        completed, midway = bool(frames), self._reader.midway
        rate = self._stretch.came(len(data), self._heard_at, completed=completed, midway=midway)
        if rate is not None:
            self._events.timed(self, rate)
        for frame in frames:
            self._take(frame)
            if self._ended:
                return

    def pause_writing(self) -> None:
        """The socket is full."""
        self._writable = False
        if self.dialled is None:
            # Answers are a few bytes per megabyte: only a peer that reads nothing can let them pile up.
            self.misbehave(Fault.UNREAD, "it reads none of our answers")

    def resume_writing(self) -> None:
        """The peer's machine took what was waiting: it lives."""
        self._writable = True
        self._heard_at = self._loop.time()
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.end(f"connection lost: {exc}" if exc is not None else "closed by the peer", LinkFault.BROKEN)
        if not self.finished.done():
            self.finished.set_result(None)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        header = frame.header
        if not self.was_open:
            self._greet(header)
        elif self.dialled is not None:
            self._take_answer(header)
        elif is_metered(header):
            self._take_metered(frame)
        elif isinstance(header, URGENT):
            self._events.received(self, frame)
        elif isinstance(header, Probe):
            self._return(self._receiving.settle())
            self._say(ProbeAnswered(header.nonce))
        else:
            self.misbehave(Fault.HELLO if isinstance(header, Hello) else Fault.DIRECTION, f"{type(header).__name__}")

    def _greet(self, header: Header) -> None:
        if not isinstance(header, Hello) or header.version != HELLO_VERSION or header.node != self.peer:
            self.misbehave(Fault.HELLO, f"no Hello of version {HELLO_VERSION} from {self.peer}")
            return
        self.was_open = True
        self.incarnation = header.incarnation
        # A larger grant than ours would only let more pile up in this process.
        self._sending = SendCredit(min(header.credit_bytes, CREDIT_BYTES))
        self._events.opened(self)
        if not self._ended:
            self._pump()

    def _take_answer(self, header: Header) -> None:
        if isinstance(header, Credit):
            if not self._sending.give_back(header.credit_bytes):
                self.misbehave(Fault.CREDIT, "it returned more than it got")
                return
            self._asked = False
            self._pump()
        elif not isinstance(header, ProbeAnswered):
            self.misbehave(Fault.HELLO if isinstance(header, Hello) else Fault.DIRECTION, f"{type(header).__name__}")

    def _take_metered(self, frame: Frame) -> None:
        if not self._receiving.receive(frame.wire_bytes):
            self.misbehave(Fault.CREDIT, "it sent without credit")
            return
        self._events.received(self, frame)
        if not self._ended:
            self._return(self._receiving.consume(frame.wire_bytes))

    def _return(self, credit_bytes: int) -> None:
        if credit_bytes:
            self._say(Credit(credit_bytes))

    # --- time and end ------------------------------------------------------------------------------------------------

    def tick(self, now: float, pace: Pace) -> None:
        """Look at the clock: probe what is quiet, end what is silent. ``now`` is the loop's time."""
        if self._transport is None or self._ended:
            return
        quiet_s = now - self._heard_at
        if not self.was_open and now - self._begun_at >= pace.hello_s:
            self.misbehave(Fault.HELLO, f"no Hello within {pace.hello_s} s")
        elif quiet_s >= pace.silence_s:
            self.end(f"silent for {quiet_s:.1f} s", LinkFault.SILENT)
        elif quiet_s >= pace.quiet_s and self.was_open and self.dialled and self._writable and self._rest is None:
            self._say(self._next_probe())

    def excuse(self, now: float) -> None:
        """This process itself was asleep: nobody else's silence counts."""
        self._heard_at = now

    def misbehave(self, fault: str, detail: str) -> None:
        self._events.misbehaved(self, fault)
        self.end(f"{fault}: {detail}")

    def end(self, reason: str, fault: LinkFault = LinkFault.OTHER) -> None:
        """Hang up, at once; what waits is dropped."""
        if self._ended:
            return
        self._ended = True
        self._queue.clear()
        self._queued_bytes = 0
        self._urgent.clear()
        self._bulk.clear()
        self._rest = None
        if self._transport is not None:
            self._transport.abort()
        self._events.ended(self, reason, fault)

    async def close(self, within_s: float) -> None:
        """Let what waits and may be sent leave, bulk apart, then hang up; quiet, because it is we who go."""
        self._bulk.clear()
        if self._transport is not None and self.was_open and not self._ended:
            self._transport.set_write_buffer_limits(SEND_QUEUE_BYTES_MAX)
            self._writable = True
            self._pump()
        self._ended = True
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self.finished)
        except TimeoutError:
            self._transport.abort()
            await self.finished
