"""One node at whose door runs of pipelines ask: a tokenizer of its own, a service of its peers, a model."""

from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.calls import Calls
from shoal_agent.core.door import Door
from shoal_agent.core.effects import CallService, Count, PipelineJudged
from shoal_agent.core.events import PipelineArrived, PipelineEnded, StepAhead
from shoal_agent.core.facts import CallId, RejectCode
from shoal_agent.core.movers import LINK_SLOTS, Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.service_classes import Classes, RequestClass
from shoal_agent.core.services import ServiceKind, service_name
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HostReport
from shoal_protocol.ids import DeploymentId, Digest, Incarnation, Instant, NodeId, Sequence
from shoal_protocol.light import DigestTold, ServiceLoad
from shoal_protocol.messages import DeploymentPhase, NodePhase, NodeState
from tests.support.protocol import MESSAGES, PLAN

RECORD = next(message for message in MESSAGES if isinstance(message, NodeState))
HERE, *PEERS = (NodeId(letter * 32) for letter in "hab")
MINE, THEIRS, MODEL = "tokenizer:00", "scan:00", DeploymentId("tiny")
QUICK = RequestClass("quick", 2000.0, 0.1)
LINK_S = LINK_SLOTS * SLOT_S
SIDE_BY_SIDE = (
    StepAhead("left", (), 1024, MINE),
    StepAhead("right", (), 2048, MINE),
    StepAhead("last", (0, 1), 1024, THEIRS),
)


class Scene:
    """The tokenizer takes 0.1 s per KiB."""

    def __init__(self) -> None:
        self.tables = Tables(classes=Classes([QUICK]))
        self.tables.services = (MINE,)
        self.now = Instant(10.0)
        for peer in PEERS:
            state = replace(RECORD, services=(THEIRS,), links=())
            self.tables.membership.merge(peer, Incarnation(1), state, self.now, fresh=True)
        self.movers = Movers(HERE, self.tables, Calls(HERE), Random(1))
        self.door = Door(self.tables, self.movers, lambda *asked: self.asked.append(asked) or self.takes)
        self.asked: list[tuple[object, ...]] = []
        self.takes: float | None = None
        self.calls = 0
        for took_s in (0.0, 1.0):
            self.begin(10)
            self.now = Instant(self.now + took_s)
            self.movers.workshop.answered(CallId(self.calls), self.now, done=True)

    def begin(self, kib: int) -> None:
        self.calls += 1
        effect = CallService(CallId(self.calls), MINE, "encode", bytes(1024 * kib), None)
        self.movers.workshop.run(effect, self.now, Outbox(HERE))

    def busy(self, peer: NodeId, wait_s: float, rate_milli: int = 1_000_000) -> None:
        digest = DigestTold((ServiceLoad(THEIRS, 1, 4, rate_milli, round(wait_s * 1e6)),))
        self.tables.digests.heard(peer, Incarnation(1), Sequence(1), digest, self.now)

    def ask(self, steps=SIDE_BY_SIDE, kind="quick", deadline_s=2.0) -> PipelineJudged:
        out = Outbox(HERE)
        self.door.heard(PipelineArrived(7, "p", kind, deadline_s, steps), self.now, out)
        self.counted = [effect.label for effect in out.effects if isinstance(effect, Count)]
        (word,) = [effect for effect in out.effects if isinstance(effect, PipelineJudged)]
        assert word.run == 7
        return word

    def told(self) -> list[str]:
        return [entry.text for entry in self.tables.story.about("pipeline:p")]


@pytest.fixture
def scene():
    return Scene()


def test_the_longest_way_through_counts_with_waits_there_and_the_way(scene):
    assert scene.ask().finish_s == pytest.approx(0.2 + LINK_S)
    scene.busy(PEERS[0], 0.6)
    scene.busy(PEERS[1], 0.2)
    assert scene.ask().finish_s == pytest.approx(0.2 + LINK_S + 0.4 + 0.001), "either may get the call"
    scene.begin(5)
    word = scene.ask()
    assert word.finish_s == pytest.approx(0.7 + LINK_S + 0.4 + 0.001)
    assert (word.code, scene.counted) == (None, ["admitted"])


