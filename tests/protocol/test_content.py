"""What is asked of a peer's files is bounded before anybody looks for them."""

import dataclasses

import msgpack
import pytest

from shoal_protocol.bounds import INTEGERS
from shoal_protocol.codec import KIND_OF, decode_header, encode_header
from shoal_protocol.content import ContentKind, ContentRequested, ContentServed
from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.ids import digest_of

ASKED = ContentRequested(7, ContentKind.BLOB, digest_of(b"weights"), 1024, 512)
ROW = [7, int(ContentKind.BLOB), digest_of(b"weights"), 1024, 512]


def test_a_request_is_its_row():
    assert decode_header(KIND_OF[ContentRequested], msgpack.packb(ROW)) == ASKED
    assert encode_header(ASKED) == (KIND_OF[ContentRequested], msgpack.packb(ROW))


@pytest.mark.parametrize("value", [-1, 0.5, None, "1", 2**63, True], ids=repr)
@pytest.mark.parametrize("index", [0, 3, 4])
def test_a_piece_is_a_place_in_a_file_or_refused(index, value):
    row = [value if place == index else field for place, field in enumerate(ROW)]
    with pytest.raises(MalformedMessage):
        decode_header(KIND_OF[ContentRequested], msgpack.packb(row))


@pytest.mark.parametrize("kind", [0, 3, "blob"])
def test_nothing_else_can_be_asked_for(kind):
    with pytest.raises(MalformedMessage):
        decode_header(KIND_OF[ContentRequested], msgpack.packb([7, kind, *ROW[2:]]))


def test_a_piece_is_never_larger_than_a_frame():
    _, most = INTEGERS["byte_count"]
    assert encode_header(dataclasses.replace(ASKED, byte_count=most))
    with pytest.raises(LocalProtocolError):
        encode_header(dataclasses.replace(ASKED, byte_count=most + 1))


def test_why_there_is_none_is_told_in_bounded_words():
    assert encode_header(ContentServed(7, 0, "it is not here"))
    with pytest.raises(LocalProtocolError):
        encode_header(ContentServed(7, 0, "x" * 100_000))
