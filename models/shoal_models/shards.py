"""A shard: the weights of one block (or a table several blocks share) in one run of bytes.

Tensors follow each other, each at a multiple of 4096 bytes: that is what ONNX asks of external data so that a runtime
can map it, and it costs half a page per tensor. A shard is named by the digest of its bytes; what lies where in it is
known only to the graphs that refer to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal_models.manifest import BlobRef
from shoal_models.package import Store
from shoal_models.ports import Array

ALIGNMENT_BYTES: Final = 4096
"""A page on every machine we run on."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one tensor lies in its shard, and what it is."""

    offset: int
    bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class Shard:
    """A stored shard and the place of each tensor in it."""

    ref: BlobRef
    tensors: Mapping[str, Placement]


def store_shard(store: Store, tensors: Mapping[str, Array]) -> Shard:
    """Lay ``tensors`` out in the order given and put them into ``store``. StoreFull."""
    placements: dict[str, Placement] = {}
    end = 0
    for name, tensor in tensors.items():
        offset = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        placements[name] = Placement(offset, tensor.nbytes, tensor.shape, tensor.dtype)
        end = offset + tensor.nbytes
    data = np.zeros(end, np.uint8)
    for name, tensor in tensors.items():
        place = placements[name]
        assert tensor.dtype.byteorder in "=|<", "shards are little-endian"
        data[place.offset : place.offset + place.bytes] = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    return Shard(store.put(data.data), placements)
