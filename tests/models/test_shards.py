"""Tensors lie page by page, and equal tensors make equal shards."""

import numpy as np

from shoal_models.package import Store
from shoal_models.shards import ALIGNMENT_BYTES, store_shard


def test_every_tensor_is_where_its_placement_says(tmp_path):
    store = Store(tmp_path)
    tensors = {
        "a": np.arange(7, dtype=np.uint8),
        "b": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "c": np.array([[1.5]], np.float32),
    }
    with store.exclusive():
        shard = store_shard(store, tensors)
        data = store.blob_path(shard.ref.id).read_bytes()
    assert len(data) == shard.ref.bytes == 2 * ALIGNMENT_BYTES + 4
    for name, tensor in tensors.items():
        place = shard.tensors[name]
        assert place.offset % ALIGNMENT_BYTES == 0
        found = np.frombuffer(data, place.dtype, tensor.size, place.offset).reshape(place.shape)
        np.testing.assert_array_equal(found, tensor)


def test_equal_tensors_are_one_shard(tmp_path):
    store = Store(tmp_path)
    with store.exclusive():
        first = store_shard(store, {"x": np.ones(5, np.float32)})
        assert store_shard(store, {"y": np.ones(5, np.float32)}).ref == first.ref
        assert store_shard(store, {"x": np.zeros(5, np.float32)}).ref != first.ref
