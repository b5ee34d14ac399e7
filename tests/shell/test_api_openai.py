"""The whole suite of the real client against an ingress without a cluster, and what only such an ingress can show."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from shoal_agent.core.effects import Accept, Emit, Finish, Reject
from shoal_agent.core.facts import FinishReason, Piece, RejectCode, TokenLogprob, Usage
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.shell.api.app import build_app
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import REQUEST_DEADLINE_S_MAX
from tests.integration.test_openai_client import *  # noqa: F403 - every test of the suite runs here too
from tests.support.twin import KEY, NAME, TwinIngress, twin_ports, twin_server

SESSION = SessionId(bytes(16))
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
ACCEPT = Accept(SESSION, 7)


@pytest.fixture(scope="module")
def api_url():
    with twin_server() as url:
        yield url


@pytest.fixture
def api_key():
    return KEY


@pytest.fixture
def ingress():
    return TwinIngress()


@pytest.fixture
async def http(ingress):
    transport = httpx.ASGITransport(build_app(twin_ports(ingress)))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://twin", headers=headers) as client:
        yield client


def emit(text, logprob=None):
    return Emit(SESSION, Piece(5, text, logprob))


def finish(reason, tail="", detail=""):
    return Finish(SESSION, reason, tail, Usage(7, 2), detail)


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = answer.text.split("\n\n")
    assert parts.pop() == ""
    parts = [part.partition("\n")[2] if part.startswith("id: ") else part for part in parts]
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "retry", "status"),
    [
        (RejectCode.OVERLOADED, 2.5, 429),
        (RejectCode.STOPPING, 1.0, 429),
        (RejectCode.NOT_READY, 1.0, 503),
        (RejectCode.DEADLINE, None, 504),
        (RejectCode.BAD_PROMPT, None, 400),
        (RejectCode.INTERNAL, None, 500),
    ],
)
async def test_a_refusal_has_its_status_streamed_or_not(http, ingress, stream, code, retry, status):
    ingress.scripted = [[Reject(SESSION, code, "the reason", retry)]]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "the reason"
    assert answer.json()["error"]["code"] == code.value
    assert answer.headers.get("retry-after") == (None if retry is None else str(-int(-retry // 1)))


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (finish(FinishReason.DEADLINE, detail="late"), 504),
        (finish(FinishReason.FAILED, detail="stage 1 is gone"), 503),
        (Reject(SESSION, RejectCode.STAGE_LOST, "stage 1 is gone", 1.0), 503),
    ],
)
async def test_what_breaks_in_the_middle(http, ingress, end, status):
    """Not streamed it is a status; streamed it is an error event, and no [DONE] pretends that all is well."""
    ingress.scripted = [[ACCEPT, emit("he"), end]] * 2
    answer = await http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == status
    streamed = events(await http.post("/v1/chat/completions", json=CHAT | {"stream": True}))
    assert streamed[1]["choices"][0]["delta"]["content"] == "he"
    assert streamed[-1] == answer.json()


async def test_a_stream_shows_what_was_held_back_before_it_says_why_it_ends(http, ingress):
    ingress.scripted = [[ACCEPT, emit("he"), emit(""), emit("l"), finish(FinishReason.LENGTH, tail="lo")]]
    streamed = events(await http.post("/v1/chat/completions", json=CHAT | {"stream": True}))
    assert streamed.pop() == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("content") for chunk in streamed] == ["", "he", "l", "lo", None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed] == [None] * 4 + ["length"]
    assert all("usage" not in chunk for chunk in streamed)


async def test_every_token_of_a_stream_with_logprobs_has_an_event_even_without_text(http, ingress):
    half = TokenLogprob(5, b"\xc3", -0.5, ())
    ingress.scripted = [[ACCEPT, emit("", half), emit("é", half), finish(FinishReason.STOP)]]
    body = {"model": NAME, "prompt": "x", "logprobs": 0, "stream": True}
    *chunks, closing, _ = events(await http.post("/v1/completions", json=body))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["", "é"]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [0]]
    assert closing["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("wanted", [True, False])
async def test_tokens_are_named_by_id_on_request_even_those_without_text(http, ingress, wanted):
    ingress.scripted = [[ACCEPT, emit("he"), emit(""), emit("l"), finish(FinishReason.STOP)]] * 2
    body = CHAT | {"return_token_ids": wanted}
    *chunks, _done = events(await http.post("/v1/chat/completions", json=body | {"stream": True}))
    named = [chunk["choices"][0]["token_ids"] for chunk in chunks if "token_ids" in chunk["choices"][0]]
    assert named == ([[5], [5], [5]] if wanted else [])
    whole = (await http.post("/v1/chat/completions", json=body)).json()
    assert whole["choices"][0].get("token_ids") == ([5, 5, 5] if wanted else None)


async def test_the_counts_are_the_clusters(http, ingress):
    ingress.scripted = [[ACCEPT, emit("x"), finish(FinishReason.STOP)]]
    answer = (await http.post("/v1/chat/completions", json=CHAT)).json()
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    text = ingress.metrics.render().decode()
    assert 'shoal_tokens_total{kind="completion"} 2.0' in text
    assert "shoal_first_token_seconds_count 1.0" in text


async def test_a_wish_reaches_the_cluster_as_it_was_made(http, ingress):
    body = CHAT | {"temperature": 0.5, "top_p": 0.9, "seed": 5, "stop": "\n", "max_tokens": 3, "user": "ann"}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    [request] = ingress.requests
    assert (request.deployment, request.stop, request.tokens_max) == (NAME, ("\n",), 3)
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.seed) == (0.5, 0.9, 5)


async def test_without_a_seed_every_request_has_its_own(http, ingress):
    for _ in range(3):
        await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1})
    assert len({request.sampling.seed for request in ingress.requests}) == 3
    assert len({request.session for request in ingress.requests}) == 3


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/twin", "/openai/v1/models"])
async def test_nothing_is_said_without_a_key(http, path):
    answer = await http.get(path, headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_key_is_asked_for_before_the_body_is_read(ingress):
    app = build_app(twin_ports(ingress))
    sent = []

    async def receive():
        pytest.fail("the body was read")

    async def send(message):
        sent.append(message)

    path = "/v1/chat/completions"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "query_string": b"",
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 401


async def test_a_client_that_leaves_cancels_what_is_not_streamed_too(ingress):
    ingress.scripted = [[ACCEPT, emit("he")]]
    app = build_app(twin_ports(ingress))
    body = json.dumps(CHAT).encode()
    arrived = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if arrived:
            return arrived.pop()
        await ingress.arrived.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        assert message.get("status", 499) == 499

    path = "/v1/chat/completions"
    headers = [(b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await asyncio.wait_for(app(scope, receive, send), 5)
    await asyncio.wait_for(ingress.cancelled.wait(), 5)


# --- coming back ------------------------------------------------------------------------------------------------------

ID = "client-named-request-0001"
TEXT = [ACCEPT, emit("he"), emit(""), emit("l"), finish(FinishReason.STOP, tail="lo")]


def numbers(answer):
    parts = [part.partition("\n")[0] for part in answer.text.split("\n\n")[:-1]]
    assert all(part.startswith("id: ") for part in parts)
    return [int(part[4:]) for part in parts]


async def ask(http, *, name=ID, seen=None, **wish):
    headers = {"X-Request-Id": name} | ({} if seen is None else {"Last-Event-ID": str(seen)})
    return await http.post("/v1/chat/completions", json=CHAT | {"stream": True} | wish, headers=headers)


async def test_every_event_of_a_stream_has_the_number_of_its_token(http, ingress):
    ingress.scripted = [TEXT]
    answer = await ask(http, stream_options={"include_usage": True})
    assert numbers(answer) == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("seen", range(8))
async def test_who_comes_back_is_shown_what_follows_and_nothing_twice(http, ingress, seen):
    ingress.scripted = [TEXT, TEXT]
    usage = {"stream_options": {"include_usage": True}}
    whole = (await ask(http, **usage)).text.split("\n\n")
    rest = (await ask(http, seen=seen, **usage)).text.split("\n\n")
    had = [part for part in whole if part and int(part.partition("\n")[0][4:]) <= seen]
    strip = lambda part: part.replace(part[part.find('"created"') :][:20], "")  # noqa: E731 - the clock goes on
    assert [strip(part) for part in had + rest] == [strip(part) for part in whole]
    assert ingress.requests[1].claim.seen == seen


async def test_an_error_is_told_whatever_was_seen_and_has_no_number(http, ingress):
    ingress.scripted = [[ACCEPT, emit("he"), finish(FinishReason.FAILED, detail="gone")]]
    answer = await ask(http, seen=9)
    assert json.loads(answer.text.removeprefix("data: "))["error"]["message"] == "gone"


async def test_every_ingress_finds_the_same_for_the_same_client(http, ingress):
    ingress.scripted = [TEXT] * 5
    for wish in ({}, {}, {"seed": 5}, {"name": ID + "x"}):
        await ask(http, **wish)
    first, again, seeded, other = ingress.requests
    assert again == first
    assert (seeded.session, seeded.claim.key) == (first.session, first.claim.key)
    assert seeded.claim.intent != first.claim.intent
    assert len({first.session, other.session}) == len({first.claim.key, other.claim.key}) == 2


async def test_an_id_of_our_own_is_good_to_come_back_with(http, ingress):
    ingress.scripted = [TEXT, TEXT]
    given = (await http.post("/v1/chat/completions", json=CHAT | {"stream": True})).headers["x-request-id"]
    await ask(http, name=given, seen=2)
    first, again = ingress.requests
    assert again.session == first.session


@pytest.mark.parametrize("resumable", [True, False])
async def test_a_client_is_told_whether_another_node_could_go_on(http, ingress, resumable):
    ingress.scripted = [[Accept(SESSION, 7, resumable), *TEXT[1:]]]
    assert (await ask(http)).headers["x-shoal-resumable"] == str(resumable).lower()


@pytest.mark.parametrize("seen", ["-1", "x", "\u0661", "9" * 30, ""])
async def test_a_number_that_is_none_is_refused(http, ingress, seen):
    headers = [("X-Request-Id", ID), ("Last-Event-ID", seen.encode())]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")
    assert not ingress.requests


async def test_nobody_comes_back_without_a_name(http, ingress):
    answer = await ask(http, name="short", seen=3)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Request-Id")


async def test_an_answer_in_one_piece_cannot_be_claimed(http, ingress):
    ingress.scripted = [TEXT]
    await ask(http, stream=False)
    assert ingress.requests[0].claim is None


@pytest.mark.parametrize(("code", "status"), [(RejectCode.CONFLICT, 409), (RejectCode.NOTHING_KEPT, 404)])
async def test_who_comes_back_in_vain_is_told_why(http, ingress, code, status):
    ingress.scripted = [[Reject(SESSION, code, "the reason", None)]]
    answer = await ask(http, seen=3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code.value)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("left_out", "told"), [(None, None), ((17, 20), "17-20")])
async def test_an_answer_says_which_blocks_it_does_without(http, ingress, stream, left_out, told):
    ingress.scripted = [[replace(ACCEPT, left_out=left_out), finish(FinishReason.STOP)]]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert answer.status_code == 200
    assert answer.headers.get("x-shoal-left-out") == told


CLASSES = (RequestClass("chat", 20_000.0, 0.05), RequestClass("batch", 300_000.0, 0.2))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_class_that_a_client_names_gives_its_request_the_deadline(ingress, path):
    ingress.scripted = [[ACCEPT, finish(FinishReason.STOP)] for _ in range(2)]
    app = build_app(replace(twin_ports(ingress), classes=CLASSES))
    body = CHAT if "chat" in path else {"model": NAME, "prompt": "hi"}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t", headers=headers) as http:
        assert (await http.post(path, json=body, headers={"X-Shoal-Class": "chat"})).status_code == 200
        assert (await http.post(path, json=body)).status_code == 200
        answer = await http.post(path, json=body, headers={"X-Shoal-Class": "vip"})
    assert [(request.kind, request.deadline_s) for request in ingress.requests] == [
        ("chat", 20.0),
        ("", REQUEST_DEADLINE_S_MAX),
    ]
    assert answer.status_code == 400
    fault = answer.json()["error"]
    assert (fault["code"], fault["param"]) == ("unknown_class", "X-Shoal-Class")
    assert fault["message"] == "There is no request class 'vip' here. Known: chat, batch."
