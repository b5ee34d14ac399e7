"""Packages between real data planes on loopback: several peers at once, bad pieces, deaths, restarts, budgets."""

import asyncio
import errno
import os
import shutil
from contextlib import AsyncExitStack

import pytest

from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    FrameReceived,
    ModelAvailable,
    ModelMissing,
    PeerMisbehaved,
    ServicesAvailable,
)
from shoal_agent.shell.content import ACCUSATION
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_models.pieces import PIECE_BYTES
from shoal_protocol.ids import Digest
from tests.support.depots import NAME, Depot, Dies, depot, introduce, poison, span_of, wide_store
from tests.support.links import person

WAIT_S = 15.0
DATA = ("content_bytes", "in")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    """A store with the package, imported. Read only."""
    return wide_store(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Store:
    """Another package of the same size. Read only."""
    return wide_store(tmp_path_factory.mktemp("other"), seed=9)


@pytest.fixture
def manifest(whole) -> Manifest:
    return whole.load(NAME)


@pytest.fixture
def people(tmp_path):
    return [person(tmp_path / "people", number) for number in (1, 2, 3)]


@pytest.fixture
async def stack():
    async with AsyncExitStack() as made:
        yield made


async def answer(one: Depot, *kinds: type) -> object:
    """The first event of ``kinds``."""
    async with asyncio.timeout(WAIT_S):
        while not (found := [event for event in one.station.events if isinstance(event, kinds)]):
            one.station.bell.clear()
            await one.station.bell.wait()
    return found[0]


async def loaded(one: Depot, span, sources) -> BlocksLoaded | BlocksFailed:
    one.station.events.clear()
    one.content.load(span, tuple(sources))
    return await answer(one, BlocksLoaded, BlocksFailed)


@pytest.fixture
async def trio(stack, people, whole, tmp_path):
    """Two that have the package, and one that has nothing."""
    stores = (whole, Store(whole.root), Store(tmp_path / "empty"))
    made = [
        await stack.enter_async_context(depot(one, *people, store=s)) for one, s in zip(people, stores, strict=True)
    ]
    introduce(made)
    return made


# --- models -----------------------------------------------------------------------------------------------------------


async def test_the_texts_of_a_model_come_from_a_peer(trio, manifest):
    first, second, empty = trio
    empty.content.fetch_model(manifest.digest, (first.node, second.node))
    event = await answer(empty, ModelAvailable, ModelMissing)
    assert isinstance(event, ModelAvailable)
    assert event.facts.model == manifest.digest
    assert (await answer(empty, ServicesAvailable)).names == empty.services.names != ()
    assert {path.name for path in empty.store.blobs.iterdir()} == {ref.digest for ref in manifest.texts}
    assert empty.store.fetched() == (manifest.digest,)
    assert empty.store.names() == (), "what was fetched is not pinned"


async def test_asking_again_while_it_is_under_way_changes_nothing(trio, manifest):
    first, _, empty = trio
    for _ in range(3):
        empty.content.fetch_model(manifest.digest, (first.node,))
    await answer(empty, ModelAvailable)
    empty.content.fetch_model(Digest(b"?" * 32), (first.node,))
    await answer(empty, ModelMissing)
    assert len(empty.station.of(ModelAvailable)) == 1


async def test_a_model_nobody_has_is_missing_and_says_who_was_asked(trio):
    first, second, empty = trio
    empty.content.fetch_model(Digest(b"?" * 32), (first.node, second.node))
    event = await answer(empty, ModelMissing)
    assert event.model == b"?" * 32
    for one in (first, second):
        assert one.node[:8] in event.reason
    assert "shoal model import" in event.reason


async def test_a_model_without_a_source_is_missing(trio):
    empty = trio[2]
    empty.content.fetch_model(Digest(b"?" * 32), ())
    assert "no peer is known to have it" in (await answer(empty, ModelMissing)).reason


async def test_a_manifest_that_is_another_model_s_is_refused_and_the_next_peer_asked(trio, manifest):
    first, second, empty = trio
    first.bend = lambda _header, payload: payload.replace(b'"Apache-2.0"', b'"Apache-2.1"')
    empty.content.fetch_model(manifest.digest, (first.node, second.node))
    assert isinstance(await answer(empty, ModelAvailable, ModelMissing), ModelAvailable)
    assert PeerMisbehaved(first.node, ACCUSATION) in empty.station.events
    assert empty.store.find(manifest.digest) == manifest


async def test_measured_costs_are_the_peer_s_word_but_bounded(trio, manifest):
    first, second, empty = trio
    us = manifest.blocks[1].cost.decode_us
    first.bend = lambda _header, payload: payload.replace(b'"decode_us":%d,' % us, b'"decode_us":%d,' % 10**12)
    empty.content.fetch_model(manifest.digest, (first.node, second.node))
    event = await answer(empty, ModelAvailable, ModelMissing)
    assert isinstance(event, ModelAvailable)
    assert all(block.decode_us < 10**6 for block in event.facts.blocks)


# --- weights ----------------------------------------------------------------------------------------------------------


async def test_blocks_come_from_two_peers_at_once(trio, manifest):
    first, second, empty = trio
    assert isinstance(await loaded(empty, span_of(manifest), (first.node, second.node)), BlocksLoaded)
    assert empty.opened == [span_of(manifest)]
    assert first.said[empty.node] > 2
    assert second.said[empty.node] > 2
    assert empty.counts[DATA] == manifest.package_bytes - manifest.tokenizer.bytes - manifest.chat_template.bytes
    assert not list(empty.store.partial.iterdir())
    assert not [one for one in trio if one.station.of(FrameReceived)], "nothing of this reaches the core"


async def test_a_span_that_could_not_be_opened_keeps_nothing_on_the_disk(trio, manifest):
    first, _, empty = trio
    span = span_of(manifest)
    assert isinstance(await loaded(empty, span, (first.node,)), BlocksLoaded)
    assert manifest.blocks[1].shards[0].digest in empty.content._in_use()
    empty.content.from_blocks(BlocksFailed(span, "out of memory"))
    assert empty.content._in_use() == frozenset()
    assert empty.station.of(BlocksFailed)


async def test_a_manifest_is_asked_for_again_when_a_link_breaks(trio, manifest):
    first, _, empty = trio
    empty.content.fetch_model(manifest.digest, (first.node,))
    await asyncio.sleep(0)
    empty.content.lost(first.node, "reset")
    assert isinstance(await answer(empty, ModelAvailable, ModelMissing), ModelAvailable)


async def test_only_the_blocks_of_the_span_are_fetched(trio, manifest):
    first, _, empty = trio
    assert isinstance(await loaded(empty, span_of(manifest, 1, 1), (first.node,)), BlocksLoaded)
    assert {path.name for path in empty.store.blobs.iterdir()} == {ref.digest for ref in manifest.blocks[1].blobs}


async def test_weights_wait_in_the_store_for_the_room_to_open_them(trio, manifest):
    first, _, empty = trio
    for _ in range(3):
        empty.content.fetch_blocks(span_of(manifest, 1, 1), (first.node,))
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(task for task in empty.content._tasks if "_fetch_blocks" in repr(task)))
    wanted = {ref.digest for ref in manifest.blocks[1].blobs}
    assert {path.name for path in empty.store.blobs.iterdir()} == wanted
    assert empty.opened == []
    assert empty.content._in_use() == frozenset(), "a cache, which makes room if it must"
    asked = dict(first.said)
    assert isinstance(await loaded(empty, span_of(manifest, 1, 1), (first.node,)), BlocksLoaded)
    assert first.said == asked, "and nothing was asked for twice"


