"""The keys and values of one session on one stage: one mapping of memory, cut into the buffers of all its layers.

A buffer holds the session's full length from the start, so nothing ever grows, moves or is copied. That costs address
space only: the pages of a fresh mapping are zero and are committed one by one as positions are written. The kernel is
asked not to use huge pages, with which the first position of each head would commit two megabytes.

A mapping of its own, and not numpy's allocator, so that the memory of a finished session goes back to the system at
once, whatever was allocated after it. It ends with the last view of it; unmapping what 2048 positions of a 30-layer
model had committed takes 15 ms, so that view must not be dropped on the event loop's thread.

*Rows* are what leaves a cache and enters another one: of some blocks, for some positions, the buffers' contents one
after the other, block by block and in the manifest's order, each [heads, positions, width] in C order, as they lie in
memory. One copy per buffer and way (10 layers of a small model, 8 positions, 120 KiB: 45 us). Rows come from peers, so
their size is checked, before anything is written; what they say is as good or bad as any hidden state of that peer.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from shoal_agent.shell.ort import EngineError, Value, value_of
from shoal_agent.shell.ports import Array
from shoal_models.manifest import ElementType, Shape, StatePair

Rows = Array | bytes | memoryview

CAPACITY: Final = "capacity"
"""What a manifest calls the dimension that counts positions."""
ALIGNMENT_BYTES: Final = 64
"""A cache line, and the widest vector load."""


class KvCache:
    """Buffers for ``tokens_max`` positions of each of ``states`` (per block: its state pairs).

    Raises EngineError if a shape has an unknown dimension, OSError if the system grants no mapping of this size.
    """

    def __init__(self, states: Sequence[Sequence[StatePair]], tokens_max: int) -> None:
        sizes = {CAPACITY: tokens_max}
        self._pairs = [tuple(pairs) for pairs in states]
        plans = [[(fixed(pair.shape, sizes), dtype_of(pair.dtype)) for pair in pairs] for pairs in states]
        self.byte_count = sum(_byte_count(shape, dtype) for plan in plans for shape, dtype in plan)
        memory = _map(max(self.byte_count, 1))
        offset = 0
        self._values: list[list[Value]] = []
        for plan in plans:
            values = []
            for shape, dtype in plan:
                buffer = np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
                values.append(value_of(buffer))
                offset += _byte_count(shape, dtype)
            self._values.append(values)

    def of_block(self, index: int) -> Sequence[Value]:
        """The buffers of the block at ``index`` of the stage, one per state pair, in the manifest's order."""
        return self._values[index]

    def read(self, blocks: range, position: int, token_count: int) -> memoryview:
        """Rows of ``blocks`` (by their place in the stage), copied out."""
        parts = self._rows(blocks, position, token_count)
        rows = np.empty(sum(part.nbytes for part in parts), np.uint8)
        offset = 0
        for part in parts:
            end = offset + part.nbytes
            rows[offset:end].view(part.dtype).reshape(part.shape)[...] = part
            offset = end
        return rows.data

    def write(self, blocks: range, position: int, token_count: int, rows: Rows) -> None:
        """Rows as ``read`` gives them, copied in. EngineError, and nothing written, if their size is wrong."""
        parts = self._rows(blocks, position, token_count)
        expected = sum(part.nbytes for part in parts)
        came = len(rows) if isinstance(rows, bytes) else rows.nbytes
        if came != expected:
            raise EngineError(f"{came} bytes came, {expected} are {token_count} positions of {len(blocks)} blocks")
        offset = 0
        for part in parts:
            part[...] = np.frombuffer(rows, part.dtype, part.size, offset).reshape(part.shape)
            offset += part.nbytes

    def _rows(self, blocks: range, position: int, token_count: int) -> list[Array]:
        """Of each buffer of ``blocks`` the part for these positions."""
        window = slice(position, position + token_count)
        return [
            value.array[(slice(None),) * _axis(pair) + (window,)]
            for index in blocks
            for pair, value in zip(self._pairs[index], self._values[index], strict=True)
        ]


def _axis(pair: StatePair) -> int:
    """Which dimension of a state counts positions."""
    if CAPACITY not in pair.shape:
        raise EngineError(f"state {pair.past!r} has no positions: it cannot be moved")
    return pair.shape.index(CAPACITY)


def fixed(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """``shape`` with its names filled in; EngineError for a name that is not among ``sizes``."""
    unknown = [size for size in shape if isinstance(size, str) and size not in sizes]
    if unknown:
        raise EngineError(f"nobody knows the size of dimension {unknown[0]!r}")
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def dtype_of(element: ElementType) -> np.dtype[np.generic]:
    """The manifest's ``f32`` is numpy's ``<f4``: a kind, and a width in bits instead of bytes."""
    return np.dtype(f"<{element[0]}{int(element[1:]) // 8}")


def _byte_count(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> int:
    """Of one buffer, filled up so that the next one is aligned."""
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _map(byte_count: int) -> mmap.mmap:
    memory = mmap.mmap(-1, byte_count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages refuses the advice
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
