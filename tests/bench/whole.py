"""The whole model in one process of its own, in two ways; asked over stdin, answered on stdout, one JSON line each.

``whole`` is the engine's own Stage over all blocks: what an agent would run if it held everything, without the agent.
``unsplit`` is one graph in one plain session, its KV preallocated and bound as past and present, buffers bound once:
the fastest this runtime does on one thread, and the check that ``whole`` is no straw man.

Neither pays for a network, a loop, a lock, a text or a second thread.
"""

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from shoal_agent.shell import ort
from shoal_agent.shell.stage import OpenBlock, Stage
from shoal_models.package import Store
from tests.support.unsplit import LENGTHS, join


class Runner(Protocol):
    """One session at a time."""

    def begin(self, tokens_max: int) -> None:
        """Start over."""

    def run(self, tokens: np.ndarray, position: int) -> int:
        """The greedy token after ``tokens`` [1, n], which stand from ``position`` on."""


class Whole:
    """All blocks of a package in one Stage."""

    def __init__(self, store: Store, name: str) -> None:
        manifest = store.load(name)
        self._vocabulary = manifest.dimensions.vocabulary
        self._blocks = []
        for index in range(len(manifest.blocks)):
            opened = store.open_block(manifest, index)
            self._blocks.append(OpenBlock(opened.block, ort.open_block(opened.graph, opened.blobs)))
        self._cancel = ort.Cancel()
        self.begin(1)

    def begin(self, tokens_max: int) -> None:
        self._stage = Stage(self._blocks, self._vocabulary, tokens_max)

    def run(self, tokens: np.ndarray, position: int) -> int:
        logits = self._stage.run(tokens, position, tokens.shape[1], want_logits=True, cancel=self._cancel)
        assert logits is not None
        return int(logits.argmax())


class Unsplit:
    """One graph, one session, everything bound."""

    def __init__(self, store: Store, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(store.blobs))
        graph = join(store, name)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", "-1")
        self._logits = np.empty((1, 1, store.load(name).dimensions.vocabulary), np.float32)
        self.begin(1)

    def begin(self, tokens_max: int) -> None:
        self._binding = self._session.io_binding()
        self._lengths = (np.zeros(1, np.int32), np.zeros((), np.int32))
        self._single = np.zeros((1, 1), np.int64)
        self._kept = [self._logits, *self._lengths, self._single]
        for name, array in zip(LENGTHS, self._lengths, strict=True):
            self._bind_input(name, array)
        for each in self._session.get_inputs():
            if len(each.shape) == 4:
                state = np.zeros((1, each.shape[1], tokens_max, each.shape[3]), np.float32)
                self._kept.append(state)
                self._bind_input(each.name, state)
                value = onnxruntime.OrtValue.ortvalue_from_numpy(state)
                self._binding.bind_ortvalue_output(each.name.replace("past", "present"), value)
        output = next(each.name for each in self._session.get_outputs() if "present" not in each.name)
        self._binding.bind_ortvalue_output(output, onnxruntime.OrtValue.ortvalue_from_numpy(self._logits))
        self._bound_one = False

    def run(self, tokens: np.ndarray, position: int) -> int:
        one = tokens.shape[1] == 1
        if one:
            self._single[...] = tokens
        if not (one and self._bound_one):
            self._fed = self._single if one else tokens
            self._bind_input("tokens", self._fed)
        self._bound_one = one
        total = position + tokens.shape[1]
        self._lengths[0][0], self._lengths[1][...] = total - 1, total
        self._session.run_with_iobinding(self._binding, self._options)
        return int(self._logits.argmax())

    def _bind_input(self, name: str, array: np.ndarray) -> None:
        self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))


def decode(runner: Runner, prompt: list[int], count: int) -> dict[str, Any]:
    """``count`` tokens; the gaps between them and the time to the first one, in seconds."""
    runner.begin(len(prompt) + count)
    times = [time.perf_counter()]
    tokens = [runner.run(np.array([prompt], np.int64), 0)]
    times.append(time.perf_counter())
    while len(tokens) < count:
        tokens.append(runner.run(np.array([tokens[-1:]], np.int64), len(prompt) + len(tokens) - 1))
        times.append(time.perf_counter())
    first, *gaps = [after - before for before, after in pairwise(times)]
    return {"tokens": tokens, "first_s": first, "gaps_s": gaps}


def main(kind: str, root: str, name: str, core: str) -> None:
    """Serve until stdin ends."""
    os.sched_setaffinity(0, {int(core)})
    ort.configure(1)
    runner = {"whole": Whole, "unsplit": Unsplit}[kind](Store(Path(root)), name)
    _say({})
    for line in sys.stdin:
        wish = json.loads(line)
        _say(decode(runner, wish["prompt"], wish["count"]))


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
