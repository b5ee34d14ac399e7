"""What this package needs of the rooms above it: someone to run a block, someone to show progress.

``shoal_models`` never imports a runtime. Whoever imports a model passes a :class:`BlockRunner`, so that converting,
checking and measuring can be tested with any runtime, and so that only one file of the project knows onnxruntime.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


Clock = Callable[[], int]
"""Nanoseconds that only go forward."""


class Progress(Protocol):
    """Called from time to time during a long job; ``step`` is a short noun phrase, ``done`` of ``total`` its units."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


class BlockSession(Protocol):
    """One block, opened. ``run`` takes all inputs by name and returns all outputs by name."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]: ...


class BlockRunner(Protocol):
    """Opens blocks on this machine."""

    def open(self, graph: bytes, blobs: Path) -> BlockSession:
        """``graph`` is a serialised ONNX model whose weights are files of the directory ``blobs``."""


def no_progress(step: str, done: int, total: int) -> None:
    """Shows nothing."""
