import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from onnx import TensorProto, helper

from shoal_agent.shell import ort
from shoal_agent.shell.ort import Cancel, EngineError, open_block, open_graph, value_of

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    ort.configure(1)


def doubling(weight: TensorProto | None = None) -> bytes:
    """x [1, n] -> y = x + x (or x + weight)."""
    node = helper.make_node("Add", ["x", "x" if weight is None else weight.name], ["y"])
    ports = [[helper.make_tensor_value_info(name, FLOAT, [1, "n"])] for name in "xy"]
    graph = helper.make_graph([node], "doubling", *ports, [] if weight is None else [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def stored(location: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=[1, 2], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def bound(x: np.ndarray, y: np.ndarray) -> ort.Binding:
    binding = open_graph(doubling()).binding()
    binding.bind_input("x", value_of(x))
    binding.bind_output("y", value_of(y))
    return binding


def in_a_process(code: str, home) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_bound_run_writes_in_place_and_sees_what_was_written():
    x, y = np.array([[1.0, 2.0]], np.float32), np.zeros((1, 2), np.float32)
    binding = bound(x, y)
    binding.run(Cancel())
    assert y.tolist() == [[2.0, 4.0]]
    x[0, 0] = 5
    binding.run(Cancel())
    assert y.tolist() == [[10.0, 4.0]]


def test_a_binding_keeps_its_buffers_alive():
    x = np.ones((1, 1000), np.float32)
    alive = weakref.ref(x)
    y = np.zeros((1, 1000), np.float32)
    binding = bound(x, y)
    del x
    gc.collect()
    assert alive() is not None
    binding.run(Cancel())
    assert y.min() == y.max() == 2
    del binding
    gc.collect()
    assert alive() is None


def test_a_buffer_must_be_contiguous():
    with pytest.raises(AssertionError, match="contiguous"):
        value_of(np.zeros((2, 4), np.float32)[:, ::2])


def test_weights_are_read_from_the_folder(tmp_path):
    (tmp_path / "shard").write_bytes(np.array([10, 20], np.float32).tobytes())
    session = open_block(doubling(stored("shard")), tmp_path)
    results = session.run({"x": np.array([[1.0, 2.0]], np.float32)})
    assert {name: value.tolist() for name, value in results.items()} == {"y": [[11.0, 22.0]]}


@pytest.mark.parametrize("graph", [b"", b"no graph at all", doubling()[:-9], doubling(stored("nowhere"))])
def test_a_graph_that_does_not_open_is_one_kind_of_error_and_says_nothing_else(graph, tmp_path, capfd):
    with pytest.raises(EngineError) as caught:
        open_block(graph, tmp_path)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_folder_cannot_be_left(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    with pytest.raises(EngineError):
        open_block(doubling(stored("../secret")), tmp_path / "blobs")


def test_a_wrong_name_or_type_is_an_engine_error(capfd):
    binding = open_graph(doubling()).binding()
    with pytest.raises(EngineError):
        binding.bind_input("z", value_of(np.zeros((1, 1), np.float32)))
    one = np.zeros((1, 1), np.float32)
    with pytest.raises(EngineError):
        bound(one, np.zeros((1, 1), np.int64)).run(Cancel())
    unknown = bound(one, one.copy())
    unknown.bind_output("z", value_of(one.copy()))
    with pytest.raises(EngineError):
        unknown.run(Cancel())
    with pytest.raises(EngineError):
        open_graph(doubling()).run({"x": np.zeros((1, 1), np.int64)})
    assert capfd.readouterr() == ("", "")


def test_after_cancel_no_run_begins(capfd):
    y = np.zeros((1, 1), np.float32)
    binding = bound(np.ones((1, 1), np.float32), y)
    cancel = Cancel()
    assert not cancel.is_set
    cancel.set()
    assert cancel.is_set
    with pytest.raises(EngineError, match="terminate"):
        binding.run(cancel)
    assert y.item() == 0
    assert capfd.readouterr() == ("", "")


def test_the_pool_is_made_once():
    ort.configure(1)
    with pytest.raises(EngineError, match="7 compute threads"):
        ort.configure(7)


def test_a_session_before_the_pool_is_our_mistake(tmp_path):
    result = in_a_process("from shoal_agent.shell import ort; ort.open_graph(b'')", tmp_path)
    assert result.returncode == 1
    assert "AssertionError: the pool is configured" in result.stderr


def test_nothing_is_written_home_or_reported(tmp_path):
    code = """
import threading
from pathlib import Path
from shoal_agent.shell import ort
ort.configure(1)
ort.open_graph(bytes.fromhex(%r))
print(len(list(Path('/proc/self/task').iterdir())))
"""
    plain = in_a_process(
        "from pathlib import Path; import numpy; print(len(list(Path('/proc/self/task').iterdir())))", tmp_path
    )
    result = in_a_process(code % doubling().hex(), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert int(result.stdout) <= int(plain.stdout) + 1, "one thread of the runtime's own, and no uploader"


def test_it_says_what_it_is():
    assert ort.version().count(".") >= 1
    assert "CPUExecutionProvider" in ort.providers()


def test_a_runner_opens_blocks(tmp_path):
    session = ort.Runner().open(doubling(), tmp_path)
    assert session.run({"x": np.ones((1, 1), np.float32)})["y"].item() == 2