@pytest.mark.parametrize("payment_s", [3600.0, 1.0], ids=["while it is owed", "once it is paid"])
async def test_what_is_moved_keeps_its_budget_unless_somebody_waits(
    stack, people, whole, manifest, tmp_path, payment_s
):
    """What was loaded is owed; weights ahead are fetched once it is paid; what is loaded meanwhile does not wait."""
    size = sum(ref.bytes for ref in manifest.blocks[0].blobs)
    first = await stack.enter_async_context(depot(people[0], *people, store=whole))
    poor = Store(tmp_path / "poor")
    rate = max(1, int(size / payment_s))
    empty = await stack.enter_async_context(depot(people[2], *people, store=poor, moved_bytes_per_s=rate))
    introduce([first, empty])
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert isinstance(await loaded(empty, span_of(manifest, 0, 0), (first.node,)), BlocksLoaded)
    empty.content.fetch_blocks(span_of(manifest, 1, 1), (first.node,))
    if payment_s > WAIT_S:
        assert isinstance(await loaded(empty, span_of(manifest, 2, 2), (first.node,)), BlocksLoaded)
        assert poor.lacking(manifest.blocks[1].blobs), "not yet paid"
    else:
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(task for task in empty.content._tasks if "_fetch_blocks" in repr(task)))
        assert loop.time() - begun > 0.9 * payment_s
        assert not poor.lacking(manifest.blocks[1].blobs)
    assert empty.content.moved() == empty.counts[DATA]
    assert empty.content.moved() == 0, "told once"


