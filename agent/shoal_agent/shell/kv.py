"""The keys and values of one session on one stage: one mapping of memory, cut into the buffers of all its layers.

A buffer holds the session's full length from the start, so nothing ever grows, moves or is copied. That costs address
space only: the pages of a fresh mapping are zero and are committed one by one as positions are written. The kernel is
asked not to use huge pages, with which the first position of each head would commit two megabytes.

A mapping of its own, and not numpy's allocator, so that the memory of a finished session goes back to the system at
once, whatever was allocated after it. It ends with the last view of it; unmapping what 2048 positions of a 30-layer
model had committed takes 15 ms, so that view must not be dropped on the event loop's thread.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from shoal_agent.shell.ort import EngineError, Value, value_of
from shoal_models.manifest import ElementType, Shape, StatePair

ALIGNMENT_BYTES: Final = 64
"""A cache line, and the widest vector load."""


class KvCache:
    """Buffers for ``tokens_max`` positions of each of ``states`` (per block: its state pairs).

    Raises EngineError if a shape has an unknown dimension, OSError if the system grants no mapping of this size.
    """

    def __init__(self, states: Sequence[Sequence[StatePair]], tokens_max: int) -> None:
        sizes = {"capacity": tokens_max}
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
