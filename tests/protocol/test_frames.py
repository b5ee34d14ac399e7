import struct
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol.codec import KIND_OF, encode_header
from shoal_protocol.errors import LocalProtocolError, MalformedMessage, OversizedMessage
from shoal_protocol.frames import (
    PAYLOAD_KINDS,
    PREFIX_BYTES,
    UNMETERED,
    FrameReader,
    encode_frame,
    is_metered,
)
from shoal_protocol.headers import Activation, Credit, Hello, OpenSession, Probe, ServiceCall, ServiceResult, Token
from shoal_protocol.limits import HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX
from tests.support.protocol import HEADERS, PAYLOADS

CALL = ServiceCall(1, "sampler:0123456789abcdef", "sample", 500, 0)


def frame(header, payload=None) -> bytes:
    head, same = encode_frame(header, payload)
    assert same is payload
    return head + bytes(payload or b"")


def prefixed(kind: int, head: bytes, payload_bytes: int, magic: bytes = b"SH", version: int = 1) -> bytes:
    """A prefix with a sound checksum, whatever it says, and the header."""
    lengths = struct.pack(">2sBBII", magic, version, kind, len(head), payload_bytes)
    return lengths + struct.pack(">I", zlib.crc32(lengths + head)) + head


ALL = [(header, PAYLOADS.get(type(header))) for header in HEADERS]
STREAM = b"".join(frame(header, payload) for header, payload in ALL)


def read(chunks) -> list:
    reader = FrameReader()
    return [read for chunk in chunks for read in reader.feed(bytes(chunk))]


def unpacked(frames) -> list:
    return [(f.header, None if f.payload is None else bytes(f.payload)) for f in frames]


@pytest.mark.parametrize(("header", "payload"), ALL, ids=lambda part: type(part).__name__)
def test_every_frame_survives(header, payload):
    wire = frame(header, payload)
    (got,) = FrameReader().feed(wire)
    assert unpacked([got]) == [(header, payload)]
    assert got.wire_bytes == len(wire)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted))
def test_it_does_not_matter_where_the_stream_is_cut(cuts):
    edges = [0, *cuts, len(STREAM)]
    frames = read(STREAM[first:last] for first, last in pairwise(edges))
    assert unpacked(frames) == ALL
    assert sum(f.wire_bytes for f in frames) == len(STREAM)


def test_byte_by_byte():
    assert unpacked(read(STREAM[i : i + 1] for i in range(len(STREAM)))) == ALL


def test_the_layout_is_the_one_of_the_specification():
    wire = frame(CALL, b"payload")
    kind, head = encode_header(CALL)
    assert wire[:4] == b"SH\x01" + bytes([kind])
    assert struct.unpack(">II", wire[4:12]) == (len(head), 7)
    assert struct.unpack(">I", wire[12:16]) == (zlib.crc32(wire[:12] + head),)
    assert wire[16:] == head + b"payload"
    assert PREFIX_BYTES == 16


def test_a_payload_inside_one_chunk_is_a_window_into_it():
    payload = bytes(1 << 20)
    wire = frame(CALL, payload)
    (got,) = FrameReader().feed(wire)
    assert got.payload.obj is wire
    reader = FrameReader()
    first, second = wire[:30], wire[30:]
    assert reader.feed(first) == []
    rest = wire[len(wire) - len(payload) :]
    assert reader.feed(wire[30 : len(wire) - len(payload)]) == []
    (got,) = reader.feed(rest)
    assert got.payload.obj is rest
    assert len(second) > len(rest)


def test_a_payload_is_read_only_however_it_came():
    wire = frame(CALL, b"payload")
    for frames in (read([wire]), read([wire[:-3], wire[-3:]])):
        assert frames[0].payload.readonly


