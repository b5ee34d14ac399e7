"""The loop's own promises, around a scripted node: order, no re-entrance, one timer, streams, our own mistakes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from shoal_agent.core.effects import (
    Accept,
    AdoptIncarnation,
    Broadcast,
    CallService,
    Count,
    Effect,
    Emit,
    ErrandEnded,
    Finish,
    Listen,
    Persist,
    PipelineJudged,
    Reject,
    Stop,
)
from shoal_agent.core.events import (
    BrokerConnected,
    CancelRequested,
    ErrandArrived,
    ErrandCancelled,
    Event,
    PipelineArrived,
    PipelineEnded,
    RequestArrived,
    ServiceReturned,
    StageFinished,
    StepAhead,
    StopRequested,
    TimePassed,
)
from shoal_agent.core.facts import (
    CallId,
    FinishReason,
    GenerationRequest,
    Piece,
    RejectCode,
    TokenPrompt,
    Usage,
)
from shoal_agent.shell.clock import Clock
from shoal_agent.shell.runtime import Drivers, Runtime
from shoal_agent.shell.tensors import Tensors
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import DeploymentId, Incarnation, Instant, SessionId

WAIT_S = 5.0
REQUEST = GenerationRequest(
    SessionId(b"s" * 16), DeploymentId("toy"), TokenPrompt((1,)), Sampling(0.0, 0, 1.0, 1.0, 0, -1), 4, (), 10.0
)
CALL = CallService(CallId(1), "tokenizer:toy", "encode", b"", None)


@dataclass
class Script:
    """A node whose answers are written down; notices being entered twice."""

    answers: dict[type, Callable[[Any], list[Effect]]]
    seen: list[Event] = field(default_factory=list)
    wake: Instant | None = None
    checks: int = 0
    busy: bool = False

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        assert not self.busy, "handle was entered twice"
        self.busy = True
        self.seen.append(event)
        try:
            return self.answers.get(type(event), lambda _event: [])(event)
        finally:
            self.busy = False

    def deadline(self) -> Instant | None:
        return self.wake

    def check(self) -> None:
        self.checks += 1


@dataclass
class World:
    """Stands where every driver stands; remembers what was asked, in order."""

    runtime: Runtime
    asked: list[object] = field(default_factory=list)

    def publish(self, effect: Broadcast) -> None:
        self.asked.append(effect)

    def listen(self, shards: tuple[int, ...]) -> None:
        self.asked.append(Listen(shards))

    def persist(self, name: str, data: bytes) -> None:
        self.asked.append(Persist(name, data))

    def adopt(self, incarnation: Incarnation) -> None:
        self.asked.append(AdoptIncarnation(incarnation))

    def count(self, name: str, label: str, amount: int = 1) -> None:
        self.asked.append(Count(name, label, amount))

    def stage_run(self, seconds: float) -> None:
        self.asked.append(seconds)

    def call(self, effect: CallService) -> None:
        self.asked.append(effect)
        self.runtime.post(ServiceReturned(effect.call, b""))
        self.asked.append("call returned")


def build(script: Script) -> tuple[Runtime, World]:
    runtime = Runtime(script, Clock().now)
    world = World(runtime)
    runtime.attach(Drivers(world, world, world, world, world, Tensors(), world, world, world, world))
    return runtime, world


async def test_effects_are_performed_in_order_and_persist_comes_before_what_follows():
    said = Broadcast("t", b"w", True, True, 60)
    wanted = [
        Persist("vote", b"1"),
        AdoptIncarnation(Incarnation(7)),
        said,
        Listen((1, 2)),
        Count("broker_links", "up"),
    ]
    runtime, world = build(Script({BrokerConnected: lambda _event: list(wanted)}))
    runtime.post(BrokerConnected("b"))
    assert world.asked == wanted


async def test_an_event_posted_while_effects_are_performed_waits_for_the_whole_list():
    script = Script(
        {
            BrokerConnected: lambda _event: [CALL, Count("a", "after the call")],
            ServiceReturned: lambda _event: [Count("b", "answer")],
        }
    )
    runtime, world = build(script)
    runtime.post(BrokerConnected("b"))
    assert world.asked == [CALL, "call returned", Count("a", "after the call"), Count("b", "answer")]


async def test_events_posted_before_the_drivers_are_attached_are_not_lost():
    script = Script({})
    runtime = Runtime(script, Clock().now)
    runtime.post(BrokerConnected("early"))
    assert script.seen == []
    world = World(runtime)
    runtime.attach(Drivers(world, world, world, world, world, Tensors(), world, world, world, world))
    assert script.seen == [BrokerConnected("early")]


async def test_the_timer_rings_once_at_the_deadline_and_then_invariants_are_checked():
    clock = Clock()
    rung = asyncio.Event()
    script = Script({})

    def ring(_event: TimePassed) -> list[Effect]:
        script.wake = None
        rung.set()
        return []

    script.answers[TimePassed] = ring
    runtime, _ = build(script)
    script.wake = Instant(clock.now() + 0.02)
    runtime.post(BrokerConnected("b"))
    async with asyncio.timeout(WAIT_S):
        await rung.wait()
    await asyncio.sleep(0.05)
    assert script.seen.count(TimePassed()) == 1
    assert script.checks == 1


async def test_an_earlier_deadline_replaces_a_later_one():
    clock = Clock()
    rung = asyncio.Event()
    script = Script({})

    def ring(_event: TimePassed) -> list[Effect]:
        script.wake = None
        rung.set()
        return []

    script.answers[TimePassed] = ring
    runtime, _ = build(script)
    script.wake = Instant(clock.now() + 3600)
    runtime.post(BrokerConnected("b"))
    script.wake = Instant(clock.now() + 0.01)
    runtime.post(BrokerConnected("b"))
    async with asyncio.timeout(WAIT_S):
        await rung.wait()


async def test_a_stream_yields_until_its_ending_and_is_forgotten():
    piece = Piece(7, "x", None)
    ending = Finish(REQUEST.session, FinishReason.STOP, "", Usage(1, 1), "")
    script = Script({RequestArrived: lambda _event: [Accept(REQUEST.session, 1), Emit(REQUEST.session, piece), ending]})
    runtime, _ = build(script)
    answers = [answer async for answer in runtime.generate(REQUEST, lingers=False)]
    assert answers == [Accept(REQUEST.session, 1), Emit(REQUEST.session, piece), ending]
    assert runtime.stream_count == 0
    assert not any(isinstance(event, CancelRequested) for event in script.seen)


async def test_a_rejection_is_an_ending():
    rejection = Reject(REQUEST.session, RejectCode.OVERLOADED, "full", 1.0)
    runtime, _ = build(Script({RequestArrived: lambda _event: [rejection]}))
    assert [answer async for answer in runtime.generate(REQUEST, lingers=False)] == [rejection]


async def test_closing_a_stream_early_cancels_the_session():
    script = Script({RequestArrived: lambda _event: [Accept(REQUEST.session, 1)]})
    runtime, _ = build(script)
    stream = runtime.generate(REQUEST, lingers=False)
    assert await anext(stream) == Accept(REQUEST.session, 1)
    await stream.aclose()
    assert script.seen[-1] == CancelRequested(REQUEST.session)
    assert runtime.stream_count == 0


async def test_an_errand_that_nobody_waits_for_is_cancelled_and_one_that_is_over_is_not():
    script = Script({})
    runtime, _ = build(script)
    steps = (("turn", "around"),)
    gone = asyncio.create_task(runtime.run(steps, b"abc", 5.0))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert script.seen == [ErrandArrived(1, steps, b"abc", 5.0), ErrandCancelled(1)]
    script.answers[ErrandArrived] = lambda event: [ErrandEnded(event.errand, b"cba", None, "")]
    assert (await runtime.run(steps, b"abc", 5.0)).result == b"cba"
    judged = PipelineJudged(1, 0.5, None, "", None)
    script.answers[PipelineArrived] = lambda _: [judged]
    assert await runtime.judge("compare", "search", 5.0, (StepAhead("a", (), 4, "turn"),)) is judged
    assert script.seen.pop() == PipelineArrived(1, "compare", "search", 5.0, (StepAhead("a", (), 4, "turn"),))
    runtime.ended("search", late=True)
    assert script.seen[3:] == [PipelineEnded("search", late=True)]


async def test_an_answer_nobody_reads_any_more_is_dropped():
    runtime, _ = build(Script({BrokerConnected: lambda _event: [Accept(REQUEST.session, 1)]}))
    runtime.post(BrokerConnected("b"))
    assert runtime.stream_count == 0


async def test_the_time_of_every_stage_run_is_measured():
    runtime, world = build(Script({}))
    runtime.post(StageFinished(REQUEST.session, 0, 0, None, (), 0.25))
    assert world.asked == [0.25]


async def test_stop_ends_the_process_without_a_fault():
    runtime, _ = build(Script({StopRequested: lambda _event: [Stop()]}))
    runtime.post(StopRequested())
    assert runtime.stopped.result() is None


async def test_a_mistake_of_ours_ends_the_process_with_it():
    def broken(_event: Event) -> list[Effect]:
        raise AssertionError("the books do not balance")

    runtime, _ = build(Script({BrokerConnected: broken}))
    with pytest.raises(AssertionError, match="balance"):
        runtime.post(BrokerConnected("b"))
    with pytest.raises(AssertionError, match="balance"):
        runtime.stopped.result()


async def test_a_driver_that_fails_ends_the_process_once():
    runtime, _ = build(Script({}))
    runtime.fail(RuntimeError("first"))
    runtime.fail(RuntimeError("second"))
    with pytest.raises(RuntimeError, match="first"):
        runtime.stopped.result()
