import asyncio

import pytest

from shoal_agent.core.events import BlocksFailed, BlocksLoaded, ModelAvailable, ModelMissing
from shoal_agent.shell.content_sources import MODELS_MAX, Sources
from shoal_models.package import Store
from shoal_protocol.ids import Digest, NodeId
from tests.support.depots import NAME, depot, introduce, span_of, wide_store
from tests.support.links import person

ONE, OTHER = Digest(b"1" * 32), Digest(b"2" * 32)
PEERS = (NodeId("a" * 32), NodeId("b" * 32))
LONG_S, SHORT_S = 60.0, 0.02
WAIT_S = 15.0


async def test_who_names_sources_does_not_wait():
    assert await Sources(LONG_S).of(ONE, PEERS) == PEERS
    assert await Sources(0.0).of(ONE, ()) == ()


async def test_who_names_none_hears_of_those_of_its_model():
    sources = Sources(LONG_S)
    waiting = [asyncio.create_task(sources.of(model, ())) for model in (ONE, ONE, OTHER)]
    await asyncio.sleep(0)
    sources.told(ONE, ())
    sources.told(ONE, PEERS)
    sources.told(ONE, PEERS[:1])
    assert await asyncio.gather(*waiting[:2]) == [PEERS, PEERS]
    assert not waiting[2].done()
    waiting[2].cancel()
    await asyncio.gather(waiting[2], return_exceptions=True)
    assert not sources._waiting


async def test_what_was_said_before_counts_too_and_only_so_much_is_remembered():
    sources = Sources(SHORT_S)
    sources.told(ONE, PEERS[:1])
    sources.told(ONE, PEERS)
    assert await sources.of(ONE, ()) == PEERS
    for number in range(MODELS_MAX):
        sources.told(Digest(number.to_bytes(32, "big")), PEERS)
    assert await sources.of(ONE, ()) == ()


async def test_patience_ends():
    sources = Sources(SHORT_S)
    assert await sources.of(ONE, ()) == ()
    assert not sources._waiting


async def test_work_goes_on_until_somebody_is_named_who_was_not_asked():
    sources, left = Sources(LONG_S), []

    async def work():
        try:
            await asyncio.sleep(LONG_S)
        finally:
            left.append(1)

    sources.told(ONE, PEERS[:1])
    waiting = asyncio.create_task(sources.unless_named(ONE, PEERS[:1], work()))
    for model, named in ((ONE, PEERS[:1]), (OTHER, PEERS)):
        sources.told(model, named)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    sources.told(ONE, PEERS)
    assert await waiting == [*PEERS[1:]]
    assert left == [1]
    assert not sources._waiting


@pytest.mark.parametrize("fault", [None, OSError("no network")])
async def test_work_that_is_done_first_has_the_last_word(fault):
    async def work():
        if fault is not None:
            raise fault

    sources = Sources(LONG_S)
    doing = sources.unless_named(ONE, (), work())
    if fault is None:
        assert await doing == ()
    else:
        with pytest.raises(OSError, match="no network"):
            await doing
    assert not sources._waiting


class Minutes:
    """A catalog that has not answered when the test is over."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.left = 0

    async def obtain(self, model):
        self.begun.set()
        try:
            await asyncio.sleep(100 * WAIT_S)
        finally:
            self.left += 1


async def had(late, what):
    """How the wish for ``what`` ended: as it should."""
    wanted, missed = (BlocksLoaded, BlocksFailed) if what == "weights" else (ModelAvailable, ModelMissing)
    async with asyncio.timeout(WAIT_S):
        while not (found := [event for event in late.station.events if isinstance(event, wanted | missed)]):
            late.station.bell.clear()
            await late.station.bell.wait()
    assert isinstance(found[0], wanted)


@pytest.mark.parametrize("what", ["model", "weights"])
async def test_who_named_no_source_is_told_of_one_before_the_catalog_is_asked(tmp_path, what):
    """As a node does that was killed while it fetched: it begins again before it knows anybody."""
    whole, empty = wide_store(tmp_path), Store(tmp_path / "late")
    manifest, people = whole.load(NAME), [person(tmp_path / "people", number) for number in (1, 2)]
    async with (
        depot(people[0], *people, store=whole) as first,
        depot(people[1], *people, store=empty, catalog=Minutes(), patience_s=WAIT_S) as late,
    ):
        introduce([first, late])
        if what == "weights":
            empty.adopt(manifest)
            late.content.load(span_of(manifest), ())
        else:
            late.content.fetch_model(manifest.digest, ())
        await asyncio.sleep(0.05)
        late.content.fetch_model(manifest.digest, ())
        late.content.fetch_model(manifest.digest, (first.node,))
        await had(late, what)


@pytest.mark.parametrize("what", ["model", "weights"])
async def test_who_is_named_while_the_catalog_is_at_work_is_asked_instead(tmp_path, what):
    """Whoever has it is named too late, and after somebody who is asked in vain."""
    whole, empty, catalog = wide_store(tmp_path), Store(tmp_path / "late"), Minutes()
    manifest, people = whole.load(NAME), [person(tmp_path / "people", number) for number in (1, 2, 3)]
    async with (
        depot(people[0], *people, store=whole) as first,
        depot(people[1], *people, store=empty, catalog=catalog, patience_s=SHORT_S) as late,
        depot(people[2], *people, store=Store(tmp_path / "bare")) as bare,
    ):
        introduce([first, late, bare])
        if what == "weights":
            empty.adopt(manifest)
            late.content.load(span_of(manifest), ())
        else:
            late.content.fetch_model(manifest.digest, ())
        for named in (bare, first):
            async with asyncio.timeout(WAIT_S):
                await catalog.begun.wait()
            catalog.begun.clear()
            late.content.fetch_model(manifest.digest, (named.node,))
        await had(late, what)
        assert catalog.left == 2
