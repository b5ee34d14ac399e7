"""The store: whole packages, shared blobs, verified reads, and every way a blob can be wrong."""

import os
import subprocess
import sys

import pytest

from shoal_models.errors import CorruptShard, ManifestInvalid, PackageNotFound, StoreBusy, StoreFull
from shoal_models.importing import import_gguf
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_protocol.ids import Digest, digest_of
from tests.support.tiny_model import TinyLlama, write_tiny_llama


@pytest.fixture
def store(tiny_store, tmp_path) -> Store:
    """A copy that may be damaged."""
    for source in (path for path in tiny_store.root.rglob("*") if path.is_file()):
        target = tmp_path / source.relative_to(tiny_store.root)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    return Store(tmp_path)


def blobs(store: Store) -> set[str]:
    return {path.name for path in store.blobs.iterdir()}


def test_what_is_there(store):
    assert store.names() == ("tiny",)
    manifest = store.load("tiny")
    assert store.find(manifest.digest) == manifest
    assert blobs(store) == {ref.digest for ref in manifest.blobs}


@pytest.mark.parametrize("name", ["other", "../tiny", "", "Tiny", "a" * 65])
def test_what_is_not_there(store, name):
    with pytest.raises(PackageNotFound, match="tiny"):
        store.load(name)
    with pytest.raises(PackageNotFound):
        store.remove(name)


def test_an_empty_store(tmp_path):
    store = Store(tmp_path / "none")
    assert store.names() == ()
    with pytest.raises(PackageNotFound, match="there: none"):
        store.load("tiny")
    with pytest.raises(PackageNotFound):
        store.find(Digest(bytes(32)))


def test_every_block_opens(store):
    manifest = store.load("tiny")
    for index, block in enumerate(manifest.blocks):
        opened = store.open_block(manifest, index)
        assert opened.block == block
        assert digest_of(opened.graph) == block.graph.id
        assert opened.blobs == store.blobs
    assert store.verify("tiny") == ()


