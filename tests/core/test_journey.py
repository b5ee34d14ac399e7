import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.endings import RETRY_AFTER_S
from shoal_agent.core.facts import FinishReason, RejectCode, Standing
from shoal_agent.core.journey import FAILURES_MAX, REFUSALS_MAX
from shoal_agent.core.ledger import Step
from shoal_protocol.headers import (
    HandedOver,
    OpenSession,
    PathBroken,
    RefusalCode,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import Epoch, SessionId
from tests.support.ordeal import backed_world, decide, entry_of, ingress_of
from tests.support.toy import toy_tokens
from tests.support.world import TOY, World

PROMPT = next(text for n in range(99) if len(toy_tokens(text := (n, 5), 8, 400)) == 400)
TOKENS = 100
ANSWER = toy_tokens(PROMPT, 8, TOKENS)


@pytest.fixture
def world():
    made = backed_world(2)
    yield made
    made.check_idle()


def begun(world: World, at: int = 20, **asked: float) -> SessionId:
    session = world.ask(ingress_of(world).name, PROMPT, tokens_max=TOKENS, **asked)
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= at)
    return session


def route(world: World, session: SessionId) -> list[int]:
    return [world.names.index(node) for node in entry_of(world, session).route]


def refuse(world: World, session: SessionId, stage: int, code: RefusalCode) -> None:
    entry = entry_of(world, session)
    header = SessionRefused(session, stage, code, "because", entry.attempt)
    world.inject(entry.route[stage], ingress_of(world).name, header)


# --- refusals ---------------------------------------------------------------------------------------------------------

LIVED_THROUGH = [code for code in RefusalCode if code is not RefusalCode.DEADLINE]


@pytest.mark.parametrize("code", LIVED_THROUGH)
def test_a_stage_that_refuses_to_go_on_is_replaced(world, code):
    session = begun(world)
    refuse(world, session, 1, code)
    assert route(world, session) == [0, 3]
    assert world.answer(ingress_of(world).name, session) == ANSWER
    assert ingress_of(world).counts["stages_refused", code.name] == 1


def test_a_host_that_finds_the_deadline_over_is_right(world):
    session = begun(world)
    refuse(world, session, 1, RefusalCode.DEADLINE)
    assert ingress_of(world).ending(session).reason is FinishReason.DEADLINE


@pytest.mark.parametrize(("code", "ends"), [(RefusalCode.STAGE_FAILED, True), (RefusalCode.KV_FULL, False)])
def test_what_breaks_every_stage_is_given_up_and_want_of_room_is_not(world, code, ends):
    session = begun(world, deadline_s=300.0)
    world.loses = lambda header: isinstance(header, Token)
    refused = 0
    while ingress_of(world).ending(session) is None and refused < FAILURES_MAX + 2:
        if entry_of(world, session).step is not Step.WAITING:
            refuse(world, session, 1, code)
            refused += 1
        world.run(0.5)
    world.loses = lambda header: False
    if ends:
        ending = ingress_of(world).ending(session)
        assert (ending.reason, ending.detail) == (FinishReason.FAILED, "stage 1: because")
        assert refused == FAILURES_MAX
    else:
        assert world.answer(ingress_of(world).name, session) == ANSWER


def test_refusals_with_tokens_between_them_are_forgiven(world):
    session = begun(world)
    entry_of(world, session).refusals = FAILURES_MAX - 1
    world.run(0.1)
    refuse(world, session, 1, RefusalCode.STAGE_FAILED)
    assert ingress_of(world).ending(session).reason is FinishReason.FAILED
    session = begun(world)
    refuse(world, session, 1, RefusalCode.STAGE_FAILED)
    assert entry_of(world, session).refusals == 1
    told = len(ingress_of(world).tokens(session))
    world.run_until(lambda: len(ingress_of(world).tokens(session)) > told + 1)
    assert entry_of(world, session).refusals == 0
    assert world.answer(ingress_of(world).name, session) == ANSWER


ROOM = (RefusalCode.KV_FULL, RefusalCode.TOO_MANY_SESSIONS)
REFUSALS = {
    RefusalCode.KV_FULL: (RejectCode.OVERLOADED, True),
    RefusalCode.TOO_MANY_SESSIONS: (RejectCode.OVERLOADED, True),
    RefusalCode.DEADLINE: (RejectCode.DEADLINE, False),
    RefusalCode.STALE_EPOCH: (RejectCode.NOT_READY, True),
    RefusalCode.NOT_HOSTED: (RejectCode.NOT_READY, True),
    RefusalCode.UNKNOWN_SESSION: (RejectCode.STAGE_LOST, True),
    RefusalCode.OUT_OF_ORDER: (RejectCode.STAGE_LOST, True),
    RefusalCode.STAGE_FAILED: (RejectCode.STAGE_LOST, True),
    RefusalCode.OLD_ATTEMPT: (RejectCode.STAGE_LOST, True),
    RefusalCode.NOT_CERTIFIED: (RejectCode.NOT_READY, True),
}


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_means_something_to_a_client_that_was_promised_nothing(world, code):
    """Want of room and a deadline at once, anything else when it was not an accident."""
    ingress, refused = ingress_of(world), 0
    world.loses = lambda header: isinstance(header, OpenSession)
    session = world.ask(ingress.name, PROMPT)
    world.run(0.1)
    while ingress.ending(session) is None:
        refuse(world, session, 1, code)
        refused += 1
        world.run(1.1)
    ending = ingress.ending(session)
    rejection, again = REFUSALS[code]
    assert (ending.code, ending.detail) == (rejection, "stage 1: because")
    assert ending.retry_after_s == (RETRY_AFTER_S if again else None)
    assert refused == (1 if code in (*ROOM, RefusalCode.DEADLINE) else REFUSALS_MAX)


