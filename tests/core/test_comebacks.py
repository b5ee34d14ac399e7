"""A client loses its ingress in mid-stream and reads the rest from another one: the same tokens, exactly once."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shoal_agent.core.effects import Accept, SendFrame
from shoal_agent.core.events import CancelRequested, PeerLost, StopRequested
from shoal_agent.core.facts import Claim, FinishReason, RejectCode
from shoal_protocol.headers import OpenSession
from shoal_protocol.ids import NodeId, SessionId
from shoal_protocol.journal import JournalRequested, JournalServed, JournalWritten
from tests.support.cell import Cell
from tests.support.toy import GREEDY, toy_tokens
from tests.support.world import World

SESSION = SessionId(b"s" * 16)
CLAIM = Claim(bytes(range(32)), bytes(32))
BACK = replace(CLAIM, seen=0)
COUNT = 40
PROMPT = next(text for n in range(99) if len(toy_tokens(text := (n, 2, 3), 8, COUNT)) == COUNT)
TOLD = toy_tokens(PROMPT, 8, COUNT)
RELEASED = "another node goes on with it"


def world_with(abroad: int = 0) -> World:
    world = World(5, abroad=abroad)
    world.start()
    world.deploy(world.names[:2])
    return world


@pytest.fixture
def world():
    made = world_with()
    yield made
    made.check_idle()


def first(world: World) -> Cell:
    return world.cells[world.names[2]]


def second(world: World) -> Cell:
    return world.cells[world.names[3]]


def ask(world: World, cell: Cell, claim: Claim = CLAIM, **wish: object) -> None:
    world.ask(cell.name, PROMPT, **({"tokens_max": COUNT, "session": SESSION, "claim": claim} | wish))


def shown(cell: Cell, count: int) -> Callable[[], bool]:
    return lambda: len(cell.tokens(SESSION)) >= count


def begun(world: World, count: int = 20) -> None:
    ask(world, first(world))
    world.run_until(shown(first(world), count))


def completes(world: World, cell: Cell) -> None:
    assert world.answer(cell.name, SESSION) == TOLD
    assert cell.ending(SESSION).reason is FinishReason.LENGTH


def accepted(cell: Cell) -> Accept:
    return next(answer for answer in cell.answers[SESSION] if isinstance(answer, Accept))


@pytest.mark.parametrize("count", [1, 7, 20, 39])
def test_a_stream_goes_on_when_its_ingress_is_killed(world, count):
    begun(world, count)
    assert accepted(first(world)).resumable
    world.kill(first(world).name)
    ask(world, second(world), BACK)
    completes(world, second(world))
    assert second(world).counts["sessions_revived", "OPEN"] == 1
    assert any("is taken over from" in line.text for line in second(world).node.story().entries())


def test_it_goes_on_once_more(world):
    begun(world)
    world.kill(first(world).name)
    ask(world, second(world), BACK)
    world.run_until(shown(second(world), 30))
    world.kill(second(world).name)
    third = world.cells[world.names[4]]
    ask(world, third, BACK)
    completes(world, third)


def test_the_stages_keep_their_kv(world):
    begun(world)
    world.kill(first(world).name)
    before = len(world.log)
    ask(world, second(world), BACK)
    completes(world, second(world))
    fed = [
        e.header for _, _, e in world.log[before:] if isinstance(e, SendFrame) and type(e.header).__name__ == "Resume"
    ]
    assert min(header.position for header in fed) >= 10, "hardly anything was computed again"


def test_a_stream_that_lives_is_taken_from_its_ingress(world):
    begun(world)
    ask(world, second(world), BACK)
    completes(world, second(world))
    ending = first(world).ending(SESSION)
    assert (ending.reason, ending.detail) == (FinishReason.FAILED, RELEASED)
    assert first(world).tokens(SESSION) == TOLD[: len(first(world).tokens(SESSION))]


def test_an_ingress_that_does_not_hear_it_is_fenced_off(world):
    begun(world, 3)
    world.cut |= {(first(world).name, second(world).name), (second(world).name, first(world).name)}
    ask(world, second(world), BACK)
    completes(world, second(world))
    world.run_until(lambda: first(world).ending(SESSION) is not None)
    assert first(world).ending(SESSION).detail == RELEASED
    assert first(world).tokens(SESSION) == TOLD[: len(first(world).tokens(SESSION))]


def test_who_missed_the_end_is_told_it(world):
    begun(world, COUNT)
    world.answer(first(world).name, SESSION)
    world.run(0.05)
    world.kill(first(world).name)
    before = len(world.log)
    ask(world, second(world), BACK)
    completes(world, second(world))
    assert second(world).counts["sessions_revived", "ENDED"] == 1
    sent = [e.header for _, _, e in world.log[before:] if isinstance(e, SendFrame)]
    assert not any(isinstance(header, OpenSession) for header in sent), "nothing is computed again"


def test_a_client_that_lost_its_ingress_before_the_first_token_does_not_say_so(world):
    begun(world, 1)
    world.kill(first(world).name)
    ask(world, second(world))
    completes(world, second(world))


def test_a_node_that_stops_leaves_its_streams_to_others(world):
    begun(world)
    first(world).post(StopRequested())
    first(world).post(StopRequested())
    assert "another one" in first(world).ending(SESSION).detail
    world.kill(first(world).name)
    ask(world, second(world), BACK)
    completes(world, second(world))


def test_an_ingress_that_was_restarted_goes_on_itself(world):
    begun(world)
    cell = world.restart(first(world).name)
    world.run(3.0)
    ask(world, cell, BACK)
    completes(world, cell)


def test_the_next_one_keeps_it_when_a_keeper_is_lost(world):
    begun(world, 5)
    (written,) = {e.peer for e in first(world).asked(SendFrame) if isinstance(e.header, JournalWritten)}
    spare = next(cell for cell in world.cells.values() if cell.name not in (first(world).name, written))
    first(world).post(PeerLost(written, "gone"))
    world.run_until(shown(first(world), 25))
    keepers = [
        e.peer for e in first(world).asked(SendFrame) if isinstance(e.header, JournalWritten) and not e.header.page
    ]
    assert keepers[0] == written
    assert len(keepers) == 2
    assert spare.name in world.names
    world.kill(first(world).name)
    asker = next(world.cells[name] for name in world.names[2:] if name not in (first(world).name, written))
    ask(world, asker, BACK)
    completes(world, asker)


def test_likelihoods_are_those_that_were_drawn(world):
    sampling = replace(GREEDY, top_logprobs=2)
    ask(world, first(world), sampling=sampling)
    world.run_until(shown(first(world), 20))
    said = [answer.piece.logprob for answer in first(world).answers[SESSION][1:]]
    world.kill(first(world).name)
    ask(world, second(world), replace(CLAIM, seen=10), sampling=sampling)
    completes(world, second(world))
    again = [answer.piece.logprob for answer in second(world).answers[SESSION][1:-1]]
    assert again[10 : len(said)] == said[10:]


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(world: World, cell: Cell, code: RejectCode) -> None:
    assert world.ended(cell.name, SESSION).code is code


def test_another_wish_under_the_same_id_is_refused_and_harms_nothing(world):
    begun(world)
    ask(world, second(world), replace(BACK, intent=bytes([1]) * 32))
    refused(world, second(world), RejectCode.CONFLICT)
    completes(world, first(world))


def test_who_does_not_know_the_secret_gets_nothing(world):
    begun(world)
    ask(world, second(world), replace(BACK, key=bytes(32)))
    refused(world, second(world), RejectCode.NOTHING_KEPT)
    assert second(world).counts["journals_refused", "SIGNATURE"] > 0
    completes(world, first(world))


def test_nothing_is_kept_of_what_was_cancelled(world):
    begun(world)
    first(world).post(CancelRequested(SESSION))
    world.run(0.2)
    ask(world, second(world), BACK)
    refused(world, second(world), RejectCode.NOTHING_KEPT)


def test_an_id_that_is_in_use_here(world):
    begun(world)
    told = len(first(world).answers[SESSION])
    first(world).answers[SESSION], kept = [], first(world).answers[SESSION]
    ask(world, first(world))
    assert first(world).answers[SESSION][-1].code is RejectCode.CONFLICT
    assert len(kept) == told
    first(world).answers[SESSION] = kept
    completes(world, first(world))


def test_a_client_that_leaves_again_is_waited_for_no_longer(world):
    ask(world, second(world), BACK)
    second(world).post(CancelRequested(SESSION))
    world.run(2.0)
    assert not second(world).answers[SESSION]


# --- other trust zones ------------------------------------------------------------------------------------------------


def test_another_zone_keeps_nothing_and_gets_nothing():
    world = world_with(abroad=3)
    begun(world)
    assert not accepted(first(world)).resumable or all(
        e.peer in world.names[2:] for e in first(world).asked(SendFrame) if isinstance(e.header, JournalWritten)
    )
    home = world.cells[world.names[0]]
    ask(world, home, BACK)
    refused(world, home, RejectCode.NOTHING_KEPT)
    completes(world, first(world))
    world.check_idle()


def test_without_a_peer_of_the_zone_there_is_no_journal():
    world = world_with(abroad=1)
    alone = world.cells[world.names[4]]
    ask(world, alone)
    completes(world, alone)
    assert not accepted(alone).resumable
    assert not [e for e in alone.asked(SendFrame) if isinstance(e.header, JournalWritten)]
    world.check_idle()


def test_nobody_gives_anything_to_another_zone():
    world = world_with(abroad=1)
    begun(world, 3)
    stranger: NodeId = world.names[4]
    keeper = next(e.peer for e in first(world).asked(SendFrame) if isinstance(e.header, JournalWritten))
    for holder in (first(world).name, keeper):
        world.inject(stranger, holder, JournalRequested(SESSION))
    assert world.cells[keeper].counts["journals_refused", "ZONE"] == 1
    world.run(0.05)
    told = [e for cell in world.cells.values() for e in cell.asked(SendFrame) if isinstance(e.header, JournalServed)]
    assert [(e.peer, e.header.writer, e.payload) for e in told] == [(stranger, None, None)] * 2
    completes(world, first(world))
    world.check_idle()
