"""Certificates of a network that is simple enough to say what they must be, and of the tiny llama."""

from dataclasses import dataclass

import numpy as np
import pytest
from tokenizers import Tokenizer

from shoal_models.blocks import build_embed, build_head, build_layer, store_shared
from shoal_models.certify import CERTIFIED_MAX, certify
from shoal_models.importers.gguf import read_llama
from shoal_models.importers.gguf_file import read_gguf
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_models.rehearsal import STRIDE, TEXT, TOKENS
from shoal_protocol.limits import TOKENIZER_BYTES_MAX

VOCABULARY = 320
HIDDEN = 64


@dataclass
class Plain:
    """Embeds by a table, leaves the value alone in every layer, and multiplies by ``sharpness`` times a table.

    ``outlier`` is the first value of every row, and means nothing.
    """

    sharpness: float
    outlier: float = 0.0

    def __post_init__(self):
        random = np.random.default_rng(0)
        self.table = random.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
        self.rows = random.normal(size=(HIDDEN, VOCABULARY)).astype(np.float32) * np.float32(self.sharpness)
        if self.outlier:
            self.table[:, 0], self.rows[0] = self.outlier, 0

    def open(self, graph: bytes, blobs) -> "Block":
        kind = "embed" if b"GatherBlockQuantized" in graph else "layer" if b"GroupQuery" in graph else "head"
        return Block(self, kind)


@dataclass
class Block:
    network: Plain
    kind: str

    def run(self, feeds):
        match self.kind:
            case "embed":
                return {"hidden": self.network.table[feeds["input_ids"]]}
            case "layer":
                return {"hidden_out": feeds["hidden"]}
            case _:
                return {"logits": feeds["hidden"][:, -1:] @ self.network.rows}


@pytest.fixture(scope="module")
def built(tiny_gguf, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("certify"))
    source = read_llama(read_gguf(tiny_gguf))
    with store.exclusive():
        shared = store_shared(store, source, "int8")
        layers = [build_layer(store, source, index, shared, "int8") for index in range(4)]
        return (build_embed(source.shape, shared), *layers, build_head(store, source, shared, "int8"))


@pytest.fixture(scope="module")
def tokenizer(tiny_store) -> bytes:
    return tiny_store.read(tiny_store.load("tiny").tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)


def losses(built, tokenizer, runner, context=512):
    found = certify(built, None, tokenizer, context, runner, no_progress)
    return {each.width: each.loss_micronats for each in found}


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_a_loss_is_the_kl_of_what_comes_out_to_what_would_have(built, tokenizer):
    network = Plain(0.2)
    ids = Tokenizer.from_str(tokenizer.decode()).encode(TEXT).ids[:TOKENS:STRIDE]
    rows = network.table[ids]
    steps = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)
    exact, coarse = (
        log_softmax((x @ network.rows).astype(np.float64)) for x in (rows, (np.rint(rows / steps) * steps))
    )
    wanted = (np.exp(exact) * (exact - coarse)).sum(axis=-1).mean() * 1e6
    assert losses(built, tokenizer, network)["i8"] == pytest.approx(wanted, abs=1.01)


def test_the_finer_the_width_the_less_it_loses(built, tokenizer):
    found = losses(built, tokenizer, Plain(0.2))
    assert list(found) == ["f16", "i8x32", "i8"]
    assert 1 <= found["f16"] < found["i8x32"] < found["i8"]


def test_what_loses_too_much_is_not_certified(built, tokenizer):
    found = losses(built, tokenizer, Plain(0.5, outlier=1000.0))
    assert list(found) == ["f16"]
    assert found["f16"] <= CERTIFIED_MAX


def test_no_number_is_no_certificate(built, tokenizer):
    with np.errstate(all="ignore"):
        assert losses(built, tokenizer, Plain(float("nan"))) == {}


def test_a_text_nobody_could_read_measures_nothing(built, tokenizer):
    assert losses(built, tokenizer, Plain(0.2), context=4) == {}


def test_the_tiny_llama_is_measured_alike_each_time(built, tiny_store, tokenizer, measurement):
    first, second = (certify(built, tiny_store.blobs, tokenizer, 512, measurement.runner, no_progress) for _ in "12")
    assert first == second == tiny_store.load("tiny").boundary.certificates
