"""Every block type against the `gguf` package's own definition of it."""

import gguf
import numpy as np
import pytest

from shoal_models.source_tensors import SourceTensor, TensorType, unpack

ROWS, COLUMNS = 12, 96


def stored(kind: TensorType, rotary_heads: int = 0, scale: float = 1.0) -> tuple[SourceTensor, np.ndarray]:
    """A random tensor as a file holds it, and what the reference says it means."""
    values = (np.random.default_rng(7).standard_normal((ROWS, COLUMNS)) * scale).astype(np.float32)
    code = gguf.GGMLQuantizationType[kind]
    raw = gguf.quants.quantize(values, code)
    meaning = gguf.quants.dequantize(raw, code)
    return SourceTensor("t", kind, ROWS, COLUMNS, raw.view(np.uint8).reshape(ROWS, -1), rotary_heads), meaning


@pytest.mark.parametrize("kind", list(TensorType))
@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_dequantising_agrees_with_the_reference(kind, scale):
    tensor, meaning = stored(kind, scale=scale)
    found = tensor.dequantize()
    assert found.dtype == np.float32
    assert found.shape == (ROWS, COLUMNS)
    np.testing.assert_array_equal(found, meaning)


@pytest.mark.parametrize("kind", [TensorType.Q4_0, TensorType.Q4_1, TensorType.Q8_0])
def test_codes_scales_and_offsets_mean_the_same(kind):
    tensor, meaning = stored(kind)
    blocks = unpack(kind, tensor.raw)
    values = blocks.codes * blocks.scales[..., None] + blocks.offsets[..., None]
    np.testing.assert_allclose(values.reshape(ROWS, COLUMNS), meaning, atol=1e-4)


@pytest.mark.parametrize("kind", list(TensorType))
def test_rotary_rows_are_put_back(kind):
    """Three heads of four rows: file order 0 2 1 3 of each head becomes 0 1 2 3."""
    tensor, meaning = stored(kind, rotary_heads=3)
    order = [head * 4 + row for head in range(3) for row in (0, 2, 1, 3)]
    np.testing.assert_array_equal(tensor.dequantize(), meaning[order])


def test_a_block_by_hand():
    """d = 0.5, codes 0..31 as signed bytes from -16."""
    raw = np.concatenate([np.array([0.5], "<f2").view(np.uint8), np.arange(-16, 16, dtype=np.int8).view(np.uint8)])
    tensor = SourceTensor("t", TensorType.Q8_0, 1, 32, raw.reshape(1, 34))
    np.testing.assert_array_equal(tensor.dequantize()[0], np.arange(-16, 16) * 0.5)
