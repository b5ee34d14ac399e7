from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.calls import Calls
from shoal_agent.core.effects import CallService, ErrandEnded, SendFrame
from shoal_agent.core.errands import Errands
from shoal_agent.core.events import ErrandArrived, ServiceFailed, ServiceReturned
from shoal_agent.core.facts import RejectCode
from shoal_agent.core.movers import ASKS_MAX, Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.service_classes import Classes, RequestClass
from shoal_agent.core.services import EmbedRequest, EncodeAnswer, pack
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import ErrandDeadline
from shoal_protocol.headers import ServiceCall, ServiceFault
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.light import DigestTold, ServiceLoad
from shoal_protocol.limits import REQUESTS_MAX
from shoal_protocol.messages import NodePhase, NodeState
from tests.support.protocol import MESSAGES

RECORD = next(message for message in MESSAGES if isinstance(message, NodeState))
HERE, *PEERS = (NodeId(letter * 32) for letter in "habcd")
MINE, THEIRS = "tokenizer:00", "embedder:00"
NOW = Instant(10.0)
BOTH = ((MINE, "encode"), (THEIRS, "embed"))


class Scene:
    def __init__(self) -> None:
        self.tables, self.calls = Tables(), Calls(HERE)
        self.tables.services = (MINE,)
        for peer in PEERS:
            state = replace(RECORD, services=(THEIRS,), links=())
            self.tables.membership.merge(peer, Incarnation(1), state, NOW, fresh=True)
        self.movers = Movers(HERE, self.tables, self.calls, Random(1))
        self.errands = Errands(HERE, self.tables, self.calls, self.movers)

    def do(self, act, *arguments) -> list:
        out = Outbox(HERE)
        act(*arguments, out)
        self.errands.check()
        self.movers.check()
        return [e for e in out.effects if isinstance(e, CallService | SendFrame | ErrandEnded)]

    def arrive(self, number: int = 1, steps=BOTH) -> list:
        return self.do(self.errands.arrived, ErrandArrived(number, steps, b"text", 5.0), NOW)

    def answer(self, event, now=NOW) -> list:
        event = self.movers.answered(event, now, Outbox(HERE))
        assert self.errands.owns(event)
        return self.do(self.errands.answered, event, now)

    def abroad(self, effects) -> tuple[NodeId, ServiceCall]:
        (frame,) = effects
        assert isinstance(frame.header, ServiceCall)
        return frame.peer, frame.header


def test_the_calls_of_an_errand_carry_what_its_class_is_owed():
    scene = Scene()
    scene.tables.classes = Classes([RequestClass("chat", 300.0, 0.05)])
    for _ in range(2):
        scene.tables.classes.ended("chat", late=True)
    for kind, milli in (("chat", 1900), ("", 0), ("unknown", 0)):
        asked = ErrandArrived(len(kind), ((THEIRS, "embed"),), b"ids", 5.0, kind)
        _, header = scene.abroad(scene.do(scene.errands.arrived, asked, NOW))
        assert header.owed_milli == milli


@pytest.fixture
def scene():
    return Scene()


def test_each_answer_is_the_next_ones_request(scene):
    (first,) = scene.arrive()
    assert (first.service, first.method, first.request) == (MINE, "encode", b"text")
    effects = scene.answer(ServiceReturned(first.call, b"ids"))
    peer, header = scene.abroad(effects)
    assert peer in PEERS
    assert (header.service, header.method, effects[0].payload) == (THEIRS, "embed", b"ids")
    (ended,) = scene.answer(ServiceReturned(header.call, b"vector"))
    assert ended == ErrandEnded(1, b"vector", None, "")
    assert len(scene.errands) == 0
    assert ErrandDeadline(1) not in scene.tables.timers


def test_ids_as_they_were_encoded_can_be_embedded():
    assert pack(EncodeAnswer((1, 2, 300))) == pack(EmbedRequest((1, 2, 300)))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ServiceFault.REFUSED, RejectCode.BAD_PROMPT),
        (ServiceFault.BUSY, RejectCode.OVERLOADED),
        (ServiceFault.FAILED, RejectCode.INTERNAL),
    ],
)
def test_what_fails_here_is_told(scene, fault, code):
    (first,) = scene.arrive()
    (ended,) = scene.answer(ServiceFailed(first.call, "why", fault))
    assert ended == ErrandEnded(1, b"", code, "why")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ServiceFault.REFUSED, RejectCode.BAD_PROMPT),
        (ServiceFault.BUSY, RejectCode.DEADLINE),
        (ServiceFault.FAILED, RejectCode.DEADLINE),
    ],
)
@pytest.mark.parametrize("steps", [BOTH[:1], BOTH[1:]], ids=["here", "abroad"])
def test_who_was_too_late_may_say_so_before_our_alarm(scene, steps, fault, code):
    (effect,) = scene.arrive(steps=steps)
    call = effect.call if isinstance(effect, CallService) else effect.header.call
    (ended,) = scene.answer(ServiceFailed(call, "no time for it", fault), Instant(NOW + 4.9995))
    assert ended.code is code


