"""Shortcuts of a network in which it is known what each layer adds, and of a real one."""

import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer

from shoal_models.blocks import build_embed, build_head, build_layer, store_shared
from shoal_models.costs import feeds_of
from shoal_models.importers.gguf import read_llama
from shoal_models.importers.gguf_file import read_gguf
from shoal_models.manifest import Cost
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_models.rehearsal import TEXT, TOKENS
from shoal_models.shortcuts import LOSS_MAX, certify_shortcuts
from shoal_protocol.limits import GRAPH_BYTES_MAX, TOKENIZER_BYTES_MAX
from tests.support.statistics import mean_kl

VOCABULARY = 320
HIDDEN = 64
LAYERS = 9
COSTS = tuple(Cost(decode_us=us, prefill_us=us) for us in (10, *[40] * LAYERS, 130))


@dataclass
class Stack:
    """Embeds by a table; layer k adds ``steps[k - 1]`` times a constant of its own; multiplies by a table."""

    steps: tuple[float, ...]

    def __post_init__(self):
        random = np.random.default_rng(0)
        self.table = random.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
        self.rows = 0.2 * random.normal(size=(HIDDEN, VOCABULARY)).astype(np.float32)
        self.added = random.normal(size=(LAYERS, HIDDEN)).astype(np.float32)
        self.opened = 0

    def open(self, graph: bytes, blobs) -> "Block":
        self.opened += 1
        return Block(self, self.opened - 1)

    def logits(self, ids, left_out=range(0)):
        value = self.table[ids].astype(np.float64)
        for layer in range(1, LAYERS + 1):
            if layer not in left_out:
                value = value + self.steps[layer - 1] * self.added[layer - 1]
        return value @ self.rows


@dataclass
class Block:
    network: Stack
    index: int

    def run(self, feeds):
        network = self.network
        if self.index == 0:
            return {"hidden": network.table[feeds["input_ids"]]}
        if self.index <= LAYERS:
            return {"hidden_out": feeds["hidden"] + np.float32(network.steps[self.index - 1]) * self.added}
        return {"logits": feeds["hidden"][:, -1:] @ network.rows}

    @property
    def added(self):
        return self.network.added[self.index - 1]


@pytest.fixture(scope="module")
def built(tiny_gguf, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("shortcuts"))
    source = read_llama(read_gguf(tiny_gguf))
    with store.exclusive():
        shared = store_shared(store, source, "int8")
        layers = [build_layer(store, source, index % 4, shared, "int8") for index in range(LAYERS)]
        return (build_embed(source.shape, shared), *layers, build_head(store, source, shared, "int8"))


@pytest.fixture(scope="module")
def tokenizer(tiny_store) -> bytes:
    return tiny_store.read(tiny_store.load("tiny").tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)


def found(built, tokenizer, steps, context=512, progress=no_progress):
    return certify_shortcuts(built, COSTS, None, tokenizer, context, Stack(steps), progress)


def runs(shortcuts):
    return [(each.first_block, each.last_block) for each in shortcuts]


EVEN = (9.0, 3.0, 2.0, 0.9, 0.1, 0.2, 0.9, 3.0, 9.0)
"""What the middle layers add matters least."""


def test_the_layers_that_add_least_are_left_out_and_longer_runs_around_them(built, tokenizer):
    shortcuts = found(built, tokenizer, EVEN)
    assert runs(shortcuts)[:3] == [(5, 5), (5, 6), (4, 7)]
    losses = [each.loss_micronats for each in shortcuts[:3]]
    assert losses == sorted(losses)
    assert all(0 < each.loss_micronats <= LOSS_MAX for each in shortcuts)
    assert (9, 9) not in runs(shortcuts), "this exit loses too much"


def test_what_is_written_down_is_the_kl_the_agreement_and_the_share_of_the_costs(built, tokenizer):
    ids = Tokenizer.from_str(tokenizer.decode()).encode(TEXT).ids[:TOKENS]
    network = Stack(EVEN)
    for each in found(built, tokenizer, EVEN):
        exact = network.logits(ids)
        without = network.logits(ids, range(each.first_block, each.last_block + 1))
        assert each.loss_micronats == pytest.approx(mean_kl(exact, without) * 1e6, rel=1e-3, abs=1.5)
        same = (exact.argmax(-1) == without.argmax(-1)).mean()
        assert each.agreement_permille == pytest.approx(1000 * same, abs=11), "a tie of float32 may fall otherwise"
        assert each.saved_permille == 1000 * 40 * (each.last_block - each.first_block + 1) // 500


