"""A large file over a bad line: continued where it stopped, never wrong, never endless."""

import fcntl
import hashlib
import os
import subprocess
import sys

import httpx
import pytest

from shoal_models.download import download
from shoal_models.errors import FetchFailed
from shoal_models.ports import no_progress
from shoal_protocol.limits import DOWNLOAD_ATTEMPTS_MAX
from tests.support.file_server import FileServer, serve_files

DATA = hashlib.shake_256(b"weights").digest(300_000)
SIZE = len(DATA)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server():
    with serve_files() as server:
        server.files["/w"] = ("application/octet-stream", DATA)
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "w"


def get(server: FileServer, target, *, size=SIZE, sha256=SHA, progress=no_progress) -> list[float]:
    """Download; returns the pauses that were made."""
    pauses: list[float] = []
    with httpx.Client(timeout=5) as client:
        download(client, f"{server.url}/w", target, size, sha256, pauses.append, progress)
    return pauses


def part(target):
    return target.with_name("w.part")


def test_a_good_line(server, target):
    steps = []
    assert get(server, target, progress=lambda *step: steps.append(step)) == []
    assert target.read_bytes() == DATA
    assert not part(target).exists()
    assert server.requests == [("/w", None)]
    assert steps[-1] == ("bytes downloaded", len(DATA), len(DATA))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_cuts_are_continued_where_they_were(server, target):
    server.faults = [100_000, 50_000, "hang up", "unavailable"]
    pauses = get(server, target)
    assert target.read_bytes() == DATA
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", *["bytes=150000-"] * 3]
    assert pauses == [0.5, 1.0, 2.0, 4.0]


def test_attempts_are_limited_and_what_arrived_is_kept(server, target):
    server.faults = [10_000] * (DOWNLOAD_ATTEMPTS_MAX + 9)
    with pytest.raises(FetchFailed, match=f"{10_000 * DOWNLOAD_ATTEMPTS_MAX} of {len(DATA)} bytes are kept"):
        get(server, target)
    assert len(server.requests) == DOWNLOAD_ATTEMPTS_MAX
    assert part(target).stat().st_size == 10_000 * DOWNLOAD_ATTEMPTS_MAX
    server.faults = []
    get(server, target)
    assert server.requests[-1] == ("/w", f"bytes={10_000 * DOWNLOAD_ATTEMPTS_MAX}-")
    assert target.read_bytes() == DATA


def test_the_last_attempt_may_be_the_good_one(server, target):
    server.faults = [10_000] * (DOWNLOAD_ATTEMPTS_MAX - 1)
    get(server, target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("fault", ["no ranges", "not satisfiable", "another range"])
def test_a_server_without_ranges_sends_all_again(server, target, fault):
    server.faults = [100_000, fault]
    get(server, target)
    assert target.read_bytes() == DATA


def test_parts_that_do_not_fit_together_are_fetched_again_from_the_start(server, target):
    target.parent.mkdir()
    part(target).write_bytes(b"x" * 1000)
    get(server, target)
    assert target.read_bytes() == DATA
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", None]


def test_a_part_that_is_too_long_is_begun_again(server, target):
    target.parent.mkdir()
    part(target).write_bytes(DATA + b"x")
    get(server, target)
    assert target.read_bytes() == DATA


def test_a_part_that_is_complete_needs_no_request(server, target):
    target.parent.mkdir()
    part(target).write_bytes(DATA)
    get(server, target)
    assert (target.read_bytes(), server.requests) == (DATA, [])


def test_another_file_is_refused_after_one_more_try(server, target):
    server.files["/w"] = ("application/octet-stream", bytes(len(DATA)))
    with pytest.raises(FetchFailed, match="not the file the catalog names"):
        get(server, target)
    assert len(server.requests) == 2
    assert not target.exists()
    assert part(target).stat().st_size == 0


def test_a_larger_file_is_refused_without_reading_it_all(server, target):
    with pytest.raises(FetchFailed, match="larger than the 1000 bytes"):
        get(server, target, size=1000)
    assert part(target).stat().st_size <= 1000


def test_a_missing_file_is_not_asked_for_again(server, target):
    server.files.clear()
    with pytest.raises(FetchFailed, match="answers 404"):
        get(server, target)
    assert len(server.requests) == 1


def test_two_downloads_do_not_mix(server, target):
    target.parent.mkdir()
    with part(target).open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FetchFailed, match="another process"):
            get(server, target)
    get(server, target)


def test_an_address_may_hold_a_password_that_is_never_shown(server, target):
    server.files.clear()
    server.url = server.url.replace("//", "//me:secret@")
    with pytest.raises(FetchFailed) as refusal:
        get(server, target)
    assert "secret" not in str(refusal.value)


FULL = """
import pathlib, resource, signal, sys, httpx
from shoal_models.download import download
from shoal_models.errors import StoreFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with httpx.Client(timeout=5) as client:
        download(client, sys.argv[1], pathlib.Path(sys.argv[2]), 300_000, sys.argv[3], print, lambda *_: None)
except StoreFull as error:
    print(error)
"""


def test_a_full_disk_is_reported_and_continued_later(server, target):
    command = [sys.executable, "-c", FULL, f"{server.url}/w", target, SHA]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=dict(os.environ))
    assert found.stdout.startswith("no room left at")
    get(server, target)
    assert target.read_bytes() == DATA
    assert server.requests[-1] == ("/w", "bytes=100000-")
