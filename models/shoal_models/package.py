"""The store: one directory of content-addressed blobs and one manifest per package.

::

    <root>/blobs/<64 hex>           a shard, a graph, a tokenizer, a chat template; the name is BLAKE2b-256 of the bytes
    <root>/packages/<name>.json     a manifest; it appears last, so a package that is there is whole
    <root>/fetched/<64 hex>.json    a manifest that came from a peer, under its model's digest; appears first
    <root>/partial/<64 hex>         a blob of which some pieces are here (see ``partial``)
    <root>/lock                     held by whoever imports

An operator's packages are *pinned*: nothing of them goes before ``remove``. Of a fetched package a node keeps what its
blocks need; its weights are the first to go when the disk gets scarce (see ``budget``), and can be fetched again.

A crash leaves at most a temporary file, never half a blob under a good name (see ``durable``). A blob that is already
there is hashed again before it is trusted, so importing twice repairs damage. Reading verifies once per file state
(size, time of change, inode) and process: a file that was swapped or edited is hashed anew.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from shoal_models.durable import TEMPORARY, file_digest, room_at, sync_directory, write_whole
from shoal_models.errors import CorruptShard, ManifestInvalid, PackageNotFound, StoreBusy
from shoal_models.manifest import BlobRef, Block, Manifest
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import DIGEST_BYTES, Digest, digest_of, parse_deployment_id
from shoal_protocol.limits import GRAPH_BYTES_MAX

_BLOB_NAME: Final = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")


@dataclass(frozen=True, slots=True)
class OpenedBlock:
    """A verified block: ``graph`` refers to its shards as files of the directory ``blobs``."""

    block: Block
    graph: bytes
    blobs: Path


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a stored package."""

    block: str
    problem: str


