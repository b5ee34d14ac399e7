"""What is converted, and that everything else is refused by its name, all of it at once."""

import gguf
import numpy as np
import pytest

from shoal_models.errors import UnreadableModel, UnsupportedModel
from shoal_models.importers import gguf as importer
from shoal_models.importers.gguf_file import GgufFile, TensorEntry, read_gguf
from tests.support.tiny_model import TinyLlama, write_tiny_llama


@pytest.fixture
def file(tiny_gguf) -> GgufFile:
    return read_gguf(tiny_gguf)


def changed(file: GgufFile, fields=None, tensors=None) -> GgufFile:
    """``file`` with fields and tensors replaced; None removes."""
    merged = ({**file.fields, **(fields or {})}, {**file.tensors, **(tensors or {})})
    return GgufFile(*({key: value for key, value in part.items() if value is not None} for part in merged), file.data)


def test_sizes(file):
    shape = importer.read_llama(file).shape
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (4, 64, 4, 2, 16)
    assert (shape.feed_forward, shape.vocabulary, shape.context_tokens_max) == (128, 320, 512)
    assert shape.rms_epsilon == pytest.approx(1e-5)


def test_tied_and_untied_output(file, tmp_path):
    assert importer.read_llama(file).output is None
    untied = write_tiny_llama(tmp_path / "untied.gguf", TinyLlama(tied=False))
    assert importer.read_llama(read_gguf(untied)).output.rows == 320


def test_frequencies(file, tmp_path):
    plain = importer.read_llama(file).frequencies
    np.testing.assert_allclose(plain, 10_000.0 ** (-np.arange(0, 16, 2) / 16))
    linear = changed(file, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0})
    np.testing.assert_allclose(importer.read_llama(linear).frequencies, plain / 4)
    factors = write_tiny_llama(tmp_path / "factors.gguf", TinyLlama(rope_factors=True))
    np.testing.assert_allclose(importer.read_llama(read_gguf(factors)).frequencies, plain / np.linspace(1, 4, 8))


def test_query_and_key_rows_are_reordered_and_nothing_else(file):
    layer = importer.read_llama(file).layers[0]
    assert (layer.query.rotary_heads, layer.key.rotary_heads) == (4, 2)
    assert {layer.value.rotary_heads, layer.gate.rotary_heads, layer.attention_output.rotary_heads} == {0}


@pytest.mark.parametrize("kind", ["F16", "F32", "Q4_0", "Q4_1", "Q8_0"])
def test_every_supported_type_is_read(kind, tmp_path):
    path = write_tiny_llama(tmp_path / "t.gguf", TinyLlama(layers=1, matrix_type=kind, table_type=kind))
    assert importer.read_llama(read_gguf(path)).layers[0].gate.type == kind


def test_other_types_are_all_named(file):
    bad = {
        name: TensorEntry(name, file.tensors[name].shape, code, file.tensors[name].offset)
        for name, code in (("blk.0.ffn_up.weight", 14), ("blk.3.attn_v.weight", 12), ("token_embd.weight", 999))
    }
    with pytest.raises(UnsupportedModel) as refusal:
        importer.read_llama(changed(file, tensors=bad))
    assert set(refusal.value.things) == {
        "blk.0.ffn_up.weight is Q6_K",
        "blk.3.attn_v.weight is Q4_K",
        "token_embd.weight is type 999",
    }


def test_unknown_tensors_are_all_named(file):
    extra = {name: TensorEntry(name, (64,), 0, 0) for name in ("blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight")}
    with pytest.raises(UnsupportedModel) as refusal:
        importer.read_llama(changed(file, tensors=extra))
    assert set(refusal.value.things) == set(extra)


def test_missing_tensors_are_all_named(file):
    with pytest.raises(UnreadableModel, match=r"blk\.1\.attn_k\.weight, blk\.2\.ffn_norm\.weight"):
        importer.read_llama(changed(file, tensors={"blk.1.attn_k.weight": None, "blk.2.ffn_norm.weight": None}))


def test_a_tensor_of_the_wrong_shape(file):
    wrong = TensorEntry("blk.0.ffn_up.weight", (64, 64), 0, 0)
    with pytest.raises(UnreadableModel, match=r"blk\.0\.ffn_up\.weight is \[64, 64\] instead of \[128, 64\]"):
        importer.read_llama(changed(file, tensors={"blk.0.ffn_up.weight": wrong}))


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", None, 7])
def test_other_architectures_are_refused_by_name(file, architecture):
    with pytest.raises(UnsupportedModel, match=f"architecture {architecture!r}"):
        importer.read_llama(changed(file, {"general.architecture": architecture}))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.rope.dimension_count": 8}, "rotation of part of each head"),
        ({"llama.rope.freq_base": 0.5}, "more than one radian"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.5}, "more than one radian"),
        ({"llama.attention.head_count_kv": 3}, "4 heads over 3 key heads"),
        ({"llama.attention.value_length": 8}, "values of another size"),
        ({"llama.block_count": 100_000}, "100000 layers"),
        ({"llama.context_length": 2**30}, "a context of"),
    ],
)
def test_variants_we_do_not_convert(file, fields, complaint):
    with pytest.raises(UnsupportedModel, match=complaint):
        importer.read_llama(changed(file, fields))


@pytest.mark.parametrize("value", [None, 0, -1, True, "64", 2**40, 1.5])
def test_sizes_that_are_none(file, value):
    with pytest.raises(UnreadableModel, match=r"llama\.embedding_length"):
        importer.read_llama(changed(file, {"llama.embedding_length": value}))


@pytest.mark.parametrize("value", ["x", float("nan"), 0.0])
def test_a_rotation_base_that_is_none(file, value):
    with pytest.raises(UnreadableModel, match="base"):
        importer.read_llama(changed(file, {"llama.rope.freq_base": value}))


def test_tensor_bytes_that_were_cut_off(tiny_gguf, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-4096])
    with pytest.raises(UnreadableModel, match="truncated GGUF file: tensor"):
        importer.read_llama(read_gguf(path))


def test_the_type_codes_are_ggmls():
    assert {code: gguf.GGMLQuantizationType(code).name for code in (0, 1, 2, 3, 8)} == {
        code: str(kind) for code, kind in importer.TYPE_CODES.items()
    }
