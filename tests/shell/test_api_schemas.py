import json

import pytest
from pydantic import ValidationError

from shoal_agent.core.facts import ChatPrompt, TextPrompt, TokenPrompt
from shoal_agent.core.services import ChatMessage, RenderRequest, unpack
from shoal_agent.shell.api.errors import ApiError
from shoal_agent.shell.api.schemas import COMPLETION_TOKENS_DEFAULT, ChatBody, CompletionBody
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import INTEGER_MAX, STOP_STRING_BYTES_MAX

SESSION = SessionId(bytes(16))
SEED = 99


def chat(**fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return ChatBody.model_validate_json(json.dumps(body)).request(SESSION, SEED)


def completion(**fields):
    return CompletionBody.model_validate_json(json.dumps({"model": "m", "prompt": "hi"} | fields)).request(
        SESSION, SEED
    )


def messages_of(request):
    assert isinstance(request.prompt, ChatPrompt)
    return unpack(RenderRequest, request.prompt.body).messages


def test_a_chat_without_wishes():
    request = chat()
    assert messages_of(request) == (ChatMessage("user", "hi"),)
    assert request.sampling == Sampling(1.0, 0, 1.0, 1.0, SEED, -1)
    assert (request.session, request.deployment, request.tokens_max, request.stop) == (SESSION, "m", None, ())
    assert unpack(RenderRequest, request.prompt.body).add_generation_prompt


def test_null_is_as_good_as_nothing():
    names = ("stream", "stream_options", "stop", "seed", "max_tokens", "temperature", "top_p", "top_k", "logprobs")
    assert chat(**dict.fromkeys(names)) == chat()


def test_every_wish_arrives():
    request = chat(
        temperature=0,
        top_k=40,
        top_p=0.5,
        repetition_penalty=1.1,
        seed=5,
        max_tokens=9,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=4,
    )
    assert request.sampling == Sampling(0.0, 40, 0.5, 1.1, 5, 4)
    assert (request.tokens_max, request.stop) == (9, ("a", "b"))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [({}, -1), ({"logprobs": False}, -1), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20)],
)
def test_logprobs_of_a_chat(fields, wanted):
    assert chat(**fields).sampling.top_logprobs == wanted


def test_top_logprobs_need_logprobs():
    with pytest.raises(ApiError, match="needs logprobs"):
        chat(top_logprobs=3)


def test_the_newer_name_of_the_length_wins():
    assert chat(max_tokens=5, max_completion_tokens=7).tokens_max == 7


def test_content_may_come_in_parts_and_the_developer_is_the_system():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts, "name": "ann"}]
    assert messages_of(chat(messages=messages)) == (ChatMessage("system", "be brief"), ChatMessage("user", "one two"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", TextPrompt("text")),
        (["text"], TextPrompt("text")),
        ("", TextPrompt("")),
        ([1, 2, 3], TokenPrompt((1, 2, 3))),
        ([[1, 2, 3]], TokenPrompt((1, 2, 3))),
    ],
)
def test_a_prompt_is_text_or_tokens_alone_or_in_a_list_of_one(prompt, expected):
    assert completion(prompt=prompt).prompt == expected


def test_a_completion_is_short_unless_asked():
    assert completion().tokens_max == COMPLETION_TOKENS_DEFAULT
    assert completion(max_tokens=3).tokens_max == 3
    assert completion(logprobs=0).sampling.top_logprobs == 0


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (-1, INTEGER_MAX), (INTEGER_MAX, INTEGER_MAX), (-(2**63), 0)])
def test_any_64_bit_seed_is_a_seed(asked, kept):
    assert chat(seed=asked).sampling.seed == kept


def test_top_p_zero_is_the_best_token_and_top_k_minus_one_is_off():
    assert 0 < chat(top_p=0).sampling.top_p < 1e-6
    assert chat(top_k=-1).sampling.top_k == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("presence_penalty", 0.1),
        ("frequency_penalty", -1),
        ("logit_bias", {"1": 5}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("best_of", 3),
        ("echo", True),
        ("suffix", "end"),
        ("modalities", ["audio"]),
    ],
)
def test_what_would_change_the_answer_and_is_not_supported_is_refused_by_name(name, value):
    for ask in (chat, completion):
        with pytest.raises(ApiError) as caught:
            ask(**{name: value})
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1),
        ("presence_penalty", 0.0),
        ("logit_bias", {}),
        ("tools", None),
        ("response_format", {"type": "text"}),
        ("echo", False),
        ("user", "ann"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("no_such_field", [1]),
    ],
)
def test_what_changes_nothing_and_what_nobody_knows_is_passed_over(name, value):
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"top_p": 1.1},
        {"top_k": -2},
        {"repetition_penalty": 0},
        {"seed": 2**63},
        {"max_tokens": 0},
        {"max_tokens": 2**40},
        {"max_tokens": 1.5},
        {"stop": ["a"] * 5},
        {"stop": ""},
        {"stop": [""]},
        {"stream": "yes"},
        {"logprobs": True, "top_logprobs": 21},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user"}]},
        {"model": None},
    ],
    ids=str,
)
def test_a_field_out_of_range_is_refused(fields):
    with pytest.raises(ValidationError):
        chat(**fields)


def test_a_stop_string_is_bounded_in_bytes():
    assert chat(stop="é" * (STOP_STRING_BYTES_MAX // 2)).stop
    with pytest.raises(ApiError, match="bytes"):
        chat(stop="é" * (STOP_STRING_BYTES_MAX // 2 + 1))


@pytest.mark.parametrize(("options", "wants"), [(None, False), ({}, False), ({"include_usage": True}, True)])
def test_usage_in_a_stream_is_asked_for(options, wants):
    body = ChatBody(model="m", messages=[{"role": "user", "content": "x"}], stream_options=options)
    assert body.wants_usage is wants
