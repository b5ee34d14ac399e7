"""The name of a trace: a digest over every number in it.

Methods are compared on the same arrivals, service rates, link and failure times, and the digest, printed with each
report, is how somebody else sees that they ran the same ones. Floats count with their exact bits, arrays with their
shape, so that no two traces that differ anywhere share a digest.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np

DIGEST_BYTES: Final = 16


def trace_hash(*parts: object) -> str:
    """The digest of numbers, strings, arrays, dataclasses and sequences or mappings of them, in their order."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        for piece in _pieces(part):
            digest.update(struct.pack("<q", len(piece)))
            digest.update(piece)
    return digest.hexdigest()


def _pieces(value: object) -> Iterable[bytes]:
    """Each with its kind in front, so that 1, 1.0 and "1" differ."""
    match value:
        case None:
            yield b"-"
        case bool() | int() | np.integer():
            yield b"i" + str(int(value)).encode()
        case float() | np.floating():
            yield b"f" + struct.pack("<d", float(value))
        case str():
            yield b"s" + value.encode()
        case bytes():
            yield b"b" + value
        case np.ndarray():
            array: np.ndarray[Any, Any] = np.ascontiguousarray(value)
            yield b"a" + array.dtype.str.encode() + str(array.shape).encode()
            yield array.tobytes()
        case Mapping():
            yield b"{" + str(len(value)).encode()
            for key in sorted(value):
                yield from _pieces(key)
                yield from _pieces(value[key])
        case list() | tuple():
            yield b"[" + str(len(value)).encode()
            for item in value:
                yield from _pieces(item)
        case _ if is_dataclass(value):
            yield b"d" + type(value).__name__.encode()
            for entry in fields(value):
                yield from _pieces(getattr(value, entry.name))
        case _:
            raise TypeError(f"a trace holds no {type(value).__name__}")
