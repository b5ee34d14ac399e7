"""The chain of blocks against an independent network in numpy, for every numeric and every variant of the file."""

import numpy as np
import onnx
import pytest

from shoal_models.importing import import_gguf
from shoal_models.package import Store
from shoal_models.ports import no_progress
from tests.support.chain import Chain
from tests.support.numpy_llama import NumpyLlama
from tests.support.statistics import mean_kl
from tests.support.tiny_model import TinyLlama, write_tiny_llama

TOKENS = np.random.default_rng(0).integers(0, 320, 40).tolist()
FP32_ERROR_MAX = 1e-4


def imported(tmp_path, measurement, spec: TinyLlama, numeric: str) -> tuple[Chain, NumpyLlama, Store]:
    path = write_tiny_llama(tmp_path / "t.gguf", spec)
    store = Store(tmp_path / "store")
    manifest = import_gguf(path, store, "t", numeric, "none", measurement, no_progress)
    return Chain(store, manifest), NumpyLlama(path), store


@pytest.mark.parametrize(
    "spec",
    [
        TinyLlama(),
        TinyLlama(tied=False),
        TinyLlama(rope_factors=True),
        TinyLlama(kv_heads=4),
        TinyLlama(kv_heads=1, layers=1, seed=9),
        TinyLlama(matrix_type="Q4_0", table_type="Q4_0"),
        TinyLlama(matrix_type="Q8_0"),
        TinyLlama(matrix_type="F16", table_type="F16"),
        TinyLlama(matrix_type="F32", table_type="F32", tied=False),
    ],
    ids=lambda spec: f"{spec.matrix_type}-{spec.table_type}-kv{spec.kv_heads}-tied{spec.tied}-rope{spec.rope_factors}",
)
def test_fp32_is_the_network_of_the_file(spec, tmp_path, measurement):
    chain, reference, _ = imported(tmp_path, measurement, spec, "fp32")
    wanted = reference.logits(TOKENS)
    np.testing.assert_allclose(chain.all_logits(TOKENS), wanted, atol=FP32_ERROR_MAX)
    chain.restart()
    chain.feed(TOKENS[:7])
    np.testing.assert_allclose(chain.feed(TOKENS[7:]), wanted[-1], atol=FP32_ERROR_MAX)


@pytest.mark.parametrize(
    ("numeric", "matrix_type", "kl_max"),
    [("int8", "Q4_1", 0.03), ("int8", "Q8_0", 0.03), ("int8", "F16", 0.03), ("int4", "Q4_0", 0.03)],
)
def test_quantised_chains_stay_close(numeric, matrix_type, kl_max, tmp_path, measurement):
    """A random network has no redundancy to hide errors in: ten times the KL of a trained one is expected here."""
    chain, reference, _ = imported(tmp_path, measurement, TinyLlama(matrix_type=matrix_type), numeric)
    assert mean_kl(reference.logits(TOKENS), chain.all_logits(TOKENS)) < kl_max


def test_requantising_to_4_bits_is_measurably_worse(tmp_path, measurement):
    """Why int4 is an option and not the default: see `quantize`."""
    chain, reference, _ = imported(tmp_path, measurement, TinyLlama(), "int4")
    assert 0.05 < mean_kl(reference.logits(TOKENS), chain.all_logits(TOKENS)) < 2


@pytest.mark.parametrize("numeric", ["int8", "fp32", "int4"])
def test_shared_weights_are_stored_once(numeric, tmp_path, measurement):
    _, _, store = imported(tmp_path, measurement, TinyLlama(), numeric)
    blocks = store.load("t").blocks
    table, rotation = blocks[0].shards[0], blocks[1].shards[1]
    assert table in blocks[-1].shards
    assert all(block.shards[1] == rotation for block in blocks[1:-1])
    assert len({block.shards[0].digest for block in blocks[1:-1]}) == 4
    assert rotation.bytes == 2 * 512 * 8 * 4


@pytest.mark.parametrize("numeric", ["int8", "int4"])
def test_the_token_table_keeps_its_own_bytes(numeric, tmp_path, measurement, tiny_gguf):
    """Q8_0 rows come out of embed exactly, at every width of the layers."""
    chain, reference, _ = imported(tmp_path, measurement, TinyLlama(), numeric)
    embed = chain._sessions[0].run({"input_ids": np.array([TOKENS], np.int64)})["hidden"]
    np.testing.assert_array_equal(embed[0], reference.w["token_embd.weight"][TOKENS])


def test_an_untied_output_is_the_heads_own_shard(tmp_path, measurement):
    _, _, store = imported(tmp_path, measurement, TinyLlama(tied=False), "int8")
    blocks = store.load("t").blocks
    assert len(blocks[-1].shards) == 1
    assert blocks[0].shards[0] not in blocks[-1].shards


def test_graphs_state_what_the_manifest_states(tiny_store):
    manifest = tiny_store.load("tiny")
    for index, block in enumerate(manifest.blocks):
        graph = onnx.load_from_string(tiny_store.open_block(manifest, index).graph).graph
        states = block.state
        assert [port.name for port in graph.input] == [
            *(port.name for port in block.inputs),
            *(pair.past for pair in states),
        ]
        assert [port.name for port in graph.output] == [
            *(port.name for port in block.outputs),
            *(pair.present for pair in states),
        ]
        for port, info in zip((*block.inputs, *block.outputs), (*graph.input, *graph.output), strict=False):
            if not states:
                dims = info.type.tensor_type.shape.dim
                assert tuple(dim.dim_value or dim.dim_param for dim in dims) == port.shape
        used = {
            entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"
        }
        assert used == {shard.digest for shard in block.shards}, "a block lists exactly the shards its graph opens"
        assert block.graph.bytes < 6000
