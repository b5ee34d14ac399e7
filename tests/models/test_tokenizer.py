"""The tokenizer of a file: text survives it, special tokens are whole, other kinds are refused by name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shoal_models.errors import UnreadableModel, UnsupportedModel
from shoal_models.importers.gguf_file import read_gguf
from shoal_models.tokenizer import read_text_interface
from tests.support.tiny_model import CHAT_TEMPLATE


@pytest.fixture(scope="module")
def fields(tiny_gguf):
    return dict(read_gguf(tiny_gguf).fields)


@pytest.fixture(scope="module")
def tokenizer(fields):
    return Tokenizer.from_str(read_text_interface(fields, 320).tokenizer_json.decode())


@given(text=st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_text_survives(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_merges_are_applied_and_digits_stand_alone(tokenizer):
    assert len(tokenizer.encode("the capital of france").ids) < 12
    assert [tokenizer.id_to_token(token) for token in tokenizer.encode("2024").ids] == ["2", "0", "2", "4"]


def test_special_tokens_are_whole(tokenizer):
    assert tokenizer.encode("<|im_start|>a<|im_end|>").ids[::2] == [1, 2]
    assert tokenizer.decode([1, 2]) == ""


def test_texts_and_ends(fields):
    text = read_text_interface(fields, 320)
    assert text.chat_template == CHAT_TEMPLATE
    assert (text.special_tokens.bos, text.special_tokens.eos) == (None, (0, 2))
    assert read_text_interface({**fields, "tokenizer.chat_template": None}, 320).chat_template is None


def test_a_model_that_wants_a_beginning_gets_it(fields):
    text = read_text_interface({**fields, "tokenizer.ggml.add_bos_token": True}, 320)
    tokenizer = Tokenizer.from_str(text.tokenizer_json.decode())
    assert text.special_tokens.bos == 1
    assert tokenizer.encode("a").ids[0] == 1
    assert 1 not in tokenizer.encode("a", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("tokenizer.ggml.model", "llama", "tokenizer model 'llama'"),
        ("tokenizer.ggml.model", None, "tokenizer model None"),
        ("tokenizer.ggml.pre", "llama-bpe", "pre-tokenizer 'llama-bpe'"),
    ],
)
def test_other_kinds_are_refused_by_name(fields, key, value, complaint):
    with pytest.raises(UnsupportedModel, match=complaint):
        read_text_interface({**fields, key: value}, 320)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("tokenizer.ggml.tokens", ["a"] * 320, "1 different tokens for a vocabulary of 320"),
        ("tokenizer.ggml.tokens", "a", "not a list of strings"),
        ("tokenizer.ggml.tokens", [1, 2], "not a list of strings"),
        ("tokenizer.ggml.token_type", [1], "one entry per token"),
        ("tokenizer.ggml.merges", ["nosuch pair"], "merge 'nosuch pair'"),
        ("tokenizer.ggml.merges", ["a"], "merge 'a'"),
        ("tokenizer.ggml.eos_token_id", 320, "not a token"),
        ("tokenizer.ggml.eos_token_id", True, "not a token"),
        ("tokenizer.chat_template", "", "chat_template"),
        ("tokenizer.chat_template", "x" * 70_000, "chat_template"),
    ],
)
def test_damage_is_named(fields, key, value, complaint):
    with pytest.raises(UnreadableModel, match=complaint):
        read_text_interface({**fields, key: value}, 320)


def test_a_model_without_an_end_is_refused(fields):
    without = {key: value for key, value in fields.items() if key != "tokenizer.ggml.eos_token_id"}
    plain = {**without, "tokenizer.ggml.token_type": [1] * 320}
    with pytest.raises(UnreadableModel, match="ends a turn"):
        read_text_interface(plain, 320)
