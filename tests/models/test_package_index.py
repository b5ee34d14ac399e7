"""Pages as real indexes answer them, and every page that is none."""

import json

import httpx
import pytest

from shoal_models.errors import FetchFailed
from shoal_models.package_index import find_link, shown_url
from shoal_protocol.limits import INDEX_PAGE_BYTES_MAX
from tests.support.file_server import serve_files

FILE = "thing-1.0-py3-none-any.whl"
SHA = "ab" * 32
HTML = f"""<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.3"></head><body>
<a href="../../files/thing-0.9.tar.gz#sha256={"0" * 64}">thing-0.9.tar.gz</a><br/>
<A class="x" HREF="../../files/{FILE}#sha256={SHA}" data-requires-python="&gt;=3.9">{FILE}</A></body></html>"""


@pytest.fixture
def server():
    with serve_files() as server:
        yield server


@pytest.fixture
def client():
    with httpx.Client(follow_redirects=True, timeout=5) as client:
        yield client


def put(server, kind: str, body: bytes | str) -> str:
    server.files["/simple/thing/"] = (kind, body.encode() if isinstance(body, str) else body)
    return f"{server.url}/simple"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("kind", ["text/html", "application/vnd.pypi.simple.v1+html; charset=utf-8"])
def test_an_html_page(server, client, kind, slash):
    link = find_link(client, put(server, kind, HTML) + slash, "thing", FILE, SHA)
    assert (link.file, link.sha256) == (FILE, SHA)
    assert link.url == f"{server.url}/files/{FILE}"
    assert "application/vnd.pypi.simple.v1+json" in server.headers[0]["Accept"]


def test_a_json_page(server, client):
    files = [{"filename": FILE, "url": f"/files/{FILE}", "hashes": {"sha256": SHA}}]
    index = put(server, "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}))
    link = find_link(client, index, "thing", FILE, SHA)
    assert (link.url, link.sha256) == (f"{server.url}/files/{FILE}", SHA)


def test_a_link_without_a_digest_and_with_escapes(server, client):
    index = put(server, "text/html", '<a href="/f/thing-1.0%2Bcpu-py3-none-any.whl">x</a>')
    link = find_link(client, index, "thing", "thing-1.0+cpu-py3-none-any.whl", SHA)
    assert link.sha256 is None


def test_a_link_to_other_bytes_is_refused_before_the_download(server, client):
    with pytest.raises(FetchFailed, match=f"sha256 {SHA}; the catalog wants cdcd"):
        find_link(client, put(server, "text/html", HTML), "thing", FILE, "cd" * 32)


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        ("text/html", "<p>welcome to the hotel network", "does not list"),
        ("text/html", b"\xff\xfe\x00<a href=", "does not list"),
        ("application/json", "{", "not a package index's page"),
        ("application/json", "[]", "not a package index's page"),
        ("application/json", '{"files": [{"filename": 1}]}', "not a package index's page"),
        ("application/json", '{"files": []}', "does not list"),
        ("text/html", f'<a href="file:///etc/{FILE}">x</a>', "no web address"),
        ("text/html", bytes(INDEX_PAGE_BYTES_MAX + 1), "larger than"),
    ],
)
def test_pages_that_are_none(server, client, kind, body, complaint):
    with pytest.raises(FetchFailed, match=complaint):
        find_link(client, put(server, kind, body), "thing", FILE, SHA)


def test_an_unknown_project(server, client):
    with pytest.raises(FetchFailed, match="answers 404; does the index have thing"):
        find_link(client, f"{server.url}/simple", "thing", FILE, SHA)


def test_nobody_there(client):
    with serve_files() as gone:
        url = gone.url
    with pytest.raises(FetchFailed, match="are you offline"):
        find_link(client, url, "thing", FILE, SHA)


@pytest.mark.parametrize("index", ["nonsense", "ftp://example.invalid", "http://[", ""])
def test_an_index_that_is_no_address(client, index):
    with pytest.raises(FetchFailed):
        find_link(client, index, "thing", FILE, SHA)


def test_passwords_are_never_shown(client):
    with serve_files() as gone:
        url = gone.url.replace("http://", "http://user:secret@")
    with pytest.raises(FetchFailed) as refusal:
        find_link(client, url, "thing", FILE, SHA)
    assert "secret" not in str(refusal.value)
    assert shown_url("https://user:secret@host/simple") == "https://host/simple"
