from dataclasses import replace

import pytest

from shoal_agent.core import services
from shoal_agent.core.effects import CallService, Emit, Reject, SendFrame
from shoal_agent.core.events import ServiceFailed, ServicesAvailable
from shoal_agent.core.facts import ChatPrompt, FinishReason, RejectCode
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.scribe import MISHAPS_MAX
from shoal_protocol.headers import ServiceCall, ServiceFault
from shoal_protocol.ids import Instant, NodeId, SessionId
from tests.support.ordeal import ingress_of
from tests.support.toy import GREEDY, NAMES, toy_tokens
from tests.support.world import World, world_of

SAMPLERS = tuple(name for name in NAMES if name.startswith("sampler"))
TOKENS = 30


@pytest.fixture
def world():
    """One host, one ingress, and two nodes between them that run all services but the sampler."""
    made = world_of(1, 3)
    for name in (made.names[0], made.names[-1]):
        made.cells[name].post(ServicesAvailable(SAMPLERS))
    made.run(1.0)
    yield made
    made.check_idle()


def asked_at(world: World, session: SessionId) -> NodeId:
    return ingress_of(world).node._ingress._ledger.get(session).asked.where


def calls(world: World, method: str) -> list[ServiceCall]:
    sent = ingress_of(world).asked(SendFrame)
    return [frame for frame in sent if isinstance(frame.header, ServiceCall) and frame.header.method == method]


def run_to(world: World, session: SessionId, count: int) -> None:
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= count)


def text_of(world: World, session: SessionId) -> str:
    cell = ingress_of(world)
    said = "".join(answer.piece.text for answer in cell.answers[session] if isinstance(answer, Emit))
    return said + cell.ending(session).tail


def test_a_new_detokenizer_is_told_all_tokens_and_its_answers_to_the_shown_ones_are_dropped(world):
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    run_to(world, session, 10)
    first = asked_at(world, session)
    world.kill(first)
    tokens = toy_tokens((1, 2, 3), 8, TOKENS)
    assert world.answer(ingress_of(world).name, session) == tokens
    assert text_of(world, session) == "".join(map(chr, tokens))
    pushed = [frame.peer for frame in calls(world, "push")]
    assert len(pushed) - pushed.count(first) == TOKENS
    assert {frame.peer for frame in calls(world, "open")} == set(world.names[1:3])


def test_what_was_held_back_for_a_stop_string_is_held_back_elsewhere_too(world):
    whole = "".join(map(chr, toy_tokens((1, 2, 3), 8, TOKENS)))
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS, stop=(whole[9:13],))
    run_to(world, session, 11)
    assert "".join(a.piece.text for a in ingress_of(world).answers[session] if isinstance(a, Emit)) == whole[:9]
    world.kill(asked_at(world, session))
    assert world.ended(ingress_of(world).name, session).reason is FinishReason.STOP
    assert text_of(world, session) == whole[:9]


def test_log_probabilities_go_on_with_their_bytes(world):
    sampling = replace(GREEDY, top_logprobs=2)
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS, sampling=sampling)
    run_to(world, session, 10)
    world.kill(asked_at(world, session))
    world.answer(ingress_of(world).name, session)
    emitted = [answer.piece for answer in ingress_of(world).answers[session] if isinstance(answer, Emit)]
    assert [piece.logprob.text for piece in emitted] == [chr(piece.token).encode() for piece in emitted]
    assert all(len(piece.logprob.top) == 2 for piece in emitted)


def test_tokens_are_drawn_while_the_detokenizer_is_replaced(world):
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    run_to(world, session, 5)
    world.hold("open")
    world.kill(asked_at(world, session))
    world.run(1.0)
    entry = ingress_of(world).node._ingress._ledger.get(session)
    assert len(entry.unshown) > 10
    for cell in world.cells.values():
        cell.release()
    assert world.answer(ingress_of(world).name, session) == toy_tokens((1, 2, 3), 8, TOKENS)


def test_a_detokenizer_that_forgot_the_session_is_replaced(world):
    """Its node restarted, or had to make room."""
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    run_to(world, session, 10)
    world.cells[asked_at(world, session)].services.texts.clear()
    assert world.answer(ingress_of(world).name, session) == toy_tokens((1, 2, 3), 8, TOKENS)


def test_a_service_without_room_is_asked_until_it_has_some(world):
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    run_to(world, session, 10)
    for cell in world.cells.values():
        cell.faults["push"] = ServiceFault.BUSY
    world.run(10.0)
    for cell in world.cells.values():
        cell.faults.clear()
    assert world.answer(ingress_of(world).name, session) == toy_tokens((1, 2, 3), 8, TOKENS)


