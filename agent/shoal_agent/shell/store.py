"""The state directory: what a node must not forget.

Two promises. *One life at a time*: a lock makes sure no second agent uses the same identity, for two processes that
sign with one key are an equivocator. *Never the same twice*: the incarnation is one more than the last one and
durable before anybody can hear of it, so a message of an earlier life can always be told from one of this life.

    <state_dir>/lock          held while the agent lives
    <state_dir>/incarnation   the last boot counter, decimal
    <state_dir>/<name>        what the core asked to Persist
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shoal_agent.errors import ConfigError
from shoal_agent.shell.files import write_private
from shoal_protocol.ids import Incarnation

RECORD_BYTES_MAX: Final = 1024 * 1024
"""The core keeps plans and votes, a few hundred bytes each; anything larger was not written by it."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_INCARNATION: Final = "incarnation"
_INCARNATION_DIGITS_MAX: Final = 18
"""Far more boots than a device has seconds, and still an integer of the wire."""
_RESERVED: Final = (_INCARNATION, "lock")


class StateDir:
    """An exclusively held state directory; ``StateDir.open`` is the way to one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["StateDir"]:
        """Hold ``folder``, made if need be (mode 0700). ConfigError if another agent holds it or it cannot be used."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            writable_by_others = stat.S_IMODE(folder.stat().st_mode) & 0o022
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise ConfigError(f"{folder}: {fault.strerror}", "node.state_dir must be writable by this user") from fault
        try:
            if writable_by_others:
                raise ConfigError(f"others may write into {folder}", f"run: chmod 700 {folder}")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as fault:
                hint = "stop that agent, or give this one its own node.state_dir and key"
                raise ConfigError(f"another agent is using {folder}", hint) from fault
            yield cls(folder)
        finally:
            os.close(lock)

    def next_incarnation(self) -> Incarnation:
        """One more than ever before, durable when this returns. ConfigError if the counter is unreadable."""
        raw = self.restore(_INCARNATION)
        if raw is None:
            last = 0
        elif raw.isdigit() and len(raw) <= _INCARNATION_DIGITS_MAX:
            last = int(raw)
        else:
            hint = "restore the file from a backup; a node that forgets its counter would be taken for a replay"
            raise ConfigError(f"{self._folder / _INCARNATION} holds no number", hint)
        write_private(self._folder / _INCARNATION, str(last + 1).encode())
        return Incarnation(last + 1)

    def adopt(self, incarnation: Incarnation) -> None:
        """Go on as life ``incarnation``, durable when this returns; the next boot is a later one."""
        write_private(self._folder / _INCARNATION, str(incarnation).encode())

    def persist(self, name: str, data: bytes) -> None:
        """Write ``data`` under ``name``, whole and durable when this returns."""
        assert _NAME.fullmatch(name), f"not a record's name: {name!r}"
        assert name not in _RESERVED, f"{name} is the directory's own"
        assert len(data) <= RECORD_BYTES_MAX, f"{name} is {len(data)} bytes"
        write_private(self._folder / name, data)

    def restore(self, name: str) -> bytes | None:
        """What was written under ``name``; None if nothing was. ConfigError if it cannot be what we wrote."""
        file = self._folder / name
        try:
            with file.open("rb") as stream:
                data = stream.read(RECORD_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise ConfigError(f"{file}: {fault.strerror}", "the state directory must be this user's own") from fault
        if len(data) > RECORD_BYTES_MAX:
            raise ConfigError(f"{file} is larger than anything an agent writes", "take it out of the state directory")
        return data

    def names(self) -> tuple[str, ...]:
        """Every record, by name."""
        found = sorted(path.name for path in self._folder.iterdir() if path.is_file())
        return tuple(name for name in found if _NAME.fullmatch(name) and name not in _RESERVED)
