"""Frames of the data plane: a prefix, a header, a payload, back to back on one byte stream.

::

    0       2         3      4              8               12       16
    | magic | version | kind | header_bytes | payload_bytes | crc32  | header ... | payload ...

All numbers are big-endian. The CRC covers the twelve bytes before it and the header, so a corrupt length or header
is noticed before anything is done on its word; the payload has no checksum of its own because TLS authenticates
every byte already: the CRC is there to tell a broken *program* (a stream out of step) from a broken header.

The reader takes whatever chunks the socket gives. A payload that lies within one chunk is a window into that chunk;
one that spans chunks is written once, piece by piece, into a buffer of exactly its size. The sizes in the prefix
are judged before a byte is kept for them, and an Activation's payload must have the size its dtype and shape say,
so a reader holds at most one head (16 KiB) and one payload (``PAYLOAD_BYTES_MAX``).
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from shoal_protocol.codec import KIND_OF, decode_header, encode_header
from shoal_protocol.content import ContentServed
from shoal_protocol.errors import LocalProtocolError, MalformedMessage, OversizedMessage, RemoteProtocolError
from shoal_protocol.headers import (
    Activation,
    Credit,
    Gossip,
    Header,
    Hello,
    KvRows,
    OpenSession,
    Ping,
    PingAnswered,
    PingReported,
    PingRequested,
    Probe,
    ProbeAnswered,
    ServiceCall,
    ServiceResult,
)
from shoal_protocol.journal import JournalServed, JournalWritten
from shoal_protocol.limits import HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX
from shoal_protocol.tensors import TensorSpec

MAGIC: Final = b"SH"
FRAME_VERSION: Final = 1
_LENGTHS: Final = struct.Struct(">2sBBII")
_CRC: Final = struct.Struct(">I")
PREFIX_BYTES: Final = _LENGTHS.size + _CRC.size

PAYLOAD_KINDS: Final = frozenset(
    KIND_OF[cls]
    for cls in (
        OpenSession,
        Activation,
        ServiceCall,
        ServiceResult,
        Gossip,
        ContentServed,
        KvRows,
        JournalWritten,
        JournalServed,
    )
)
"""Kinds that may carry a payload; any other with one is malformed."""

URGENT: Final = (Ping, PingAnswered, PingRequested, PingReported)
"""Headers by which nodes ask whether they live: they wait for nothing but the rest of a frame that is being written."""
UNMETERED: Final = (Hello, Credit, Probe, ProbeAnswered, *URGENT)
"""Headers outside flow control: they carry it, or measure whether the link or the peer lives. None has a payload."""

Payload = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it arrived.

    ``payload`` is read-only and None if empty; ``wire_bytes`` (prefix, header and payload) is what credit counts.
    """

    header: Header
    payload: memoryview | None
    wire_bytes: int


def is_metered(header: Header) -> bool:
    """Whether a frame with ``header`` consumes credit."""
    return not isinstance(header, UNMETERED)


def encode_frame(header: Header, payload: Payload | None) -> tuple[bytes, Payload | None]:
    """Prefix and header as one byte string, and the payload untouched, to be written after it.

    LocalProtocolError if the header does not allow this payload.
    """
    kind, head = encode_header(header)
    payload_bytes = 0 if payload is None else memoryview(payload).nbytes
    try:
        _check_sizes(kind, len(head), payload_bytes)
        _check_payload(header, payload_bytes)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"unfit to send: {error}") from error
    lengths = _LENGTHS.pack(MAGIC, FRAME_VERSION, kind, len(head), payload_bytes)
    crc = zlib.crc32(head, zlib.crc32(lengths))
    return b"".join((lengths, _CRC.pack(crc), head)), payload


def _check_sizes(kind: int, header_bytes: int, payload_bytes: int) -> None:
    """What can be judged from the prefix alone."""
    if header_bytes > HEADER_BYTES_MAX:
        raise OversizedMessage(f"header of {header_bytes} bytes, at most {HEADER_BYTES_MAX}")
    if payload_bytes > PAYLOAD_BYTES_MAX:
        raise OversizedMessage(f"payload of {payload_bytes} bytes, at most {PAYLOAD_BYTES_MAX}")
    if payload_bytes and kind not in PAYLOAD_KINDS:
        raise MalformedMessage(f"a frame of kind {kind} carries no payload")


