"""Runs one block with onnxruntime, one thread: what the models room measures and checks with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime


class OrtSession:
    def __init__(self, graph: bytes, blobs: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(blobs))
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


class OrtRunner:
    def open(self, graph: bytes, blobs: Path) -> OrtSession:
        return OrtSession(graph, blobs)
