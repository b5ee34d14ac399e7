import numpy as np
import pytest

from shoal_agent.core.facts import TensorHandle
from shoal_agent.shell.tensors import Tensors


def test_what_is_put_is_taken_once_and_not_copied():
    tensors = Tensors()
    array = np.arange(3.0)
    handle = tensors.put(array)
    assert tensors.peek(handle) is array
    assert tensors.take(handle) is array
    assert len(tensors) == 0


def test_no_handle_is_used_twice():
    tensors = Tensors()
    first = tensors.put(b"a")
    tensors.release(first)
    assert tensors.put(b"b") > first


@pytest.mark.parametrize("use", [Tensors.take, Tensors.peek, Tensors.release])
def test_a_handle_that_was_given_up_is_our_mistake(use):
    tensors = Tensors()
    handle = tensors.put(b"a")
    tensors.release(handle)
    with pytest.raises(AssertionError, match="before"):
        use(tensors, handle)
    with pytest.raises(AssertionError):
        use(tensors, TensorHandle(999))


def test_empty_bytes_are_a_tensor_too():
    tensors = Tensors()
    assert tensors.take(tensors.put(b"")) == b""


def test_it_counts_the_bytes_it_keeps_alive():
    tensors = Tensors()
    handles = [tensors.put(value) for value in (b"abc", np.zeros(4, np.float32), memoryview(np.zeros(2, np.int64)))]
    assert (len(tensors), tensors.nbytes) == (3, 3 + 16 + 16)
    for handle in handles:
        tensors.release(handle)
    assert (len(tensors), tensors.nbytes) == (0, 0)
