import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.services import MARKER_BREAK, CheckRequest, EncodeRequest
from shoal_agent.shell.services.sessions import ServiceError
from shoal_agent.shell.services.tokenizer import Tokenizer
from tests.support.texts import BOS, EOS, MARKERS, library_tokenizer, tokenizer_json, vocabulary

TEXT = st.text(st.characters(codec="utf-8", exclude_characters=MARKER_BREAK)) | st.lists(
    st.sampled_from([*MARKERS, "<tool>", "<|im_", "end|>", " ", "\n", "the dog", "é", "日", "🐟"])
).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(tokenizer_json(), vocabulary(), None)


def edited(**changes):
    tree = json.loads(tokenizer_json())
    return json.dumps(tree | changes).encode()


def with_marker(**flags):
    tree = json.loads(tokenizer_json())
    tree["added_tokens"][0] |= flags
    return json.dumps(tree).encode()


@given(text=TEXT)
def test_markers_are_parsed_in_a_rendered_text_exactly_as_the_library_does(tokenizer, text):
    ids = tokenizer.encode(EncodeRequest(text, special=True)).tokens
    assert list(ids) == library_tokenizer().encode(text, add_special_tokens=False).ids


@given(text=TEXT)
def test_markers_are_text_in_a_bare_prompt(tokenizer, text):
    ids = tokenizer.encode(EncodeRequest(text, special=False)).tokens
    assert not {0, 1, 2} & set(ids)
    assert b"".join(map(tokenizer.bytes_of, ids)).decode() == text


def test_a_broken_marker_is_text_and_the_break_is_gone(tokenizer):
    ids = tokenizer.encode(EncodeRequest(f"<|im_start|>a<{MARKER_BREAK}|im_end|>b<|im_end|>", special=True)).tokens
    assert ids[0] == BOS
    assert ids[-1] == EOS
    assert not {0, 1, 2} & set(ids[1:-1])
    assert b"".join(map(tokenizer.bytes_of, ids)) == b"<|im_start|>a<|im_end|>b<|im_end|>"


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("text", ["a <|im_start|> b", "  <|im_start|>\n\n<|im_start|> <|im_end|> x", "<|im_start|>"])
def test_blanks_go_with_a_marker_that_asks_for_them_as_in_the_library(flags, text):
    data = with_marker(**flags)
    ids = Tokenizer(data, vocabulary(), None).encode(EncodeRequest(text, special=True)).tokens
    assert list(ids) == tokenizers.Tokenizer.from_buffer(data).encode(text, add_special_tokens=False).ids


def test_a_bare_prompt_begins_with_bos_if_the_model_has_one():
    tokenizer = Tokenizer(tokenizer_json(), vocabulary(), BOS)
    assert tokenizer.encode(EncodeRequest("", special=False)).tokens == (BOS,)
    assert tokenizer.encode(EncodeRequest("dog", special=False)).tokens[0] == BOS
    assert BOS not in tokenizer.encode(EncodeRequest("dog", special=True)).tokens


def test_padding_and_truncation_of_the_file_are_off():
    data = edited(truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0})
    assert len(Tokenizer(data, vocabulary(), None).encode(EncodeRequest("0 1 2 3 4 5", special=False)).tokens) > 2


def test_a_token_prompt_is_checked_against_the_vocabulary(tokenizer):
    assert tokenizer.check(CheckRequest((0, 5))).tokens == (0, 5)
    with pytest.raises(ServiceError, match="not in the vocabulary"):
        tokenizer.check(CheckRequest((0, vocabulary())))


def test_the_model_may_have_fewer_tokens_than_the_file():
    small = Tokenizer(tokenizer_json(), 250, None)
    with pytest.raises(ServiceError, match="does not have"):
        small.encode(EncodeRequest("the <tool>", special=False))


def test_bytes_of_a_token_are_its_own(tokenizer):
    assert tokenizer.bytes_of(EOS) == b"<|im_end|>"
    with pytest.raises(ServiceError):
        tokenizer.bytes_of(vocabulary())
    assert {tokenizer.bytes_of(token) for token in range(vocabulary())} >= {bytes([byte]) for byte in range(256)}


def test_markers_have_names_and_numbers(tokenizer):
    assert tokenizer.markers == MARKERS
    assert tokenizer.marker(EOS) == "<|im_end|>"
    assert tokenizer.marker(None) == ""
    assert tokenizer.marker(200) == ""
    assert tokenizer.is_marker(EOS)
    assert not tokenizer.is_marker(vocabulary() - 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "broken"),
        (b"[]", "broken"),
        (b"{}", "broken"),
        (edited(decoder=None), "decoder NoneType"),
        (edited(decoder={"type": "Fuse"}), "decoder Fuse"),
        (edited(model={"type": "Nonsense"}), "broken"),
        (with_marker(single_word=True), "word boundaries"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(data, reason):
    with pytest.raises(ServiceError, match=reason):
        Tokenizer(data, vocabulary(), None)
