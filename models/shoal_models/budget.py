"""Room on the disk for what is to be fetched: the least recently used weights go first.

What may go: weights that only fetched packages name and that nobody holds open, and unfinished blobs nobody is
filling. What may not: an operator's packages, whatever an epoch holds, and the texts of a fetched package (a node that
knows a model stays a candidate for it, at a thousandth of its weight).

A blob's last use is its file's access time, which :func:`touch` sets: kept by the file system over restarts, and not
part of what tells the store that a file was changed. The budget is for a store that one agent has for itself; two
agents in one store would not know what the other holds.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal_models.errors import ManifestInvalid, PackageNotFound, StoreFull
from shoal_models.manifest import BlobRef
from shoal_models.package import Store

RESERVE_BYTES: Final = 64 * 1024 * 1024
"""Left free on the disk whatever is fetched: votes and plans must still find room."""
_BLOCK_BYTES: Final = 512
"""What ``st_blocks`` counts; a partial file is sparse, so its size says nothing."""


@dataclass(frozen=True, slots=True)
class _Held:
    """One file of the store."""

    path: Path
    bytes: int
    used_ns: int


def touch(store: Store, refs: Iterable[BlobRef], now_ns: int) -> None:
    """Remember that ``refs`` were used now."""
    for ref in refs:
        path = store.blob_path(ref.id)
        with suppress(OSError):  # gone, or somebody else's file: then it is only evicted earlier
            os.utime(path, ns=(now_ns, path.stat().st_mtime_ns))


def make_room(store: Store, wanted: Iterable[BlobRef], bytes_max: int, in_use: frozenset[str]) -> int:
    """Delete what must go so that ``wanted`` fits into ``bytes_max`` (0: no budget) and onto the disk; bytes freed.

    ``in_use`` are digests that stay. StoreFull, and nothing deleted, if that would not be enough; StoreBusy during an
    import.
    """
    refs = {ref.digest: ref for ref in wanted}
    keep = in_use | _kept(store)
    begun = {held.path.name: held.bytes for held in _files(store.partial, sparse=True)}
    needed = sum(ref.bytes for ref in refs.values()) - sum(size for name, size in begun.items() if name in refs)
    blobs = _files(store.blobs)
    total = sum(held.bytes for held in blobs) + sum(begun.values())
    on_disk = needed + RESERVE_BYTES - shutil.disk_usage(_existing(store.root)).free
    short = max(on_disk, total + needed - bytes_max if bytes_max else 0)
    if short <= 0:
        return 0
    spare = [held for held in _files(store.partial, sparse=True) if held.path.name not in refs]
    spare += sorted((h for h in blobs if h.path.name not in keep), key=lambda held: (held.used_ns, held.path.name))
    freed, going = 0, []
    for held in spare:
        if freed >= short:
            break
        going.append(held)
        freed += held.bytes
    if freed < short:
        limit = "the disk" if on_disk >= short else f"models.disk_bytes_max = {bytes_max}"
        raise StoreFull(
            f"no room for {needed} bytes: {limit} is {short - freed} short, and the {total} in the store are "
            "pinned or in use; allow more, or remove a package"
        )
    with store.exclusive():  # an import that is under way has blobs no manifest names yet
        for held in going:
            held.path.unlink(missing_ok=True)
    return freed


def _kept(store: Store) -> frozenset[str]:
    """Digests of all pinned packages, and of the texts of fetched ones."""
    kept: set[str] = set()
    for name in store.names():
        with suppress(ManifestInvalid, PackageNotFound):
            kept |= {ref.digest for ref in store.load(name).blobs}
    for model in store.fetched():
        with suppress(PackageNotFound):
            kept |= {ref.digest for ref in store.find(model).texts}
    return frozenset(kept)


def _files(folder: Path, *, sparse: bool = False) -> list[_Held]:
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            status = path.stat()
            size = status.st_blocks * _BLOCK_BYTES if sparse else status.st_size
            found.append(_Held(path, size, status.st_atime_ns))
    return found


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())
