"""Pipelines as clients see them: what goes in, what comes out, how it is refused."""

import base64
from dataclasses import replace

import httpx
import pytest

from shoal_agent.core.effects import Accept, Emit, Finish
from shoal_agent.core.facts import FinishReason, Piece, RejectCode, Usage
from shoal_agent.core.pipeline import GENERATE, JOIN, Generation, Pipeline, Step
from shoal_agent.core.service_classes import RequestClass, counts
from shoal_agent.shell.api.app import build_app
from shoal_agent.shell.api.promises import DEADLINE_S
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import API_BODY_BYTES_MAX
from tests.support.twin import KEY, NAME, TwinIngress, twin_ports

ROOM = "/shoal/v1/pipelines"


def encode(name, given):
    return Step(name, "tokenizer", (given,), "encode", NAME)


def embed(name, given):
    return Step(name, "embedder", (given,), "embed", NAME)


ASK = Step("answer", GENERATE, ("request",), "", NAME, Generation(4, chat=False))
COMPARE = Pipeline(
    "compare",
    (
        encode("a", "request.left"),
        encode("b", "request.right"),
        embed("left", "a"),
        embed("right", "b"),
        Step("both", JOIN, ("left", "right")),
    ),
    "both",
    "search",
    "Two vectors",
)
PIPELINES = (
    COMPARE,
    Pipeline("turn", (Step("turn", "turn", ("request",), "around"),), "turn"),
    Pipeline("ids", (encode("ids", "request"),), "ids"),
    Pipeline("ask", (ASK,), "answer"),
    Pipeline("index", (ASK, Step("all", JOIN, ("answer", "request"))), "all"),
)
CLASSES = (RequestClass("search", 2_000.0, 0.05), RequestClass("calm", 600_000.0, 0.01))
TWO = {"left": "hello", "right": "hello hello"}


@pytest.fixture
def ingress():
    return TwinIngress()


@pytest.fixture
async def client(ingress):
    app = build_app(replace(twin_ports(ingress), pipelines=PIPELINES, classes=CLASSES))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://t", headers=headers) as made:
        yield made


async def test_pipelines_are_listed_with_what_they_take_and_give(client):
    listed = (await client.get(ROOM)).json()
    assert (listed["object"], [each["name"] for each in listed["data"]]) == ("list", [each.name for each in PIPELINES])
    first, second, *_ = listed["data"]
    assert (first["takes"], first["gives"], first["class"]) == (["left", "right"], "map", "search")
    assert first["steps"][0] == {
        "name": "a",
        "service": "tokenizer",
        "method": "encode",
        "model": "twin",
        "inputs": ["request.left"],
    }
    assert (second["takes"], second["gives"], second["class"], second["output"]) == (None, "bytes", None, "turn")


async def test_two_texts_become_two_vectors(client, ingress):
    answer = await client.post(f"{ROOM}/compare", json=TWO)
    told = answer.json()
    assert {name: each["tokens"] for name, each in told.items()} == {
        name: int(each["vector"][0]) for name, each in told.items()
    }
    assert told["right"]["tokens"] > told["left"]["tokens"] > 0
    assert ingress.kinds == ["search"] * 4
    assert ingress.ends == [("search", False)]


async def test_an_answer_is_told_by_its_sort(client, ingress):
    turned = await client.post(f"{ROOM}/turn", content=b"abc\xff")
    assert (turned.content, turned.headers["content-type"]) == (b"\xffcba", "application/octet-stream")
    ids = await client.post(f"{ROOM}/ids", content=b"hello")
    assert len(ids.json()["tokens"]) > 0
    nobody = SessionId(bytes(16))
    for _ in range(2):
        piece, finish = Piece(1, "wörd", None), Finish(nobody, FinishReason.STOP, ".", Usage(1, 1), "")
        ingress.scripted.append([Accept(nobody, 1), Emit(nobody, piece), finish])
    text = await client.post(f"{ROOM}/ask", content=b"hello")
    assert (text.text, text.headers["content-type"]) == ("wörd.", "text/plain; charset=utf-8")
    joined = await client.post(f"{ROOM}/index", content=b"hello")
    assert joined.json() == {"answer": "wörd.", "request": {"base64": base64.b64encode(b"hello").decode()}}


