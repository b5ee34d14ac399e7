from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.calls import Calls
from shoal_agent.core.effects import CallService
from shoal_agent.core.facts import CallId, ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from shoal_agent.core.forecast import Admitted, Refused
from shoal_agent.core.movers import Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.service_classes import Classes, RequestClass
from shoal_agent.core.services import ServiceKind, service_name
from shoal_agent.core.tables import Tables
from shoal_agent.core.welcome import judged
from shoal_protocol.ids import Instant, NodeId, SessionId
from tests.support.protocol import PLAN
from tests.support.toy import GREEDY

HERE = NodeId("h" * 32)
TOKENIZER = service_name(ServiceKind.TOKENIZER, PLAN.model)
TEMPLATE = service_name(ServiceKind.CHAT_TEMPLATE, PLAN.model)
CHAT = RequestClass("chat", 2000.0, 0.1)
ASKED = GenerationRequest(SessionId(bytes(16)), PLAN.deployment, TextPrompt("x"), GREEDY, 4, (), 2.0, None, "chat")


class Scene:
    """A tokenizer that takes 10 ms per KiB, and so many KiB that wait for it."""

    def __init__(self, waiting_kib: int) -> None:
        self.tables = Tables(classes=Classes([CHAT]))
        self.tables.services = (TOKENIZER, TEMPLATE)
        self.movers = Movers(HERE, self.tables, Calls(HERE), Random(1))
        self.now, self.calls = Instant(10.0), 0
        for _ in range(8):
            self.call(10)
            self.now = Instant(self.now + 0.1)
            self.movers.workshop.answered(CallId(self.calls), self.now, done=True)
        if waiting_kib:
            self.call(waiting_kib)

    def call(self, kib: int) -> None:
        self.calls += 1
        call = CallService(CallId(self.calls), TOKENIZER, "encode", b"x" * (kib * 1024), None)
        self.movers.workshop.run(call, self.now, Outbox(HERE))

    def judge(self, request=ASKED):
        return judged(request, PLAN, self.tables, self.movers, self.now)


def test_who_will_be_in_time_comes_in_and_who_will_not_is_told_when_to_come():
    assert isinstance(Scene(0).judge(), Admitted)
    assert isinstance(Scene(100).judge(), Admitted)
    word = Scene(400).judge()
    assert isinstance(word, Refused)
    assert 2500 < word.finish_ms < 5500
    assert 1 <= word.retry_after_s <= 3
    assert word.reason.endswith("and has 2000 ms")


def test_a_request_of_no_class_is_promised_nothing():
    assert Scene(400).judge(replace(ASKED, kind="")) is None
    assert Scene(400).judge(replace(ASKED, kind="unknown")) is None


@pytest.mark.parametrize("prompt", [ChatPrompt(b"x" * 2048), TextPrompt("x" * 2048), TokenPrompt((1,) * 512)])
def test_the_prompt_itself_counts(prompt):
    short = Scene(0).judge(replace(ASKED, prompt=TextPrompt("x")))
    assert Scene(0).judge(replace(ASKED, prompt=prompt)).finish_ms > short.finish_ms


def test_a_class_that_is_owed_comes_in_though_its_services_are_far_behind():
    scene = Scene(100)
    scene.movers.workshop.bench(TOKENIZER)._queue.delayed = 300 * 16.0
    assert scene.judge().reason == "its services are too far behind"
    for _ in range(100):
        scene.tables.classes.ended("chat", late=True)
    assert isinstance(scene.judge(), Admitted)


def test_without_light_services_here_nothing_is_predicted():
    scene = Scene(0)
    scene.tables.services = ()
    assert scene.judge() == Admitted(0.0)