def test_who_would_be_late_is_told_when_to_come_again_and_the_story_why(scene):
    scene.begin(45)
    word = scene.ask()
    assert (word.code, word.retry_after_s) == (RejectCode.OVERLOADED, 3.0)
    assert word.detail == "it would take 4705 ms, and has 2000 ms"
    assert scene.counted == ["late"]
    assert scene.told() == [
        f"refuses a run of class quick: {word.detail}; right 4700 ms, left 4600 ms, last 5 ms; Z 0.0"
    ]
    assert scene.ask(kind="", deadline_s=5.0).code is None, "it has more time"
    assert scene.ask(kind="", deadline_s=1.0).code is RejectCode.OVERLOADED, "no class, and still too late"


def test_the_story_tells_changes_and_no_traffic(scene):
    for _ in range(5):
        scene.ask()
    assert not scene.told()
    scene.begin(45)
    for _ in range(5):
        scene.ask()
    scene.movers.workshop.answered(CallId(scene.calls), scene.now, done=False)
    for _ in range(5):
        scene.ask()
    assert [text.split(":")[0] for text in scene.told()] == [
        "refuses a run of class quick",
        "lets runs of class quick in again",
    ]


def test_what_was_never_measured_comes_in(scene):
    unknown = (StepAhead("a", (), 1 << 20, "scan:01"), StepAhead("b", (0,), 1 << 20, "", MODEL, True, 64))
    word = scene.ask(unknown, deadline_s=0.001)
    assert (word.code, word.finish_s) == (None, 0.0)


def test_how_long_calls_abroad_took_is_believed_until_it_fades(scene):
    scene.tables.abroad.measured(THEIRS, 0.8, scene.now)
    step = (StepAhead("a", (), 3072, THEIRS),)
    assert scene.ask(step).code is RejectCode.OVERLOADED
    scene.now = Instant(scene.now + 4.0)
    word = scene.ask(step)
    assert (word.code, word.finish_s) == (None, pytest.approx(1.2 + LINK_S))


def test_a_class_that_is_owed_comes_in_though_its_services_are_far_behind(scene):
    scene.movers.workshop.bench(MINE)._queue.delayed = 600 * 16.0
    word = scene.ask(SIDE_BY_SIDE[:2])
    assert (word.code, word.detail) == (RejectCode.OVERLOADED, "its services are too far behind")
    assert scene.counted == ["behind"]
    assert scene.ask(SIDE_BY_SIDE[:2], kind="").code is None, "of no class nothing is owed, and nothing asked"
    for _ in range(1000):
        scene.door.heard(PipelineEnded("quick", late=True), scene.now, Outbox(HERE))
    assert scene.ask(SIDE_BY_SIDE[:2]).code is None


def test_a_generation_is_its_reading_and_its_stages(scene):
    tokenizer = service_name(ServiceKind.TOKENIZER, PLAN.model)
    scene.tables.services = (tokenizer,)
    scene.movers.workshop._benches[tokenizer] = scene.movers.workshop._benches[MINE]
    known = StepAhead("ask", (), 1024, "", PLAN.deployment, False, 64, 100, 20)
    scene.takes = 1.5
    assert scene.ask((known,)).finish_s == 0.0, "nobody serves it yet"
    tenure = scene.tables.tenures.add(PLAN, Digest(bytes(32)))
    for stage in PLAN.stages:
        tenure.hear(stage.node, HostReport(DeploymentPhase.ACTIVE, "", Incarnation(1), Sequence(1)))
    assert scene.ask((known,)).finish_s == pytest.approx(0.1 + 1.5)
    scene.ask((replace(known, prompt_tokens=None, answer_tokens=None),))
    assert scene.asked == [(PLAN.deployment, 100, 20, 64), (PLAN.deployment, 256, None, 64)]


def test_a_node_that_is_stopping_lets_nobody_in(scene):
    scene.tables.phase = NodePhase.DRAINING
    assert (scene.ask().code, scene.counted) == (RejectCode.STOPPING, ["stopping"])
