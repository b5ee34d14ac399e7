import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.limits import PAYLOAD_BYTES_MAX
from shoal_protocol.tensors import Dtype, TensorSpec, payload_of, spec_of, view

WIRE_DTYPES = st.sampled_from(["<f4", "<f2", "<i8", "<i4", "u1", "i1"])


@given(hnp.arrays(WIRE_DTYPES, hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3)))
def test_an_array_survives_the_wire_bit_by_bit(array):
    spec = spec_of(array)
    payload = payload_of(array)
    assert payload.nbytes == spec.byte_count == array.nbytes
    back = view(payload, spec)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_nothing_is_copied_on_either_side():
    array = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    payload = payload_of(array)
    back = view(payload, spec_of(array))
    assert np.shares_memory(array, back)
    assert payload.readonly
    for window in (back, view(memoryview(bytearray(4)), TensorSpec(Dtype.F32, (1, 1, 1)))):
        with pytest.raises(ValueError, match="read-only"):
            window[0, 0, 0] = 1.0


def test_bytes_are_little_endian():
    assert view(b"\x01\x00\x00\x00", TensorSpec(Dtype.I32, (1,)))[0] == 1
    assert view(b"\x00\x00\x80\x3f", TensorSpec(Dtype.F32, ())) == 1.0


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (TensorSpec(Dtype.F32, (2, 3)), 23),
        (TensorSpec(Dtype.F32, (2, 3)), 25),
        (TensorSpec(Dtype.I64, ()), 0),
        (TensorSpec(Dtype.U8, (0, 5)), 1),
        (TensorSpec(Dtype.U8, (-1, -4)), 4),
        (TensorSpec(Dtype.U8, (1,) * 9), 1),
        (TensorSpec(Dtype.U8, (1 << 33, 1 << 33, 0)), 0),
        (TensorSpec(Dtype.F32, (PAYLOAD_BYTES_MAX // 4, 2)), 8),
    ],
)
def test_a_payload_that_is_not_its_spec_is_refused(spec, size):
    with pytest.raises(MalformedMessage):
        view(bytes(size), spec)


def test_the_largest_tensor_is_allowed_and_one_more_element_is_not():
    assert TensorSpec(Dtype.F32, (PAYLOAD_BYTES_MAX // 4,)).byte_count == PAYLOAD_BYTES_MAX
    with pytest.raises(MalformedMessage):
        _ = TensorSpec(Dtype.F32, (PAYLOAD_BYTES_MAX // 4 + 1,)).byte_count


@pytest.mark.parametrize("array", [np.zeros(2, ">f4"), np.zeros(2, np.float64), np.zeros(2, bool), np.array(["a"])])
def test_our_own_array_of_no_wire_type_is_our_mistake(array):
    with pytest.raises(LocalProtocolError):
        spec_of(array)


def test_our_own_array_with_gaps_is_our_mistake():
    with pytest.raises(LocalProtocolError):
        payload_of(np.zeros((4, 4), np.float32)[:, ::2])
