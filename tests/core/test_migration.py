import itertools

import pytest

from shoal_agent.core.effects import Emit, ExportKv, OpenStage, SendFrame
from shoal_agent.core.ledger import Step
from shoal_agent.core.migration import AGAIN_S, COPY_S, EVACUATE_S, HOLD_S, MOVES_MAX
from shoal_protocol.headers import (
    CloseSession,
    HandedOver,
    HandOver,
    KvRows,
    RefusalCode,
    SessionOpened,
    SessionRefused,
)
from shoal_protocol.ids import SessionId
from shoal_protocol.messages import NodePhase
from tests.support.ordeal import Pauses, backed_world, decide, entry_of, ingress_of
from tests.support.toy import toy_tokens
from tests.support.world import World

PROMPT = next(text for n in range(99) if len(toy_tokens(text := (n, 5), 8, 400)) == 400)
ANSWER = toy_tokens(PROMPT, 8, 400)


@pytest.fixture
def world():
    """Hosts 0 and 1 serve epoch 0, without standbys; 2 and 3 are there for the next one; 4 is the ingress."""
    made = backed_world(2, standbys=0, outsiders=3)
    yield made
    made.check_idle()


def begun(world: World, at: int = 20, tokens_max: int = 400) -> SessionId:
    session = world.ask(ingress_of(world).name, PROMPT, tokens_max=tokens_max)
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= at)
    return session


def next_epoch(world: World, *hosts: int, epoch: int = 1) -> None:
    decide(world, world.plan([world.names[host] for host in hosts], epoch=epoch))


def moved(world: World, session: SessionId) -> bool:
    entry = entry_of(world, session)
    return entry is None or (entry.plan.epoch == 1 and entry.step is Step.STREAMING and entry.move is None)


def frames(world: World, kind: type) -> list[object]:
    return [
        effect.header for _, _, effect in world.log if isinstance(effect, SendFrame) and isinstance(effect.header, kind)
    ]


# --- moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [(2, 3), (2,), (2, 3, 0), (1, 0)], ids=str)
def test_a_long_session_moves_with_its_kv_and_its_text_goes_on(world, hosts):
    session = begun(world)
    next_epoch(world, *hosts)
    world.run_until(lambda: moved(world, session))
    assert entry_of(world, session).route == tuple(world.names[host] for host in hosts)
    assert world.answer(ingress_of(world).name, session) == ANSWER
    assert ingress_of(world).counts["sessions_migrated", "toy"] == 1
    assert not ingress_of(world).counts["sessions_resumed", "replay"]
    assert ingress_of(world).counts["activations_repeated", "SAME"] == 0


def test_nothing_is_computed_again_and_the_pause_is_told(world):
    session = begun(world)
    next_epoch(world, 2, 3)
    assert world.answer(ingress_of(world).name, session) == ANSWER
    (told,) = [entry.text for entry in ingress_of(world).node.story().entries() if "by move" in entry.text]
    position = int(told.split(" at position ")[1].split()[0])
    assert f"stages from {position - 1}, {position - 1}," in told
    (note,) = [note for note in ingress_of(world).notes if note.text == "session moved"]
    assert 0 < dict(note.fields)["gap_ms"] < 100


def test_it_goes_on_while_the_copies_are_made(world):
    for cell in world.cells.values():
        cell.copy_s = 0.2
    session = begun(world)
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None)
    told = len(ingress_of(world).tokens(session))
    world.run_until(lambda: moved(world, session))
    assert len(ingress_of(world).tokens(session)) > told + 10
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_the_old_epoch_is_closed_and_only_that(world):
    session = begun(world)
    next_epoch(world, 0, 2)
    world.run_until(lambda: moved(world, session))
    world.run(0.1)
    closed = [header for header in frames(world, CloseSession) if header.epoch == 0]
    assert len(closed) >= 2
    assert {key[1] for key in world.cells[world.names[0]].stages} == {64}
    assert world.cells[world.names[1]].node.snapshot(world.now).kv_bytes == 0
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_a_short_session_stays_and_drains(world):
    session = begun(world, tokens_max=60)
    next_epoch(world, 2, 3)
    assert world.answer(ingress_of(world).name, session) == ANSWER[:60]
    assert not frames(world, HandOver)


