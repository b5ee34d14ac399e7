import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.services import FlushRequest, OpenDetokenizerRequest, PushRequest
from shoal_agent.shell.services.detokenizer import Detokenizer
from shoal_agent.shell.services.sessions import ServiceError
from shoal_agent.shell.services.tokenizer import Tokenizer
from shoal_protocol.ids import SessionId
from tests.support.texts import EOS, library_tokenizer, tokenizer_json, vocabulary

SESSION = SessionId(bytes(16))
TOKENIZER = Tokenizer(tokenizer_json(), vocabulary(), None)
BYTE_TOKENS = {TOKENIZER.bytes_of(token): token for token in range(vocabulary())}
TOKENS = st.lists(st.integers(0, vocabulary() - 1), max_size=40)
AB = st.text("ab🐟é", min_size=1, max_size=5)


def tokens_of(raw):
    """One token per byte: the finest cut there is."""
    return [BYTE_TOKENS[bytes([byte])] for byte in raw]


def stream(tokens, stop=()):
    """The deltas of a text, the flushed tail last, and whether a stop string ended it."""
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(OpenDetokenizerRequest(SESSION, tuple(stop), logprobs=False))
    deltas = []
    stopped = False
    for token in tokens:
        answer = detokenizer.push(PushRequest(SESSION, token, ()))
        assert answer.token_bytes == b""
        deltas.append(answer.text)
        stopped = answer.stopped
        if stopped:
            break
    deltas.append(detokenizer.flush(FlushRequest(SESSION)).text)
    return deltas, stopped


def until_stop(text, stop):
    """The reference: look at the text character by character."""
    for end in range(1, len(text) + 1):
        begun = [end - len(string) for string in stop if text[:end].endswith(string)]
        if begun:
            return text[: min(begun)], True
    return text, False


@given(tokens=TOKENS)
def test_the_deltas_are_the_whole_text(tokens):
    deltas, stopped = stream(tokens)
    assert "".join(deltas) == library_tokenizer().decode(tokens, skip_special_tokens=True)
    assert not stopped


@given(raw=st.binary(max_size=40))
def test_any_bytes_are_decoded_as_the_library_does(raw):
    tokens = tokens_of(raw)
    assert "".join(stream(tokens)[0]) == library_tokenizer().decode(tokens)


@given(text=st.text(st.characters(codec="utf-8")))
def test_no_delta_of_a_good_text_holds_a_broken_character(text):
    deltas, _ = stream(tokens_of(text.encode()))
    assert "".join(deltas) == text
    assert sum(delta.count("\ufffd") for delta in deltas) == text.count("\ufffd")


@given(text=st.text("ab🐟é", max_size=40), stop=st.lists(AB, max_size=4))
def test_the_stop_string_that_is_complete_first_wins_wherever_the_tokens_are_cut(text, stop):
    expected = until_stop(text, stop)
    fine, fine_stopped = stream(tokens_of(text.encode()), stop)
    assert ("".join(fine), fine_stopped) == expected
    coarse, coarse_stopped = stream(library_tokenizer().encode(text).ids, stop)
    assert ("".join(coarse), coarse_stopped) == expected


@given(text=st.text("ab", max_size=40), stop=st.lists(AB, min_size=1, max_size=4))
def test_no_more_is_held_back_than_a_stop_string_could_need(text, stop):
    deltas, stopped = stream(tokens_of(text.encode()), stop)
    if not stopped:
        shown = "".join(deltas[:-1])
        assert not deltas[-1] or any(string.startswith(deltas[-1]) for string in stop)
        assert len(shown) >= len(text) - max(map(len, stop)) + 1


def test_text_that_may_be_a_stop_string_waits_and_the_rest_goes_out():
    assert stream(tokens_of(b"one\n\ntwo"), ["\n\n"]) == (["o", "n", "e", "", "", ""], True)
    assert stream(tokens_of(b"a\nb"), ["\n\n"]) == (["a", "", "\nb", ""], False)
    assert stream(tokens_of(b"a\n"), ["\n\n"]) == (["a", "", "\n"], False)


def test_after_the_stop_nothing_comes():
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(OpenDetokenizerRequest(SESSION, ("b",), logprobs=False))
    answers = [detokenizer.push(PushRequest(SESSION, token, ())) for token in tokens_of(b"abc")]
    assert [(answer.text, answer.stopped) for answer in answers] == [("a", False), ("", True), ("", True)]
    assert detokenizer.flush(FlushRequest(SESSION)).text == ""


def test_an_unfinished_character_is_replaced_at_the_end():
    assert stream(tokens_of("é".encode()[:1])) == (["", "\ufffd"], False)
    assert stream(tokens_of(b"\xf0\x9f"), ["\ufffd"]) == (["", "", ""], False)


def test_a_special_token_is_no_text_but_has_bytes():
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(OpenDetokenizerRequest(SESSION, (), logprobs=True))
    fish = tokens_of("🐟".encode())
    answer = detokenizer.push(PushRequest(SESSION, EOS, (EOS, fish[0])))
    assert (answer.text, answer.token_bytes, answer.top_bytes) == ("", b"<|im_end|>", (b"<|im_end|>", b"\xf0"))
    answer = detokenizer.push(PushRequest(SESSION, fish[1], ()))
    assert (answer.token_bytes, answer.top_bytes) == (b"\x9f", ())


def test_a_session_that_is_over_is_forgotten():
    detokenizer = Detokenizer(TOKENIZER)
    for end in (lambda: detokenizer.close(SESSION), lambda: detokenizer.flush(FlushRequest(SESSION))):
        detokenizer.open(OpenDetokenizerRequest(SESSION, (), logprobs=False))
        end()
        with pytest.raises(ServiceError, match="no such session"):
            detokenizer.push(PushRequest(SESSION, 5, ()))


def test_a_token_outside_the_vocabulary_is_refused():
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(OpenDetokenizerRequest(SESSION, (), logprobs=False))
    with pytest.raises(ServiceError, match="not in the vocabulary"):
        detokenizer.push(PushRequest(SESSION, vocabulary(), ()))
