import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from shoal_agent.shell.kv import ALIGNMENT_BYTES, KvCache, dtype_of, fixed
from shoal_agent.shell.ort import EngineError
from shoal_models.manifest import StatePair

PAGE_BYTES = 4096
MIB = 1024 * 1024


def pair(name: str, *shape, dtype: str = "f32") -> StatePair:
    return StatePair(past=f"past_{name}", present=f"present_{name}", dtype=dtype, shape=shape)


def layer(heads: int = 3, width: int = 64) -> tuple[StatePair, ...]:
    return tuple(pair(part, 1, heads, "capacity", width) for part in ("key", "value"))


def memory_bytes(field: str) -> int:
    """A line of this process's memory map, summed."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def test_every_state_pair_has_a_buffer_of_the_sessions_length():
    cache = KvCache([(), layer(), layer(heads=1, width=5), ()], 7)
    assert [len(cache.of_block(index)) for index in range(4)] == [0, 2, 2, 0]
    assert [value.array.shape for value in cache.of_block(1)] == [(1, 3, 7, 64)] * 2
    assert [value.array.shape for value in cache.of_block(2)] == [(1, 1, 7, 5)] * 2
    assert {value.array.dtype for value in cache.of_block(2)} == {np.dtype(np.float32)}


def test_buffers_are_zero_aligned_and_do_not_overlap():
    cache = KvCache([layer(1, 5), layer(1, 3), (pair("scan", 2, "capacity", dtype="f16"),)], 3)
    arrays = [value.array for index in range(3) for value in cache.of_block(index)]
    assert all(not array.any() for array in arrays)
    assert all(array.ctypes.data % ALIGNMENT_BYTES == 0 for array in arrays)
    for number, array in enumerate(arrays, 1):
        array[...] = number
    assert [set(np.unique(array).tolist()) for array in arrays] == [{number} for number in range(1, 6)]


def test_it_counts_what_it_takes():
    assert KvCache([layer(), layer()], 10).byte_count == 2 * 2 * 3 * 64 * 4 * 10
    assert KvCache([()], 10).byte_count == 0


def test_memory_is_committed_as_it_is_written_and_given_back_at_once():
    before = memory_bytes("Anonymous:")
    cache = KvCache([layer(heads=8, width=128)], 16_384)
    assert cache.byte_count == 128 * MIB
    assert memory_bytes("Anonymous:") - before < 4 * MIB, "nothing is written yet"
    key = cache.of_block(0)[0].array
    key[:, :, :16] = 1
    assert memory_bytes("Anonymous:") - before < 4 * MIB, "one position per head must not commit huge pages"
    key[...] = 1
    assert memory_bytes("Anonymous:") - before > 60 * MIB
    del cache, key
    gc.collect()
    assert memory_bytes("Anonymous:") - before < 4 * MIB


def test_the_mapping_lives_as_long_as_any_buffer():
    cache = KvCache([layer()], 4)
    value = cache.of_block(0)[0]
    watched = weakref.ref(value.array)
    del cache
    gc.collect()
    value.array[...] = 3
    assert value.array.sum() == 3 * value.array.size
    del value
    gc.collect()
    assert watched() is None


def test_more_than_the_address_space_is_an_error_and_no_crash():
    with pytest.raises((OSError, OverflowError)):
        KvCache([layer()], 2**50)


def test_an_unknown_dimension_is_the_models_fault():
    with pytest.raises(EngineError, match="'window'"):
        KvCache([(pair("key", 1, "window"),)], 4)
    assert fixed((1, "tokens", 8), {"tokens": 3}) == (1, 3, 8)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [("f32", np.float32), ("f16", np.float16), ("i64", np.int64), ("i32", np.int32), ("u8", np.uint8), ("i8", np.int8)],
)
def test_element_types_are_numpys(element, dtype):
    assert dtype_of(element) == np.dtype(dtype)
