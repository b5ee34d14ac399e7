"""Every machine behind a stream is lost in every phase of it, and the client reads what it would have read anyway."""

from collections.abc import Callable

import pytest

from shoal_agent.core import services
from shoal_agent.core.events import ServicesAvailable
from shoal_agent.core.facts import ChatPrompt, FinishReason
from shoal_protocol.headers import Activation, CloseSession, OpenSession, Resume
from shoal_protocol.ids import NodeId, SessionId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS
from tests.support.ordeal import Pauses, backed_world, decide, heal, ingress_of
from tests.support.toy import NAMES, toy_tokens
from tests.support.world import World

LONGEST = 400
BODY = next(word for n in range(99) if len(toy_tokens(tuple(word := f"hello {n}".encode()), 8, LONGEST)) == LONGEST)
CHAT = ChatPrompt(services.pack(services.RenderRequest((services.ChatMessage("user", BODY.decode()),), True)))
TOKENS = 40
LONG = next(text for n in range(99) if len(toy_tokens(text := (n,) * (PREFILL_CHUNK_TOKENS + 40), 8, TOKENS)) == TOKENS)
FIRST, SECOND, FIRST_STANDBY, SECOND_STANDBY = range(4)
HOSTS = [FIRST, SECOND]
EVERYBODY = [*HOSTS, *(pytest.param(host, marks=pytest.mark.long) for host in (FIRST_STANDBY, SECOND_STANDBY))]


@pytest.fixture
def world():
    made = backed_world(2)
    yield made
    made.check_idle()


def completes(world: World, session: SessionId, prompt: tuple[int, ...] = tuple(BODY), count: int = TOKENS) -> None:
    cell = ingress_of(world)
    for other in world.cells.values():
        other.release()
    assert world.answer(cell.name, session) == toy_tokens(prompt, 8, count)
    assert cell.ending(session).reason is FinishReason.LENGTH


def shown(world: World, session: SessionId, count: int) -> Callable[[], bool]:
    return lambda: len(ingress_of(world).tokens(session)) >= count


# --- every role, every phase ------------------------------------------------------------------------------------------

HELD = {"rendering": "render", "encoding": "encode", "opening": "open", "first token": "sample", "ending": "flush"}


@pytest.mark.parametrize("victim", EVERYBODY)
@pytest.mark.parametrize("phase", HELD)
def test_a_host_lost_while_a_service_is_awaited(world, phase, victim):
    world.hold(HELD[phase])
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run(2.0 if phase == "ending" else 0.3)
    world.kill(world.names[victim])
    world.run(0.5)
    completes(world, session)


@pytest.mark.parametrize("victim", EVERYBODY)
def test_a_host_lost_in_the_middle_of_the_prompt(world, victim):
    session = world.ask(ingress_of(world).name, LONG, tokens_max=TOKENS)
    world.run(1.1)  # the first stage is done with its first chunk
    assert not ingress_of(world).tokens(session)
    world.kill(world.names[victim])
    completes(world, session, LONG)


@pytest.mark.parametrize("victim", EVERYBODY)
@pytest.mark.parametrize("at", [1, 9, 39])
def test_a_host_lost_between_two_tokens(world, at, victim):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, at))
    world.kill(world.names[victim])
    completes(world, session)


@pytest.mark.parametrize("victim", EVERYBODY)
def test_a_host_paused_and_back_with_what_it_had_to_say(world, victim):
    pauses, session = Pauses(world), world.ask(ingress_of(world).name, CHAT, tokens_max=LONGEST)
    world.run_until(shown(world, session, 20))
    pauses.pause(world.names[victim])
    world.run(4.0)
    assert len(ingress_of(world).tokens(session)) > 60, "it went on without it"
    pauses.wake(world.names[victim])
    completes(world, session, count=LONGEST)


@pytest.mark.parametrize("victim", EVERYBODY)
def test_a_host_paused_for_so_long_that_its_links_are_gone(world, victim):
    pauses, session = Pauses(world), world.ask(ingress_of(world).name, CHAT, tokens_max=60)
    world.run_until(shown(world, session, 20))
    pauses.pause(world.names[victim])
    completes(world, session, count=60)
    world.run(8.0)
    pauses.wake(world.names[victim])
    world.run(1.0)


# --- more than one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart_s", [0.0, 0.012, 0.02, 0.1])
def test_two_hosts_at_once_or_one_while_the_other_is_replaced(world, apart_s):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.kill(world.names[FIRST])
    world.run(apart_s)
    world.kill(world.names[SECOND])
    completes(world, session)


@pytest.mark.parametrize("apart_s", [0.0, 0.012, 0.016, 0.03])
@pytest.mark.parametrize("stage", [0, 1])
def test_the_standby_is_lost_while_it_takes_over_and_another_one_is_there(stage, apart_s):
    world = backed_world(2, standbys=2)
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.kill(world.names[stage])
    world.run(apart_s)
    world.kill(world.names[2 + stage])
    completes(world, session)
    world.check_idle()


@pytest.mark.parametrize("stage", [0, 1])
def test_the_standby_goes_first_and_comes_back_and_takes_over(world, stage):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 5))
    world.kill(world.names[2 + stage])
    world.run(0.05)
    world.restart(world.names[2 + stage])
    world.run_until(shown(world, session, 30))
    world.kill(world.names[stage])
    completes(world, session)


