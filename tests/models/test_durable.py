"""Whole or not there; a really full disk (a file size limit, and a tiny file system where one may be mounted)."""

import hashlib
import subprocess
import sys
import textwrap

import pytest

from shoal_models.durable import file_digest, file_sha256, sync_directory, unfinished, write_whole
from shoal_protocol.ids import digest_of


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, memoryview(b"two"))
    sync_directory(tmp_path)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_half_way():
        with unfinished(path) as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_other_faults_of_the_system_are_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "file", b"x")


def test_digests(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(data)
    assert file_digest(tmp_path / "file") == digest_of(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


WRITE = """
import pathlib, resource, signal, sys
from shoal_models.durable import write_whole
from shoal_models.errors import StoreFull
folder = pathlib.Path(sys.argv[1])
if sys.argv[2] != "0":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    write_whole(folder / "large", bytes(4_000_000))
except StoreFull as error:
    print(error, [path.name for path in folder.iterdir()])
"""


def test_a_file_beyond_the_limit_is_reported_and_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE makes write() fail half way, as a full disk does."""
    found = subprocess.run(
        [sys.executable, "-c", WRITE, tmp_path, "1000000"], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout.startswith("no room left at")
    assert found.stdout.endswith("[]\n")


def test_a_full_file_system_is_reported_and_leaves_nothing(tmp_path):
    """ENOSPC itself, on a file system of one megabyte in a namespace of our own."""
    script = textwrap.dedent(f"""
        mount -t tmpfs -o size=1m tmpfs {tmp_path} || exit 77
        exec {sys.executable} - {tmp_path} 0
    """)
    found = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        input=WRITE,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if found.returncode == 77 or "unshare" in found.stderr:
        pytest.skip("no file system may be mounted here")
    assert found.returncode == 0, found.stderr
    assert "No space left on device" in found.stdout
    assert found.stdout.endswith("[]\n")
