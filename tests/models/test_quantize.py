"""Codes and steps mean what they stand for, errors stay within half a step, exact sources stay exact."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shoal_models.errors import UnreadableModel
from shoal_models.quantize import INT8_ZERO, Quantized, pack_nibbles, quantize_int4, quantize_int8, quantize_rows
from shoal_models.source_tensors import SourceTensor, TensorType


def source(kind: TensorType, rows: int = 8, columns: int = 96, seed: int = 3) -> SourceTensor:
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return SourceTensor(f"t{seed}", kind, rows, columns, raw.view(np.uint8).reshape(rows, -1))


def unpack_nibbles(packed: np.ndarray, count: int) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)[..., :count]


def meaning(rows: Quantized) -> np.ndarray:
    """The rows as numbers, by the definition of MatMulNBits."""
    blocks = rows.scales.shape[1]
    if rows.zero_points is None:
        codes, zeros = rows.codes.astype(np.float32), np.float32(INT8_ZERO)
    else:
        codes = unpack_nibbles(rows.codes, 32).astype(np.float32)
        zeros = unpack_nibbles(rows.zero_points, blocks).astype(np.float32)[..., None]
    return ((codes - zeros) * rows.scales[..., None]).reshape(len(rows.scales), -1)


finite = arrays(np.float32, (3, 64), elements=st.floats(-1000, 1000, width=32))


@given(finite)
@settings(max_examples=60, deadline=None)
def test_8_bits_err_by_half_a_step_at_most(values):
    rows = quantize_int8(values)
    error = np.abs(meaning(rows) - values).reshape(3, 2, 32)
    assert (error <= rows.scales[..., None] * 0.501 + 1e-6).all()


@given(finite)
@settings(max_examples=60, deadline=None)
def test_4_bits_err_by_a_step_at_most_on_average(values):
    """The fit may clip an outlier for the sake of the rest; its squared error is never worse than plain rounding's."""
    rows = quantize_int4(values)
    error = np.square(meaning(rows) - values).reshape(3, 2, 32).sum(-1)
    cells = values.reshape(3, 2, 32)
    step = (np.maximum(cells.max(-1), 0) - np.minimum(cells.min(-1), 0)) / 15
    assert (error <= 32 * np.square(step) + 1e-6).all()


def test_q8_0_keeps_its_bytes():
    tensor = source(TensorType.Q8_0)
    rows = quantize_rows((tensor,), 8)
    np.testing.assert_array_equal(meaning(rows), tensor.dequantize())


def test_q4_0_is_exact_at_4_bits():
    tensor = source(TensorType.Q4_0)
    rows = quantize_rows((tensor,), 4)
    np.testing.assert_array_equal(meaning(rows), tensor.dequantize())


@pytest.mark.parametrize("kind", list(TensorType))
@pytest.mark.parametrize(("bits", "error_max"), [(8, 0.02), (4, 0.35)])
def test_every_source_at_every_width(kind, bits, error_max):
    tensor = source(kind)
    rows = quantize_rows((tensor,), bits)
    assert rows.codes.shape == (8, 3, 4 * bits)
    assert np.abs(meaning(rows) - tensor.dequantize()).max() < error_max


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_several_tensors_lie_one_under_the_other(bits):
    first, second = source(TensorType.Q4_1, seed=1), source(TensorType.Q8_0, rows=4, seed=2)
    rows = quantize_rows((first, second), bits)
    np.testing.assert_array_equal(meaning(rows)[:8], meaning(quantize_rows((first,), bits)))
    np.testing.assert_array_equal(meaning(rows)[8:], meaning(quantize_rows((second,), bits)))


def test_zeros_stay_zero():
    for rows in (quantize_int8(np.zeros((2, 32), np.float32)), quantize_int4(np.zeros((2, 32), np.float32))):
        assert not meaning(rows).any()


def test_an_odd_number_of_zero_points_is_padded():
    rows = quantize_int4(np.ones((2, 96), np.float32))
    assert rows.zero_points.shape == (2, 2)
    assert pack_nibbles(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_that_is_no_number_is_refused(value, bits):
    values = np.ones((1, 32), np.float32)
    values[0, 5] = value
    tensor = SourceTensor("blk.0.x", TensorType.F32, 1, 32, values.view(np.uint8))
    with pytest.raises(UnreadableModel, match=r"blk\.0\.x"):
        quantize_rows((tensor,), bits)
