import asyncio
from contextlib import suppress

import pytest

from shoal_agent.core.events import LockChanged
from shoal_agent.shell import lock as module
from shoal_agent.shell.lock import LOCK_FILE, LockWatch, lock_files


@pytest.fixture
def told():
    return []


def test_a_lock_may_lie_in_the_state_or_a_runtime_directory(tmp_path):
    assert lock_files(tmp_path, {}) == (tmp_path / LOCK_FILE,)
    files = lock_files(tmp_path, {"RUNTIME_DIRECTORY": f"{tmp_path}/a:{tmp_path}/b"})
    assert files == (tmp_path / LOCK_FILE, tmp_path / "a" / LOCK_FILE, tmp_path / "b" / LOCK_FILE)


def test_changes_are_told_and_nothing_else(tmp_path, told):
    state, runtime = tmp_path / "state", tmp_path / "run"
    for folder in (state, runtime):
        folder.mkdir()
    watch = LockWatch((state / LOCK_FILE, runtime / LOCK_FILE), told.append)
    watch.look()
    assert told == []
    (state / LOCK_FILE).touch()
    watch.look()
    (runtime / LOCK_FILE).touch()
    watch.look()
    (state / LOCK_FILE).unlink()
    watch.look()
    assert told == [LockChanged(held=True)]
    (runtime / LOCK_FILE).unlink()
    watch.look()
    assert told == [LockChanged(held=True), LockChanged(held=False)]


async def test_a_lock_is_noticed_by_itself(tmp_path, told, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    noticed = asyncio.Event()

    def post(event):
        told.append(event)
        noticed.set()

    task = asyncio.create_task(LockWatch((tmp_path / LOCK_FILE,), post).run())
    (tmp_path / LOCK_FILE).touch()
    await asyncio.wait_for(noticed.wait(), 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert told == [LockChanged(held=True)]
