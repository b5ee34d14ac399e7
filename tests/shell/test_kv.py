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


def filled(*states, tokens_max=12):
    """A cache in which every number is another one."""
    cache = KvCache(states, tokens_max)
    for index in range(len(states)):
        for number, value in enumerate(cache.of_block(index)):
            value.array[...] = np.arange(value.array.size).reshape(value.array.shape) + 1000 * index + 500 * number
    return cache


def test_rows_are_block_by_block_the_positions_of_every_head():
    cache = filled((), layer(2, 3), layer(1, 5))
    rows = cache.read(range(3), 4, 2)
    parts = [value.array[0, :, 4:6, :] for index in (1, 2) for value in cache.of_block(index)]
    assert np.frombuffer(rows, np.float32).tolist() == np.concatenate([part.ravel() for part in parts]).tolist()
    assert cache.read(range(1), 0, 12).nbytes == 0


def test_rows_are_written_where_they_were_read_and_nowhere_else():
    states = (layer(2, 3), (), layer(1, 5))
    source, target = filled(*states), KvCache(states, 20)
    rows = source.read(range(3), 4, 3)
    target.write(range(3), 4, 3, memoryview(b"!" + bytes(rows))[1:])
    assert bytes(target.read(range(3), 4, 3)) == bytes(rows)
    for index in (0, 2):
        for value in target.of_block(index):
            assert not value.array[0, :, :4].any()
            assert not value.array[0, :, 7:].any()
    target.write(range(1), 0, 20, bytes(target.read(range(1), 0, 20)))
    assert bytes(target.read(range(3), 4, 3)) == bytes(rows)


def test_rows_are_a_copy():
    cache = filled(layer(1, 4))
    rows = cache.read(range(1), 0, 3)
    before = bytes(rows)
    cache.of_block(0)[0].array[...] = 7
    assert bytes(rows) == before


def test_types_of_other_widths_follow_each_other():
    states = ((pair("scan", "capacity", 3, dtype="u8"), pair("key", 2, "capacity", dtype="f32")),)
    source, target = filled(*states), KvCache(states, 12)
    target.write(range(1), 3, 5, source.read(range(1), 3, 5))
    for value, other in zip(source.of_block(0), target.of_block(0), strict=True):
        axis = 0 if value.array.dtype == np.uint8 else 1
        assert np.array_equal(value.array.take(range(3, 8), axis), other.array.take(range(3, 8), axis))


@pytest.mark.parametrize("size", [0, 1, 479, 481, 10**6])
def test_rows_of_another_size_are_refused_before_anything_is_written(size):
    cache = KvCache([layer(2, 3), layer(1, 6)], 8)
    with pytest.raises(EngineError, match=f"{size} bytes came, 480 are 5 positions of 2 blocks"):
        cache.write(range(2), 0, 5, b"\x01" * size)
    assert not any(value.array.any() for index in range(2) for value in cache.of_block(index))


def test_a_state_without_positions_cannot_be_moved():
    cache = KvCache([(pair("carry", 1, 4),)], 8)
    with pytest.raises(EngineError, match="past_carry"):
        cache.read(range(1), 0, 1)
    with pytest.raises(EngineError, match="past_carry"):
        cache.write(range(1), 0, 1, b"")