def test_a_refusal_of_an_older_attempt_says_nothing(world):
    ingress = ingress_of(world)
    world.loses = lambda header: isinstance(header, OpenSession)
    session = world.ask(ingress.name, PROMPT, tokens_max=TOKENS)
    world.run(0.1)
    refuse(world, session, 1, RefusalCode.STAGE_FAILED)
    world.inject(world.names[1], ingress.name, SessionRefused(session, 1, RefusalCode.DEADLINE, "why", 0))
    assert ingress.ending(session) is None
    assert ingress.counts["frames_dropped", "session_refused"] == 1
    world.loses = lambda header: False
    assert world.answer(ingress.name, session) == ANSWER


# --- paths ------------------------------------------------------------------------------------------------------------


def break_path(world: World, session: SessionId, stage: int, node: int) -> None:
    entry = entry_of(world, session)
    header = PathBroken(session, stage, entry.attempt, world.names[node])
    world.inject(entry.route[stage], ingress_of(world).name, header)


def test_the_neighbour_that_is_not_reached_is_replaced(world):
    session = begun(world)
    break_path(world, session, 0, 1)
    assert route(world, session) == [0, 3]
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_if_nobody_can_take_the_neighbours_place_the_reporter_is_replaced():
    world = backed_world(2)
    world.kill(world.names[3])
    world.run(4.0)
    session = begun(world)
    break_path(world, session, 0, 1)
    assert route(world, session) == [2, 1]
    assert world.answer(ingress_of(world).name, session) == ANSWER
    world.check_idle()


def test_a_neighbour_that_is_gone_is_not_kept_for_want_of_another():
    world = backed_world(2)
    world.kill(world.names[3])
    world.run(4.0)
    session = begun(world)
    ingress_of(world).node._tables.membership.stand(world.names[1], Standing.SUSPECT)
    break_path(world, session, 0, 1)
    assert entry_of(world, session).step is Step.WAITING
    ingress_of(world).node._tables.membership.stand(world.names[1], Standing.ALIVE)
    assert world.answer(ingress_of(world).name, session) == ANSWER
    world.check_idle()


def test_who_does_not_reach_the_ingress_or_names_a_stranger_is_replaced(world):
    session = begun(world)
    break_path(world, session, 0, 4)
    assert route(world, session) == [2, 1]
    world.run(1.0)
    break_path(world, session, 1, 3)
    assert route(world, session) == [2, 3]
    assert world.answer(ingress_of(world).name, session) == ANSWER


# --- what is said under another attempt, or by somebody else ----------------------------------------------------------


@pytest.mark.parametrize("attempt", [0, 2])
@pytest.mark.parametrize("sender", [1, 2, 3])
def test_whatever_is_said_under_another_attempt_is_dropped(world, sender, attempt):
    session = begun(world)
    world.kill(world.names[0])
    world.run(0.2)
    entry, ingress = entry_of(world, session), ingress_of(world)
    assert entry.attempt == 1
    speaker, position = world.names[sender], len(entry.tokens)
    before = sum(count for (name, _), count in ingress.counts.items() if name == "frames_dropped")
    for header in (
        Token(TOY, Epoch(0), session, position, 9, False, 0.0, (), attempt),
        SessionOpened(session, 1, attempt, 0, 0),
        SessionRefused(session, 1, RefusalCode.STAGE_FAILED, "no", attempt),
        PathBroken(session, 1, attempt, world.names[2]),
        HandedOver(session, 1, attempt, 0, last=True, refusal=None),
    ):
        world.inject(speaker, ingress.name, header)
    after = sum(count for (name, _), count in ingress.counts.items() if name == "frames_dropped")
    assert after - before == 5
    assert entry.attempt == 1
    assert world.answer(ingress.name, session) == ANSWER


def test_frames_of_sessions_that_are_over_are_dropped(world):
    ingress, session = ingress_of(world), SessionId(bytes(16))
    for header in (
        SessionOpened(session, 0),
        SessionRefused(session, 0, RefusalCode.STAGE_FAILED, "no"),
        PathBroken(session, 0, 0, world.names[1]),
        HandedOver(session, 0, 0, 0, last=True, refusal=None),
    ):
        world.inject(world.names[0], ingress.name, header)
    dropped = {label for (name, label), count in ingress.counts.items() if name == "frames_dropped" and count}
    assert dropped == {"session_opened", "session_refused", "path_broken", "handed_over"}


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_a_session_that_waits_is_laid_anew_when_a_plan_serves(world):
    session = begun(world)
    for victim in (0, 2):
        world.kill(world.names[victim])
    world.run(2.0)
    assert entry_of(world, session).step is Step.WAITING
    decide(world, world.plan([world.names[1], world.names[3]], epoch=1))
    world.run(0.5)
    assert entry_of(world, session) is None or entry_of(world, session).plan.epoch == 1
    assert world.answer(ingress_of(world).name, session) == ANSWER


def test_two_losses_at_one_moment_are_one_attempt(world):
    session = begun(world)
    world.kill(world.names[0])
    world.kill(world.names[1])
    world.run(0.1)
    opened = [frame for frame in ingress_of(world).asked(SendFrame) if isinstance(frame.header, OpenSession)]
    assert route(world, session) == [2, 3]
    assert max(frame.header.attempt for frame in opened) <= 2
    assert world.answer(ingress_of(world).name, session) == ANSWER