def tamper(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def swap(path):
    path.unlink()
    path.write_bytes(b"something else")


@pytest.mark.parametrize("damage", [tamper, truncate, swap, os.unlink])
@pytest.mark.parametrize("part", ["graph", "shard"])
def test_a_damaged_blob_names_block_expected_and_found(store, damage, part):
    manifest = store.load("tiny")
    block = manifest.blocks[2]
    ref = block.graph if part == "graph" else block.shards[0]
    store.open_block(manifest, 2)
    damage(store.blob_path(ref.id))
    with pytest.raises(CorruptShard) as fault:
        store.open_block(manifest, 2)
    assert fault.value.block == "layer.1"
    assert fault.value.expected == ref.id
    assert fault.value.found != ref.id
    assert (fault.value.found is None) == (damage is os.unlink)
    assert [found.block for found in store.verify("tiny")] == ["layer.1"]


def test_a_change_that_hides_behind_the_same_size_and_time_is_found_by_verify(store):
    manifest = store.load("tiny")
    path = store.blob_path(manifest.blocks[1].shards[0].id)
    store.open_block(manifest, 1)
    status = path.stat()
    tamper(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.verify("tiny")
    with pytest.raises(CorruptShard):
        store.open_block(manifest, 1)


def test_a_blob_is_hashed_once_per_state(store, monkeypatch):
    manifest = store.load("tiny")
    store.open_block(manifest, 1)
    monkeypatch.setattr("shoal_models.package.file_digest", lambda path: pytest.fail("hashed again"))
    store.open_block(manifest, 1)


def test_reading_is_bounded(store):
    manifest = store.load("tiny")
    assert store.read(manifest.tokenizer, "tokenizer", 1_000_000).startswith(b"{")
    with pytest.raises(CorruptShard, match="more than 10"):
        store.read(manifest.tokenizer, "tokenizer", 10)


def test_damage_to_texts_is_found(store):
    manifest = store.load("tiny")
    tamper(store.blob_path(manifest.tokenizer.id))
    truncate(store.blob_path(manifest.chat_template.id))
    assert [fault.block for fault in store.verify("tiny")] == ["tokenizer", "chat template"]


def test_importing_again_repairs(store, tiny_gguf, measurement):
    manifest = store.load("tiny")
    tamper(store.blob_path(manifest.blocks[1].shards[0].id))
    store.blob_path(manifest.tokenizer.id).unlink()
    import_gguf(tiny_gguf, store, "tiny", "int8", "Apache-2.0", measurement, no_progress)
    assert store.verify("tiny") == ()


def test_removing_keeps_what_another_package_uses(store, tiny_gguf, measurement, tmp_path):
    other = write_tiny_llama(tmp_path / "other.gguf", TinyLlama(seed=2))
    import_gguf(other, store, "other", "int8", "Apache-2.0", measurement, no_progress)
    first, second = store.load("tiny"), store.load("other")
    shared = {ref.digest for ref in first.blobs} & {ref.digest for ref in second.blobs}
    assert first.tokenizer.digest in shared
    freed = store.remove("tiny")
    assert freed == sum(ref.bytes for ref in first.blobs if ref.digest not in shared)
    assert store.verify("other") == ()
    assert store.remove("other") > 0
    assert (store.names(), blobs(store)) == ((), set())


def test_a_failed_writer_leaves_no_blob(store):
    before = blobs(store)

    def stop_half_way():
        with store.exclusive():
            store.put(b"half an import")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert blobs(store) == before


def test_what_a_crash_left_goes_with_the_next_writer(store):
    before = blobs(store)
    (store.blobs / ".tmp-0123").write_bytes(b"half")
    (store.blobs / ("0" * 64)).write_bytes(b"orphan")
    with store.exclusive():
        pass
    assert blobs(store) == before


def test_nothing_is_deleted_while_a_manifest_cannot_be_read(store):
    before = blobs(store)
    (store.root / "packages" / "broken.json").write_bytes(b"{")
    with store.exclusive():
        pass
    assert blobs(store) == before
    with pytest.raises(ManifestInvalid):
        store.load("broken")


def test_a_manifest_under_a_wrong_name(store):
    (store.root / "packages" / "tiny.json").rename(store.root / "packages" / "other.json")
    with pytest.raises(ManifestInvalid, match="manifest of tiny"):
        store.load("other")


def test_one_writer_at_a_time(store):
    with store.exclusive(), pytest.raises(StoreBusy, match="another process"), Store(store.root).exclusive():
        pytest.fail("two writers")
    with Store(store.root).exclusive():
        pass


def test_equal_bytes_are_stored_once(tmp_path):
    store = Store(tmp_path)
    with store.exclusive():
        first = store.put(b"same")
        state = store.blob_path(first.id).stat().st_mtime_ns
        assert store.put(memoryview(b"same")) == first
        assert store.blob_path(first.id).stat().st_mtime_ns == state


FULL = """
import pathlib, resource, signal, sys
from shoal_models.errors import StoreFull
from shoal_models.package import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with store.exclusive():
        store.put(b"fits")
        store.put(bytes(200_000))
except StoreFull:
    print(sorted(path.name for path in store.blobs.iterdir()) == sys.argv[2:])
"""


def test_a_full_disk_leaves_the_store_as_it_was(store):
    before = sorted(blobs(store))
    found = subprocess.run(
        [sys.executable, "-c", FULL, store.root, *before], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout == "True\n"
    assert store.verify("tiny") == ()


def test_a_disk_that_is_full_when_the_store_is_made(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(StoreFull, match="No space left"), Store(tmp_path / "new").exclusive():
        pytest.fail("wrote to a full disk")


def test_publishing_an_incomplete_package_is_our_bug(store):
    manifest: Manifest = store.load("tiny")
    store.blob_path(manifest.tokenizer.id).unlink()
    with pytest.raises(AssertionError, match="whole"), store.exclusive():
        store.publish(manifest)
