"""The end of the demo against an ingress that is played: what is asked of it, what is judged, what is told.

The real thing, with processes that die, is in test_demo.
"""

import asyncio
import copy
import json
import threading
import time
from dataclasses import dataclass, field, replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from shoal_agent.cli import demo_chaos as module
from shoal_agent.cli.demo_ask import Answer, Question, ask, session_client
from shoal_agent.cli.demo_chaos import (
    Chaos,
    Decision,
    Return,
    Target,
    come_back,
    lose_one,
    refuse_another,
    return_of,
    step,
    victim_of,
)
from shoal_agent.core.chronicle import tell_resume
from shoal_agent.core.facts import GenerationRequest, TokenPrompt
from shoal_agent.core.ledger import Entry, Gap, Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.resume import Restart, Start, Way
from shoal_agent.core.runs import Runs
from shoal_agent.core.story import Story
from shoal_agent.errors import FailedError
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, SessionId
from shoal_protocol.messages import Plan, PlanStage
from tests.support.api_server import serving
from tests.support.toy import GREEDY, MODEL

A, B, C, D = (NodeId(letter * 32) for letter in "abcd")
QUESTION = Question("tiny", "Why?", 12, 0)
TOKENS = tuple(range(100, 112))
SESSIONS = ("0a" * 16, "0b" * 16)
KILLED_AFTER = 4
WAIT_S = 20.0
WENT_ON = "went on at position 44 by kv after 400 ms (detect 300, switch 40, rebuild 60; 30 predicted), stages from 44"
MOVED = "went on at position 49 by move after 30 ms (detect 0, switch 10, rebuild 20; 0 predicted), stages from 49"


def stage(node, first, last, *standbys, is_open=True):
    backing = [{"node": each, "open": is_open, "detail": ""} for each in standbys]
    return {"node": node, "first_block": first, "last_block": last, "standbys": backing}


BEFORE = [stage(A, 0, 3, B), stage(B, 4, 7, C), stage(C, 8, 9, A)]
AFTER = [stage(A, 0, 4, C), stage(C, 5, 9, A)]


