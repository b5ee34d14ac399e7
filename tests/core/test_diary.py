"""What is written down of a stream, when, and with whom."""

import pytest

from shoal_agent.core import diary as module
from shoal_agent.core.diary import BATCH_S, BATCH_TOKENS
from shoal_agent.core.effects import Accept, SendFrame
from shoal_agent.core.events import CancelRequested, PeerLost
from shoal_agent.core.facts import Claim
from shoal_protocol.headers import CloseReason, CloseSession
from shoal_protocol.ids import SessionId
from shoal_protocol.journal import JournalWritten, open_page
from tests.support.toy import toy_tokens
from tests.support.world import World

SESSION = SessionId(b"s" * 16)
CLAIM = Claim(bytes(range(32)), bytes(32))
COUNT = 40
PROMPT = next(text for n in range(99) if len(toy_tokens(text := (n, 2, 3), 8, COUNT)) == COUNT)


@pytest.fixture
def world():
    made = World(4)
    made.start()
    made.deploy(made.names[:2])
    yield made
    made.check_idle()


def ask(world, *, claim=CLAIM, run_s=0.001):
    for cell in world.cells.values():
        cell.run_s = run_s
    world.ask(world.names[3], PROMPT, tokens_max=COUNT, session=SESSION, claim=claim)
    return world.cells[world.names[3]]


def written(cell):
    sent = [effect for effect in cell.asked(SendFrame) if isinstance(effect.header, JournalWritten)]
    return [(effect.peer, effect.header, open_page(CLAIM.key, effect.payload)) for effect in sent]


def test_a_fast_stream_is_written_in_batches_and_at_its_end(world):
    cell = ask(world)
    world.answer(cell.name, SESSION)
    pages = written(cell)
    assert len({peer for peer, _, _ in pages}) == 1
    assert [header.page for _, header, _ in pages] == list(range(len(pages)))
    sizes = [len(page.token_ids) // 8 for _, _, page in pages]
    assert sizes[0] == len(PROMPT)
    assert set(sizes[1:-1]) <= {1, BATCH_TOKENS}, "one after an attempt, else batches"
    assert sum(sizes) == len(PROMPT) + COUNT
    assert [page.ended for _, _, page in pages] == [False] * (len(pages) - 1) + [True]


def test_a_slow_stream_is_written_token_by_token(world):
    cell = ask(world, run_s=BATCH_S)
    world.answer(cell.name, SESSION)
    assert len(written(cell)) >= COUNT


def test_what_nobody_can_claim_is_not_written(world):
    cell = ask(world, claim=None)
    world.answer(cell.name, SESSION)
    assert written(cell) == []


def test_a_new_keeper_is_told_everything(world):
    cell = ask(world, run_s=0.01)
    world.run_until(lambda: len(cell.tokens(SESSION)) >= 20)
    (first, *_) = [peer for peer, _, _ in written(cell)]
    cell.post(PeerLost(first, "gone"))
    peer, header, page = next(told for told in written(cell) if told[0] != first)
    assert header.page == 0
    assert len(page.token_ids) // 8 >= len(PROMPT) + 20
    assert peer in world.names
    world.answer(cell.name, SESSION)


def test_a_long_journal_is_written_anew(world, monkeypatch):
    monkeypatch.setattr(module, "JOURNAL_PAGES_MAX", 2)
    cell = ask(world)
    world.answer(cell.name, SESSION)
    assert {header.page for _, header, _ in written(cell)} == {0, 1}
    anew = [page.position for _, header, page in written(cell) if header.page == 0]
    assert len(anew) > 2
    assert set(anew) == {0}


def test_a_session_that_is_too_long_is_written_no_further(world, monkeypatch):
    monkeypatch.setattr(module, "_TOKENS_MAX", len(PROMPT) + 10)
    cell = ask(world)
    world.answer(cell.name, SESSION)
    told = [e.header for e in cell.asked(SendFrame) if isinstance(e.header, CloseSession)]
    assert CloseSession(SESSION, CloseReason.FAILED) in told
    assert len(written(cell)) == 2


def test_a_cancelled_stream_is_forgotten_by_its_keeper(world):
    cell = ask(world, run_s=0.01)
    world.run_until(lambda: len(cell.tokens(SESSION)) >= 5)
    keeper = world.cells[written(cell)[0][0]]
    assert len(keeper.node._keeper) == 1
    cell.post(CancelRequested(SESSION))
    world.run(0.1)
    assert len(keeper.node._keeper) == 0


def test_a_stream_that_nobody_keeps_is_written_when_somebody_comes():
    world = World(3, abroad=1)
    world.start()
    world.deploy(world.names[2:])
    cell, other, host = (world.cells[name] for name in world.names)
    world.kill(other.name)
    world.run(8.0)
    host.run_s = 0.5
    world.ask(cell.name, PROMPT, tokens_max=COUNT, session=SESSION, claim=CLAIM)
    world.run_until(lambda: any(isinstance(answer, Accept) for answer in cell.answers[SESSION]))
    assert not cell.answers[SESSION][0].resumable
    world.restart(other.name)
    world.run_until(lambda: bool(written(cell)))
    assert {peer for peer, _, _ in written(cell)} == {other.name}
    world.answer(cell.name, SESSION)
