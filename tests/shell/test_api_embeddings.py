import base64
import struct
from dataclasses import replace

import httpx
import pytest

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.shell.api.app import build_app
from shoal_agent.shell.api.embeddings import TEXTS_MAX
from shoal_agent.shell.api.promises import DEADLINE_S
from tests.support.twin import KEY, TwinIngress, twin_ports


@pytest.fixture
def ingress():
    return TwinIngress()


@pytest.fixture
async def client(ingress):
    transport = httpx.ASGITransport(app=build_app(twin_ports(ingress)))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://twin", headers=headers) as made:
        yield made


async def embed(client, text, **more):
    return await client.post("/v1/embeddings", json={"model": "twin", "input": text} | more)


async def test_a_text_becomes_a_vector(client, ingress):
    answer = (await embed(client, "hello")).json()
    (only,) = answer["data"]
    tokens = answer["usage"]["prompt_tokens"]
    assert only == {"object": "embedding", "index": 0, "embedding": [float(tokens), 0.0]}
    assert (answer["object"], answer["model"], answer["usage"]["total_tokens"]) == ("list", "twin", tokens)
    ((steps, deadline_s),) = ingress.errands
    assert [service.partition(":")[0] for service, _ in steps] == ["tokenizer", "embedder"]
    assert DEADLINE_S - 1 < deadline_s <= DEADLINE_S


@pytest.mark.parametrize(("given", "count"), [(["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)])
async def test_all_forms_of_input_are_taken_and_kept_in_order(client, given, count):
    data = (await embed(client, given)).json()["data"]
    assert [each["index"] for each in data] == list(range(count))
    if isinstance(given[-1], list):
        assert [each["embedding"][0] for each in data] == [1.0, 2.0]


async def test_the_official_clients_own_encoding(client):
    (only,) = (await embed(client, [1, 2, 3], encoding_format="base64")).json()["data"]
    assert struct.unpack("<2f", base64.b64decode(only["embedding"])) == (3.0, 0.0)


@pytest.mark.parametrize("given", ["", [], [[]], [-1], ["a"] * (TEXTS_MAX + 1), 7, None, [1.5]])
async def test_what_is_no_input_is_refused(client, ingress, given):
    assert (await embed(client, given)).status_code == httpx.codes.BAD_REQUEST
    assert not ingress.errands


async def test_an_unknown_model_and_a_missing_key_are_refused(client):
    assert (await client.post("/v1/embeddings", json={"model": "no", "input": "a"})).status_code == 404
    for path in ("/v1/embeddings", "/shoal/v1/services/a/b"):
        assert (await client.post(path, headers={"Authorization": ""})).status_code == 401


@pytest.mark.parametrize(("text", "status"), [("2.5", 200), ("0", 400), ("nan", 400), ("soon", 400), ("1e9", 400)])
async def test_a_client_may_be_in_a_hurry(client, ingress, text, status):
    answer = await client.post("/v1/embeddings", json={"model": "twin", "input": "a"}, headers={"X-Deadline-S": text})
    assert answer.status_code == status
    assert [2.0 < deadline_s <= 2.5 for _, deadline_s in ingress.errands] == [True] * (status == 200)


async def test_all_texts_share_one_deadline_and_count_as_one_request_of_their_class(ingress):
    ports = replace(twin_ports(ingress), classes=(RequestClass("search", 2_000.0, 0.05),))
    headers = {"Authorization": f"Bearer {KEY}", "X-Shoal-Class": "search"}
    transport = httpx.ASGITransport(app=build_app(ports))
    async with httpx.AsyncClient(transport=transport, base_url="http://twin", headers=headers) as client:
        assert (await embed(client, ["a", "b", "c"])).status_code == 200
        first, *_, last = [deadline_s for _, deadline_s in ingress.errands]
        assert 2.0 >= first > last > 0.0
        assert (ingress.kinds, ingress.ends) == (["search"] * 3, [("search", False)])
        ingress.fault = RejectCode.OVERLOADED
        assert (await client.post("/shoal/v1/services/x/y", content=b"z")).status_code == 429
        assert ingress.ends[1:] == [("search", True)]


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [
        (RejectCode.OVERLOADED, 429, "1"),
        (RejectCode.STOPPING, 429, "1"),
        (RejectCode.BAD_PROMPT, 400, None),
        (RejectCode.DEADLINE, 504, None),
    ],
)
async def test_why_it_was_not_done_is_told_and_when_to_come_back(client, ingress, code, status, again):
    ingress.fault = code
    for answer in (await embed(client, ["a", "b", "c"]), await client.post("/shoal/v1/services/x/y", content=b"z")):
        assert answer.status_code == status
        assert answer.json()["error"]["message"] == "it is not to be"
        assert answer.headers.get("Retry-After") == again


async def test_any_service_can_be_called_by_its_name(client, ingress):
    answer = await client.post("/shoal/v1/services/turn:00/around", content=b"abc")
    assert (answer.status_code, answer.content) == (200, b"cba")
    ((steps, _),) = ingress.errands
    assert steps == (("turn:00", "around"),)
