import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.facts import FinishReason, RejectCode, Standing
from shoal_agent.core.ledger import BEGIN_S_MAX, STALL_S, Step
from shoal_agent.core.rescue import KICKS, OPEN_S, RUNS_AT_ONCE
from shoal_protocol.headers import Activation, CloseSession, OpenSession, Ping, Resume, SessionOpened
from shoal_protocol.ids import DeploymentId, SessionId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS
from tests.support.ordeal import Pauses, backed_world, decide, entry_of, ingress_of
from tests.support.toy import toy_tokens
from tests.support.world import World

PROMPT = next(text for n in range(99) if len(toy_tokens(text := (n, 5), 8, 400)) == 400)


@pytest.fixture
def world():
    made = backed_world(2)
    yield made
    made.check_idle()


def begun(world: World, at: int, *, tokens_max: int = 400, **asked: object) -> SessionId:
    """A stream that has come to its token ``at``."""
    session = world.ask(ingress_of(world).name, PROMPT, tokens_max=tokens_max, **asked)
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= at)
    return session


def sent(world: World, kind: type) -> list[SendFrame]:
    return [frame for frame in ingress_of(world).asked(SendFrame) if isinstance(frame.header, kind)]


def route(world: World, session: SessionId) -> list[int]:
    return [world.names.index(node) for node in entry_of(world, session).route]


# --- laying -----------------------------------------------------------------------------------------------------------


def test_the_first_attempt_needs_no_resume_and_names_the_route(world):
    session = begun(world, 1, tokens_max=1)
    opened = [frame.header for frame in sent(world, OpenSession)]
    assert {(header.attempt, header.route) for header in opened} == {(0, tuple(world.names[:2]))}
    assert not sent(world, Resume)
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 1)


def test_another_attempt_opens_every_stage_anew_with_all_tokens_for_the_sampler(world):
    session = begun(world, 20)
    world.kill(world.names[1])
    world.run(0.1)
    later = [frame for frame in sent(world, OpenSession) if frame.header.attempt == 1]
    assert [frame.peer for frame in later] == [world.names[0], world.names[3]]
    assert later[0].payload is None
    assert len(later[1].payload) // 8 >= len(PROMPT) + 20
    assert [frame.peer for frame in sent(world, Resume)] == [world.names[0], world.names[3]]
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 400)


def test_a_stage_stays_where_its_kv_is_although_its_primary_is_back(world):
    session = begun(world, 10)
    world.kill(world.names[0])
    world.run(0.3)
    assert route(world, session) == [2, 1]
    world.restart(world.names[0])
    world.run(2.0)
    world.kill(world.names[1])
    world.run(0.1)
    assert route(world, session) == [2, 3]
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 400)


def test_new_requests_go_by_the_standby_of_a_lost_host(world):
    world.kill(world.names[0])
    world.run(3.0)
    session = begun(world, 1, tokens_max=5)
    assert route(world, session) == [2, 1]
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 5)


@pytest.mark.parametrize("later_s", [0.0, 0.4, 0.8])
def test_a_host_that_neither_goes_on_nor_answers_is_left_whenever_its_last_heartbeat_was(world, later_s):
    session, pauses = begun(world, 10), Pauses(world)
    world.run(later_s)
    pauses.pause(world.names[1])
    begin = world.now
    world.run_until(lambda: entry_of(world, session).attempt == 1)
    assert world.now - begin < STALL_S + 0.6
    assert ingress_of(world).node._tables.membership.standing(world.names[1]) is not Standing.DEAD
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 400)
    world.run(0.1)
    pauses.wake_all()


def test_a_route_is_not_laid_for_ever(world, monkeypatch):
    monkeypatch.setattr("shoal_agent.core.rescue.ATTEMPTS_MAX", 1)
    session = begun(world, 10)
    world.kill(world.names[1])
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= 100)
    world.kill(world.names[0])
    ending = world.ended(ingress_of(world).name, session)
    assert (ending.reason, ending.detail) == (FinishReason.FAILED, "its route was laid 1 times")


# --- going on ---------------------------------------------------------------------------------------------------------


def bursts(world: World) -> list[int]:
    """How many activations the ingress sent at each moment."""
    count: dict[float, int] = {}
    for at, name, effect in world.log:
        if name == ingress_of(world).name and isinstance(effect, SendFrame) and isinstance(effect.header, Activation):
            count[at] = count.get(at, 0) + 1
    return list(count.values())


def test_a_long_session_is_fed_again_some_runs_at_a_time():
    """No copy is left: every token is run again, alone, as it was the first time."""
    world = backed_world(1, standbys=0, outsiders=2)
    session = begun(world, 350)
    world.kill(world.names[0])
    world.run(0.5)
    decide(world, world.plan([world.names[1]], epoch=1))
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 400)
    assert ingress_of(world).counts["sessions_resumed", "replay"] == 1
    assert max(bursts(world)) == RUNS_AT_ONCE
    world.check_idle()


def test_the_runs_are_those_of_the_first_time(world):
    prompt = (7,) * (PREFILL_CHUNK_TOKENS + 10)
    session = world.ask(ingress_of(world).name, prompt, tokens_max=30)
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= 5)
    runs = {(frame.header.position, frame.header.token_count) for frame in sent(world, Activation)}
    world.kill(world.names[2])
    world.run(0.05)
    world.kill(world.names[0])
    world.run(0.05)
    left = world.names[1]
    decide(world, world.plan([left, world.names[-1]], epoch=1))
    world.answer(ingress_of(world).name, session)
    again = {(frame.header.position, frame.header.token_count) for frame in sent(world, Activation)}
    assert runs <= again
    assert all(count == 1 for position, count in again if position >= len(prompt))
    assert ingress_of(world).tokens(session) == toy_tokens(prompt, 8, 30)[: len(ingress_of(world).tokens(session))]


