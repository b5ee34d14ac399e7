import httpx
import pytest

from shoal_agent.shell.api.app import build_app
from tests.support.twin import KEY, TwinIngress, twin_ports

AUTH = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def ingress():
    return TwinIngress()


@pytest.fixture
async def http(ingress):
    transport = httpx.ASGITransport(build_app(twin_ports(ingress)))
    async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
        yield client


async def test_a_node_that_answers_is_live(http, ingress):
    ingress.serving = False
    answer = await http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"live": True})


async def test_readiness_comes_with_reasons(http, ingress):
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})
    ingress.serving = False
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["reasons"] == ["twin: stage 0 is loading"]


@pytest.mark.parametrize("path", ["/metrics", "/shoal/v1/state", "/shoal/v1/explain"])
async def test_what_tells_about_the_cluster_needs_a_key(http, path):
    assert (await http.get(path)).status_code == 401
    assert (await http.get(path, headers={"Authorization": "Bearer no"})).json()["error"]["code"] == "invalid_api_key"
    assert (await http.get(path, headers=AUTH)).status_code == 200


async def test_metrics_are_prometheus_text(http):
    answer = await http.get("/metrics", headers=AUTH)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nshoal_kv_bytes 0.0\n" in answer.text
    again = await http.get("/metrics", headers=AUTH)
    assert 'shoal_api_responses_total{route="/metrics",status="200"} 1.0' in again.text


async def test_the_state_is_the_nodes(http):
    assert (await http.get("/shoal/v1/state", headers=AUTH)).json() == {"node": "twin", "requests": 0}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", {"deployment": None, "epoch": 3}),
        ("?epoch=3", {"deployment": None, "epoch": 3}),
        ("?deployment=toy&epoch=3", {"deployment": "toy", "epoch": 3}),
    ],
)
async def test_a_plan_is_explained(http, query, told):
    assert (await http.get(f"/shoal/v1/explain{query}", headers=AUTH)).json() == told


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?epoch=4", 404, "plan_not_found"),
        ("?epoch=-1", 400, "invalid_value"),
        ("?epoch=x", 400, "invalid_value"),
        ("?epoch=99999999999999999999999", 400, "invalid_value"),
        ("?epoch=%C2%B2", 400, "invalid_value"),
        ("?deployment=No%20Name", 400, "invalid_value"),
    ],
)
async def test_what_cannot_be_explained_is_an_error(http, query, status, code):
    answer = await http.get(f"/shoal/v1/explain{query}", headers=AUTH)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
