"""Where a tensor's bytes are, and what the types are called."""

import gguf
import numpy as np
import pytest

from shoal_models.errors import UnreadableModel
from shoal_models.importers.gguf_file import GgufFile, TensorEntry, read_gguf
from shoal_models.importers.gguf_tensors import OTHER_TYPES, TYPE_CODES, source_tensor


def test_types_are_called_as_the_format_calls_them():
    theirs = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert {code: str(name) for code, name in {**TYPE_CODES, **OTHER_TYPES}.items()} == theirs


def test_every_tensor_of_a_file(tiny_gguf):
    file = read_gguf(tiny_gguf)
    for tensor in gguf.GGUFReader(tiny_gguf).tensors:
        found = source_tensor(file, file.tensors[tensor.name])
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(found.dequantize(), wanted.reshape(found.rows, found.columns))


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (TensorEntry("t", (2, 32), 8, 33), "ends at byte 101 of 100"),
        (TensorEntry("t", (2**40, 2**40), 0, 0), "truncated"),
        (TensorEntry("t", (0, 32), 0, 0), "truncated"),
        (TensorEntry("t", (2, 33), 2, 0), "33 columns"),
    ],
)
def test_tensors_that_are_not_there(entry, complaint):
    with pytest.raises(UnreadableModel, match=complaint):
        source_tensor(GgufFile({}, {}, np.zeros(100, np.uint8)), entry)


def test_a_stack_of_matrices_counts_all_rows():
    file = GgufFile({}, {}, np.zeros(2 * 3 * 32 * 4, np.uint8))
    tensor = source_tensor(file, TensorEntry("t", (2, 3, 32), 0, 0))
    assert (tensor.rows, tensor.columns) == (6, 32)