def test_a_payload_over_many_chunks_is_written_once():
    payload = bytes(range(256)) * (1 << 14)
    wire = frame(CALL, payload)
    chunks = [wire[i : i + 65_536] for i in range(0, len(wire), 65_536)]
    tracemalloc.start()
    try:
        (got,) = read(chunks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bytes(got.payload) == payload
    assert peak < len(payload) * 1.1


def test_many_tiny_chunks_cost_no_more_memory_than_their_bytes():
    wire = frame(CALL, bytes(100_000))
    tracemalloc.start()
    try:
        reader = FrameReader()
        for i in range(len(wire) - 1):
            assert reader.feed(wire[i : i + 1]) == []
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 150_000


def refused(wire: bytes, error: type[Exception]) -> None:
    """Refused, from the first of these bytes on that says so, and nothing is read after it."""
    reader = FrameReader()
    with pytest.raises(error):
        reader.feed(wire)
    with pytest.raises(LocalProtocolError):
        reader.feed(frame(Probe(1)))


@pytest.mark.parametrize("bit", range(PREFIX_BYTES * 8))
def test_a_corrupt_prefix_is_noticed(bit):
    wire = bytearray(frame(HEADERS[4], PAYLOADS[Activation]))
    wire[bit // 8] ^= 1 << bit % 8
    reader = FrameReader()
    with pytest.raises((MalformedMessage, OversizedMessage)):
        reader.feed(bytes(wire) + bytes(HEADER_BYTES_MAX))


def test_a_corrupt_header_is_noticed_before_its_payload_is_here():
    wire = bytearray(frame(HEADERS[4], PAYLOADS[Activation]))
    del wire[-len(PAYLOADS[Activation]) :]
    for index in range(PREFIX_BYTES, len(wire)):
        broken = bytes(wire[:index]) + bytes([wire[index] ^ 4]) + bytes(wire[index + 1 :])
        refused(broken, MalformedMessage)


def test_an_oversized_frame_is_refused_from_its_prefix_alone():
    refused(prefixed(5, b"", PAYLOAD_BYTES_MAX + 1)[:PREFIX_BYTES], OversizedMessage)
    lengths = struct.pack(">2sBBII", b"SH", 1, 5, HEADER_BYTES_MAX + 1, 0)
    refused(lengths + bytes(4), OversizedMessage)


@pytest.mark.parametrize("kind", [KIND_OF[cls] for cls in (*UNMETERED, Token)])
def test_a_payload_where_none_belongs_is_refused_from_the_prefix_alone(kind):
    assert kind not in PAYLOAD_KINDS
    refused(prefixed(kind, b"", 1)[:PREFIX_BYTES], MalformedMessage)


@pytest.mark.parametrize("wire", [prefixed(9, b"\x91\x01", 0, magic=b"HS"), prefixed(9, b"\x91\x01", 0, version=2)])
def test_another_protocol_or_version_is_refused(wire):
    refused(wire, MalformedMessage)


@pytest.mark.parametrize("kind", [0, 13, 255])
def test_an_unknown_kind_is_refused(kind):
    refused(prefixed(kind, b"\x91\x01", 0), MalformedMessage)


@pytest.mark.parametrize("head", [b"", b"\x90", b"\x91\xcc\x01", b"\x92\x01\x02", b"\x91\x01\x00", b"\x91\xa1x"])
def test_a_header_that_is_not_strict_is_refused_though_its_checksum_is_good(head):
    refused(prefixed(9, head, 0), MalformedMessage)


def test_an_activation_that_is_not_as_large_as_its_shape_is_refused_before_its_payload_is_here():
    kind, head = encode_header(HEADERS[4])
    for payload_bytes in (0, 23, 25, PAYLOAD_BYTES_MAX):
        refused(prefixed(kind, head, payload_bytes), MalformedMessage)


def test_what_came_after_the_error_is_not_read_and_a_changing_buffer_is_our_mistake():
    refused(b"GET / HTTP/1.1\r\n\r\n", MalformedMessage)
    with pytest.raises(LocalProtocolError):
        FrameReader().feed(bytearray(frame(Probe(1))))


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (Probe(1), b"x"),
        (HEADERS[4], b"x"),
        (HEADERS[4], None),
        (CALL, memoryview(bytes(PAYLOAD_BYTES_MAX + 1))),
        (Probe(-1), None),
    ],
)
def test_our_own_frame_that_nobody_would_take_is_our_mistake(header, payload):
    with pytest.raises(LocalProtocolError):
        encode_frame(header, payload)


def test_the_largest_payload_passes():
    payload = memoryview(bytes(PAYLOAD_BYTES_MAX))
    head, same = encode_frame(ServiceResult(1, "", None), payload)
    assert same is payload
    reader = FrameReader()
    assert reader.feed(head) == []
    (got,) = reader.feed(payload.obj)
    assert got.payload.nbytes == PAYLOAD_BYTES_MAX


def test_flow_control_is_not_subject_to_itself():
    assert [is_metered(header) for header in HEADERS] == [
        not type(header).__name__.startswith(("Hello", "Credit", "Probe", "Ping")) for header in HEADERS
    ]
    assert {Hello, Credit} < set(UNMETERED)
    assert is_metered(next(header for header in HEADERS if isinstance(header, OpenSession)))
