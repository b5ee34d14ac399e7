"""Graphs are small, deterministic, and refer to shards by digest."""

import numpy as np
import onnx
import pytest

from shoal_agent.shell.ort import open_block
from shoal_models.graph import ACCURACY_LEVEL, BlockGraph
from shoal_models.manifest import Port
from shoal_models.package import Store
from shoal_models.quantize import pack_nibbles
from shoal_models.shards import store_shard

ROWS, COLUMNS = 16, 64
IN, OUT = (
    Port(name="x", dtype="f32", shape=(1, "tokens", COLUMNS)),
    Port(name="y", dtype="f32", shape=(1, "tokens", ROWS)),
)


@pytest.fixture
def store(tmp_path, measurement):
    store = Store(tmp_path)
    with store.exclusive():
        yield store


def product(store: Store, tensors: dict) -> bytes:
    graph = BlockGraph()
    graph.linear(store_shard(store, tensors), "w", "x", "y")
    return graph.serialize("product", (IN,), (OUT,), ())


def codes(random, bits: int) -> np.ndarray:
    return random.integers(0, 2**bits, (ROWS, COLUMNS // 32, 32)).astype(np.uint8)


def quantised(bits: int) -> tuple[dict, np.ndarray]:
    """Tensors of a shard, and the matrix they stand for."""
    random = np.random.default_rng(5)
    scales = random.uniform(0.01, 0.02, (ROWS, 2)).astype(np.float32)
    q = codes(random, bits)
    if bits == 8:
        return {"w.codes": q, "w.scales": scales}, (q - np.float32(128)) * scales[..., None]
    zeros = random.integers(0, 16, (ROWS, 2)).astype(np.uint8)
    tensors = {"w.codes": pack_nibbles(q), "w.scales": scales, "w.zero_points": pack_nibbles(zeros)}
    return tensors, (q.astype(np.float32) - zeros[..., None]) * scales[..., None]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_quantised_product_means_what_the_codes_mean(store, bits, tokens):
    """Unit inputs are exact in the runtime's 8-bit activations: each picks one column."""
    tensors, matrix = quantised(bits)
    x = np.zeros((1, tokens, COLUMNS), np.float32)
    for token in range(tokens):
        x[0, token, 7 * token] = 1
    y = open_block(product(store, tensors), store.blobs).run({"x": x})["y"]
    np.testing.assert_allclose(y, x @ matrix.reshape(ROWS, COLUMNS).T, rtol=1e-5, atol=1e-6)


def test_a_plain_product(store):
    weight = np.random.default_rng(1).standard_normal((COLUMNS, ROWS)).astype(np.float32)
    x = np.random.default_rng(2).standard_normal((1, 3, COLUMNS)).astype(np.float32)
    y = open_block(product(store, {"w.weight": weight}), store.blobs).run({"x": x})["y"]
    np.testing.assert_allclose(y, x @ weight, rtol=1e-4, atol=1e-5)


def test_weights_stay_outside(store):
    tensors, _ = quantised(8)
    data = product(store, tensors)
    model = onnx.load_from_string(data)
    assert (model.ir_version, {o.domain: o.version for o in model.opset_import}) == (10, {"": 21, "com.microsoft": 1})
    for initializer in model.graph.initializer:
        where = {entry.key: entry.value for entry in initializer.external_data}
        assert (store.blobs / where["location"]).is_file()
        assert not initializer.raw_data
    (node,) = model.graph.node
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    assert attributes == {
        "K": COLUMNS,
        "N": ROWS,
        "bits": 8,
        "block_size": 32,
        "accuracy_level": ACCURACY_LEVEL,
    }
    assert data == product(store, tensors), "equal input, equal bytes"


def test_norm_and_last_position(store):
    scale = np.arange(1, COLUMNS + 1, dtype=np.float32)
    graph = BlockGraph()
    graph.rms_norm(store_shard(store, {"n.weight": scale}), "n", graph.last_position("x", "last"), "y", 1e-5)
    out = Port(name="y", dtype="f32", shape=(1, 1, COLUMNS))
    x = np.random.default_rng(2).standard_normal((1, 3, COLUMNS)).astype(np.float32)
    y = open_block(graph.serialize("norm", (IN,), (out,), ()), store.blobs).run({"x": x})["y"]
    last = x[:, -1:]
    np.testing.assert_allclose(y, last / np.sqrt((last**2).mean() + 1e-5) * scale, rtol=1e-4)
