"""What befalls requests: clients that leave, deadlines, lost nodes and links, in every step of a request."""

import pytest

from shoal_agent.core import services
from shoal_agent.core.effects import ErrandEnded, SendFrame
from shoal_agent.core.endings import RETRY_AFTER_S
from shoal_agent.core.events import CancelRequested, ErrandArrived, StopRequested
from shoal_agent.core.facts import ChatPrompt, FinishReason, RejectCode, TextPrompt
from shoal_agent.core.ingress import COMING_BACK_S
from shoal_agent.core.ledger import BEGIN_S_MAX
from shoal_protocol.headers import (
    RefusalCode,
    ServiceCall,
    ServiceResult,
    SessionRefused,
)
from shoal_protocol.limits import ORPHAN_S_MAX
from tests.support.toy import toy_tokens
from tests.support.world import World, world_of

CHAT = ChatPrompt(services.pack(services.RenderRequest((services.ChatMessage("user", "hello"),), True)))
BODY = tuple(b"hello")
STEPS = {"rendering": "render", "encoding": "encode", "opening": "open", "streaming": "sample"}
"""A step of a request, and the method that keeps it there while it is not answered."""


@pytest.fixture
def world():
    made = world_of(2, 2)
    yield made
    made.check_idle()


@pytest.mark.parametrize("bare", [False, True], ids=["services here", "services abroad"])
@pytest.mark.parametrize("step", STEPS)
def test_a_client_may_leave_in_any_step(step, bare):
    world = World(4)
    ingress = world.cells[world.names[3]]
    world.start(without_services=(ingress.name,) if bare else ())
    world.deploy(world.names[:2])
    world.hold(STEPS[step])
    session = world.ask(ingress.name, CHAT)
    world.run(0.1)
    assert ingress.node._ingress._ledger.get(session).step.value == step
    ingress.post(CancelRequested(session))
    ending = ingress.ending(session)
    assert (ending.reason, ending.usage.completion_tokens) == (FinishReason.CANCELLED, 0)
    assert not ingress.node._calls._abroad, "nobody waits for an answer any more"
    ingress.post(CancelRequested(session))
    world.check_idle()
    assert world.answer(ingress.name, world.ask(ingress.name, CHAT)) == toy_tokens(BODY, 8, 8)


@pytest.mark.parametrize("step", STEPS)
def test_a_deadline_may_come_in_any_step(world, step):
    ingress = world.cells[world.names[3]]
    world.hold(STEPS[step])
    session = world.ask(ingress.name, CHAT, deadline_s=1.0)
    world.run(0.99)
    assert ingress.ending(session) is None
    world.run(0.02)
    ending = ingress.ending(session)
    if step == "streaming":
        assert (ending.reason, ending.detail) == (FinishReason.DEADLINE, "not done within 1 s")
    else:
        assert (ending.code, ending.retry_after_s) == (RejectCode.DEADLINE, None)
    world.run(2.0)
    assert not any(cell.node.snapshot(world.now).sessions for cell in world.cells.values())


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_a_host_that_is_lost_and_not_replaced_costs_who_was_promised_nothing_some_patience(world, step, lost):
    """Whoever reads already waits for a machine until the deadline; see test_survival.py for what comes of it."""
    ingress = world.cells[world.names[3]]
    world.hold(STEPS[step])
    session = world.ask(ingress.name, CHAT, deadline_s=20.0)
    world.run(0.1)
    world.kill(world.names[lost])
    world.run(0.1)
    for cell in world.cells.values():
        cell.release()
    world.run(17.0)
    ending = ingress.ending(session)
    if step == "streaming":
        assert ending is None
        assert world.ended(ingress.name, session).reason is FinishReason.DEADLINE
    else:
        assert (ending.code, ending.retry_after_s) == (RejectCode.STAGE_LOST, RETRY_AFTER_S)


@pytest.mark.parametrize("ingress", [0, 1, 3], ids=["first host", "last host", "no host"])
def test_a_lost_ingress_leaves_nothing_on_the_hosts(world, ingress):
    world.ask(world.names[ingress], tokens_max=100)
    other = world.ask(world.names[2], (4, 5), tokens_max=50, deadline_s=5.0)
    world.run(0.1)
    world.kill(world.names[ingress])
    if ingress == 3:
        assert world.answer(world.names[2], other) == toy_tokens((4, 5), 8, 50)
    else:
        assert world.ended(world.names[2], other).reason is FinishReason.DEADLINE
    world.run(ORPHAN_S_MAX)


