import os
import signal
import stat
import subprocess
import sys

import pytest

from shoal_agent.errors import ConfigError
from shoal_agent.shell import store as module
from shoal_agent.shell.store import RECORD_BYTES_MAX, StateDir
from shoal_protocol.ids import Incarnation

HOLDER = """
import sys, time
from pathlib import Path
from shoal_agent.shell.store import StateDir
with StateDir.open(Path(sys.argv[1])) as state:
    sys.stdout.write(f"{state.next_incarnation()}\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


def test_what_was_persisted_is_restored_in_the_next_life(folder):
    with StateDir.open(folder) as state:
        assert state.restore("plan.llm") is None
        state.persist("plan.llm", b"old")
        state.persist("plan.llm", b"new")
        state.persist("votes", b"")
    with StateDir.open(folder) as state:
        assert state.restore("plan.llm") == b"new"
        assert state.restore("votes") == b""
        assert state.names() == ("plan.llm", "votes")


def test_everything_in_it_is_private(folder):
    before = os.umask(0)
    try:
        with StateDir.open(folder) as state:
            state.next_incarnation()
            state.persist("plan.llm", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_every_life_has_a_higher_incarnation(folder):
    seen = []
    for _ in range(3):
        with StateDir.open(folder) as state:
            seen.append(state.next_incarnation())
    assert seen == [1, 2, 3]


def test_a_life_that_others_remember_is_adopted_and_the_next_one_is_later(folder):
    with StateDir.open(folder) as state:
        assert state.next_incarnation() == 1
        state.adopt(Incarnation(17))
    with StateDir.open(folder) as state:
        assert state.next_incarnation() == 18


def test_an_incarnation_is_durable_before_it_is_told(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with StateDir.open(folder) as state:
        assert state.next_incarnation() == 1
        monkeypatch.setattr(module, "write_private", full)
        with pytest.raises(OSError):
            state.next_incarnation()


@pytest.mark.parametrize("content", [b"", b"x", b"-1", b"1\n2", b"9" * 40])
def test_a_counter_that_is_none_is_said_clearly(folder, content):
    folder.mkdir(mode=0o700)
    (folder / "incarnation").write_bytes(content)
    with StateDir.open(folder) as state, pytest.raises(ConfigError, match="no number"):
        state.next_incarnation()


def test_two_agents_never_share_a_directory(folder):
    """The other is a process of its own; killed without a word, it leaves no lock behind."""
    other = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "1\n"
        with pytest.raises(ConfigError, match="another agent is using"), StateDir.open(folder):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with StateDir.open(folder) as state:
        assert state.next_incarnation() == 2


def test_a_directory_that_others_may_write_into_is_refused(folder):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 700"), StateDir.open(folder):
        pass


def test_a_directory_that_cannot_be_had_is_said_clearly(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="file"), StateDir.open(place):
            pass


@pytest.mark.parametrize("name", ["", "../key", "a/b", ".hidden", "A", "incarnation", "lock", "x" * 200])
def test_a_name_that_leaves_the_directory_is_our_own_mistake(folder, name):
    with StateDir.open(folder) as state, pytest.raises(AssertionError):
        state.persist(name, b"")


def test_records_are_bounded_in_both_directions(folder):
    with StateDir.open(folder) as state:
        state.persist("plan", bytes(RECORD_BYTES_MAX))
        assert state.restore("plan") == bytes(RECORD_BYTES_MAX)
        with pytest.raises(AssertionError):
            state.persist("plan", bytes(RECORD_BYTES_MAX + 1))
        (folder / "plan").write_bytes(bytes(RECORD_BYTES_MAX + 1))
        with pytest.raises(ConfigError, match="larger"):
            state.restore("plan")


def test_a_record_that_cannot_be_read_is_said_clearly(folder):
    with StateDir.open(folder) as state:
        (folder / "plan").mkdir()
        with pytest.raises(ConfigError, match="plan"):
            state.restore("plan")


def test_leftovers_of_a_write_that_was_cut_short_are_no_records(folder):
    with StateDir.open(folder) as state:
        (folder / ".plan.llm.x7g2").write_bytes(b"half")
        assert state.names() == ()
