"""The GGUF container: a header, metadata, tensor descriptions, aligned tensor bytes.

::

    magic "GGUF" | version u32 | tensors u64 | fields u64
    field  : key string | type u32 | value               string: length u64 | UTF-8
    tensor : name string | rank u32 | dims u64[rank] | type u32 | offset u64
    ... padding to ``general.alignment`` ... | tensor bytes

Every count and length is compared with the bytes that are left, or a named bound, before anything is read: a
truncated or hostile file costs one clear error and no memory. Tensor bytes stay in the file, as memory maps.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from shoal_models.errors import UnreadableModel
from shoal_models.ports import ByteArray
from shoal_protocol.limits import GGUF_FIELDS_MAX, GGUF_ITEMS_MAX, GGUF_TENSORS_MAX

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
"""What a file that does not say has."""
_RANK_MAX: Final = 4
"""What the format allows."""
_STRING: Final = 8
_ARRAY: Final = 9
_BOOL: Final = 7
_SCALARS: Final[dict[int, str]] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the file describes it. ``shape`` is in C order (rows first), ``type_code`` ggml's number."""

    name: str
    shape: tuple[int, ...]
    type_code: int
    offset: int
    """From the start of the file."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A parsed file; ``data`` maps all of it."""

    fields: Mapping[str, Value]
    tensors: Mapping[str, TensorEntry]
    data: ByteArray


@dataclass(slots=True)
class _Cursor:
    """Reads forward through ``data``; UnreadableModel where it ends early."""

    data: memoryview
    position: int

    def take(self, count: int, what: str) -> memoryview:
        if count > len(self.data) - self.position:
            raise UnreadableModel(f"truncated GGUF file: {what} at byte {self.position} goes beyond the end")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: str, what: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout), what))[0]
        return value

    def count(self, count_max: int, what: str) -> int:
        count = self.number("<Q", what)
        if count > count_max:
            raise UnreadableModel(f"not a sound GGUF file: {what} is {count}, more than {count_max}")
        return count

    def text(self, what: str) -> str:
        raw = self.take(self.number("<Q", what), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise UnreadableModel(f"not a sound GGUF file: {what} is not UTF-8") from None

    def value(self, code: int, what: str) -> Value:
        if code != _ARRAY:
            return self.items(code, 1, what)[0]
        item_code = self.number("<I", what)
        return self.items(item_code, self.count(GGUF_ITEMS_MAX, f"length of {what}"), what)

    def items(self, code: int, count: int, what: str) -> list[Scalar]:
        if code == _STRING:
            return [self.text(what) for _ in range(count)]
        dtype = _SCALARS.get(code)
        if dtype is None:
            raise UnreadableModel(f"not a sound GGUF file: {what} has the unknown type {code}")
        raw = self.take(count * np.dtype(dtype).itemsize, what)
        values: list[Scalar] = np.frombuffer(raw, dtype=dtype).tolist()
        return values


def read_gguf(path: Path) -> GgufFile:
    """Parse ``path``. UnreadableModel for anything but a whole GGUF file of version 2 or 3; OSError if unreadable."""
    if path.stat().st_size < len(_MAGIC):
        raise UnreadableModel(f"{path.name} is not a GGUF file: too short")
    data: ByteArray = np.memmap(path, dtype=np.uint8, mode="r")
    cursor = _Cursor(data.data, 0)
    if bytes(cursor.take(len(_MAGIC), "magic")) != _MAGIC:
        raise UnreadableModel(f"{path.name} is not a GGUF file: it does not begin with 'GGUF'")
    version = cursor.number("<I", "version")
    if version not in _VERSIONS:
        raise UnreadableModel(f"{path.name} has GGUF version {version}; 2 and 3 are known")
    tensor_count = cursor.count(GGUF_TENSORS_MAX, "number of tensors")
    field_count = cursor.count(GGUF_FIELDS_MAX, "number of fields")
    fields: dict[str, Value] = {}
    for _ in range(field_count):
        key = cursor.text("name of a field")
        if key in fields:
            raise UnreadableModel(f"not a sound GGUF file: field {key} appears twice")
        fields[key] = cursor.value(cursor.number("<I", f"type of {key}"), key)
    entries = [_tensor_entry(cursor) for _ in range(tensor_count)]
    start = _data_start(cursor.position, fields)
    tensors = {name: TensorEntry(name, shape, code, start + offset) for name, shape, code, offset in entries}
    if len(tensors) != tensor_count:
        raise UnreadableModel("not a sound GGUF file: two tensors have the same name")
    return GgufFile(fields, tensors, data)


def _tensor_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text("name of a tensor")
    rank = cursor.number("<I", f"rank of {name}")
    if not 1 <= rank <= _RANK_MAX:
        raise UnreadableModel(f"not a sound GGUF file: tensor {name} has rank {rank}")
    dims = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, f"shape of {name}"))
    return name, tuple(reversed(dims)), cursor.number("<I", f"type of {name}"), cursor.number("<Q", f"offset of {name}")


def _data_start(position: int, fields: Mapping[str, Value]) -> int:
    alignment = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise UnreadableModel(f"not a sound GGUF file: general.alignment is {alignment!r}")
    return -(-position // alignment) * alignment