@pytest.mark.parametrize(
    ("headers", "deadline_s", "kind"),
    [
        ({}, 2.0, "search"),
        ({"X-Deadline-S": "0.5"}, 0.5, "search"),
        ({"X-Deadline-S": "5"}, 2.0, "search"),
        ({"X-Shoal-Class": "calm"}, 600.0, "calm"),
    ],
)
async def test_a_class_gives_the_deadline_and_its_client_may_have_less(client, ingress, headers, deadline_s, kind):
    assert (await client.post(f"{ROOM}/compare", json=TWO, headers=headers)).status_code == 200
    assert deadline_s - 1 < ingress.errands[0][1] <= deadline_s
    assert set(ingress.kinds) == {kind}


async def test_without_a_class_there_is_a_minute(client, ingress):
    await client.post(f"{ROOM}/turn", content=b"abc")
    assert DEADLINE_S - 1 < ingress.errands[0][1] <= DEADLINE_S
    assert not ingress.ends


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        (b"{", "invalid_json", "not valid JSON"),
        (b"[" * 100_000, "invalid_json", "not valid JSON"),
        (b"[]", "invalid_value", "left, right"),
        (b'{"left": "a"}', "invalid_value", "left, right"),
        (b'{"left": "a", "right": "b", "more": "c"}', "invalid_value", "left, right"),
        (b'{"left": "a", "right": 7}', "invalid_value", "right: must be a text"),
        (b'{"left": "\\ud800", "right": "b"}', "invalid_value", "left: must be a text"),
        (b"\xff", "invalid_json", "not valid JSON"),
    ],
)
async def test_a_body_that_is_not_what_is_taken_is_refused(client, ingress, body, code, word):
    answer = await client.post(f"{ROOM}/compare", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code)
    assert word in error["message"]
    assert not ingress.errands
    assert not ingress.ends


async def test_what_is_refused_before_it_begins(client, ingress):
    missing = await client.post(f"{ROOM}/nobody", json=TWO)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "pipeline_not_found")
    unknown = await client.post(f"{ROOM}/compare", json=TWO, headers={"X-Shoal-Class": "slow"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_class")
    large = await client.post(f"{ROOM}/turn", content=bytes(API_BODY_BYTES_MAX + 1))
    assert large.status_code == 413
    no_key = {"Authorization": ""}
    assert (await client.post(f"{ROOM}/turn", headers=no_key)).status_code == 401
    assert (await client.get(ROOM, headers=no_key)).status_code == 401
    assert not ingress.errands


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [
        (RejectCode.OVERLOADED, 429, "1"),
        (RejectCode.STOPPING, 429, "1"),
        (RejectCode.NOT_READY, 503, "1"),
        (RejectCode.BAD_PROMPT, 400, None),
        (RejectCode.DEADLINE, 504, None),
    ],
)
async def test_a_step_that_fails_is_named_and_when_to_come_back(client, ingress, code, status, again):
    ingress.fault = code
    answer = await client.post(f"{ROOM}/compare", json=TWO)
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "step 'a' (tokenizer.encode): it is not to be"
    assert answer.headers.get("Retry-After") == again
    assert ingress.ends == [("search", True)] * counts(code)


async def test_text_that_is_none_is_refused(client):
    answer = await client.post(f"{ROOM}/ids", content=b"\xff")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_prompt")


async def test_a_peers_nonsense_is_no_trace(client, ingress, monkeypatch):
    monkeypatch.setattr(ingress.tokenizer, "encode", lambda _asked: b"nonsense")
    answer = await client.post(f"{ROOM}/ids", content=b"hello")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


async def test_runs_are_counted_by_pipeline_and_end(client, ingress):
    await client.post(f"{ROOM}/turn", content=b"abc")
    ingress.fault = RejectCode.OVERLOADED
    await client.post(f"{ROOM}/turn", content=b"abc")
    told = (await client.get("/metrics")).text
    assert 'shoal_pipeline_runs_total{how="done",pipeline="turn"} 1.0' in told
    assert 'shoal_pipeline_runs_total{how="overloaded",pipeline="turn"} 1.0' in told
    assert 'shoal_pipeline_run_seconds_count{pipeline="turn"} 1.0' in told