def test_what_cannot_be_replayed_before_the_deadline_is_prefilled_and_counted_apart():
    world = backed_world(1, standbys=0)
    for cell in world.cells.values():
        cell.block_s = 0.0
    session = begun(world, 300, deadline_s=5.0)
    world.kill(world.names[0])
    world.run_until(lambda: world.now >= entry_of(world, session).deadline - 0.3)
    decide(world, world.plan([world.names[1]], epoch=1))
    world.run_until(lambda: len(ingress_of(world).tokens(session)) > 310)
    assert ingress_of(world).counts["sessions_resumed", "prefill"] == 1
    shown = ingress_of(world).tokens(session)
    assert shown == toy_tokens(PROMPT, 8, 400)[: len(shown)]
    told = [entry.text for entry in ingress_of(world).node.story().entries() if "by prefill" in entry.text]
    assert len(told) == 1
    world.run(5.0)
    world.check_idle()


# --- what keeps silent ------------------------------------------------------------------------------------------------


def pings(world: World) -> int:
    return len(sent(world, Ping))


def test_a_token_that_does_not_come_has_the_route_asked_whether_it_lives(world):
    session = begun(world, 10)
    world.run(1.0)
    world.loses = lambda header: isinstance(header, Activation)
    world.run(0.9)
    before = pings(world)
    world.run(0.4)
    assert pings(world) - before >= 2
    world.loses = lambda header: False
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 400)


def test_a_session_that_hears_nothing_from_the_living_is_opened_anew(world):
    session = begun(world, 10)
    world.loses = lambda header: isinstance(header, Activation)
    world.run(0.1)
    world.loses = lambda header: False
    begin = world.now
    world.run_until(lambda: entry_of(world, session).attempt == 1)
    assert KICKS <= world.now - begin + 0.2 <= KICKS + 2
    assert route(world, session) == [0, 1], "nobody is to blame"
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 400)


def test_a_stage_that_does_not_open_is_asked_and_then_replaced(world):
    world.loses = lambda header: isinstance(header, SessionOpened) and header.stage == 1 and header.attempt == 0
    session = world.ask(ingress_of(world).name, PROMPT, tokens_max=20)
    world.run(OPEN_S - 0.1)
    before = pings(world)
    world.run(0.3)
    assert pings(world) > before
    world.run_until(lambda: entry_of(world, session).attempt == 1)
    assert route(world, session) == [0, 3]
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, 20)


# --- nobody left ------------------------------------------------------------------------------------------------------


def test_who_was_promised_an_answer_waits_until_the_deadline():
    world = backed_world(2, standbys=0)
    session = begun(world, 10, deadline_s=40.0)
    world.kill(world.names[1])
    world.run(30.0)
    assert entry_of(world, session).step is Step.WAITING
    assert entry_of(world, session).attempt < 10, "the dead are not asked again and again"
    ending = world.ended(ingress_of(world).name, session)
    assert ending.reason is FinishReason.DEADLINE
    world.check_idle()


def test_who_was_promised_nothing_is_told_after_a_while():
    world = backed_world(2, standbys=0)
    world.hold("open")
    session = world.ask(ingress_of(world).name, PROMPT, deadline_s=100.0)
    world.run(0.1)
    world.kill(world.names[1])
    begin = world.now
    ending = world.ended(ingress_of(world).name, session)
    assert ending.code is RejectCode.STAGE_LOST
    assert world.now - begin == pytest.approx(BEGIN_S_MAX, abs=0.5)
    world.check_idle()


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_standby_out_of_reach_is_told_when_it_is_back_that_a_session_is_over(world):
    session = begun(world, 10, tokens_max=60)
    standby = world.names[2]
    world.break_link(ingress_of(world).name, standby)
    world.answer(ingress_of(world).name, session)
    world.run(1.0)
    told = len([frame for frame in sent(world, CloseSession) if frame.peer == standby])
    world.cut.clear()
    world.run(12.0)  # a lost link is tried every ten seconds
    assert len([frame for frame in sent(world, CloseSession) if frame.peer == standby]) == told + 1


# --- before it begins -------------------------------------------------------------------------------------------------


def test_what_a_request_to_come_would_take_is_what_admission_predicts(world):
    ingress, deployment = ingress_of(world).node._ingress, ingress_of(world).node._tables.tenures.deployments()[0]
    alone_s = ingress.takes_s(deployment, 0, 100, 400)
    assert alone_s is not None
    assert alone_s > 0
    assert ingress.takes_s(deployment, 0, 500, 200) == pytest.approx(2 * alone_s), "no answer is longer than it may be"
    assert ingress.takes_s(deployment, 0, None, 400) == 0.0, "nobody is in its way, and nothing known of its answer"
    sessions = [begun(world, 1) for _ in range(4)]
    beside_s = ingress.takes_s(deployment, 0, 100, 400)
    assert beside_s == pytest.approx(2.5 * alone_s), "five on the slowest of two equal stages"
    assert ingress.takes_s(deployment, 0, None, 100) == pytest.approx(beside_s)
    assert ingress.takes_s(deployment, 200, 100, 400) > beside_s
    for session in sessions:
        world.answer(ingress_of(world).name, session)


def test_of_a_model_that_nobody_serves_nothing_can_be_told(world):
    assert ingress_of(world).node._ingress.takes_s(DeploymentId("nothing"), 1, 1, 1) is None
