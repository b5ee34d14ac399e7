import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal_protocol.tensors import TensorSpec, payload_of, spec_of
from shoal_protocol.widths import DTYPE_OF, ActivationWidth, narrow, row_bytes, widen

NARROW = [width for width in ActivationWidth if width is not ActivationWidth.F32]
ROWS = hnp.arrays(np.float32, (1, 3, 64), elements=st.floats(-60000, 60000, width=32))


def through(rows, width):
    return widen(payload_of(narrow(rows, width)), width, rows.shape)


@pytest.mark.parametrize("width", ActivationWidth)
@given(ROWS)
def test_a_row_comes_back_as_near_as_its_width_allows(width, rows):
    back = through(rows, width)
    assert back.dtype == np.float32
    group = {ActivationWidth.I8: 64, ActivationWidth.I8X32: 32}.get(width)
    if width is ActivationWidth.F32:
        allowed = np.zeros_like(rows)
    elif group is None:
        allowed = np.maximum(np.abs(rows) / 2048, 2.0**-25)
    else:
        peak = np.abs(rows.reshape(-1, group)).max(axis=-1, keepdims=True)
        allowed = (np.broadcast_to(peak, (rows.size // group, group)) * (0.501 / 127) + 1e-38).reshape(rows.shape)
    assert (np.abs(back - rows) <= allowed).all()


@pytest.mark.parametrize("width", ActivationWidth)
def test_its_bytes_are_what_the_width_takes(width):
    rows = np.random.default_rng(0).normal(size=(1, 5, 576)).astype(np.float32)
    packed = narrow(rows, width)
    taken = {
        ActivationWidth.F32: 2304,
        ActivationWidth.F16: 1152,
        ActivationWidth.I8: 580,
        ActivationWidth.I8X32: 648,
    }
    assert payload_of(packed).nbytes == 5 * taken[width] == 5 * row_bytes(width, 576)
    assert spec_of(packed) == TensorSpec(DTYPE_OF[width], packed.shape)
    assert packed.shape[:2] == (1, 5)


@pytest.mark.parametrize("width", ActivationWidth)
def test_a_row_is_the_same_bytes_in_whatever_chunk_it_runs(width):
    rows = np.random.default_rng(1).normal(size=(1, 7, 64)).astype(np.float32) * 1000
    whole = payload_of(narrow(rows, width)).tobytes()
    assert b"".join(payload_of(narrow(rows[:, at : at + 1], width)).tobytes() for at in range(7)) == whole


@pytest.mark.parametrize("width", NARROW)
def test_bytes_may_lie_unaligned_in_what_a_socket_filled(width):
    rows = np.random.default_rng(2).normal(size=(1, 2, 64)).astype(np.float32)
    frame = b"!" + payload_of(narrow(rows, width)).tobytes()
    np.testing.assert_array_equal(widen(memoryview(frame)[1:], width, rows.shape), through(rows, width))


def test_one_step_for_a_row_is_too_coarse_beside_an_outlier():
    """Why there is a width with a step for 32 values."""
    rows = np.ones((1, 1, 64), np.float32)
    rows[..., 0] = 1000
    coarse, fine = (through(rows, width)[..., 32:] for width in (ActivationWidth.I8, ActivationWidth.I8X32))
    assert (coarse == 0).all()
    np.testing.assert_allclose(fine, 1, rtol=1e-6)


def test_half_precision_holds_what_is_beyond_its_range():
    rows = np.array([[[1e9, -1e9, 1.0]]], np.float32)
    assert through(rows, ActivationWidth.F16).tolist() == [[[65504.0, -65504.0, 1.0]]]


@pytest.mark.parametrize("width", NARROW)
def test_no_number_warns_and_no_bytes_of_a_peer_do(width):
    rows = np.full((1, 1, 32), np.nan, np.float32)
    rows[..., 0] = np.inf
    narrow(rows, width)
    for filling in (0x7F, 0xFF, 0x80):
        widen(bytes([filling]) * row_bytes(width, 32), width, rows.shape)
