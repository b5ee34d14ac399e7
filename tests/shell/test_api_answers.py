import dataclasses

from shoal_agent.core.facts import FinishReason, Piece, TokenLogprob, Usage
from shoal_agent.shell.api.answers import ChatDialect, CompletionDialect, Heading, usage_json

HEADING = Heading("id-1", 1_700_000_000, "m", "fp_1")
COMMON = {"id": "id-1", "created": 1_700_000_000, "model": "m", "system_fingerprint": "fp_1"}
FISH = "🐟".encode()
PIECES = (
    Piece(5, "hé", TokenLogprob(5, "hé".encode(), -0.5, ((5, "hé".encode(), -0.5), (6, b"x", -1.5)))),
    Piece(7, "", TokenLogprob(7, FISH[:2], -0.25, ((7, FISH[:2], -0.25),))),
    Piece(8, "🐟", TokenLogprob(8, FISH[2:], -0.125, ())),
)
USAGE = Usage(3, 4)


def test_a_chat_is_one_choice_with_a_message():
    whole = ChatDialect(HEADING).whole(PIECES[:1], "!", FinishReason.STOP, USAGE)
    choice = whole.pop("choices")[0]
    assert whole == COMMON | {"object": "chat.completion", "usage": usage_json(USAGE)}
    assert choice["message"] == {"role": "assistant", "content": "hé!", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["content"] == [
        {
            "token": "hé",
            "logprob": -0.5,
            "bytes": [104, 195, 169],
            "top_logprobs": [
                {"token": "hé", "logprob": -0.5, "bytes": [104, 195, 169]},
                {"token": "x", "logprob": -1.5, "bytes": [120]},
            ],
        }
    ]


def test_a_chat_streams_role_pieces_reason_and_counts():
    dialect = ChatDialect(HEADING)
    opening = dialect.opening()
    assert opening["object"] == "chat.completion.chunk"
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    chunk = dialect.chunk("hé", PIECES[0], 0)["choices"][0]
    assert (chunk["delta"], chunk["finish_reason"]) == ({"content": "hé"}, None)
    assert len(chunk["logprobs"]["content"]) == 1
    closing = dialect.closing(FinishReason.LENGTH)["choices"][0]
    assert (closing["delta"], closing["finish_reason"]) == ({}, "length")
    last = dialect.usage(USAGE)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 7)


def test_a_part_of_a_character_is_shown_as_bytes():
    entry = ChatDialect(HEADING).chunk("", PIECES[1], 2)["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["bytes"]) == ("\ufffd", list(FISH[:2]))
    logprobs = CompletionDialect(HEADING).chunk("", PIECES[1], 2)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xf0\\x9f"]


def test_a_completion_is_text_with_offsets():
    whole = CompletionDialect(HEADING).whole(PIECES, "!", FinishReason.LENGTH, USAGE)
    choice = whole["choices"][0]
    assert whole["object"] == "text_completion"
    assert (choice["text"], choice["finish_reason"]) == ("hé🐟!", "length")
    assert choice["logprobs"] == {
        "tokens": ["hé", "bytes:\\xf0\\x9f", "bytes:\\x90\\x9f"],
        "token_logprobs": [-0.5, -0.25, -0.125],
        "top_logprobs": [{"hé": -0.5, "x": -1.5}, {"bytes:\\xf0\\x9f": -0.25}, {}],
        "text_offset": [0, 2, 2],
    }


def test_a_completion_streams_text_reason_and_counts():
    dialect = CompletionDialect(HEADING)
    assert dialect.opening() is None
    chunk = dialect.chunk("🐟", PIECES[2], 2)["choices"][0]
    assert (chunk["text"], chunk["finish_reason"], chunk["logprobs"]["text_offset"]) == ("🐟", None, [2])
    closing = dialect.closing(FinishReason.STOP)["choices"][0]
    assert (closing["text"], closing["finish_reason"]) == ("", "stop")
    assert dialect.usage(USAGE)["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_no_logprobs_unless_they_were_computed():
    plain = Piece(5, "x", None)
    for dialect in (ChatDialect(HEADING), CompletionDialect(HEADING)):
        assert dialect.chunk("x", plain, 0)["choices"][0]["logprobs"] is None
        assert dialect.chunk("tail", None, 0)["choices"][0]["logprobs"] is None
        assert dialect.whole([plain], "", FinishReason.STOP, USAGE)["choices"][0]["logprobs"] is None


def test_tokens_are_named_by_id_only_on_request():
    named = dataclasses.replace(HEADING, token_ids=True)
    for dialect in (ChatDialect, CompletionDialect):
        assert dialect(named).whole(PIECES, "", FinishReason.STOP, USAGE)["choices"][0]["token_ids"] == [5, 7, 8]
        assert dialect(named).chunk("", PIECES[1], 0)["choices"][0]["token_ids"] == [7]
        assert dialect(named).chunk("tail", None, 0)["choices"][0]["token_ids"] == []
        assert "token_ids" not in dialect(HEADING).whole(PIECES, "", FinishReason.STOP, USAGE)["choices"][0]
