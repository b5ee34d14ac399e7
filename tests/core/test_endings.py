"""Every way out of the book tells the client once, and the stages unless they are another ingress's."""

from dataclasses import replace

import pytest

from shoal_agent.core.effects import Reject, SendFrame
from shoal_agent.core.endings import RETRY_AFTER_S, Endings
from shoal_agent.core.facts import FinishReason, RejectCode
from shoal_agent.core.ledger import Failure
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.service_classes import Classes, RequestClass
from shoal_protocol.headers import CloseSession
from shoal_protocol.ids import NodeId, SessionId
from tests.support.world import world_of

SESSION = SessionId(bytes(16))


@pytest.mark.parametrize("code", RejectCode)
def test_who_may_do_better_later_is_told_when(code):
    out = Outbox(NodeId("a" * 32))
    Endings.reject(SESSION, code, "why", out)
    (refusal,) = [effect for effect in out.effects if isinstance(effect, Reject)]
    other = (RejectCode.STOPPING, RejectCode.STARTING)
    passing = code in (RejectCode.OVERLOADED, *other, RejectCode.NOT_READY, RejectCode.STAGE_LOST)
    assert refusal == Reject(SESSION, code, "why", RETRY_AFTER_S if passing else None)


def test_a_refusal_that_knows_better_says_when():
    out = Outbox(NodeId("a" * 32))
    Endings.reject(SESSION, RejectCode.OVERLOADED, "why", out, 7.0)
    assert out.effects[-1].retry_after_s == 7.0


@pytest.mark.parametrize("released", [True, False])
def test_stages_are_told_unless_the_stream_was_released(released):
    world = world_of(2)
    cell = world.cells[world.names[2]]
    session = world.ask(cell.name, tokens_max=100)
    world.run_until(lambda: len(cell.tokens(session)) >= 3)
    ingress, before = cell.node._ingress, len(world.log)
    (entry,) = ingress._ledger.entries()
    out = Outbox(cell.name)
    if released:
        ingress._endings.release(entry, "gone on", out)
    else:
        ingress._endings.finish(entry, FinishReason.CANCELLED, "", "", world.now, out)
    assert ingress.request_count == 0
    told = [effect for effect in out.effects if isinstance(effect, SendFrame)]
    assert any(isinstance(effect.header, CloseSession) for effect in told) != released
    assert len(world.log) == before
    ingress.check()


@pytest.mark.parametrize(
    ("reason", "owed"),
    [(FinishReason.STOP, 0.0), (FinishReason.DEADLINE, 0.9), (FinishReason.FAILED, 0.9), (FinishReason.CANCELLED, 0.0)],
)
def test_what_ends_late_is_owed_to_its_class(reason, owed):
    world = world_of(2)
    cell = world.cells[world.names[2]]
    session = world.ask(cell.name, tokens_max=100)
    world.run_until(lambda: len(cell.tokens(session)) >= 3)
    ingress = cell.node._ingress
    (entry,) = ingress._ledger.entries()
    entry.request = replace(entry.request, kind="chat")
    ingress._endings._classes = classes = Classes([RequestClass("chat", 20_000.0, 0.1)])
    ingress._endings.finish(entry, reason, "", "", world.now, Outbox(cell.name))
    assert classes.level("chat") == pytest.approx(owed)


def test_a_step_of_something_larger_counts_to_no_class_by_itself():
    world = world_of(2)
    cell = world.cells[world.names[2]]
    session = world.ask(cell.name, tokens_max=100)
    world.run_until(lambda: len(cell.tokens(session)) >= 3)
    ingress = cell.node._ingress
    (entry,) = ingress._ledger.entries()
    entry.request = replace(entry.request, kind="chat", part=True)
    ingress._endings._classes = classes = Classes([RequestClass("chat", 20_000.0, 0.1)])
    ingress._endings.finish(entry, FinishReason.FAILED, "", "", world.now, Outbox(cell.name))
    assert classes.level("chat") == 0.0


def test_a_request_that_never_began_is_late_too():
    world = world_of(2)
    cell = world.cells[world.names[2]]
    ingress = cell.node._ingress
    ingress._endings._classes = classes = Classes([RequestClass("chat", 20_000.0, 0.1)])
    world.ask(cell.name, deadline_s=0.2)
    world.run_until(lambda: ingress.request_count == 1)
    (entry,) = ingress._ledger.entries()
    entry.request = replace(entry.request, kind="chat")
    ingress._endings.heed(entry, Failure(RejectCode.OVERLOADED, "why"), world.now, Outbox(cell.name))
    assert classes.level("chat") == pytest.approx(0.9)
