"""Block-wise quantisation in the layout of ``MatMulNBits``: 32 values share one step.

A block of a row is stored as codes c and a step s (and, for 4 bits, a zero point z): w = s * (c - z).

- **8 bits**, symmetric, z = 128: s = max|w| / 127. Against the exact values of a 4-bit file this costs a mean KL of
  0.004, far below what the 4-bit file itself lost. Q8_0 blocks have this very form, so their bytes are kept.
- **4 bits**, asymmetric, integer z in 0..15. Q4_0 has this form (z = 8) and is kept exactly; any other source is fitted
  by trying a few (s, z) around the block's range and keeping the least squared error. Q4_1's offset is no multiple of
  its step, so this rounds twice (KL about 0.19): smaller, measurably worse, never the default. A floating zero point
  would be exact, but no packed kernel takes it (20 times slower).

Blocks are always 32 wide: that is what the sources use, and the runtime has returned zeros for wide blocks before.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_models.errors import UnreadableModel
from shoal_models.ports import ByteArray, FloatArray
from shoal_models.source_tensors import BLOCK_VALUES, Blocks, SourceTensor, TensorType, unpack

INT8_ZERO: Final = 128
_INT8_MAX: Final = 127
_INT4_MAX: Final = 15
_Q4_0_ZERO: Final = 8
_STEP_MIN: Final = 1e-8
"""A block of zeros has a step too; any would do."""
_STEP_FACTORS: Final = (1.0, 0.97, 0.94, 1.03)
"""Steps tried around (max - min) / 15: a slightly smaller one clips an outlier and serves the rest better."""
_ZERO_SHIFTS: Final = (0, -1, 1)
_ROWS_PER_PASS: Final = 256
"""Rows fitted at once: the search's temporaries (about 20 times a row) stay in cache and in little memory."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows of one or several tensors, quantised."""

    codes: ByteArray
    """uint8 [rows, blocks, 4 * bits]; 4-bit codes lie low nibble first."""
    scales: FloatArray
    """[rows, blocks]."""
    zero_points: ByteArray | None
    """uint8 [rows, ceil(blocks / 2)], low nibble first; None means 128."""


def quantize_rows(tensors: tuple[SourceTensor, ...], bits: int) -> Quantized:
    """The rows of all ``tensors``, one under the other. UnreadableModel if a weight is no finite number."""
    parts = [_quantize(tensor, bits) for tensor in tensors]
    for tensor, part in zip(tensors, parts, strict=True):
        if not np.isfinite(part.scales).all():
            raise UnreadableModel(f"tensor {tensor.name} holds values that are not finite")
    if len(parts) == 1:
        return parts[0]
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return Quantized(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(zero_points) if zero_points else None,
    )


def quantize_int8(values: FloatArray) -> Quantized:
    """Symmetric 8-bit codes of ``values`` [rows, columns], columns a multiple of 32."""
    cells = values.reshape(values.shape[0], -1, BLOCK_VALUES)
    peak = np.maximum(cells.max(axis=-1), -cells.min(axis=-1))
    scales = np.maximum(peak / np.float32(_INT8_MAX), np.float32(_STEP_MIN))
    codes = cells / scales[..., None]
    np.rint(codes, out=codes)
    codes += INT8_ZERO
    with np.errstate(invalid="ignore"):  # not-a-number is refused by the caller, by its scale
        return Quantized(codes.astype(np.uint8), scales, None)


def quantize_int4(values: FloatArray) -> Quantized:
    """Asymmetric 4-bit codes of ``values`` [rows, columns], columns a multiple of 32."""
    cells = values.reshape(values.shape[0], -1, BLOCK_VALUES)
    fits = [_fit_int4(cells[at : at + _ROWS_PER_PASS]) for at in range(0, len(cells), _ROWS_PER_PASS)]
    codes, scales, zeros = (np.concatenate(column) for column in zip(*fits, strict=True))
    return Quantized(pack_nibbles(codes), scales, pack_nibbles(zeros))


def pack_nibbles(values: ByteArray) -> ByteArray:
    """Pairs along the last axis, the first of each in the low nibble; an odd end is filled with zero."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(values[..., 0::2] | (values[..., 1::2] << 4))


def _quantize(tensor: SourceTensor, bits: int) -> Quantized:
    if bits == 8 and tensor.type is TensorType.Q8_0:  # noqa: PLR2004  (eight bits are eight bits)
        blocks = unpack(tensor.type, tensor.ordered())
        return Quantized(blocks.codes, blocks.scales, None)
    if bits == 4 and tensor.type is TensorType.Q4_0:  # noqa: PLR2004  (and four are four)
        return _keep_q4_0(unpack(tensor.type, tensor.ordered()))
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged file's infinities are refused afterwards
        values = tensor.dequantize()
        return quantize_int8(values) if bits == 8 else quantize_int4(values)  # noqa: PLR2004  (as above)


def _keep_q4_0(blocks: Blocks) -> Quantized:
    zeros = np.full(blocks.scales.shape, _Q4_0_ZERO, np.uint8)
    return Quantized(pack_nibbles(blocks.codes), blocks.scales, pack_nibbles(zeros))


def _fit_int4(cells: FloatArray) -> tuple[ByteArray, FloatArray, ByteArray]:
    """Codes [rows, blocks, 32], steps and zero points [rows, blocks] with the least squared error tried."""
    low = np.minimum(cells.min(axis=-1), 0)
    high = np.maximum(cells.max(axis=-1), 0)
    best_error = np.full(low.shape, np.inf, np.float32)
    best_step = np.maximum((high - low) / _INT4_MAX, _STEP_MIN).astype(np.float32)
    best_zero = np.zeros(low.shape, np.float32)
    for factor in _STEP_FACTORS:
        step = np.maximum((high - low) / _INT4_MAX * factor, _STEP_MIN).astype(np.float32)
        for shift in _ZERO_SHIFTS:
            zero = np.clip(np.rint(-low / step) + shift, 0, _INT4_MAX)
            error = np.square((_int4_codes(cells, step, zero) - zero[..., None]) * step[..., None] - cells).sum(axis=-1)
            better = error < best_error
            best_error[better] = error[better]
            best_step[better] = step[better]
            best_zero[better] = zero[better]
    return _int4_codes(cells, best_step, best_zero).astype(np.uint8), best_step, best_zero.astype(np.uint8)


def _int4_codes(cells: FloatArray, step: npt.NDArray[np.float32], zero: FloatArray) -> FloatArray:
    codes: FloatArray = np.clip(np.rint(cells / step[..., None]) + zero[..., None], 0, _INT4_MAX)
    return codes