def _check_payload(header: Header, payload_bytes: int) -> None:
    """What can be judged once the header is known, before the payload is here."""
    if isinstance(header, Activation):
        expected = TensorSpec(header.dtype, header.shape).byte_count
        if payload_bytes != expected:
            raise MalformedMessage(f"activation of {payload_bytes} bytes, its shape {header.shape} says {expected}")


class FrameReader:
    """Bytes in, frames out. One per connection; after the first error of the peer's it refuses to go on."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._head_bytes = PREFIX_BYTES
        self._header: Header | None = None
        self._payload_bytes = 0
        self._payload = bytearray()
        self._filled = 0
        self._poisoned = False

    @property
    def midway(self) -> bool:
        """Whether a frame has begun whose payload is not all here."""
        return self._header is not None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes, in order.

        RemoteProtocolError if the peer broke the protocol: nothing of ``data`` is accepted then and the connection is
        to be closed; LocalProtocolError if it is fed again. ``data`` must be immutable, payloads are windows into it.
        """
        if self._poisoned or type(data) is not bytes:
            raise LocalProtocolError("fed after an error, or with a buffer that may change")
        try:
            return self._read(memoryview(data))
        except RemoteProtocolError:
            self._poisoned = True
            self._payload = bytearray()
            raise

    def _read(self, rest: memoryview) -> list[Frame]:
        frames: list[Frame] = []
        while True:
            if self._header is None:
                rest = self._fill_head(rest)
            header = self._header
            if header is None:
                return frames
            whole = None
            if self._payload_bytes:
                whole, rest = self._fill_payload(rest)
                if whole is None:
                    return frames
            frames.append(Frame(header, whole, self._head_bytes + self._payload_bytes))
            self._begin()

    def _begin(self) -> None:
        self._head = bytearray()
        self._head_bytes = PREFIX_BYTES
        self._header = None
        self._payload = bytearray()
        self._filled = 0

    def _fill_head(self, rest: memoryview) -> memoryview:
        """Take bytes for prefix and header; sets ``_header`` once both are here and sound."""
        rest = self._fill_to(rest, PREFIX_BYTES)
        if len(self._head) < PREFIX_BYTES:
            return rest
        magic, version, kind, header_bytes, payload_bytes = _LENGTHS.unpack_from(self._head)
        if magic != MAGIC or version != FRAME_VERSION:
            raise MalformedMessage(f"not a frame of version {FRAME_VERSION}: {bytes(self._head[:3])!r}")
        _check_sizes(kind, header_bytes, payload_bytes)
        self._head_bytes = PREFIX_BYTES + header_bytes
        rest = self._fill_to(rest, self._head_bytes)
        if len(self._head) < self._head_bytes:
            return rest
        head = bytes(self._head)
        if _CRC.unpack_from(head, _LENGTHS.size)[0] != zlib.crc32(
            head[PREFIX_BYTES:], zlib.crc32(head[: _LENGTHS.size])
        ):
            raise MalformedMessage("corrupt frame header: checksum does not match")
        header = decode_header(kind, head[PREFIX_BYTES:])
        _check_payload(header, payload_bytes)
        self._payload_bytes = payload_bytes
        self._header = header
        return rest

    def _fill_to(self, rest: memoryview, head_bytes: int) -> memoryview:
        missing = max(0, head_bytes - len(self._head))
        self._head += rest[:missing]
        return rest[missing:]

    def _fill_payload(self, rest: memoryview) -> tuple[memoryview | None, memoryview]:
        """The whole payload and what follows it; None in place of the payload while bytes are missing."""
        missing = self._payload_bytes - self._filled
        if not self._filled and len(rest) >= missing:
            return rest[:missing], rest[missing:]
        if not self._payload:
            self._payload = bytearray(self._payload_bytes)
        piece = rest[:missing]
        self._payload[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)
        if self._filled < self._payload_bytes:
            return None, rest[missing:]
        return memoryview(self._payload).toreadonly(), rest[missing:]
