r"""In which width an activation crosses from one stage to the next: fewer bytes for some of the truth.

A row is the activation of one token, H values of float32. It travels as one row of one tensor, whatever its width:

    width   dtype   elements of a row    a row is
    F32     F32     H                    the values as they are
    F16     F16     H                    rounded to half precision, held within its range
    I8      I8      H + 4                codes, then one step s (float32) for all of them:    x = s * code
    I8X32   I8      H + H / 32 * 4       codes, then a step for each 32 of them, in order

with s = max|x| / 127 over what shares it, code = x / s rounded to even: the symmetric form in which weights have eight
bits. A step for 32 values costs an eighth more than one for all; it is there because in trained networks a few of the
H values are a thousand times the others (23,714 against 4 in SmolLM2), and one step for all is then too coarse for the
rest.

Every row is converted by itself. So it does not matter in which chunks positions were run: the same values give the
same bytes. A zero row has the step 0 and comes back as zeros. What a peer sends is bytes: steps that are no numbers
give values that are none, as a peer's float32 may.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_protocol.tensors import Array, Dtype

FloatArray = npt.NDArray[np.float32]


class ActivationWidth(IntEnum):
    """How the input of a stage travels: as it is, in half precision, in 8 bits with a step a row or for 32 values."""

    F32 = 0
    F16 = 1
    I8 = 2
    I8X32 = 3


DTYPE_OF: Final[dict[ActivationWidth, Dtype]] = {
    ActivationWidth.F32: Dtype.F32,
    ActivationWidth.F16: Dtype.F16,
    ActivationWidth.I8: Dtype.I8,
    ActivationWidth.I8X32: Dtype.I8,
}
"""The element type of an activation of each width on the wire."""
GROUP_VALUES: Final = 32
"""Values that share a step in I8X32."""
_STEP: Final = np.dtype("<f4")
_NUMPY: Final[dict[Dtype, np.dtype[np.generic]]] = {
    Dtype.F32: np.dtype("<f4"),
    Dtype.F16: np.dtype("<f2"),
    Dtype.I8: np.dtype("i1"),
}
_CODE_MAX: Final = np.float32(127)
_HALF_MAX: Final = np.float32(65504)


def row_bytes(width: ActivationWidth, values: int) -> int:
    """Bytes that one activation of ``values`` values takes."""
    match width:
        case ActivationWidth.F32:
            return 4 * values
        case ActivationWidth.F16:
            return 2 * values
        case _:
            return values + _STEP.itemsize * (values // _shared(width, values))


def narrow(rows: Array, width: ActivationWidth) -> Array:
    """``rows`` [..., H] of float32 as they travel; ``rows`` themselves at full width."""
    assert rows.dtype == np.float32, "activations are computed in float32"
    match width:
        case ActivationWidth.F32:
            return rows
        case ActivationWidth.F16:
            return np.clip(rows, -_HALF_MAX, _HALF_MAX).astype(_NUMPY[Dtype.F16])
        case _:
            return _coded(rows, _shared(width, rows.shape[-1]))


def widen(data: Array | bytes | memoryview, width: ActivationWidth, shape: tuple[int, ...]) -> FloatArray:
    """The rows of ``shape`` [..., H] that ``data`` is, which must have just their bytes."""
    dtype = _NUMPY[DTYPE_OF[width]]
    packed = np.frombuffer(data, dtype) if not isinstance(data, np.ndarray) else data.reshape(-1).view(dtype)
    if DTYPE_OF[width] is not Dtype.I8:
        return packed.reshape(shape).astype(np.float32, copy=False)
    values = shape[-1]
    rows = packed.reshape(-1, row_bytes(width, values))
    steps = np.ascontiguousarray(rows[:, values:]).view(_STEP)
    codes = rows[:, :values].astype(np.float32).reshape(len(rows), steps.shape[1], -1)
    with np.errstate(invalid="ignore", over="ignore"):  # a peer's steps
        codes *= steps[..., None]
    return codes.reshape(shape)


def _shared(width: ActivationWidth, values: int) -> int:
    """How many values share a step."""
    if width is ActivationWidth.I8:
        return values
    assert values % GROUP_VALUES == 0, "a neck is a multiple of 32 wide; importers refuse others"
    return GROUP_VALUES


def _coded(rows: Array, shared: int) -> Array:
    cells: FloatArray = rows.astype(np.float32, copy=False).reshape(-1, rows.shape[-1] // shared, shared)
    steps = np.abs(cells).max(axis=-1) / _CODE_MAX
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        codes = np.rint(cells / np.where(steps > 0, steps, np.float32(1))[..., None])
    packed = np.empty((len(cells), rows.shape[-1] + _STEP.itemsize * cells.shape[1]), np.int8)
    with np.errstate(invalid="ignore"):  # no number has no code; its row is not one either
        packed[:, : rows.shape[-1]] = np.clip(codes, -_CODE_MAX, _CODE_MAX).reshape(len(cells), -1)
    packed[:, rows.shape[-1] :] = steps.astype(_STEP, copy=False).view(np.int8)
    return packed.reshape(*rows.shape[:-1], packed.shape[-1])
