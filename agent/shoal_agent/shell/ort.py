"""The one file that knows onnxruntime.

*One pool.* Sessions with pools of their own spin against each other: three of them ran 2.8 times slower than one.
So the process has one global pool and every session uses it; ``configure`` must run before the first session opens.

*Weights outside the graph.* A block's graph comes as bytes and names its shards as external data; ONNX Runtime reads
them from the blob directory. Opening a layer takes 4-6 ms, nearly all of it repacking weights for the kernels.

*Shared memory.* An ``OrtValue`` over a numpy array shares its memory on the CPU, so writing the array *is* writing
the input, and the same buffer can be bound as past and as present. The array must outlive the value: ``Value`` keeps
both.

Creating sessions is not promised to be thread-safe, so it happens under one lock; running is.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from shoal_agent.shell.ports import Array

_PROVIDERS: Final = ["CPUExecutionProvider"]
_CREATION: Final = threading.Lock()
_SEVERITY_ERROR: Final = 3


class EngineError(Exception):
    """onnxruntime refused a graph or a run; the text is its own."""


def configure(threads: int) -> None:
    """Size the process-wide pool: ``threads`` for one operator, one operator at a time. Once, before any session."""
    onnxruntime.set_global_thread_pool_sizes(threads, 1)


def providers() -> tuple[str, ...]:
    """The execution providers this build has."""
    return tuple(onnxruntime.get_available_providers())


def version() -> str:
    """The version of onnxruntime."""
    return str(onnxruntime.__version__)


@dataclass(frozen=True, slots=True)
class Value:
    """An array and the OrtValue over the same memory."""

    array: Array
    ort: Any = field(repr=False)


def value_of(array: Array) -> Value:
    """``array`` (C-contiguous) as an input or output that can be bound; nothing is copied."""
    assert array.flags.c_contiguous, "a bound buffer is contiguous"
    return Value(array, onnxruntime.OrtValue.ortvalue_from_numpy(array))


class Cancel:
    """Terminates one run from another thread; a run that begins after it ends at once."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()

    def set(self) -> None:
        """End the run; onnxruntime looks at the flag between nodes."""
        self.options.terminate = True

    @property
    def is_set(self) -> bool:
        """Whether ``set`` was called."""
        return bool(self.options.terminate)


class Binding:
    """Inputs and outputs of one session, bound to buffers."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self._binding = session.io_binding()

    def bind_input(self, name: str, value: Value) -> None:
        """Read input ``name`` from ``value``, from now on."""
        self._binding.bind_ortvalue_input(name, value.ort)

    def bind_output(self, name: str, value: Value) -> None:
        """Write output ``name`` to ``value``, from now on."""
        self._binding.bind_ortvalue_output(name, value.ort)

    def run(self, cancel: Cancel) -> None:
        """Run the session over what is bound. EngineError, also when cancelled."""
        try:
            self._session.run_with_iobinding(self._binding, cancel.options)
        except Exception as fault:  # onnxruntime raises a dozen unrelated types
            raise EngineError(_sentence(fault)) from fault


class BlockSession:
    """One opened block."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def binding(self) -> Binding:
        """A fresh set of bindings."""
        return Binding(self._session)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """All outputs by name, in arrays of their own: for measuring and checking, not for serving."""
        try:
            values = self._session.run(self._outputs, dict(feeds))
        except Exception as fault:  # onnxruntime raises a dozen unrelated types
            raise EngineError(_sentence(fault)) from fault
        return dict(zip(self._outputs, (np.asarray(value) for value in values), strict=True))


def open_block(graph: bytes, blobs: Path) -> BlockSession:
    """Open ``graph``, whose weights are files of the directory ``blobs``. EngineError."""
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = _SEVERITY_ERROR
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(blobs))
    return _open(graph, options)


def open_graph(graph: bytes) -> BlockSession:
    """Open a graph that holds its weights itself. EngineError."""
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = _SEVERITY_ERROR
    return _open(graph, options)


def _open(graph: bytes, options: Any) -> BlockSession:  # noqa: ANN401 - onnxruntime has no types
    try:
        with _CREATION:
            return BlockSession(onnxruntime.InferenceSession(graph, options, providers=_PROVIDERS))
    except Exception as fault:  # onnxruntime raises a dozen unrelated types
        raise EngineError(_sentence(fault)) from fault


class Runner:
    """Opens blocks for the models room, which measures with them. Implements ``shoal_models.ports.BlockRunner``."""

    def open(self, graph: bytes, blobs: Path) -> BlockSession:
        """One block, opened."""
        return open_block(graph, blobs)


def _sentence(fault: Exception) -> str:
    """The first line of what onnxruntime said; the rest is a stack of template names."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0][:500]
