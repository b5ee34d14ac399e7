"""Our reader against the `gguf` package's, and against files that are cut, bent or invented."""

import struct
from contextlib import suppress

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_models.errors import UnreadableModel
from shoal_models.importers.gguf_file import read_gguf


def test_it_reads_what_the_reference_reads(tiny_gguf):
    ours, theirs = read_gguf(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert dict(ours.fields) == fields
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        entry = ours.tensors[tensor.name]
        assert entry.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert entry.type_code == tensor.tensor_type.value
        assert entry.offset == tensor.data_offset
        found = ours.data[entry.offset : entry.offset + tensor.n_bytes]
        np.testing.assert_array_equal(found, tensor.data.reshape(-1).view(np.uint8))


def test_every_truncation_of_the_description_is_refused(tiny_gguf, tmp_path):
    """Cut anywhere before the tensors' bytes: one clear error, whatever lies at the cut."""
    whole = tiny_gguf.read_bytes()
    end = min(entry.offset for entry in read_gguf(tiny_gguf).tensors.values())
    path = tmp_path / "cut.gguf"
    for length in [*range(64), *range(64, end - 32, 61)]:
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableModel):
            read_gguf(path)


@given(at=st.integers(0, 4000), value=st.binary(min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_bent_bytes_are_read_or_refused(tiny_gguf, tmp_path_factory, at, value):
    data = bytearray(tiny_gguf.read_bytes())
    data[at : at + len(value)] = value
    path = tmp_path_factory.getbasetemp() / "bent.gguf"
    path.write_bytes(data)
    with suppress(UnreadableModel):
        assert read_gguf(path).data.nbytes == len(data)


def header(tensors: int, fields: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "too short"),
        (b"PK\x03\x04" + bytes(100), "does not begin with 'GGUF'"),
        (header(0, 0, version=9), "version 9"),
        (header(2**60, 0), "number of tensors is"),
        (header(0, 2**60), "number of fields is"),
        (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 4, 2**60)), "length of k is"),
        (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 4, 1000)), "k at byte"),
        (header(0, 1, text(b"k") + struct.pack("<IQ", 8, 2**62)), "truncated"),
        (header(0, 1, text(b"k") + struct.pack("<I", 77)), "unknown type 77"),
        (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "unknown type 9"),
        (header(0, 1, text(b"\xff") + struct.pack("<IB", 0, 1)), "not UTF-8"),
        (header(0, 2, 2 * (text(b"k") + struct.pack("<IB", 0, 1))), "twice"),
        (header(1, 0, text(b"t") + struct.pack("<I", 99)), "rank 99"),
        (header(2, 0, 2 * (text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0))), "same name"),
        (header(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 3)), "alignment is 3"),
    ],
)
def test_invented_files(data, complaint, tmp_path):
    path = tmp_path / "invented.gguf"
    path.write_bytes(data)
    with pytest.raises(UnreadableModel, match=complaint):
        read_gguf(path)