def test_a_complete_answer_does_not_fail_with_a_stage_it_no_longer_needs(world):
    ingress = world.cells[world.names[3]]
    ingress.slow = {"push"}
    session = world.ask(ingress.name, tokens_max=3)
    world.run(1.0)
    last = world.names[1]
    refusal = SessionRefused(session, 1, RefusalCode.STAGE_FAILED, "too late")
    world.inject(last, ingress.name, refusal)
    world.kill(last)
    world.run(0.1)
    assert ingress.ending(session) is None
    ingress.release()
    assert world.answer(ingress.name, session) == toy_tokens((1, 2, 3), 8, 3)
    assert ingress.ending(session).reason is FinishReason.LENGTH


def test_a_node_that_stops_finishes_what_it_has_and_takes_nothing_new(world):
    ingress = world.cells[world.names[3]]
    streaming = world.ask(ingress.name, tokens_max=100)
    world.run(0.1)
    ingress.post(StopRequested())
    late = world.ask(ingress.name)
    refusal = ingress.ending(late)
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.STOPPING, RETRY_AFTER_S)
    assert world.answer(ingress.name, streaming) == toy_tokens((1, 2, 3), 8, 100)
    world.run_until(lambda: ingress.dead)


def test_a_node_that_said_goodbye_begins_nothing_while_its_process_ends(world):
    ingress = world.cells[world.names[3]]
    ingress.post(StopRequested())
    world.run_until(lambda: ingress.dead)
    ingress.dead = False
    refusal = ingress.ending(world.ask(ingress.name))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.STOPPING, RETRY_AFTER_S)
    ingress.post(ErrandArrived(1, (("tokenizer", "encode"),), b"", 1.0))
    (ended,) = [effect for effect in ingress.light if isinstance(effect, ErrandEnded)]
    assert ended.code is RejectCode.STOPPING
    ingress.dead = True


def test_a_node_that_is_asked_twice_to_stop_leaves_nobody_without_an_ending(world):
    ingress = world.cells[world.names[3]]
    streaming = world.ask(ingress.name, tokens_max=100)
    world.run(0.1)
    begun = world.ask(ingress.name)
    ingress.post(StopRequested())
    ingress.post(StopRequested())
    assert ingress.ending(streaming).reason is FinishReason.FAILED
    refusal = ingress.ending(begun)
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.STOPPING, RETRY_AFTER_S)
    assert ingress.dead


def test_a_service_abroad_that_answers_nonsense_is_counted_and_costs_one_request():
    world = World(3)
    bare, *hosts = world.names
    world.start(without_services=(bare,))
    world.deploy(hosts)
    world.hold("encode")
    session = world.ask(bare, TextPrompt("hello"))
    (frame,) = [frame for frame in world.cells[bare].asked(SendFrame) if isinstance(frame.header, ServiceCall)]
    world.inject(bare, bare, ServiceResult(frame.header.call, "", None), b"not from the one that was asked")
    assert world.cells[bare].ending(session) is None
    world.inject(frame.peer, bare, ServiceResult(frame.header.call, "", None), b"\xc1")
    assert world.cells[bare].ending(session).code is RejectCode.INTERNAL
    assert world.cells[bare].counts["service_answers_rejected", "malformed"] == 1
    world.check_idle()
    assert world.answer(bare, world.ask(bare, TextPrompt("hello"))) == toy_tokens(BODY, 8, 8)


def test_a_tokenizer_abroad_that_is_lost_is_not_the_clients_fault():
    world = World(4)
    bare, helper, *hosts = world.names
    world.start(without_services=(bare, *hosts))
    world.deploy(hosts)
    world.hold("encode")
    session = world.ask(bare, TextPrompt("hello"))
    world.run(0.1)
    world.kill(helper)
    begun = world.now
    ending = world.ended(bare, session)
    assert (ending.code, ending.retry_after_s) == (RejectCode.NOT_READY, RETRY_AFTER_S)
    assert ending.detail.startswith("no node runs tokenizer")
    assert world.now - begun == pytest.approx(BEGIN_S_MAX, abs=0.5)


def test_whoever_has_only_just_come_back_says_so_and_not_that_nothing_serves(world):
    cell = world.cells[world.names[0]]
    cell.node._tables.tenures.lost.update(world.names)
    for age_s, code in ((0.0, RejectCode.STARTING), (COMING_BACK_S + 1.0, RejectCode.NOT_READY)):
        cell.node._tables.restored = world.now - age_s
        refusal = world.ended(cell.name, world.ask(cell.name))
        assert (refusal.code, refusal.retry_after_s) == (code, RETRY_AFTER_S)
