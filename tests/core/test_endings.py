"""Every way out of the book tells the client once, and the stages unless they are another ingress's."""

from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.calls import Calls
from shoal_agent.core.diary import Diarist
from shoal_agent.core.effects import Reject, SendFrame
from shoal_agent.core.endings import RETRY_AFTER_S, Endings
from shoal_agent.core.facts import FinishReason, GenerationRequest, RejectCode, TextPrompt
from shoal_agent.core.journey import Journey
from shoal_agent.core.ledger import Failure, Ledger
from shoal_agent.core.movers import Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.scribe import Scribe
from shoal_agent.core.service_classes import Classes, RequestClass, counts
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_protocol.headers import CloseSession
from shoal_protocol.ids import NodeId, SessionId
from tests.support.protocol import PLAN
from tests.support.toy import GREEDY
from tests.support.world import world_of

HERE, SESSION = NodeId("a" * 32), SessionId(bytes(16))
ASKED = GenerationRequest(SESSION, PLAN.deployment, TextPrompt("x"), GREEDY, 4, (), 2.0, kind="chat")


def endings(classes: Classes) -> Endings:
    """Those of a node that does nothing else."""
    tables, calls, ledger = Tables(classes=classes), Calls(HERE), Ledger()
    scribe = Scribe(HERE, tables, calls, Movers(HERE, tables, calls, Random(1)), ledger)
    return Endings(tables, ledger, scribe, Journey(HERE, tables, ledger), Diarist(HERE, tables))


@pytest.mark.parametrize("code", RejectCode)
def test_who_may_do_better_later_is_told_when(code):
    out = Outbox(HERE)
    endings(Classes(())).reject(ASKED, code, "why", out)
    (refusal,) = [effect for effect in out.effects if isinstance(effect, Reject)]
    other = (RejectCode.STOPPING, RejectCode.STARTING)
    passing = code in (RejectCode.OVERLOADED, *other, RejectCode.NOT_READY, RejectCode.STAGE_LOST)
    assert refusal == Reject(SESSION, code, "why", RETRY_AFTER_S if passing else None)


def test_a_refusal_that_knows_better_says_when():
    out = Outbox(HERE)
    endings(Classes(())).reject(ASKED, RejectCode.OVERLOADED, "why", out, 7.0)
    assert out.effects[-1].retry_after_s == 7.0


@pytest.mark.parametrize("code", RejectCode)
@pytest.mark.parametrize("part", [True, False])
def test_a_refusal_is_late_unless_it_counts_for_nobody_or_for_something_larger(code, part):
    classes = Classes([RequestClass("chat", 20_000.0, 0.1)])
    endings(classes).reject(replace(ASKED, part=part), code, "why", Outbox(HERE))
    assert classes.level("chat") == pytest.approx(0.9 if counts(code) and not part else 0.0)


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


@pytest.mark.parametrize("code", [RejectCode.OVERLOADED, RejectCode.DEADLINE, RejectCode.BAD_PROMPT])
def test_a_request_that_never_began_counts_as_its_refusal_does(code):
    world = world_of(2)
    cell = world.cells[world.names[2]]
    ingress = cell.node._ingress
    ingress._endings._classes = classes = Classes([RequestClass("chat", 20_000.0, 0.1)])
    world.ask(cell.name, deadline_s=0.2)
    world.run_until(lambda: ingress.request_count == 1)
    (entry,) = ingress._ledger.entries()
    entry.request = replace(entry.request, kind="chat")
    ingress._endings.heed(entry, Failure(code, "why"), world.now, Outbox(cell.name))
    assert classes.level("chat") == pytest.approx(0.9 if counts(code) else 0.0)


def test_once_a_deployment_is_slow_its_voters_think_at_once():
    world = world_of(2)
    cell = world.cells[world.names[2]]
    session = world.ask(cell.name, tokens_max=100)
    world.run_until(lambda: len(cell.tokens(session)) >= 3)
    ingress, tables = cell.node._ingress, cell.node._tables
    (entry,) = ingress._ledger.entries()
    for past in (9.0, 7.0, 5.0, 3.0):
        tables.lateness.ended(entry.plan.deployment, world.now - past, late=True)
    tables.timers.set(Routine.STEER, world.now + 2.0)
    ingress._endings.finish(entry, FinishReason.DEADLINE, "", "", world.now, Outbox(cell.name))
    assert Routine.STEER in tables.timers.due(world.now)
