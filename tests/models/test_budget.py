"""Room on the disk: what goes, in which order, and what never goes."""

import shutil

import pytest

from shoal_models.budget import RESERVE_BYTES, make_room, touch
from shoal_models.errors import StoreFull
from shoal_models.manifest import BlobRef
from shoal_models.package import Store
from tests.support.depots import NAME, wide_store

NOTHING: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return wide_store(tmp_path_factory.mktemp("wide"))


@pytest.fixture
def store(whole, tmp_path) -> Store:
    """As a peer would have filled it: fetched, not pinned."""
    made = Store(tmp_path)
    manifest = whole.load(NAME)
    made.adopt(manifest)
    shutil.copytree(whole.blobs, made.blobs)
    return made


def here(store: Store) -> set[str]:
    return {path.name for path in store.blobs.iterdir()}


def weights(store: Store) -> list[BlobRef]:
    manifest = store.find(store.fetched()[0])
    return [manifest.blocks[index].shards[0] for index in (1, 2, 3)]


def total(store: Store) -> int:
    return sum(path.stat().st_size for path in store.blobs.iterdir())


def test_the_least_recently_used_goes_first_and_no_more_than_needed(store):
    first, second, third = weights(store)
    touch(store, store.find(store.fetched()[0]).blobs, 4000)
    for ref, used_ns in ((second, 1000), (third, 2000), (first, 3000)):
        touch(store, [ref], used_ns)
    wanted = BlobRef(digest="f" * 64, bytes=1000)
    before = here(store)
    assert make_room(store, [wanted], total(store), NOTHING) == second.bytes
    assert before - here(store) == {second.digest}
    assert make_room(store, [wanted], total(store), NOTHING) == third.bytes


def test_what_is_in_use_stays(store):
    first, second, third = weights(store)
    for used_ns, ref in enumerate((first, second, third)):
        touch(store, [ref], used_ns)
    wanted = BlobRef(digest="f" * 64, bytes=1000)
    freed = make_room(store, [wanted], total(store), frozenset([first.digest]))
    assert freed == second.bytes
    assert first.digest in here(store)


def test_when_nothing_can_go_it_says_so_and_deletes_nothing(store):
    in_use = frozenset(ref.digest for ref in store.find(store.fetched()[0]).blobs)
    before = here(store)
    with pytest.raises(StoreFull, match=r"models\.disk_bytes_max = .* pinned or in use"):
        make_room(store, [BlobRef(digest="f" * 64, bytes=1000)], total(store), in_use)
    assert here(store) == before


def test_texts_of_a_fetched_package_stay(store):
    manifest = store.find(store.fetched()[0])
    with pytest.raises(StoreFull):
        make_room(store, [BlobRef(digest="f" * 64, bytes=1000)], 1000, NOTHING)
    make_room(store, [BlobRef(digest="f" * 64, bytes=1000)], 200_000, NOTHING)
    assert {ref.digest for ref in manifest.texts} <= here(store)


def test_a_pinned_package_stays(whole):
    before = here(whole)
    with pytest.raises(StoreFull):
        make_room(whole, [BlobRef(digest="f" * 64, bytes=1000)], total(whole), NOTHING)
    assert here(whole) == before


def test_without_a_budget_nothing_goes(store):
    assert make_room(store, [BlobRef(digest="f" * 64, bytes=1000)], 0, NOTHING) == 0


def test_a_disk_that_is_too_small_is_known_before_it_is_full(store, monkeypatch):
    in_use = frozenset(ref.digest for ref in store.find(store.fetched()[0]).blobs)
    monkeypatch.setattr(
        "shoal_models.budget.shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(0, 0, RESERVE_BYTES + 999)
    )
    with pytest.raises(StoreFull, match="the disk is 1 short"):
        make_room(store, [BlobRef(digest="f" * 64, bytes=1000)], 0, in_use)


def test_what_has_arrived_of_a_wanted_blob_is_not_counted_twice(store):
    wanted = BlobRef(digest="f" * 64, bytes=8192)
    store.partial.mkdir()
    store.partial_path(wanted.id).write_bytes(b"x" * 8192)
    assert make_room(store, [wanted], total(store) + 8192, NOTHING) == 0
    assert make_room(store, [BlobRef(digest="e" * 64, bytes=8192)], total(store) + 8192, NOTHING) == 8192
    assert not store.partial_path(wanted.id).exists(), "an old unfinished blob goes before any whole one"


def test_touching_does_not_make_a_blob_look_changed(store):
    (ref, *_) = weights(store)
    store.check(ref, "layer")
    known = dict(store._verified)
    touch(store, [ref], 5)
    store.check(ref, "layer")
    assert store._verified == known