def test_who_is_busy_is_replaced_a_few_times(scene):
    effects, asked = scene.arrive(steps=BOTH[1:]), []
    while isinstance(effects[0], SendFrame):
        peer, header = scene.abroad(effects)
        asked.append(peer)
        effects = scene.answer(ServiceFailed(header.call, "full", ServiceFault.BUSY))
    assert len(asked) == len(set(asked)) == ASKS_MAX
    assert effects[0].code is RejectCode.OVERLOADED


def test_who_is_lost_is_replaced(scene):
    peer, _ = scene.abroad(scene.arrive(steps=BOTH[1:]))
    other, _ = scene.abroad(scene.do(scene.errands.lost, peer, NOW))
    assert other != peer
    assert scene.do(scene.errands.lost, peer, NOW) == []


def test_what_nobody_runs_is_told_at_once(scene):
    (ended,) = scene.arrive(steps=(("nothing:00", "at-all"),))
    assert (ended.code, ended.detail) == (RejectCode.NOT_READY, "no node runs nothing:00")


def test_a_deadline_ends_it_and_its_late_answer_finds_nobody(scene):
    (first,) = scene.arrive()
    (ended,) = scene.do(scene.errands.expired, 1)
    assert (ended.code, ended.detail) == (RejectCode.DEADLINE, "not done within 5 s")
    assert not scene.errands.owns(ServiceReturned(first.call, b"ids"))
    assert scene.do(scene.errands.expired, 1) == []


def test_one_that_is_cancelled_is_forgotten_and_its_next_step_never_begun(scene):
    (first,) = scene.arrive()
    assert scene.do(scene.errands.cancelled, 1) == []
    assert not scene.errands.owns(ServiceReturned(first.call, b"ids"))
    assert ErrandDeadline(1) not in scene.tables.timers
    assert scene.do(scene.errands.cancelled, 1) == []


def test_errands_are_bounded_and_end_with_the_node(scene):
    for number in range(REQUESTS_MAX):
        scene.arrive(number)
    (refused,) = scene.arrive(REQUESTS_MAX)
    assert refused.code is RejectCode.OVERLOADED
    ended = scene.do(scene.errands.stop)
    assert [each.code for each in ended] == [RejectCode.STOPPING] * REQUESTS_MAX


def test_a_node_that_is_stopping_takes_none(scene):
    scene.tables.phase = NodePhase.DRAINING
    (refused,) = scene.arrive()
    assert (refused.code, refused.detail) == (RejectCode.STOPPING, "this node is stopping")


def test_how_long_a_call_abroad_took_is_remembered_by_its_service(scene):
    _, header = scene.abroad(scene.arrive(steps=((THEIRS, "embed"), (THEIRS, "embed"))))
    effects = scene.answer(ServiceReturned(header.call, b"x" * 4096), Instant(NOW + 0.5))
    assert scene.tables.abroad.believed(THEIRS, Instant(NOW + 0.5)) == pytest.approx(0.5)
    _, header = scene.abroad(effects)
    scene.answer(ServiceReturned(header.call, b""), Instant(NOW + 0.9))
    later = Instant(NOW + 0.9)
    assert 0.1 < scene.tables.abroad.believed(THEIRS, later) < 0.5, "0.4 s for four units"
    peer, header = scene.abroad(scene.arrive(3, BOTH[1:]))
    told = DigestTold((ServiceLoad(THEIRS, 1, 9, 10_000, 900_000),))
    scene.tables.digests.heard(peer, Incarnation(1), Sequence(1), told, later)
    waited = Instant(later + 60.0)
    scene.answer(ServiceReturned(header.call, b""), waited)
    assert scene.tables.abroad.believed(THEIRS, waited) == pytest.approx(0.1, rel=0.01), "it waited for most of that"
    (first,) = scene.arrive(2, BOTH[:1])
    scene.answer(ServiceReturned(first.call, b""), later)
    assert scene.tables.abroad.believed(MINE, later) == 0.0
