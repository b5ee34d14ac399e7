"""A text through the tiny llama: what is kept of it, and what is said of a change."""

import numpy as np
import pytest

from shoal_models.blocks import build_embed, build_head, build_layer, store_shared
from shoal_models.importers.gguf import read_llama
from shoal_models.importers.gguf_file import read_gguf
from shoal_models.package import Store
from shoal_models.rehearsal import STRIDE, TOKENS, TOKENS_MIN, Rehearsal, agreement_of, ids_of, loss_of
from shoal_protocol.limits import TOKENIZER_BYTES_MAX
from tests.support.statistics import log_softmax, mean_kl

IDS = [7, 100, 31, 250, 18, 9, 77, 310, 4, 4, 19, 2]


@pytest.fixture(scope="module")
def rehearsal(tiny_gguf, tmp_path_factory, measurement) -> Rehearsal:
    store = Store(tmp_path_factory.mktemp("rehearsal"))
    source = read_llama(read_gguf(tiny_gguf))
    with store.exclusive():
        shared = store_shared(store, source, "int8")
        layers = [build_layer(store, source, index, shared, "int8") for index in range(4)]
        built = (build_embed(source.shape, shared), *layers, build_head(store, source, shared, "int8"))
        return Rehearsal(built, store.blobs, IDS, measurement.runner)


@pytest.fixture(scope="module")
def tokenizer(tiny_store) -> bytes:
    return tiny_store.read(tiny_store.load("tiny").tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)


def test_a_value_that_was_kept_runs_on_to_the_same_end(rehearsal):
    assert len(rehearsal.necks) == 5, "every block but the head"
    for at in range(4):
        assert np.array_equal(rehearsal.onward(at + 1, rehearsal.necks[at]), rehearsal.necks[-1])


def test_what_is_likely_is_asked_at_every_so_many_positions(rehearsal):
    every, some = rehearsal.likely(rehearsal.necks[-1], 1), rehearsal.likely(rehearsal.necks[-1])
    assert every.shape == (len(IDS), 320)
    assert np.array_equal(every[::STRIDE], some)
    assert np.exp(every).sum(axis=-1) == pytest.approx(np.ones(len(IDS)))


def test_no_change_loses_nothing_and_agrees_everywhere(rehearsal):
    likely = rehearsal.likely(rehearsal.necks[-1], 1)
    assert loss_of(likely, likely) == 0.0
    assert agreement_of(likely, likely) == 1.0


def test_a_change_loses_the_kl_to_what_it_was():
    random = np.random.default_rng(3)
    exact, moved = random.normal(size=(2, 20, 50))
    moved[:5] = exact[:5]
    assert loss_of(log_softmax(exact), log_softmax(moved)) == pytest.approx(mean_kl(exact, moved))
    same = np.mean([one.argmax() == other.argmax() for one, other in zip(exact, moved, strict=True)])
    assert agreement_of(exact, moved) == same
    assert 0.25 <= same < 0.5


def test_the_text_is_as_long_as_the_model_can_take(tokenizer):
    assert len(ids_of(tokenizer, 512)) == TOKENS
    assert ids_of(tokenizer, 20) == ids_of(tokenizer, 512)[:20]
    assert ids_of(tokenizer, TOKENS_MIN - 1) is None
