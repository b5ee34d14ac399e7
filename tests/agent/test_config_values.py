import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from shoal_agent.config_values import (
    Bytes,
    Count,
    Directory,
    Hash,
    Name,
    Place,
    Port,
    PrivateFile,
    ReadableFile,
    is_loopback,
    is_wildcard,
)


def read(kind, value, place=None):
    return TypeAdapter(kind).validate_python(value, context=place)


def fault(kind, value, place=None):
    with pytest.raises(ValidationError) as caught:
        read(kind, value, place)
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, {}, check_files=True)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (5, 5),
        ("5", 5),
        ("500 MB", 500_000_000),
        ("2GiB", 2**31),
        ("1 kib", 1024),
    ],
)
def test_sizes_have_units(text, size_bytes):
    assert read(Bytes, text) == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "2 XB", "-1", "1.5 GB", 0, -1, True, 1.5, "9" * 19])
def test_what_is_no_size(text):
    assert fault(Bytes, text)


@pytest.mark.parametrize("value", [True, 1.0, -1, 65536, "http"])
def test_what_is_no_port(value):
    assert fault(Port, value)


def test_ports_may_come_from_the_environment():
    assert read(Port, "8600") == 8600


@pytest.mark.parametrize("value", [0, 1025, False])
def test_what_is_no_count(value):
    assert fault(Count, value)


@pytest.mark.parametrize("value", ["", "A", "a b", "-a", "a" * 65, 5])
def test_what_is_no_name(value):
    assert fault(Name, value)


@pytest.mark.parametrize("value", ["", "0" * 63, "A" * 64, "g" * 64])
def test_what_is_no_hash(value):
    assert fault(Hash, value)


def test_paths_count_from_the_folder(place):
    (place.folder / "keys").mkdir()
    (place.folder / "keys" / "a").touch()
    assert read(ReadableFile, "keys/a", place) == place.folder / "keys" / "a"
    assert read(ReadableFile, str(place.folder / "keys" / "a"), place) == place.folder / "keys" / "a"


@pytest.mark.parametrize("value", ["", 5, ["a"]])
def test_what_is_no_path(value, place):
    assert fault(ReadableFile, value, place).endswith("must be a path")


def test_a_file_must_be_there_only_if_it_will_be_used(place):
    assert fault(ReadableFile, "absent", place).endswith("absent is not there")
    assert read(ReadableFile, "absent", Place(place.folder, {}, check_files=False)) == place.folder / "absent"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_must_be_readable(place):
    (place.folder / "a").touch(mode=0o200)
    assert fault(ReadableFile, "a", place).endswith("may not be read by this user")


@pytest.mark.parametrize(("mode", "accepted"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False)])
def test_a_private_file_is_its_owners_alone(place, mode, accepted):
    path = place.folder / "node.key"
    path.touch()
    path.chmod(mode)
    if accepted:
        assert read(PrivateFile, "node.key", place) == path
    else:
        assert f"has mode {mode:04o}; run: chmod 600 {path}" in fault(PrivateFile, "node.key", place)


def test_a_credential_is_a_file_that_systemd_guards(tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "node.key").touch()
    (credentials / "node.key").chmod(0o440)
    place = Place(tmp_path, {"CREDENTIALS_DIRECTORY": str(credentials)}, check_files=True)
    assert read(PrivateFile, "credential:node.key", place) == credentials / "node.key"


def test_a_credential_cannot_point_elsewhere(tmp_path):
    place = Place(tmp_path, {"CREDENTIALS_DIRECTORY": "/run/credentials"}, check_files=False)
    assert read(PrivateFile, "credential:../../etc/shadow", place) == Path("/run/credentials/shadow")


def test_a_credential_without_systemd_is_explained(place):
    assert "LoadCredential=" in fault(PrivateFile, "credential:node.key", place)


def test_a_directory_may_be_made_later_but_is_no_file(place):
    assert read(Directory, "state", place) == place.folder / "state"
    (place.folder / "file").touch()
    assert fault(Directory, "file", place).endswith("is not a directory")


@pytest.mark.parametrize(
    ("host", "loopback", "wildcard"),
    [
        ("127.0.0.1", True, False),
        ("127.8.8.8", True, False),
        ("::1", True, False),
        ("localhost", True, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("10.0.0.1", False, False),
        ("localhost.example.net", False, False),
    ],
)
def test_hosts(host, loopback, wildcard):
    assert is_loopback(host) is loopback
    assert is_wildcard(host) is wildcard
