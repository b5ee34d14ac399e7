import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from shoal_agent.shell import microbench, ort
from shoal_agent.shell.microbench import BLOCK, LAYERS, SIDE, benchmark_graph, measure_speed


@pytest.fixture(scope="module")
def graph() -> bytes:
    return benchmark_graph()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    ort.configure(1)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_onnx_accepts_the_graph_and_would_write_the_same_bytes(graph):
    model = onnx.load_from_string(graph)
    checker.check_model(model)
    assert model.SerializeToString(deterministic=True) == graph


def test_the_graph_says_what_the_onnx_package_would_have_said(graph):
    """Built again with the official helpers: our dozen protobuf fields are the right ones."""
    written = onnx.load_from_string(graph)
    names = ["x", *(f"h{layer}" for layer in range(LAYERS - 1)), "y"]
    nodes = [
        helper.make_node(
            "MatMulNBits",
            [names[layer], f"w{layer}", f"s{layer}"],
            [names[layer + 1]],
            domain="com.microsoft",
            K=SIDE,
            N=SIDE,
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,
        )
        for layer in range(LAYERS)
    ]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIDE])] for name in "xy"]
    expected = helper.make_graph(nodes, "speed", *ports, list(written.graph.initializer))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    for each in (*written.graph.node, *expected.node):
        attributes = sorted(each.attribute, key=lambda attribute: attribute.name)
        del each.attribute[:]
        each.attribute.extend(attributes)
    assert written == helper.make_model(expected, opset_imports=opsets, ir_version=10)
    shapes = {name: (value.shape, value.dtype) for name, value in weights(written).items()}
    assert shapes == {
        **{f"w{layer}": ((SIDE, SIDE // BLOCK, BLOCK), np.dtype(np.uint8)) for layer in range(LAYERS)},
        **{f"s{layer}": ((SIDE * SIDE // BLOCK,), np.dtype(np.float32)) for layer in range(LAYERS)},
    }


def test_it_really_multiplies(graph):
    """Against numpy with the weights of the file: a benchmark of zeros, or one that skips a layer, measures nothing."""
    stored = weights(onnx.load_from_string(graph))
    x = np.random.default_rng(3).standard_normal((1, SIDE)).astype(np.float32)
    expected = x.astype(np.float64)
    for layer in range(LAYERS):
        scaled = (stored[f"w{layer}"].astype(np.float64) - 128) * stored[f"s{layer}"].reshape(SIDE, -1, 1)
        expected = expected @ scaled.reshape(SIDE, SIDE).T
    got = ort.open_graph(graph).run({"x": x})["y"]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


def test_every_device_multiplies_the_same_numbers(graph):
    assert benchmark_graph() == graph


def test_the_speed_is_positive_repeatable_and_known_in_time():
    begun = time.perf_counter()
    speeds = [measure_speed(0.1) for _ in range(3)]
    took_s = time.perf_counter() - begun
    assert all(isinstance(speed, int) for speed in speeds)
    assert min(speeds) > 1_000_000, "slower than a pocket calculator: something else was measured"
    assert max(speeds) < 2 * min(speeds)
    assert took_s < 3 * 0.1 + 5


def test_even_without_time_it_answers():
    assert measure_speed(0.0) > 0


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63 - 1])
def test_a_varint_is_seven_bits_a_byte_lowest_first(value):
    data = microbench._varint(value)
    assert sum((byte & 0x7F) << 7 * at for at, byte in enumerate(data)) == value
    assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]
