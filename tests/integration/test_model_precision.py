"""The real model against itself in full precision, and against two independent implementations.

The prose is the opening of *Moby-Dick* (1851). Everything is teacher-forced: the model is fed the text and its
distributions are compared at every position. The int8 model decodes, one token at a time, since that is how it serves;
the exact one takes the text at once, which changes its logits by no more than rounding.
"""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from shoal_models.catalog import catalog_entry
from shoal_protocol.limits import TOKENIZER_BYTES_MAX
from tests.support.chain import Chain
from tests.support.models import ensure_smollm2
from tests.support.numpy_llama import NumpyLlama
from tests.support.statistics import log_softmax, mean_kl

NAME = "smollm2-135m-instruct"
PROSE = (Path(__file__).parents[1] / "data" / "prose.txt").read_text(encoding="utf-8")
POSITIONS_MIN = 500
KL_MAX = 0.01
LOGIT_ERROR_MAX = 1e-3
SHORT = 48
"""Positions compared with the slow implementations."""

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def source(smollm2_store) -> Path:
    """The file that the packages were made from: importing left it in the cache."""
    return smollm2_store.root.parents[1] / "sources" / f"{catalog_entry(NAME).source.member.sha256}.gguf"


@pytest.fixture(scope="module")
def tokens(smollm2_store) -> list[int]:
    text = smollm2_store.read(smollm2_store.load(NAME).tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)
    ids = Tokenizer.from_str(text.decode()).encode(PROSE).ids
    assert len(ids) >= POSITIONS_MIN
    return ids


@pytest.fixture(scope="module")
def exact(smollm2_store, tokens) -> np.ndarray:
    """Logits of an fp32 package, whose blocks hold exactly the values the file means."""
    name = f"{NAME}-fp32"
    ensure_smollm2(smollm2_store, name, "fp32")
    return Chain(smollm2_store, smollm2_store.load(name)).all_logits_at_once(tokens)


def test_int8_stays_within_a_hundredth_of_a_nat(smollm2_store, tokens, exact, record_property):
    found = Chain(smollm2_store, smollm2_store.load(NAME)).all_logits(tokens)
    kl = mean_kl(exact, found)
    same = float((exact.argmax(-1) == found.argmax(-1)).mean())
    record_property("positions", len(tokens))
    record_property("mean_kl", kl)
    record_property("same_top_1", same)
    assert kl <= KL_MAX, f"mean KL {kl:.5f} over {len(tokens)} positions, same first choice {same:.3f}"
    assert same > 0.9


def test_fp32_understands_the_prose(tokens, exact):
    """A chat model of this size is surprised by Melville (perplexity 82); one with wrong angles by thousands."""
    surprise = -log_softmax(exact[:-1])[np.arange(len(tokens) - 1), tokens[1:]]
    assert np.exp(surprise.mean()) < 120


def test_fp32_logits_are_those_of_an_independent_numpy_llama(source, tokens, exact, record_property):
    wanted = NumpyLlama(source).logits(tokens[:SHORT])
    error = float(np.abs(exact[:SHORT] - wanted).max())
    record_property("logit_error_numpy", error)
    assert error <= LOGIT_ERROR_MAX


@pytest.mark.long
def test_fp32_logits_are_those_of_transformers(source, tokens, exact, record_property):
    """The reference implementation of the model, where it is installed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    assert transformers.AutoTokenizer.from_pretrained(**place)(PROSE)["input_ids"] == tokens
    model = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    error = float(np.abs(exact - wanted).max())
    record_property("logit_error_transformers", error)
    assert error <= LOGIT_ERROR_MAX
