"""Weights as model files store them, unpacked with numpy.

The block types of GGUF cover 32 consecutive values of a row with one half-precision step ``d`` (and offset ``m``):

    Q8_0   34 bytes   d, 32 signed bytes q            w = d * q
    Q4_0   18 bytes   d, 16 bytes of nibbles q        w = d * (q - 8)
    Q4_1   20 bytes   d, m, 16 bytes of nibbles q     w = d * q + m

Nibbles are interleaved by halves: byte j holds value j in its low and value j + 16 in its high nibble. F16 and F32
are plain. Nothing else is converted: a type that we would have to guess at is refused by name.

A tensor whose rows were reordered on export (Q and K of the llama family) carries ``rotary_heads``; rows are whole
sequences of blocks, so putting them back in order never touches a block.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from shoal_models.ports import ByteArray, FloatArray

BLOCK_VALUES: Final = 32
"""Values per quantisation block, in GGUF's 4- and 8-bit types and in ours."""


class TensorType(StrEnum):
    """What we convert."""

    F32 = "F32"
    F16 = "F16"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q8_0 = "Q8_0"


BLOCK_BYTES: Final = {TensorType.Q4_0: 18, TensorType.Q4_1: 20, TensorType.Q8_0: 34}
ITEM_BYTES: Final = {TensorType.F32: 4, TensorType.F16: 2}


@dataclass(frozen=True, slots=True)
class Blocks:
    """Quantised rows: w[r, b, i] = scale[r, b] * codes[r, b, i] + offset[r, b]."""

    codes: ByteArray
    """uint8 [rows, blocks, 32]."""
    scales: FloatArray
    """[rows, blocks]."""
    offsets: FloatArray
    """[rows, blocks]; Q8_0 has -128 * scale and codes 1..255, Q4_0 has -8 * scale."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One weight in its file. ``raw`` is uint8 [rows, bytes per row]; a vector has one row."""

    name: str
    type: TensorType
    rows: int
    columns: int
    raw: ByteArray
    rotary_heads: int = 0
    """0: rows are in order. n: each of n heads stores its rows as (0, h/2, 1, h/2 + 1, ...)."""

    def ordered(self) -> ByteArray:
        """``raw`` with rows in the order the rotation of halves expects."""
        if not self.rotary_heads:
            return self.raw
        order = np.arange(self.rows).reshape(self.rotary_heads, -1, 2).swapaxes(1, 2).reshape(-1)
        return np.asarray(self.raw[order])

    def dequantize(self) -> FloatArray:
        """float32 [rows, columns], exactly the values the file means."""
        raw = self.ordered()
        if self.type is TensorType.F32:
            return raw.view("<f4").astype(np.float32)
        if self.type is TensorType.F16:
            return raw.view("<f2").astype(np.float32)
        blocks = unpack(self.type, raw)
        values = blocks.codes.astype(np.float32)
        if self.type is not TensorType.Q4_1:  # subtract before scaling: one rounding, as the file's own definition
            values -= 128.0 if self.type is TensorType.Q8_0 else 8.0
            return (values * blocks.scales[..., None]).reshape(self.rows, self.columns)
        return (values * blocks.scales[..., None] + blocks.offsets[..., None]).reshape(self.rows, self.columns)


def unpack(kind: TensorType, raw: ByteArray) -> Blocks:
    """The blocks of a quantised tensor; ``raw`` is uint8 [rows, bytes per row]."""
    cells = raw.reshape(raw.shape[0], -1, BLOCK_BYTES[kind])
    scales = _half(cells, 0)
    if kind is TensorType.Q8_0:
        codes = cells[..., 2:] ^ np.uint8(0x80)  # two's complement plus 128
        return Blocks(codes, scales, scales * np.float32(-128))
    if kind is TensorType.Q4_0:
        return Blocks(_nibbles(cells[..., 2:]), scales, scales * np.float32(-8))
    return Blocks(_nibbles(cells[..., 4:]), scales, _half(cells, 2))


def _half(cells: ByteArray, at: int) -> FloatArray:
    return np.ascontiguousarray(cells[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _nibbles(packed: ByteArray) -> ByteArray:
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)