class Store:
    """Packages under ``root``. Directories are made when something is first written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.partial = root / "partial"
        self._packages = root / "packages"
        self._fetched = root / "fetched"
        self._verified: dict[Digest, tuple[int, int, int]] = {}

    def names(self) -> tuple[str, ...]:
        """All packages; :meth:`load` tells which of them are sound."""
        return tuple(path.stem for path in sorted(self._packages.glob("[a-z0-9]*.json")))

    def load(self, name: str) -> Manifest:
        """The manifest of ``name``, or PackageNotFound, ManifestInvalid."""
        try:
            data = self._package_path(name).read_bytes()
        except (FileNotFoundError, MalformedMessage):
            raise self._not_found(name) from None
        manifest = Manifest.parse(data)
        if manifest.name != name:
            raise ManifestInvalid((("name", f"the file of {name} holds the manifest of {manifest.name}"),))
        return manifest

    def fetched(self) -> tuple[Digest, ...]:
        """Models whose manifest came from a peer."""
        names = (path.stem for path in sorted(self._fetched.glob("*.json")))
        return tuple(Digest(bytes.fromhex(name)) for name in names if _BLOB_NAME.fullmatch(name))

    def find(self, model: Digest) -> Manifest:
        """The package whose manifest has the digest ``model``, pinned or fetched; PackageNotFound."""
        with suppress(FileNotFoundError, ManifestInvalid):
            manifest = Manifest.parse(self._fetched_path(model).read_bytes())
            if manifest.digest == model:
                return manifest
        for name in self.names():
            with suppress(PackageNotFound, ManifestInvalid):
                manifest = self.load(name)
                if manifest.digest == model:
                    return manifest
        raise PackageNotFound(f"no package with digest {model.hex()} in {self.root}")

    def blob_path(self, blob: Digest) -> Path:
        return self.blobs / blob.hex()

    def read(self, ref: BlobRef, block: str, bytes_max: int) -> bytes:
        """The verified bytes of a small blob (a graph, a tokenizer) that ``block`` needs. CorruptShard."""
        if ref.bytes > bytes_max:
            raise CorruptShard(block, ref.id, None, f"{ref.bytes} bytes are more than {bytes_max}")
        try:
            with self.blob_path(ref.id).open("rb") as file:
                data = file.read(ref.bytes + 1)
        except FileNotFoundError:
            raise CorruptShard(block, ref.id, None, "blob is missing") from None
        if digest_of(data) != ref.id:
            raise CorruptShard(block, ref.id, digest_of(data), "blob was changed")
        return data

    def lacking(self, refs: Iterable[BlobRef]) -> tuple[BlobRef, ...]:
        """Those of ``refs`` that are not here as they should be. Hashes what was not hashed before."""
        absent = []
        for ref in refs:
            try:
                self.check(ref, ref.digest)
            except CorruptShard:
                absent.append(ref)
        return tuple(absent)

    def open_block(self, manifest: Manifest, index: int) -> OpenedBlock:
        """Block ``index`` with its graph and all its shards verified. CorruptShard names block, expected and found."""
        block = manifest.blocks[index]
        graph = self.read(block.graph, block.name, GRAPH_BYTES_MAX)
        for shard in block.shards:
            self.check(shard, block.name)
        return OpenedBlock(block, graph, self.blobs)

    def check(self, ref: BlobRef, block: str) -> None:
        """Hash the blob unless this very file was hashed before. CorruptShard."""
        path = self.blob_path(ref.id)
        try:
            status = path.stat()
        except FileNotFoundError:
            raise CorruptShard(block, ref.id, None, "blob is missing") from None
        state = (status.st_size, status.st_mtime_ns, status.st_ino)
        if self._verified.get(ref.id) == state:
            return
        found = file_digest(path)
        if status.st_size != ref.bytes:
            raise CorruptShard(block, ref.id, found, f"blob has {status.st_size} bytes instead of {ref.bytes}")
        if found != ref.id:
            raise CorruptShard(block, ref.id, found, "blob was changed")
        self._verified[ref.id] = state

    def verify(self, name: str) -> tuple[Fault, ...]:
        """Hash everything of ``name`` again; every fault, or ()."""
        manifest = self.load(name)
        wanted = [(block.name, ref) for block in manifest.blocks for ref in block.blobs]
        wanted.append(("tokenizer", manifest.tokenizer))
        if manifest.chat_template is not None:
            wanted.append(("chat template", manifest.chat_template))
        faults = []
        for block, ref in wanted:
            self._verified.pop(ref.id, None)
            try:
                self.check(ref, block)
            except CorruptShard as fault:
                faults.append(Fault(block, str(fault)))
        return tuple(faults)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the store for writing, or StoreBusy at once. Leaves no blob behind that no package names."""
        with room_at(self.root):
            self.blobs.mkdir(parents=True, exist_ok=True)
            self._packages.mkdir(exist_ok=True)
            lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusy(f"another process is writing to {self.root}; try again when it has ended") from None
            try:
                yield
            finally:
                self._collect()
        finally:
            os.close(lock)

    def put(self, data: bytes | memoryview) -> BlobRef:
        """Store ``data`` under its digest; needs :meth:`exclusive`. StoreFull."""
        ref = BlobRef(digest=digest_of(data).hex(), bytes=len(data))
        path = self.blob_path(ref.id)
        if not (path.is_file() and file_digest(path) == ref.id):
            write_whole(path, data)
        return ref

    def publish(self, manifest: Manifest) -> None:
        """Make the package visible, replacing one of the same name; needs :meth:`exclusive` and all blobs."""
        assert all(self.blob_path(ref.id).is_file() for ref in manifest.blobs), "a package is published whole"
        sync_directory(self.blobs)
        write_whole(self._package_path(manifest.name), manifest.encode())
        sync_directory(self._packages)

    def adopt(self, manifest: Manifest) -> None:
        """Keep a manifest that a peer gave; its blobs follow. Neither needs :meth:`exclusive`."""
        with room_at(self.root):
            self._fetched.mkdir(parents=True, exist_ok=True)
        write_whole(self._fetched_path(manifest.digest), manifest.encode())
        sync_directory(self._fetched)

    def take_over(self, other: "Store", name: str) -> None:
        """Move the package ``name`` of ``other``, on the same disk, here as a fetched one. PackageNotFound."""
        manifest = other.load(name)
        self.adopt(manifest)
        with room_at(self.root):
            self.blobs.mkdir(parents=True, exist_ok=True)
            for ref in manifest.blobs:
                other.blob_path(ref.id).rename(self.blob_path(ref.id))
            sync_directory(self.blobs)

    def partial_path(self, blob: Digest) -> Path:
        return self.partial / blob.hex()

    def remove(self, name: str) -> int:
        """Forget ``name`` and every blob only it used; bytes freed. PackageNotFound, StoreBusy."""
        try:
            path = self._package_path(name)
        except MalformedMessage:
            path = None
        if path is None or not path.is_file():
            raise self._not_found(name)
        before = self._blob_bytes()
        with self.exclusive():
            path.unlink(missing_ok=True)
        return before - self._blob_bytes()

    def _not_found(self, name: str) -> PackageNotFound:
        return PackageNotFound(f"no package {name!r} in {self.root} (there: {', '.join(self.names()) or 'none'})")

    def _package_path(self, name: str) -> Path:
        return self._packages / f"{parse_deployment_id(name)}.json"

    def _fetched_path(self, model: Digest) -> Path:
        return self._fetched / f"{model.hex()}.json"

    def _blob_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.blobs.iterdir())

    def _collect(self) -> None:
        """Delete blobs that no package names. A damaged manifest names nothing we can trust: then keep all."""
        wanted = set()
        for name in self.names():
            try:
                wanted |= {ref.digest for ref in self.load(name).blobs}
            except ManifestInvalid:
                return
        for model in self.fetched():
            with suppress(PackageNotFound):  # a fetched manifest that is damaged is fetched again
                wanted |= {ref.digest for ref in self.find(model).blobs}
        folders = (folder for folder in (self.blobs, self.partial) if folder.is_dir())
        for path in (*chain(*(folder.iterdir() for folder in folders)), *self._packages.glob(f"{TEMPORARY}*")):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
