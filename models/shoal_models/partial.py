"""A blob that is not whole yet: verified pieces at their places in a sparse file, the rest holes.

There is no list of what has arrived. Opened again, after a crash or a power cut, the file is hashed piece by piece
against the manifest, and whatever does not match is missing: a list could be out of step with the disk, the disk
cannot be out of step with itself. Hashing costs a second per gigabyte, once.

When nothing is missing the whole is hashed again, synced, and renamed into the store's blobs; the directory is synced.
So a blob that has its name is whole, whatever happened. A lock on the file keeps two processes from filling the same
one.
"""

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from threading import Lock

from shoal_models.durable import file_digest, room_at, sync_directory
from shoal_models.errors import CorruptShard, StoreBusy
from shoal_models.manifest import BlobRef
from shoal_models.pieces import piece_count, piece_span
from shoal_protocol.ids import Digest, digest_of


class PartialBlob:
    """One unfinished blob, held. :meth:`open` is the way to one; ``missing`` are the pieces that are not here."""

    def __init__(self, file: FileIO, path: Path, ref: BlobRef, digests: Sequence[Digest]) -> None:
        assert len(digests) == piece_count(ref.bytes), "a manifest lists every piece"
        self.ref = ref
        self._file = file
        self._path = path
        self._digests = digests
        self._writing = Lock()
        self.missing = {index for index in range(len(digests)) if not self._is_here(index)}

    @staticmethod
    def open(path: Path, ref: BlobRef, digests: Sequence[Digest]) -> "PartialBlob":
        """Go on with ``path``, or begin it. StoreBusy if somebody else is filling it; StoreFull, OSError."""
        with room_at(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
        try:
            _hold(file, path)
            if os.fstat(file.fileno()).st_size > ref.bytes:
                file.truncate(ref.bytes)
            return PartialBlob(file, path, ref, digests)
        except BaseException:
            file.close()
            raise

    def put(self, index: int, data: bytes | memoryview) -> bool:
        """Keep a piece that is missing; False, and nothing done, if ``data`` is not that piece. StoreFull.

        May be called in several threads, and be late: after :meth:`close` nothing is written.
        """
        if digest_of(data) != self._digests[index]:
            return False
        offset, _ = piece_span(index, self.ref.bytes)
        left = memoryview(data)
        with self._writing, room_at(self._path.parent):
            while left and not self._file.closed:
                written = os.pwrite(self._file.fileno(), left, offset)
                offset, left = offset + written, left[written:]
        self.missing.discard(index)
        return True

    def finish(self, target: Path) -> None:
        """Make the blob visible at ``target``; nothing may be missing. CorruptShard if its pieces are not the blob."""
        assert not self.missing, "a blob is published whole"
        found = file_digest(self._path)
        if found != self.ref.id:
            self._path.unlink(missing_ok=True)
            raise CorruptShard(target.name[:16], self.ref.id, found, "the manifest's pieces are not the blob")
        with room_at(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.fsync(self._file.fileno())
            self._path.rename(target)
            sync_directory(target.parent)

    def discard(self) -> None:
        """Let go and leave nothing: the blob is there already."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go; what arrived stays for the next time."""
        with self._writing:
            self._file.close()

    def _is_here(self, index: int) -> bool:
        offset, size = piece_span(index, self.ref.bytes)
        data = os.pread(self._file.fileno(), size, offset)
        return len(data) == size and digest_of(data) == self._digests[index]


def _hold(file: FileIO, path: Path) -> None:
    busy = StoreBusy(f"another fetch is filling {path.name[:16]}")
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return
    raise busy  # whoever held it finished between our opening and our lock
