"""The one file that knows onnxruntime.

*One pool.* Sessions with pools of their own spin against each other: three of them ran 2.8 times slower than one.
So the process has one global pool and every session uses it; ``configure`` must run before the first session opens.
Its threads go on spinning for 40 ms after a run, and no option of the Python interface stops that: a node with other
things to do should get few (with one thread, the caller's own, nothing spins).

*Weights outside the graph.* A block's graph comes as bytes and names its shards as external data; ONNX Runtime reads
them from the blob directory. Opening a layer takes 4-6 ms, nearly all of it repacking weights for the kernels.

*Shared memory.* An ``OrtValue`` over a numpy array shares its memory on the CPU, so writing the array *is* writing
the input, and the same buffer can be bound as past and as present. The array must outlive the value: ``Value`` keeps
both.

*No arena, no memory patterns.* With a session per block they make a token slower (8.9 ms against 8.6 for 32 blocks)
and a prompt no faster, and an arena keeps its peak for ever, once per block.

*Quiet.* By default the library writes an identifier into the home directory and reports to its maker which graphs are
opened; it logs to stderr, which is our log's; and on an error the Python interface prints to stdout and tries again.
All of that is off: the first before the library is loaded, the only moment at which it can be.

*Cheap runs.* Unless a run option says that no GPU graph is captured, the Python interface raises and catches an
exception in every run: 28 us per block, a tenth of a token.

Creating sessions is not promised to be thread-safe, so it happens under one lock; running is.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from shoal_agent.shell.ports import Array

_PROVIDERS: Final = ["CPUExecutionProvider"]
_CREATION: Final = threading.Lock()
_LOG_NOTHING: Final = 4
"""Severity "fatal": every error reaches us as an exception."""
_NO_GRAPH_CAPTURE: Final = ("gpu_graph_id", "-1")
_WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"


class EngineError(Exception):
    """onnxruntime refused a graph or a run; the text is its own."""


@cache
def configure(threads: int) -> None:
    """Size the process-wide pool: ``threads`` for one operator, one operator at a time. Before any session.

    A process has one pool: asking for the same size again changes nothing, for another one is an EngineError.
    """
    assert threads > 0, "at least the calling thread computes"
    onnxruntime.set_default_logger_severity(_LOG_NOTHING)
    try:
        onnxruntime.set_global_thread_pool_sizes(threads, 1)
    except Exception as fault:  # onnxruntime raises a dozen unrelated types
        raise EngineError(f"this process cannot have {threads} compute threads: {_sentence(fault)}") from fault


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
    """Terminates the run in progress from another thread; one that begins after it ends at once."""

    def __init__(self) -> None:
        self.options: Any = onnxruntime.RunOptions()
        self.options.log_severity_level = _LOG_NOTHING
        self.options.add_run_config_entry(*_NO_GRAPH_CAPTURE)

    def set(self) -> None:
        """End the run; onnxruntime looks at the flag between nodes."""
        self.options.terminate = True

    @property
    def is_set(self) -> bool:
        """Whether ``set`` was called."""
        return bool(self.options.terminate)


class Binding:
    """Inputs and outputs of one session, bound to buffers. It keeps what is bound alive; one run at a time."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self._binding = session.io_binding()
        self._bound: dict[str, Value] = {}

    def bind_input(self, name: str, value: Value) -> None:
        """Read input ``name`` from ``value``, from now on. EngineError if there is none, or of another type."""
        try:
            self._binding.bind_ortvalue_input(name, value.ort)
        except Exception as fault:  # onnxruntime raises a dozen unrelated types
            raise EngineError(_sentence(fault)) from fault
        self._bound[name] = value

    def bind_output(self, name: str, value: Value) -> None:
        """Write output ``name`` to ``value``, from now on. If there is none, the next run says so."""
        self._binding.bind_ortvalue_output(name, value.ort)
        self._bound[name] = value

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
    options = _options()
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(blobs.absolute()))
    return _open(graph, options)


def open_graph(graph: bytes) -> BlockSession:
    """Open a graph that holds its weights itself. EngineError."""
    return _open(graph, _options())


def _options() -> Any:  # noqa: ANN401 - onnxruntime has no types
    assert configure.cache_info().currsize, "the pool is configured before the first session"
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = _LOG_NOTHING
    return options


def _open(graph: bytes, options: Any) -> BlockSession:  # noqa: ANN401 - onnxruntime has no types
    try:
        with _CREATION:
            session = onnxruntime.InferenceSession(graph, options, providers=_PROVIDERS, enable_fallback=0)
    except Exception as fault:  # onnxruntime raises a dozen unrelated types
        raise EngineError(_sentence(fault)) from fault
    return BlockSession(session)


class Runner:
    """Opens blocks for the models room, which measures with them. Implements ``shoal_models.ports.BlockRunner``."""

    def open(self, graph: bytes, blobs: Path) -> BlockSession:
        """One block, opened."""
        return open_block(graph, blobs)


def _sentence(fault: Exception) -> str:
    """The first line of what onnxruntime said; the rest is a stack of template names."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0][:500]
