import dataclasses

import httpx
import pytest

from shoal_agent.shell.api.app import build_app
from tests.support.twin import KEY, TwinIngress, twin_ports

AUTH = {"Authorization": f"Bearer {KEY}"}


def client(ports, **options):
    transport = httpx.ASGITransport(build_app(ports), **options)
    return httpx.AsyncClient(transport=transport, base_url="http://twin", headers=AUTH)


@pytest.fixture
def ingress():
    return TwinIngress()


@pytest.fixture
async def http(ingress):
    async with client(twin_ports(ingress)) as made:
        yield made


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/images", "/docs", "/metrics/x", "/%00"])
async def test_a_path_that_does_not_exist_is_404_in_openais_shape(http, path):
    answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("PUT", "/healthz")]
)
async def test_a_method_a_path_does_not_have_is_405(http, method, path):
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert method in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/models"])
async def test_every_answer_has_a_request_id(http, path):
    first, second = await http.get(path), await http.get(path)
    assert first.headers["x-request-id"].startswith("req_")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    echoed = await http.get(path, headers={"X-Request-Id": "trace:1.2-a_B"})
    assert echoed.headers["x-request-id"] == "trace:1.2-a_B"


@pytest.mark.parametrize("offered", ["", "x" * 129, "a b", "é".encode().decode("latin-1"), "a;b"])
async def test_a_request_id_that_could_do_harm_is_replaced(http, offered):
    answer = await http.get("/healthz", headers=[(b"x-request-id", offered.encode("latin-1"))])
    assert answer.headers["x-request-id"].startswith("req_")


async def test_responses_are_counted_under_patterns_never_under_a_clients_words(http, ingress):
    for path in ("/v1/models/twin", "/v1/models/nobody", "/made-up", "/made-up-too"):
        await http.get(path)
    text = ingress.metrics.render().decode()
    assert 'shoal_api_responses_total{route="/v1/models/{model}",status="200"} 1.0' in text
    assert 'shoal_api_responses_total{route="/v1/models/{model}",status="404"} 1.0' in text
    assert 'shoal_api_responses_total{route="other",status="404"} 2.0' in text
    assert "made-up" not in text


async def test_a_mistake_of_ours_is_a_500_that_tells_nothing(ingress):
    def broken():
        raise ZeroDivisionError("secret")

    ports = dataclasses.replace(twin_ports(ingress), state=broken)
    async with client(ports, raise_app_exceptions=False) as http:
        answer = await http.get("/shoal/v1/state")
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "Internal error.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


async def test_only_http_is_spoken(ingress):
    app = build_app(twin_ports(ingress))
    await app({"type": "websocket"}, pytest.fail, pytest.fail)