def test_every_session_of_a_host_that_leaves_moves(world):
    session = begun(world, tokens_max=60)
    world.cells[world.names[1]].node._tables.phase = NodePhase.DRAINING
    world.cells[world.names[1]].node._tables.changed(world.now)
    world.wake(world.cells[world.names[1]])
    next_epoch(world, 0, 3)
    assert world.answer(ingress_of(world).name, session) == ANSWER[:60]
    assert ingress_of(world).counts["sessions_migrated", "toy"] == 1


def test_many_move_a_few_at_a_time_and_all_of_them_in_the_end(world):
    count = 250
    sessions = [begun(world, 1, tokens_max=count) for _ in range(MOVES_MAX + 4)]
    next_epoch(world, 2, 3)
    most = 0
    while not all(moved(world, session) for session in sessions):
        world.step()
        entries = ingress_of(world).node._ingress._ledger.entries()
        most = max(most, sum(entry.move is not None for entry in entries))
    assert most == MOVES_MAX
    for session in sessions:
        assert world.answer(ingress_of(world).name, session) == ANSWER[:count]


def test_others_are_not_held_up(world):
    """While one session moves slowly, those that stay and new ones get their tokens."""
    session, short = begun(world), begun(world, 1, tokens_max=100)
    for cell in world.cells.values():
        cell.copy_s = 0.4
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None)
    assert world.answer(ingress_of(world).name, short) == ANSWER[:100]
    at = [when for when, _, effect in world.log if isinstance(effect, Emit) and effect.session == short]
    assert max(later - sooner for sooner, later in itertools.pairwise(at)) < 0.1
    assert world.answer(ingress_of(world).name, session) == ANSWER


# --- staying ----------------------------------------------------------------------------------------------------------


def test_a_new_host_without_room_leaves_the_session_where_it_is(world):
    session = begun(world)
    world.cells[world.names[3]].node._host._holdings.budget._bytes_max = 10
    next_epoch(world, 2, 3)
    assert world.answer(ingress_of(world).name, session) == ANSWER
    assert ingress_of(world).counts["moves_called_off", "toy"] >= 1
    assert ingress_of(world).counts["sessions_migrated", "toy"] == 0


def test_a_refusal_after_the_copies_leads_back_without_a_token_lost(world):
    session = begun(world)
    next_epoch(world, 2, 3)
    world.run_until(lambda: any(header.attempt == 1 for header in frames(world, SessionOpened)))
    ingress = ingress_of(world)
    world.inject(world.names[3], ingress.name, SessionRefused(session, 1, RefusalCode.KV_FULL, "no room", 1))
    assert entry_of(world, session).plan.epoch == 0
    assert entry_of(world, session).attempt == 2
    assert world.answer(ingress.name, session) == ANSWER
    assert ingress.counts["sessions_migrated", "toy"] == 1, "it was tried again later"


def test_a_copy_that_takes_too_long_is_given_up_and_tried_again(world):
    session = begun(world)
    world.loses = lambda header: isinstance(header, HandedOver)
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None)
    entry_of(world, session).move.until = type(world.now)(world.now + 1.0)  # not COPY_S
    assert COPY_S > 1.0
    world.run_until(lambda: entry_of(world, session).move is None)
    world.loses = lambda header: False
    again = entry_of(world, session).move_at
    assert again <= world.now + AGAIN_S
    world.run_until(lambda: moved(world, session))
    assert world.now >= again
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_a_token_is_not_held_back_for_long(world):
    session = begun(world)
    world.loses = lambda header: isinstance(header, HandedOver) and header.last
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None and entry_of(world, session).move.last)
    held, told = world.now, len(ingress_of(world).tokens(session))
    world.run_until(lambda: len(ingress_of(world).tokens(session)) > told + 1)
    assert HOLD_S <= world.now - held < HOLD_S + 0.1
    world.loses = lambda header: False
    assert world.answer(ingress_of(world).name, session) == ANSWER