@pytest.mark.parametrize("order", [(0, 2), (2, 0), (1, 3), (3, 1)])
def test_nobody_is_left_for_a_stage_until_another_epoch_serves(world, order):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    for victim in order:
        world.kill(world.names[victim])
    world.run(3.0)
    told = len(ingress_of(world).tokens(session))
    assert told < TOKENS
    assert ingress_of(world).ending(session) is None
    left = [name for name in world.names[:4] if not world.cells[name].dead]
    decide(world, world.plan([*left, world.names[-1]], epoch=1))
    completes(world, session)
    others = [world.cells[name] for name in left]
    assert sum(cell.counts["kv_bytes", "sent"] for cell in others), "what was left of the KV was not computed again"


def test_every_machine_but_the_ingress_is_lost_and_one_comes_back(world):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    for name in world.names[:4]:
        world.kill(name)
    world.run(5.0)
    cell = world.restart(world.names[0])
    world.run(1.0)
    decide(world, world.plan([cell.name], epoch=1))
    completes(world, session)
    assert ingress_of(world).counts["sessions_resumed", "replay"] == 1


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(0, 1), (0, 4), (1, 4), (2, 4), (1, 3)])
def test_a_link_that_is_cut_is_gone_round(world, ends):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.break_link(*(world.names[end] for end in ends))
    completes(world, session)
    world.run(0.1)
    heal(world)


def test_a_link_that_only_hiccups_between_hosts_without_standbys():
    world = backed_world(2, standbys=0)
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.break_link(*world.names[:2])
    world.run(0.02)
    heal(world)
    begun = world.now
    completes(world, session)
    assert world.now - begun < 1.5
    world.check_idle()


@pytest.mark.parametrize("victim", HOSTS)
def test_every_frame_comes_twice(world, victim):
    inject = world.inject

    def twice(source: NodeId, target: NodeId, header: object, data: bytes | None = None) -> None:
        inject(source, target, header, data)
        if getattr(header, "session", None) is not None:
            inject(source, target, header, data)

    world.inject = twice
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.kill(world.names[victim])
    completes(world, session)
    assert ingress_of(world).counts["frames_dropped", "token"] > 0


@pytest.mark.parametrize("lost", [OpenSession, Resume, Activation])
def test_a_frame_that_is_swallowed_costs_time_and_nothing_else(world, lost):
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.loses = lambda header: isinstance(header, lost)
    world.kill(world.names[SECOND])
    world.run(1.0)
    world.loses = lambda header: False
    completes(world, session)


# --- light services ---------------------------------------------------------------------------------------------------


def helped(count: int) -> tuple[World, list[NodeId]]:
    """Only the ``count`` last nodes run services; the ingress, the one before them, and the hosts do not sample."""
    world = backed_world(1, outsiders=1 + count)
    samplers = tuple(name for name in NAMES if name.startswith("sampler"))
    helpers = world.names[-1 - count : -1]
    for cell in world.cells.values():
        cell.post(ServicesAvailable(NAMES if cell.name in helpers else samplers))
    world.run(1.0)
    return world, helpers


def helper_of(world: World) -> NodeId:
    (entry,) = ingress_of(world).node._ingress._ledger.entries()
    return entry.asked.where


@pytest.mark.parametrize("pause", [False, True], ids=["killed", "paused"])
@pytest.mark.parametrize("method", ["render", "encode", "open", "push", "flush"])
def test_a_service_lost_with_its_node_is_had_elsewhere(method, pause):
    world, _ = helped(2)
    pauses = Pauses(world)
    for cell in world.cells.values():
        cell.slow = {method, "flush"}  # which does not overtake
    stop = "".join(map(chr, toy_tokens(tuple(BODY), 8, TOKENS)[20:22]))
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS, stop=(stop + "never",))
    world.run(3.0)
    (pauses.pause if pause else world.kill)(helper_of(world))
    world.run(3.0)
    pauses.wake_all()
    completes(world, session)
    world.check_idle()


@pytest.mark.parametrize("at", [1, 10, 30])
def test_a_detokenizer_lost_between_two_tokens_goes_on_elsewhere_with_the_same_text(at):
    world, _ = helped(2)
    whole = "".join(map(chr, toy_tokens(tuple(BODY), 8, TOKENS)))
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS, stop=(whole[31:34],))
    world.run_until(shown(world, session, at))
    world.kill(helper_of(world))
    world.answer(ingress_of(world).name, session)
    pieces = [answer.piece.text for answer in ingress_of(world).answers[session] if hasattr(answer, "piece")]
    assert "".join(pieces) == whole[:31]
    assert ingress_of(world).ending(session).reason is FinishReason.STOP
    world.check_idle()


def test_a_detokenizer_that_nobody_runs_any_more_is_waited_for():
    world, (helper,) = helped(1)
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 10))
    world.kill(helper)
    world.run(20.0)
    assert ingress_of(world).ending(session) is None
    ingress_of(world).post(ServicesAvailable(NAMES))
    completes(world, session)
    world.check_idle()


def test_nothing_is_left_where_a_session_was(world):
    """Whoever ever had a part in it is told that it is over."""
    session = world.ask(ingress_of(world).name, CHAT, tokens_max=TOKENS)
    world.run_until(shown(world, session, 20))
    world.kill(world.names[FIRST])
    completes(world, session)
    told = {
        effect.peer
        for effect in ingress_of(world).asked(object)
        if isinstance(getattr(effect, "header", None), CloseSession)
    }
    assert told == set(world.names[:4])
