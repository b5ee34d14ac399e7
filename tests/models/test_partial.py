"""Unfinished blobs: resumed from the disk alone, never visible before they are whole."""

import errno
import os
from random import Random

import pytest

from shoal_models.errors import CorruptShard, StoreBusy, StoreFull
from shoal_models.manifest import BlobRef
from shoal_models.partial import PartialBlob
from shoal_models.pieces import PIECE_BYTES, piece_span
from shoal_protocol.ids import digest_of

DATA = Random(1).randbytes(3 * PIECE_BYTES + 1000)
REF = BlobRef(digest=digest_of(DATA).hex(), bytes=len(DATA))
PIECES = [DATA[offset : offset + size] for offset, size in (piece_span(index, len(DATA)) for index in range(4))]
DIGESTS = [digest_of(piece) for piece in PIECES]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "partial" / REF.digest


@pytest.fixture
def begin():
    """Opens the blob at a path; closed at the end."""
    opened = []

    def opening(path, ref=REF) -> PartialBlob:
        opened.append(PartialBlob.open(path, ref, DIGESTS))
        return opened[-1]

    yield opening
    for blob in opened:
        blob.close()


def test_pieces_in_any_order_make_the_blob(begin, path, tmp_path):
    blob = begin(path)
    for index in (2, 0, 3, 1):
        assert index in blob.missing
        assert blob.put(index, PIECES[index])
    target = tmp_path / "blobs" / REF.digest
    blob.finish(target)
    blob.close()
    assert target.read_bytes() == DATA
    assert not path.exists()


@pytest.mark.parametrize("wrong", [b"", b"x" * PIECE_BYTES, PIECES[1], PIECES[0][:-1], PIECES[0] + b"x"])
def test_what_is_not_the_piece_leaves_no_trace(begin, path, wrong):
    blob = begin(path)
    assert not blob.put(0, wrong)
    assert blob.missing == {0, 1, 2, 3}
    assert path.stat().st_size == 0


def test_opened_again_only_what_does_not_match_is_missing(begin, path):
    blob = begin(path)
    for index in (0, 2, 3):
        assert blob.put(index, PIECES[index])
    blob.close()
    with path.open("r+b") as file:
        file.seek(2 * PIECE_BYTES + 5)
        file.write(b"?")
    assert begin(path).missing == {1, 2}


def test_a_file_that_grew_too_long_is_cut(begin, path):
    blob = begin(path)
    blob.put(3, PIECES[3])
    blob.close()
    with path.open("ab") as file:
        file.write(b"more")
    again = begin(path)
    assert again.missing == {0, 1, 2}
    assert path.stat().st_size == REF.bytes


def test_two_cannot_fill_the_same_blob(begin, path):
    blob = begin(path)
    with pytest.raises(StoreBusy):
        begin(path)
    blob.close()
    begin(path).close()


def test_pieces_that_are_not_the_blob_are_thrown_away(begin, path, tmp_path):
    other = BlobRef(digest="0" * 64, bytes=len(DATA))
    blob = begin(path, other)
    for index, piece in enumerate(PIECES):
        blob.put(index, piece)
    with pytest.raises(CorruptShard, match="not the blob"):
        blob.finish(tmp_path / "blobs" / other.digest)
    assert not path.exists()
    assert not (tmp_path / "blobs").exists()


def test_half_a_blob_is_never_published(begin, path, tmp_path):
    blob = begin(path)
    blob.put(0, PIECES[0])
    with pytest.raises(AssertionError):
        blob.finish(tmp_path / REF.digest)


def test_a_late_piece_after_the_end_is_not_written(begin, path):
    blob = begin(path)
    blob.close()
    blob.put(0, PIECES[0])
    assert path.stat().st_size == 0


def test_what_is_discarded_leaves_nothing_and_may_be_begun_again(begin, path):
    begin(path).discard()
    assert not path.exists()
    assert begin(path).missing == set(range(len(PIECES)))


def test_a_full_disk_says_so(begin, path, monkeypatch):
    blob = begin(path)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shoal_models.partial.os.pwrite", full)
    with pytest.raises(StoreFull, match="No space left"):
        blob.put(0, PIECES[0])
    assert 0 in blob.missing