async def test_weights_that_nobody_can_send_ahead_are_only_told_of(trio, manifest):
    *_, empty = trio
    empty.content.fetch_blocks(span_of(manifest, 1, 1), ())
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(task for task in empty.content._tasks if "_fetch_blocks" in repr(task)))
    assert empty.store.lacking(manifest.blocks[1].blobs)
    assert not empty.station.of(BlocksFailed), "nobody waits for an answer"
    assert empty.content._ahead == set()


async def test_who_has_everything_asks_nobody(trio, manifest):
    first, second, _ = trio
    assert isinstance(await loaded(first, span_of(manifest), (second.node,)), BlocksLoaded)
    assert not second.said


async def test_a_poisoned_piece_is_counted_and_taken_from_another(trio, manifest):
    first, second, empty = trio
    empty.store.adopt(manifest)
    first.bend = poison
    assert isinstance(await loaded(empty, span_of(manifest), (first.node, second.node)), BlocksLoaded)
    assert empty.counts["content_pieces_rejected", "digest"] >= 1
    assert PeerMisbehaved(first.node, ACCUSATION) in empty.station.events
    assert first.said[empty.node] <= 2, "whoever lies once is asked no more"
    assert not empty.store.lacking(ref for block in manifest.blocks for ref in block.blobs)


async def test_if_everybody_lies_nothing_is_visible(trio, manifest):
    first, second, empty = trio
    empty.store.adopt(manifest)
    first.bend = second.bend = poison
    event = await loaded(empty, span_of(manifest), (first.node, second.node))
    assert isinstance(event, BlocksFailed)
    assert "not what the manifest says" in event.reason
    assert not empty.store.blobs.exists() or not list(empty.store.blobs.iterdir())


async def test_a_peer_that_dies_in_mid_transfer_is_replaced(stack, people, whole, manifest, tmp_path):
    async with AsyncExitStack() as mortal:
        first = await mortal.enter_async_context(depot(people[0], *people, store=whole))
        second = await stack.enter_async_context(depot(people[1], *people, store=Store(whole.root)))
        empty = await stack.enter_async_context(depot(people[2], *people, store=Store(tmp_path / "empty")))
        introduce([first, second, empty])
        first.bend = Dies(4)
        begun = asyncio.get_running_loop().time()
        empty.content.load(span_of(manifest), (first.node, second.node))
        async with asyncio.timeout(WAIT_S):
            await first.bend.dead.wait()
    assert isinstance(await answer(empty, BlocksLoaded, BlocksFailed), BlocksLoaded)
    assert asyncio.get_running_loop().time() - begun < WAIT_S
    assert first.said[empty.node] == 4
    assert second.said[empty.node] > 0


async def test_a_restart_resumes(stack, people, whole, manifest, tmp_path):
    first = await stack.enter_async_context(depot(people[0], *people, store=whole))
    async with depot(people[2], *people, store=Store(tmp_path / "empty")) as empty:
        introduce([first, empty])
        first.bend = Dies(14)
        empty.content.load(span_of(manifest), (first.node,))
        async with asyncio.timeout(WAIT_S):
            await first.bend.dead.wait()
    first.bend = None
    before = empty.counts[DATA]
    assert before > PIECE_BYTES
    async with depot(people[2], *people, store=Store(tmp_path / "empty")) as again:
        introduce([first, again])
        assert isinstance(await loaded(again, span_of(manifest), (first.node,)), BlocksLoaded)
    blobs = [ref for block in manifest.blocks for ref in block.blobs]
    needed = sum({ref.digest: ref.bytes for ref in blobs}.values())
    twice = before + again.counts[DATA] - needed
    assert 0 <= twice < PIECE_BYTES * len(blobs)
    assert again.counts[DATA] < needed


