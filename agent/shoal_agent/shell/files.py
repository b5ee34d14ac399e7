"""Files that are either there as a whole or not at all.

A file is written beside its place under a temporary name, flushed to the disk, and renamed over the old one; then the
folder is flushed, because the rename itself is only durable with it. Whoever reads sees the old bytes or the new
ones, also after a power cut, and a private file never has a mode that others may read, not even for an instant.
"""

import os
import tempfile
from io import FileIO
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
"""Its owner's alone: keys, and everything a node keeps for itself."""
PUBLIC: Final = 0o644


def write_private(path: Path, data: bytes) -> None:
    """``data`` as the whole content of ``path``, durable when this returns, mode 0600; OSError if it cannot be."""
    _write(path, data, PRIVATE)


def write_public(path: Path, data: bytes) -> None:
    """As :func:`write_private`, but others may read it: certificates, rosters."""
    _write(path, data, PUBLIC)


def create_private(path: Path) -> FileIO:
    """An empty file at ``path``, mode 0600, unbuffered, in place of any other; OSError if it cannot be made."""
    write_private(path, b"")
    return FileIO(path, "ab")


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed, made or removed in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
