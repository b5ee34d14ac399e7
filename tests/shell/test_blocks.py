import asyncio
import weakref
from dataclasses import dataclass, field, replace
from threading import Event, current_thread

import pytest

from shoal_agent.core.events import BlocksFailed, BlocksLoaded
from tests.support.engines import a_session, await_all, spans

TINY = "tiny"


async def test_spans_share_their_blocks(host, tiny_store, whole):
    first, second = spans(tiny_store, TINY, 2, epoch=1)
    for span, open_now, fresh in ((first, 3, 3), (whole, 6, 3), (second, 6, 0)):
        answer = await host.load(span)
        assert isinstance(answer, BlocksLoaded)
        assert answer.span == span
        assert answer.resident_bytes > 0
        assert answer.opened == fresh
        assert host.blocks.count == open_now
    host.blocks.unload(whole)
    reloaded = await host.load(whole)
    assert isinstance(reloaded, BlocksLoaded)
    assert host.blocks.count == 6
    host.blocks.unload(whole)
    host.blocks.unload(first)
    await host.load(second.__class__(second.deployment, 7, second.model, 3, 3))
    assert host.blocks.count == 3


async def test_unloading_while_loading_is_answered_and_leaves_nothing(host, whole):
    host.blocks.load(whole)
    host.blocks.unload(whole)
    answer = await host.answer()
    assert (type(answer), answer.span) == (BlocksFailed, whole)
    assert "unloaded" in answer.reason
    assert isinstance(await host.load(whole), BlocksLoaded)


async def test_unloading_what_had_just_been_loaded_leaves_nothing(host, whole):
    host.blocks.load(whole)
    await_all(host.blocks._loader)  # everything is open, the answer has not been read
    host.blocks.unload(whole)
    assert isinstance(await host.answer(), BlocksFailed)
    host.blocks.unload(whole)


@dataclass
class Gate:
    """Where each block passes that is opened; the one at ``hold`` waits until ``go``."""

    passed: list[int] = field(default_factory=list)
    hold: int | None = None
    reached: Event = field(default_factory=Event)
    go: Event = field(default_factory=Event)


@pytest.fixture
def gate(tiny_store, monkeypatch):
    made, open_block = Gate(), tiny_store.open_block

    def passing(manifest, index):
        made.passed.append(index)
        if index == made.hold:
            made.reached.set()
            assert made.go.wait(30)
        return open_block(manifest, index)

    monkeypatch.setattr(tiny_store, "open_block", passing)
    return made


async def test_a_block_is_opened_once_and_closed_when_the_last_holder_lets_go(host, gate, whole):
    again = replace(whole, epoch=1)
    await host.load(whole)
    await host.load(again)
    assert gate.passed == [0, 1, 2, 3, 4, 5]
    closed_in = []
    sessions = [
        weakref.ref(shared.block.session, lambda _: closed_in.append(current_thread().name))
        for shared in host.blocks._open.values()
    ]
    host.blocks.unload(whole)
    await_all(host.blocks._loader)
    assert (len(sessions), closed_in) == (6, [])
    host.blocks.unload(again)
    await_all(host.blocks._loader)
    assert closed_in == ["loader-0"] * 6
    await host.load(whole)
    assert gate.passed == [0, 1, 2, 3, 4, 5] * 2


async def test_loading_holds_up_no_run(host, gate, tiny_store):
    served, moving = spans(tiny_store, TINY, 2)
    await host.load(served)
    session = a_session()
    host.engine.open_stage(session, 0, served, 64)
    gate.hold = moving.first_block + 1
    host.blocks.load(moving)
    assert await asyncio.to_thread(gate.reached.wait, 10)
    for position in range(8):
        assert await host.output(session, bytes(8), position, 1) is not None
    gate.go.set()
    assert isinstance(await host.answer(), BlocksLoaded)
    host.engine.close_stage(session, 0)


async def test_closing_while_a_span_loads_ends_with_the_block_being_opened(host, gate, whole):
    gate.hold = 2
    host.blocks.load(whole)
    assert await asyncio.to_thread(gate.reached.wait, 10)
    closing = asyncio.ensure_future(host.blocks.close())
    await asyncio.sleep(0)  # its first step says that nobody wants the span any more
    gate.go.set()
    await closing
    assert isinstance(host.answers.get_nowait(), BlocksFailed)
    assert gate.passed == [0, 1, 2]


async def test_a_missing_package_or_block_is_a_reason(host, whole):
    nowhere = whole.__class__(whole.deployment, 0, bytes(32), 0, 1)
    beyond = whole.__class__(whole.deployment, 0, whole.model, 0, 6)
    assert "no package" in (await host.load(nowhere)).reason
    assert "block 6" in (await host.load(beyond)).reason
    host.blocks.unload(nowhere)
    assert isinstance(await host.load(whole), BlocksLoaded)