async def test_a_rate_is_kept(stack, people, whole, manifest, tmp_path):
    rate = 2_000_000
    first = await stack.enter_async_context(depot(people[0], *people, store=whole, bytes_per_s_max=rate))
    empty = await stack.enter_async_context(depot(people[2], *people, store=Store(tmp_path / "empty")))
    introduce([first, empty])
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert isinstance(await loaded(empty, span_of(manifest), (first.node,)), BlocksLoaded)
    measured = empty.counts[DATA] / (loop.time() - begun)
    assert 0.75 * rate < measured < 1.25 * rate


async def test_unloading_what_is_being_fetched_ends_it_and_keeps_what_came(trio, manifest):
    first, second, empty = trio
    first.bend = Dies(5)
    empty.content.load(span_of(manifest), (first.node,))
    async with asyncio.timeout(WAIT_S):
        await first.bend.dead.wait()
    empty.content.unload(span_of(manifest))
    assert isinstance(await answer(empty, BlocksLoaded, BlocksFailed), BlocksFailed)
    assert isinstance(await loaded(empty, span_of(manifest), (second.node,)), BlocksLoaded)
    empty.content.unload(span_of(manifest))
    assert empty.closed == [span_of(manifest)]


# --- the disk ---------------------------------------------------------------------------------------------------------


async def test_a_budget_evicts_what_was_used_longest_ago_and_refuses_when_all_is_in_use(
    stack, people, whole, other, manifest, tmp_path
):
    both = Store(tmp_path / "both")
    for store in (whole, other):
        shutil.copytree(store.blobs, both.blobs, dirs_exist_ok=True)
        both.adopt(store.load(NAME))
    rest = other.load(NAME)
    budget = manifest.package_bytes * 3 // 2
    first = await stack.enter_async_context(depot(people[0], *people, store=both))
    small = Store(tmp_path / "small")
    empty = await stack.enter_async_context(depot(people[2], *people, store=small, disk_bytes_max=budget))
    introduce([first, empty])

    assert isinstance(await loaded(empty, span_of(manifest), (first.node,)), BlocksLoaded)
    refused = await loaded(empty, span_of(rest), (first.node,))
    assert isinstance(refused, BlocksFailed)
    assert "models.disk_bytes_max" in refused.reason
    assert "in use" in refused.reason

    empty.content.unload(span_of(manifest))
    assert isinstance(await loaded(empty, span_of(rest), (first.node,)), BlocksLoaded)
    assert small.lacking(manifest.blobs), "something of the first had to go"
    assert sum(path.stat().st_size for path in small.blobs.iterdir()) <= budget


async def test_a_full_disk_is_a_clear_failure(trio, manifest, monkeypatch):
    first, _, empty = trio

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shoal_models.partial.os.pwrite", full)
    event = await loaded(empty, span_of(manifest), (first.node,))
    assert isinstance(event, BlocksFailed)
    assert "No space left" in event.reason


async def test_a_damaged_shard_is_fetched_again(stack, people, whole, manifest, tmp_path):
    copy = Store(tmp_path / "copy")
    shutil.copytree(whole.root, copy.root)
    path = copy.blob_path(manifest.blocks[1].shards[0].id)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    first = await stack.enter_async_context(depot(people[0], *people, store=whole))
    harmed = await stack.enter_async_context(depot(people[2], *people, store=copy))
    introduce([first, harmed])
    assert isinstance(await loaded(harmed, span_of(manifest), (first.node,)), BlocksLoaded)
    assert harmed.counts[DATA] == manifest.blocks[1].shards[0].bytes


async def test_without_a_source_what_is_missing_is_named(trio, manifest):
    empty = trio[2]
    empty.store.adopt(manifest)
    event = await loaded(empty, span_of(manifest), ())
    assert isinstance(event, BlocksFailed)
    assert manifest.digest.hex()[:16] in event.reason
    assert "no peer is known to have it" in event.reason
    assert f"block {manifest.blocks[0].name}: blob is missing" in event.reason


async def test_a_damaged_shard_that_nobody_can_replace_is_named_with_its_block(
    stack, people, whole, manifest, tmp_path
):
    copy = Store(tmp_path / "copy")
    shutil.copytree(whole.root, copy.root)
    block = manifest.blocks[1]
    path = copy.blob_path(block.shards[0].id)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    harmed = await stack.enter_async_context(depot(people[2], *people, store=copy))
    event = await loaded(harmed, span_of(manifest), ())
    assert isinstance(event, BlocksFailed)
    assert f"block {block.name}: blob was changed: expected {block.shards[0].id.hex()}" in event.reason
