import os
import stat

import pytest

from shoal_agent.shell.files import sync_folder, write_private, write_public


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_its_owners_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert mode(tmp_path / "key") == 0o600


def test_a_public_file_may_be_read_by_others(tmp_path):
    write_public(tmp_path / "crt", b"known")
    assert mode(tmp_path / "crt") == 0o644


def test_writing_again_replaces_content_and_mode(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"a longer content than the next")
    path.chmod(0o666)
    write_private(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "taken"
    path.mkdir()
    (path / "child").touch()
    with pytest.raises(OSError):
        write_private(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_private(tmp_path / "none" / "key", b"")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")
