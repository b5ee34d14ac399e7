"""Files that are whole or not there.

A file is written beside its final place, synced, and renamed over it; the directory is synced when the name must
survive a power cut. A full disk is the one failure somebody can mend, so it has an error of its own; whatever else the
operating system says is passed on.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final

from shoal_models.errors import StoreFull
from shoal_protocol.ids import DIGEST_BYTES, Digest

TEMPORARY: Final = ".tmp-"
"""How the names of unfinished files begin."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CHUNK_BYTES: Final = 1024 * 1024
"""Read at a time while hashing: large enough to stream, small enough for the smallest device."""


@contextmanager
def room_at(path: Path) -> Iterator[None]:
    """Turns "no space left", "quota exceeded" and "file too large" into StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(f"no room left at {path}: {error.strerror}; free some space and try again") from error
        raise


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; renamed to ``path`` at the end, deleted if anything goes wrong."""
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with room_at(path.parent):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """All of ``data`` at ``path``, or nothing and StoreFull (or the OSError)."""
    with unfinished(path) as temporary:
        temporary.write_bytes(data)


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> Digest:
    """BLAKE2b-256 of a file's bytes."""
    hasher = blake2b(digest_size=DIGEST_BYTES)
    for chunk in _chunks(path):
        hasher.update(chunk)
    return Digest(hasher.digest())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal: what the rest of the world names files by."""
    hasher = sha256()
    for chunk in _chunks(path):
        hasher.update(chunk)
    return hasher.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
