"""Tensors as they travel: little-endian bytes in C order, named by a dtype and a shape, never copied.

A payload is a window into the buffer the socket filled; an array is a window into the payload. Nothing is moved
between them, so a tensor costs its transfer and no more. What makes that safe is that the size follows from the
header alone,

    bytes = width(dtype) x dim_0 x dim_1 x ... x dim_(rank-1)

and is compared with the bytes that came before an array is made. Python's integers do not overflow; the product is
still bounded by ``PAYLOAD_BYTES_MAX``, so that a shape never describes more than a frame may carry. Views are
read-only: whoever wants to write makes a copy and knows it.
"""

import math
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.limits import PAYLOAD_BYTES_MAX, TENSOR_RANK_MAX

Array = npt.NDArray[np.generic]


class Dtype(IntEnum):
    """Element types, by their number on the wire. All are little-endian."""

    F32 = 1
    F16 = 2
    I64 = 3
    I32 = 4
    U8 = 5
    I8 = 6


_NUMPY: Final[dict[Dtype, np.dtype[np.generic]]] = {
    Dtype.F32: np.dtype("<f4"),
    Dtype.F16: np.dtype("<f2"),
    Dtype.I64: np.dtype("<i8"),
    Dtype.I32: np.dtype("<i4"),
    Dtype.U8: np.dtype("u1"),
    Dtype.I8: np.dtype("i1"),
}
_WIRE: Final[dict[np.dtype[np.generic], Dtype]] = {numpy_dtype: dtype for dtype, numpy_dtype in _NUMPY.items()}

assert sys.byteorder == "little", "payloads are little-endian in memory; a big-endian host would have to copy"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a payload is: element type and dimensions (rank 0 is a scalar)."""

    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def byte_count(self) -> int:
        """The only payload size this spec allows, in bytes; MalformedMessage if no frame could carry it."""
        if len(self.shape) > TENSOR_RANK_MAX:
            raise MalformedMessage(f"rank {len(self.shape)}, at most {TENSOR_RANK_MAX}")
        for dimension in self.shape:
            if not 0 <= dimension <= PAYLOAD_BYTES_MAX:
                raise MalformedMessage(f"dimension {dimension} outside 0..{PAYLOAD_BYTES_MAX}")
        byte_count = math.prod(self.shape) * _NUMPY[self.dtype].itemsize
        if byte_count > PAYLOAD_BYTES_MAX:
            raise MalformedMessage(f"shape {self.shape} of {self.dtype.name} is {byte_count} bytes")
        return byte_count


def view(payload: bytes | memoryview, spec: TensorSpec) -> Array:
    """``payload`` as a read-only array of ``spec``, without copying; MalformedMessage if the size does not fit."""
    byte_count = spec.byte_count
    raw = memoryview(payload)
    if raw.nbytes != byte_count:
        raise MalformedMessage(f"payload of {raw.nbytes} bytes, {spec.dtype.name} {spec.shape} is {byte_count}")
    array: Array = np.frombuffer(raw, dtype=_NUMPY[spec.dtype]).reshape(spec.shape)
    array.flags.writeable = False
    return array


def spec_of(array: Array) -> TensorSpec:
    """The spec of ``array``; LocalProtocolError for an element type that has no number on the wire."""
    dtype = _WIRE.get(array.dtype)
    if dtype is None:
        raise LocalProtocolError(f"no wire type for dtype {array.dtype}")
    return TensorSpec(dtype, array.shape)


def payload_of(array: Array) -> memoryview:
    """The bytes of ``array``, without copying; LocalProtocolError unless it is C-contiguous and of a wire type."""
    spec_of(array)
    if not array.flags.c_contiguous:
        raise LocalProtocolError("only a C-contiguous array is a payload; make the copy where its cost is visible")
    return array.reshape(-1).view(np.uint8).data.toreadonly()