@pytest.mark.parametrize(
    "victim", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 3]
)
@pytest.mark.parametrize("moment", ["copying", "holding", "opening", "resumed"])
def test_a_host_lost_on_the_way(moment, victim):
    world = backed_world(2, outsiders=3)  # 0 and 1 serve, 2 and 3 stand by, and are the next hosts with 4 and 5
    for cell in world.cells.values():
        cell.copy_s = 0.02
    session = begun(world)
    plan = world.plan([world.names[4], world.names[5]], epoch=1, standbys=((world.names[2],), (world.names[3],)))
    decide(world, plan)
    entry = entry_of(world, session)
    reached = {
        "copying": lambda: entry.move is not None,
        "holding": lambda: entry.move is not None and entry.move.last,
        "opening": lambda: entry.step is Step.OPENING,
        "resumed": lambda: entry.plan.epoch == 1 and entry.step is Step.STREAMING,
    }[moment]
    world.run_until(reached)
    world.kill(world.names[(0, 1, 4, 5)[victim]])
    assert world.answer(ingress_of(world).name, session) == ANSWER
    world.check_idle()


def test_the_end_of_the_answer_is_not_moved(world):
    """The model ends its turn while the copies are made."""
    for cell in world.cells.values():
        cell.copy_s = 1.0
    session = begun(world, 330)
    entry_of(world, session).usual_s = 10.0  # it seems to have a long way to go
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None)
    assert world.answer(ingress_of(world).name, session) == ANSWER
    world.run(3.0)


# --- evacuating -------------------------------------------------------------------------------------------------------


def test_what_is_left_of_the_kv_is_brought_to_the_epoch_that_has_a_route(world):
    session = begun(world, 100)
    world.kill(world.names[1])
    world.run(1.0)
    assert entry_of(world, session).step is Step.WAITING
    rows = len(frames(world, KvRows))
    next_epoch(world, 2, 3)
    assert world.answer(ingress_of(world).name, session) == ANSWER
    assert len(frames(world, KvRows)) > rows
    runs = [effect for _, name, effect in world.log if name == world.names[0] and isinstance(effect, ExportKv)]
    assert sum(effect.token_count for effect in runs) >= 100


def test_an_evacuation_ends_whether_or_not_somebody_answers(world):
    session = begun(world, 100)
    world.kill(world.names[1])
    world.run(1.0)
    world.loses = lambda header: isinstance(header, HandedOver)
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None)
    begin = world.now
    world.run_until(lambda: entry_of(world, session).step is Step.OPENING)
    assert world.now - begin == pytest.approx(EVACUATE_S, abs=0.01)
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_an_evacuation_does_not_wait_for_the_dead(world):
    session = begun(world, 100)
    world.kill(world.names[1])
    world.run(1.0)
    world.loses = lambda header: isinstance(header, HandOver)
    next_epoch(world, 2, 3)
    world.run_until(lambda: entry_of(world, session).move is not None)
    world.kill(world.names[0])
    world.run(0.2)
    assert entry_of(world, session).move is None
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_who_was_paused_through_a_move_keeps_nothing():
    world = backed_world(2, outsiders=3)
    session, pauses = begun(world), Pauses(world)
    pauses.pause(world.names[0])
    world.run(3.0)
    next_epoch(world, 4, 5)
    world.run_until(lambda: moved(world, session))
    pauses.wake_all()
    assert world.answer(ingress_of(world).name, session) == ANSWER
    opened = [effect for _, name, effect in world.log if name == world.names[0] and isinstance(effect, OpenStage)]
    assert len(opened) <= 2
    world.check_idle()
