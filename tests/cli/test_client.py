import httpx
import pytest

from shoal_agent.cli import client as client_module
from shoal_agent.cli.client import api_client, get_json, refuse_error
from shoal_agent.errors import ConfigError, DeniedError, FailedError, TimedOutError, UnavailableError
from tests.support.api_server import KEY, ApiServer, serving


@pytest.fixture
def server():
    with serving(ApiServer()) as running:
        yield running


def ask(url, key=KEY):
    with api_client(url, key) as client:
        return get_json(client, "/shoal/v1/state")


def test_what_the_api_says(server):
    server.state = {"node": "a"}
    assert ask(server.url) == {"node": "a"}


def test_nobody_there_is_unavailable():
    with pytest.raises(UnavailableError, match=r"nobody answers at http://127\.0\.0\.1:1"):
        ask("http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["127.0.0.1:8600", "ftp://a", "http://a:port", ""])
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="is no address of an API"):
        ask(url)


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_wrong_key_is_denied_with_the_api_s_words(server, key):
    with pytest.raises(DeniedError, match="answered 401: no such key") as caught:
        ask(server.url, key)
    assert "SHOAL_API_KEY" in caught.value.hint


def test_a_key_with_letters_no_header_takes(server):
    with pytest.raises(ConfigError):
        ask(server.url, "schlüssel☃")


def test_a_refusal_that_may_pass_is_unavailable(server):
    server.refuse = (503, {"error": {"message": "a stage is missing"}})
    with pytest.raises(UnavailableError, match="a stage is missing"):
        ask(server.url)


@pytest.mark.parametrize(("body", "said"), [({"error": "flat"}, "flat"), ("<html>", "<html>"), ({}, "{}")])
def test_any_other_refusal_is_quoted(server, body, said):
    server.refuse = (500, body)
    with pytest.raises(FailedError, match=said):
        ask(server.url)


@pytest.mark.parametrize("body", ["plain", '"text"', "[1]"])
def test_an_answer_that_is_no_object_is_refused(server, body):
    server.refuse = (200, body)
    with pytest.raises(FailedError) as caught:
        ask(server.url)
    assert caught.value.hint == "is this a shoal agent's API?"


def test_silence_times_out(server, monkeypatch):
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT_S", 0.2)
    server.hold = True
    with pytest.raises(TimedOutError, match="fell silent"), api_client(server.url, KEY) as client:
        client.post("/v1/chat/completions", json={})
    assert server.client_gone.wait(10)


def test_success_passes():
    refuse_error(httpx.Response(204))
