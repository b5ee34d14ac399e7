"""The tensor table: handles for the core, arrays for the drivers.

The core must never hold a tensor (it could not be simulated then, and a copy would be one assignment away), so it
holds numbers and this table holds what they stand for. A handle has one owner at a time, who takes or releases it
exactly once; anything else is a bug of ours and asserts. An idle node's table is empty, which tests check.
"""

from shoal_agent.core.facts import TensorHandle
from shoal_agent.shell.ports import Array

Value = Array | bytes | memoryview


class Tensors:
    """Handle to array, bytes or view."""

    def __init__(self) -> None:
        self._values: dict[TensorHandle, Value] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes that the table keeps alive."""
        return sum(len(value) if isinstance(value, bytes) else value.nbytes for value in self._values.values())

    def put(self, value: Value) -> TensorHandle:
        """Keep ``value``; the handle was never used before."""
        self._last += 1
        handle = TensorHandle(self._last)
        self._values[handle] = value
        return handle

    def take(self, handle: TensorHandle) -> Value:
        """Remove and return."""
        assert handle in self._values, f"tensor {handle} was taken before"
        return self._values.pop(handle)

    def peek(self, handle: TensorHandle) -> Value:
        """Return and keep."""
        assert handle in self._values, f"tensor {handle} was taken before"
        return self._values[handle]

    def release(self, handle: TensorHandle) -> None:
        """Remove."""
        self.take(handle)