def test_where_the_last_layers_add_least_exits_are_found(built, tokenizer):
    shortcuts = found(built, tokenizer, (9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.2, 0.1))
    assert {(9, 9), (8, 9)} <= set(runs(shortcuts))
    assert (6, 9) not in runs(shortcuts)


def test_a_model_that_needs_every_layer_has_no_shortcut(built, tokenizer):
    assert found(built, tokenizer, (9.0,) * LAYERS) == ()


def test_no_number_is_no_shortcut_and_a_text_nobody_reads_measures_nothing(built, tokenizer):
    with np.errstate(all="ignore"):
        assert found(built, tokenizer, (float("nan"),) * LAYERS) == ()
    assert found(built, tokenizer, EVEN, context=4) == ()


def test_it_tells_how_far_it_is_and_ends_when_it_ends(built, tokenizer):
    told = []
    found(built, tokenizer, EVEN, progress=lambda *what: told.append(what))
    assert {step for step, _, _ in told} == {"shortcuts measured"}
    assert all(done < total for _, done, total in told[:-1])
    assert told[-1][1] == told[-1][2] <= 3 * LAYERS


# --- SmolLM2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(smollm2_store):
    return smollm2_store.load("smollm2-135m-instruct")


@pytest.mark.model
def test_smollm2_has_shortcuts_that_lose_more_the_longer_they_are(smollm2):
    listed = smollm2.shortcuts
    lengths = [each.last_block - each.first_block + 1 for each in listed]
    assert lengths == [1, 2, 4], "eight layers lose more than a nat, and so does every exit"
    for shorter, longer in pairwise(listed):
        assert shorter.loss_micronats < longer.loss_micronats
        assert shorter.agreement_permille > longer.agreement_permille
        assert shorter.saved_permille < longer.saved_permille
    assert 50_000 < listed[0].loss_micronats < 250_000
    assert all(each.first_block >= 8 and each.last_block <= 25 for each in listed), "in the middle"


@pytest.mark.long
@pytest.mark.model
def test_other_prose_finds_about_the_same_losses_and_agreements(smollm2, smollm2_store, measurement, pytestconfig):
    """Measured again, apart from the code that certifies: another text, the package's own blocks; exits too."""
    prose = (pytestconfig.rootpath / "tests/data/prose.txt").read_text(encoding="utf-8")
    text = smollm2_store.read(smollm2.tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)
    ids = np.array([Tokenizer.from_str(text.decode()).encode(prose).ids[:96]])
    opened = [
        measurement.runner.open(smollm2_store.read(block.graph, "graph", GRAPH_BYTES_MAX), smollm2_store.blobs)
        for block in smollm2.blocks
    ]

    def logits(left_out=range(0)):
        value = ids
        for index, block in enumerate(smollm2.blocks[:-1]):
            if index not in left_out:
                feeds = {**feeds_of(block, 96), block.inputs[0].name: value}
                value = opened[index].run(feeds)[block.outputs[0].name]
        head = smollm2.blocks[-1]
        rows = [
            opened[-1].run({head.inputs[0].name: value[:, at : at + 1]})[head.outputs[0].name] for at in range(0, 96, 3)
        ]
        return np.concatenate(rows, axis=1)[0].astype(np.float64)

    exact = logits()

    def measured(first: int, last: int) -> tuple[float, float]:
        """The loss in micronats, and the agreement."""
        without = logits(range(first, last + 1))
        loss, same = mean_kl(exact, without) * 1e6, float((exact.argmax(-1) == without.argmax(-1)).mean())
        sys.stdout.write(f"without {first}-{last}: {loss:.0f} micronats, {same:.2f} the same\n")
        return loss, same

    for each in smollm2.shortcuts:
        loss, same = measured(each.first_block, each.last_block)
        assert each.loss_micronats / 2 < loss < each.loss_micronats * 2
        assert abs(1000 * same - each.agreement_permille) < 250
    layers = len(smollm2.blocks) - 2
    for length in (1, 2, 4, 8):
        assert measured(layers - length + 1, layers)[0] > LOSS_MAX, "no exit is certified, and none should be"
    assert measured(14, 21)[0] > loss, "eight within lose more than four"