@dataclass
class Ingress:
    """Answers twice; while it gives the second answer it waits to see somebody killed."""

    second: list[int] = field(default_factory=lambda: list(TOKENS))
    breaks: bool = False
    story: list[str] = field(default_factory=lambda: [f"session {SESSIONS[1][:8]} {WENT_ON}"])
    voters: list[str] = field(default_factory=lambda: [A, B, C])
    after: list[dict] = field(default_factory=lambda: copy.deepcopy(AFTER))
    lacks: list[dict] = field(default_factory=list)
    standbys_open_at: float = 0.0
    incarnation: int = 1
    asked: int = 0
    killed: threading.Event = field(default_factory=threading.Event)
    killed_node: str = ""
    url: str = ""

    def app(self):
        return Starlette(
            routes=[
                Route("/shoal/v1/state", self._state),
                Route("/shoal/v1/explain", self._explain),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def kill(self, node):
        self.killed_node = node
        self.killed.set()

    async def start_again(self, _node):
        self.incarnation += 1

    async def _state(self, _request: Request):
        early = time.monotonic() < self.standbys_open_at
        stages = [replace_standbys(each, not early) for each in BEFORE]
        epochs = [{"epoch": 0, "phase": "SERVING", "stages": stages}]
        if self.killed.is_set():
            epochs.append({"epoch": 1, "phase": "SERVING", "stages": self.after})
        node = {"node": B, "alive": True, "incarnation": self.incarnation, "api": "http://127.0.0.1:4"}
        return JSONResponse({"deployments": epochs, "nodes": [node]})

    async def _explain(self, request: Request):
        newest = int(self.killed.is_set())
        epoch = int(request.query_params.get("epoch", newest))
        told = {
            "epoch": epoch,
            "epochs": list(range(newest + 1)),
            "stages": BEFORE if epoch == 0 else self.after,
            "voters": self.voters,
            "terms": {"faulty": 0},
            "reason": "host bbbbbbbb is dead" if epoch else "",
            "now": {"backing": self.lacks} if epoch == newest else None,
            "story": [
                {"number": number, "text": text, "subject": "tiny/0"}
                for number, text in enumerate(self.story)
                if number >= epoch  # both epochs tell some lines, as causes of others
            ],
        }
        return JSONResponse(told)

    async def _chat(self, _request: Request):
        self.asked += 1
        return StreamingResponse(self._events(self.asked), media_type="text/event-stream")

    async def _events(self, number: int):
        for index, token in enumerate(TOKENS if number == 1 else self.second):
            if number == 2 and index == KILLED_AFTER:
                assert await asyncio.to_thread(self.killed.wait, WAIT_S)
                if self.breaks:
                    yield 'data: {"error": {"message": "a stage was lost"}}\n\n'
                    return
            choice = {"delta": {"content": f"{token} "}, "token_ids": [token]}
            yield f"data: {json.dumps({'id': f'chatcmpl-{SESSIONS[number - 1]}', 'choices': [choice]})}\n\n"
        yield "data: [DONE]\n\n"


def replace_standbys(stage, is_open):
    return stage | {"standbys": [standby | {"open": is_open} for standby in stage["standbys"]]}


@dataclass
class Seen:
    chaos: Chaos
    told: str
    shown: str


async def lose(ingress) -> Seen:
    told, shown = [], []
    with serving(ingress):
        async with session_client(ingress.url, "key") as client:
            before = await ask(client, QUESTION, lambda _answer, _text: None)
            target = Target(client, A, QUESTION, ingress.kill)
            chaos = await lose_one(target, before, lambda _answer, text: shown.append(text), told.append)
    return Seen(chaos, "\n".join(told), "".join(shown))


async def test_a_third_of_the_answer_is_read_then_the_middle_host_is_killed():
    ingress = Ingress(story=[f"session {SESSIONS[1][:8]} {WENT_ON}", f"session {SESSIONS[1][:8]} {MOVED}"])
    seen = await lose(ingress)
    assert ingress.killed_node == B
    assert seen.shown == "".join(f"{token} " for token in TOKENS)
    told = seen.chaos.as_json()
    assert told["gap_s"] > 0
    assert told["decided_s"] <= told["serving_s"] <= told["redundant_s"]
    expected = {
        "node": B,
        "first_block": 4,
        "last_block": 7,
        "after_tokens": KILLED_AFTER,
        "identical": True,
        "way": "kv",
        "detect_s": 0.3,
        "switch_s": 0.04,
        "rebuild_s": 0.06,
        "moved": True,
        "epoch": 1,
        "reason": "host bbbbbbbb is dead",
        "why_not": None,
        "plan": [
            {"node": A, "first_block": 0, "last_block": 4},
            {"node": C, "first_block": 5, "last_block": 9},
        ],
    }
    measured = {"gap_s", "usual_s", "decided_s", "serving_s", "redundant_s"}
    assert {name: value for name, value in told.items() if name not in measured} == expected
    json.dumps(told)
    for part in ("✗ bbbbbbbb killed after 4 tokens", "✓ 12 tokens", "(kv)", "moved to the new plan", "epoch 1"):
        assert part in seen.told


async def test_a_stream_that_breaks_is_a_failure_that_names_the_lost_host():
    with pytest.raises(FailedError, match=r"did not survive the loss of bbbbbbbb.*after 4 tokens: a stage was lost"):
        await lose(Ingress(breaks=True))


async def test_one_token_that_is_another_one_is_a_failure():
    with pytest.raises(FailedError, match="12 tokens undisturbed, 12 with the loss, the same 9; it came back by kv"):
        await lose(Ingress(second=[*TOKENS[:9], 7, *TOKENS[10:]]))


async def test_an_answer_that_ends_too_soon_is_a_failure():
    with pytest.raises(FailedError, match="12 tokens undisturbed, 8 with the loss, the same 8;"):
        await lose(Ingress(second=list(TOKENS[:8])))


async def test_an_answer_that_ends_before_the_kill_is_a_failure_and_nobody_is_waited_for():
    with pytest.raises(FailedError, match="3 with the loss"):
        async with asyncio.timeout(WAIT_S):
            await lose(Ingress(second=list(TOKENS[:3])))


async def test_nothing_came_back_where_nothing_had_to():
    seen = await lose(Ingress(story=[f"session {SESSIONS[0][:8]} {WENT_ON}"]))
    assert seen.chaos.came_back == Return()
    assert "nothing had to come back" in seen.told


async def test_too_few_voters_decide_nothing_and_are_not_waited_for():
    begun = time.monotonic()
    seen = await lose(Ingress(voters=[B]))
    assert time.monotonic() - begun < module.DECIDE_S_MAX / 2
    assert seen.chaos.decision == Decision(why_not="1 of 1 voters must agree to a new plan, 0 of them live")
    assert seen.chaos.as_json()["plan"] is None
    assert "decided    nothing: 1 of 1 voters" in seen.told


async def test_a_plan_without_standbys_says_why():
    ingress = Ingress(after=[stage(A, 0, 9)], lacks=[{"standbys": [], "why_no_more": "there is no other node"}])
    seen = await lose(ingress)
    assert seen.chaos.decision.serving_s is not None
    assert seen.chaos.decision.redundant_s is None
    assert seen.chaos.decision.why_not == "the plan does not name one for every stage: there is no other node"
    assert "there is no other node" in seen.told


async def test_what_does_not_come_is_waited_for_only_so_long(monkeypatch):
    monkeypatch.setattr(module, "DECIDE_S_MAX", 0.5)
    closed = [stage(A, 0, 4, C, is_open=False), stage(C, 5, 9, A)]
    seen = await lose(Ingress(after=closed))
    assert (seen.chaos.decision.epoch, seen.chaos.decision.redundant_s) == (1, None)
    assert "have not come to that" in seen.told


async def test_nobody_is_killed_before_somebody_stands_by():
    open_at = time.monotonic() + 1.0
    ingress = Ingress(standbys_open_at=open_at)
    kill = ingress.kill

    def checked(node):
        assert time.monotonic() >= open_at
        kill(node)

    ingress.kill = checked
    assert (await lose(ingress)).chaos.came_back.way == "kv"


async def test_a_node_is_back_when_its_next_life_is_heard():
    ingress = Ingress()
    with serving(ingress):
        async with session_client(ingress.url, "key") as client:
            assert await come_back(client, B, ingress.start_again) == "http://127.0.0.1:4"


async def test_a_node_that_does_not_come_back_is_a_failure(monkeypatch):
    monkeypatch.setattr(module, "COME_BACK_S_MAX", 0.3)
    with serving(Ingress()) as ingress:
        async with session_client(ingress.url, "key") as client:
            with pytest.raises(FailedError, match="bbbbbbbb did not come back"):
                await come_back(client, B, lambda _node: asyncio.sleep(0))


@pytest.mark.parametrize(
    ("nodes", "ingress", "victim"),
    [
        ((A, B), A, B),
        ((A, B), B, A),
        ((A, B, C), A, B),
        ((A, B, C), B, A),
        ((A, B, C, D), D, B),
        ((A, B, C, D), B, C),
    ],
)
def test_the_victim_is_in_the_middle_and_never_the_ingress(nodes, ingress, victim):
    assert victim_of([stage(node, 0, 0) for node in nodes], ingress)["node"] == victim


@pytest.mark.parametrize("way", Way)
def test_the_ingress_own_words_are_understood(way):
    """What ``chronicle`` tells is what is looked for here."""

    plan = Plan(DeploymentId("tiny"), Epoch(0), GENESIS_PARENT, MODEL, 512, (PlanStage(B, 0, 7),))
    prompt, session = TokenPrompt((1,)), SessionId(bytes.fromhex(SESSIONS[1]))
    entry = Entry(
        GenerationRequest(session, plan.deployment, prompt, GREEDY, 9, (), 30.0), plan, Instant(30.0), Step.STREAMING
    )
    story, out = Story(), Outbox(A)
    restart = Restart(way, (Start(44, 44),), Runs(30), 0.03)
    gap = Gap(Instant(10.0), Instant(10.3), None, resumed=Instant(10.34), restart=restart, position=44)
    tell_resume(story, entry, gap, Instant(10.4), out)
    tell_resume(story, entry, replace(gap, moved=True), Instant(10.4), out)
    lines = [entry.text for entry in story.entries()]
    assert return_of(lines[:1], SESSIONS[1]) == Return(way.value, 0.3, 0.04, 0.06, moved=False)
    assert return_of(lines, SESSIONS[1]) == Return(way.value, 0.3, 0.04, 0.06, moved=True)
    assert return_of(lines[1:], SESSIONS[1]).way == "move"
    assert return_of(lines, SESSIONS[0]) == Return()


def test_the_text_must_be_the_same_too():
    before, after = (Answer(0.0, text=text, token_ids=[1, 2]) for text in ("one two", "one tvo"))
    refuse_another(before, replace(before), Return())
    with pytest.raises(FailedError, match="differently"):
        refuse_another(before, after, Return("kv"))


def test_steps_are_timed_when_they_are_first_seen():
    waiting = {"epoch": 1, "phase": "WAITING", "stages": [stage(A, 0, 9, C, is_open=False)]}
    serving = waiting | {"phase": "SERVING"}
    backed = serving | {"stages": [stage(A, 0, 9, C)]}
    seen = Decision(why_not="not yet")
    for now_s, plan in enumerate((waiting, waiting, serving, serving, backed, backed)):
        seen = step(seen, plan, float(now_s))
    assert (seen.decided_s, seen.serving_s, seen.redundant_s, seen.why_not) == (0.0, 2.0, 4.0, "")