@pytest.mark.parametrize("fault", [ServiceFault.REFUSED, ServiceFault.FAILED])
def test_a_service_that_fails_a_reader_again_and_again_ends_the_answer_at_last(world, fault):
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    run_to(world, session, 10)
    for cell in world.cells.values():
        cell.faults["push"] = fault
    ending = world.ended(ingress_of(world).name, session)
    assert ending.reason is FinishReason.FAILED
    assert ending.detail == f"push: {fault.name}"
    failed = len(calls(world, "open")) - 1
    assert failed == MISHAPS_MAX


def test_one_failure_is_forgiven(world):
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    run_to(world, session, 10)
    world.cells[asked_at(world, session)].faults["push"] = ServiceFault.FAILED
    assert world.answer(ingress_of(world).name, session) == toy_tokens((1, 2, 3), 8, TOKENS)


def test_what_a_lost_service_answers_later_is_dropped(world):
    """The link broke, and the answer came all the same."""
    world.hold("check")
    session = world.ask(ingress_of(world).name, tokens_max=TOKENS)
    world.run(0.1)
    first = asked_at(world, session)
    world.break_link(first, ingress_of(world).name)
    world.run(0.05)
    world.cut.clear()
    for cell in world.cells.values():
        cell.release()
    assert world.answer(ingress_of(world).name, session) == toy_tokens((1, 2, 3), 8, TOKENS)


def test_a_tokenizer_that_goes_between_two_steps_is_waited_for():
    """The template is rendered here; the only tokenizer is lost, and another node gets one a moment later."""
    world = world_of(1, 3)
    ingress, tokenizer, other = world.cells[world.names[3]], world.names[1], world.cells[world.names[2]]
    without = tuple(name for name in NAMES if not name.startswith("tokenizer"))
    for cell in (ingress, other, world.cells[world.names[0]]):
        cell.post(ServicesAvailable(without))
    world.run(1.0)
    chat = ChatPrompt(services.pack(services.RenderRequest((services.ChatMessage("user", "hello"),), True)))
    for cell in world.cells.values():
        cell.slow = {"encode"}
    session = world.ask(ingress.name, chat, tokens_max=5)
    world.run(0.1)
    world.kill(tokenizer)
    world.run(2.0)
    assert ingress.ending(session) is None
    other.post(ServicesAvailable(NAMES))
    world.run(1.0)
    for cell in world.cells.values():
        cell.release()
    assert world.answer(ingress.name, session) == toy_tokens(tuple(b"hello"), 8, 5)
    world.check_idle()


def test_a_local_service_is_no_frame():
    world = world_of(1)
    session = world.ask(world.names[1], tokens_max=3)
    world.answer(world.names[1], session)
    assert [call.method for call in world.cells[world.names[1]].asked(CallService)].count("push") == 3
    assert not calls(world, "push")
    world.check_idle()


def test_without_a_service_anywhere_nothing_is_promised(world):
    for name in world.names[1:3]:
        world.cells[name].post(ServicesAvailable(()))
    world.run(1.0)
    rejection = world.ended(ingress_of(world).name, world.ask(ingress_of(world).name))
    assert rejection.code is RejectCode.NOT_READY
    assert services.ServiceKind.TOKENIZER in rejection.detail


def test_a_detokenizer_abroad_forgets_a_request_whose_deadline_came(world):
    session = world.ask(ingress_of(world).name, tokens_max=100, deadline_s=0.1)
    run_to(world, session, 1)
    where = asked_at(world, session)
    assert where != ingress_of(world).name
    assert world.cells[where].services.texts
    assert world.ended(ingress_of(world).name, session).reason is FinishReason.DEADLINE
    world.run(0.1)
    assert not world.cells[where].services.texts


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ServiceFault.REFUSED, RejectCode.BAD_PROMPT),
        (ServiceFault.BUSY, RejectCode.DEADLINE),
        (ServiceFault.FAILED, RejectCode.DEADLINE),
    ],
)
def test_who_was_too_late_may_say_so_before_our_alarm(world, fault, code):
    """Others know the deadline in whole milliseconds; the answer comes within the last one, and before the alarm."""
    cell = ingress_of(world)
    world.hold("check")
    session = world.ask(cell.name, deadline_s=1.0)
    world.run(0.5)
    entry = cell.node._ingress._ledger.get(session)
    out, call = Outbox(cell.name), entry.call
    cell.node._ingress.answered(ServiceFailed(call, "no time for it", fault), Instant(entry.deadline - 0.0005), out)
    (rejection,) = [effect for effect in out.effects if isinstance(effect, Reject)]
    assert rejection.code is code
    if code is RejectCode.DEADLINE:
        assert (rejection.detail, rejection.retry_after_s) == ("not done within 1 s", None)
