"""The API as the official client uses it.

Every test needs two fixtures: ``api_url`` (scheme, host and port of one node, no path) and ``api_key``. They run here
against a real cluster and, in ``tests/shell/test_api_openai.py``, against an ingress without one; nothing is assumed of
the model but that it is served.
"""

import math
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

QUESTION = [{"role": "user", "content": "Tell me a story about a fish."}]
RELEASE_S = 15.0


@pytest.fixture
def client(api_url, api_key):
    with openai.OpenAI(base_url=f"{api_url}/v1", api_key=api_key, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def model(client):
    return client.models.list().data[0].id


@pytest.fixture
def raw(api_url, api_key):
    headers = {"Authorization": f"Bearer {api_key}"}
    with httpx.Client(base_url=api_url, headers=headers, timeout=60) as made:
        yield made


def metric(raw, name):
    """The value of one sample in /metrics; 0 if it is not there yet."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", raw.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ask(client, model, **options):
    defaults = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    return client.chat.completions.create(**(defaults | options))


def joined(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_models_are_listed(client):
    models = client.models.list().data
    assert len(models) >= 1
    assert {entry.object for entry in models} == {"model"}


def test_a_model_is_retrieved_by_name(client, model):
    found = client.models.retrieve(model)
    assert found.id == model
    assert found.context_length > 0
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_chat_is_answered(client, model):
    answer = ask(client, model)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 5
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint


def test_a_stream_is_the_same_text_as_the_whole(client, model):
    whole = ask(client, model).choices[0]
    chunks = list(ask(client, model, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert joined(chunks) == whole.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == whole.finish_reason
    assert len(chunks) > 5
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_last_in_a_stream_that_asks_for_it(client, model):
    chunks = list(ask(client, model, stream=True, stream_options={"include_usage": True}, logprobs=True))
    *rest, last = chunks
    assert last.choices == []
    assert all(chunk.usage is None for chunk in rest)
    tokens = sum(len(chunk.choices[0].logprobs.content) for chunk in rest if chunk.choices[0].logprobs)
    assert last.usage.completion_tokens == tokens
    assert last.usage == ask(client, model).usage


def test_a_text_ends_before_its_stop_string(client, model):
    whole = ask(client, model).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    answer = ask(client, model, stop=["\u2603\u2603never", stop])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == whole[: whole.find(stop)]
    assert joined(ask(client, model, stop=stop, stream=True)) == whole[: whole.find(stop)]


def test_a_text_ends_at_its_length(client, model):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, model, **{"max_tokens": None, name: 5})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5


def test_a_seed_repeats_a_text_and_another_seed_does_not(client, model):
    def told(seed):
        return ask(client, model, temperature=1.0, seed=seed).choices[0].message.content

    first = told(7)
    assert told(7) == first
    assert {told(8), told(9), told(10)} != {first}


def test_logprobs_of_a_chat(client, model):
    answer = ask(client, model, logprobs=True, top_logprobs=3).choices[0]
    content = answer.logprobs.content
    text = b"".join(bytes(entry.bytes) for entry in content).decode(errors="replace")
    assert text.startswith(answer.message.content.rstrip("\ufffd"))
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob, "greedy takes the best"
        values = [rival.logprob for rival in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1.0 + 1e-5


def test_a_completion_is_answered_whole_and_streamed(client, model):
    options = {"model": model, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 12}
    whole = client.completions.create(**options)
    assert whole.object == "text_completion"
    assert whole.usage.completion_tokens <= 12
    chunks = list(client.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_logprobs_of_a_completion(client, model):
    answer = client.completions.create(model=model, prompt="One, two,", temperature=0, max_tokens=6, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 6
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    assert all(value <= 0 for value in logprobs.token_logprobs)


def test_a_prompt_may_be_token_ids(client, model):
    answer = client.completions.create(model=model, prompt=[5, 6, 7], temperature=0, max_tokens=4)
    assert answer.usage.prompt_tokens == 3
    again = client.completions.create(model=model, prompt=[[5, 6, 7]], temperature=0, max_tokens=4)
    assert again.choices[0].text == answer.choices[0].text
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model=model, prompt=[2**31 - 1], max_tokens=4)


def test_an_unknown_model_is_404(client):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "no-such-model")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_a_wrong_key_is_401(api_url, model):
    with (
        openai.OpenAI(base_url=f"{api_url}/v1", api_key="sk-shoal-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        ask(stranger, model)
    assert caught.value.code == "invalid_api_key"


def test_a_prompt_beyond_the_context_is_400(client, model):
    context = client.models.retrieve(model).context_length
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt=[5] * (context + 1), max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt="one", max_tokens=context)
    assert caught.value.code == "context_length_exceeded"


def test_what_is_not_supported_is_refused_by_name(client, model):
    for name, value in {"n": 2, "presence_penalty": 0.5, "logit_bias": {"5": 1}}.items():
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, model, **{name: value})
        assert caught.value.param == name


def test_requests_at_the_same_time_do_not_mix(client, model):
    prompts = ["One fish.", "Two fish!", "Red fish?", "Blue fish..."]

    def tell(prompt):
        messages = [{"role": "user", "content": prompt}]
        return joined(ask(client, model, messages=messages, stream=True))

    alone = [tell(prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(tell, prompts))
    assert together == alone


def test_a_client_that_leaves_frees_everything(client, model, raw):
    """Seen from outside: sessions, KV cache and requests are back at nothing, long before the text would have ended."""
    finished = 'shoal_requests_finished_total{reason="cancelled"}'
    cancelled_before = metric(raw, finished)
    tokens_max = client.models.retrieve(model).context_length - 100
    with client.completions.create(
        model=model, prompt="Count: 1 2 3 4 5 6 7 8 9 10 11 12", temperature=0, max_tokens=tokens_max, stream=True
    ) as stream:
        for _ in range(3):
            next(iter(stream))
        assert metric(raw, "shoal_requests") == 1
        assert metric(raw, "shoal_kv_bytes") > 0
    deadline = time.monotonic() + RELEASE_S
    while any(metric(raw, f"shoal_{name}") for name in ("requests", "sessions", "kv_bytes")):
        assert time.monotonic() < deadline, raw.get("/metrics").text
        time.sleep(0.05)
    assert metric(raw, finished) == cancelled_before + 1


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b'{"model": "x", "messages": "\\ud800"}', b""])
def test_a_malformed_body_is_400(raw, body):
    answer = raw.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_of_ten_megabytes_is_413_and_the_next_request_is_served(raw, client):
    answer = raw.post("/v1/chat/completions", content=b"x" * 10_000_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "x" * 10_000_000)
    assert caught.value.status_code == 413
    assert client.models.list().data


def test_the_same_api_is_under_openai_v1(api_url, api_key, model):
    with openai.OpenAI(base_url=f"{api_url}/openai/v1", api_key=api_key, max_retries=0) as other:
        assert ask(other, model, max_tokens=3).usage.completion_tokens == 3
