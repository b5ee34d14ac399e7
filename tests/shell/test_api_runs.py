"""Runs on a scripted ingress: what is handed in, side by side, with which deadline and class; how each run ends."""

import asyncio
from dataclasses import dataclass, field

import pytest

from shoal_agent.core.effects import Accept, Emit, ErrandEnded, Finish, PipelineJudged, Reject
from shoal_agent.core.events import StepAhead
from shoal_agent.core.facts import ChatPrompt, FinishReason, Piece, RejectCode, TextPrompt, Usage
from shoal_agent.core.pipeline import GENERATE, JOIN, Generation, Pipeline, Step, joined
from shoal_agent.core.pipeline_run import RUNS_MAX, Ended
from shoal_agent.core.services import ChatMessage, RenderRequest, unpack
from shoal_agent.shell.api.ports import ServedModel
from shoal_agent.shell.api.runs import Runs
from shoal_protocol.ids import DeploymentId, Digest, Epoch, SessionId

TINY = DeploymentId("tiny")
SERVED = ServedModel(TINY, Digest(bytes.fromhex("0123456789abcdef") * 4), Epoch(0), 100, 0)
NOBODY = SessionId(bytes(16))


def turn(name, *inputs):
    return Step(name, "turn", inputs, name)


PAIR = Pipeline("pair", (turn("a", "request"), turn("b", "request"), Step("both", JOIN, ("a", "b"))), "both")


def asking(**how):
    return Pipeline("ask", (Step("ask", GENERATE, ("request",), "", TINY, Generation(8, **how)),), "ask")


@dataclass
class Line:
    """An ingress whose answers are put in by hand; the method of an errand is its name."""

    asked: list[tuple[tuple[tuple[str, str], ...], bytes, str]] = field(default_factory=list)
    waiting: dict[str, asyncio.Future[ErrandEnded]] = field(default_factory=dict)
    left_s: list[float] = field(default_factory=list)
    arrivals: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    requests: list[object] = field(default_factory=list)
    script: list[object] = field(default_factory=list)
    counted: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    ahead: list[tuple[str, str, float, tuple[StepAhead, ...]]] = field(default_factory=list)
    word: PipelineJudged = field(default_factory=lambda: PipelineJudged(1, 0.25, None, "", None))
    foretold: list[tuple[str, float]] = field(default_factory=list)

    async def run(self, steps, request, deadline_s, kind=""):
        self.asked.append((steps, request, kind))
        self.left_s.append(deadline_s)
        self.arrivals.put_nowait(None)
        name = steps[0][1]
        self.waiting[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.waiting[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    async def generate(self, request, *, lingers):
        assert not lingers
        self.requests.append(request)
        for answer in self.script:
            yield answer

    async def judge(self, pipeline, kind, deadline_s, steps):
        self.ahead.append((pipeline, kind, deadline_s, steps))
        return self.word

    def run_foretold(self, pipeline, seconds):
        self.foretold.append((pipeline, seconds))

    def run_ended(self, pipeline, how, seconds):
        assert seconds >= 0
        self.counted.append((pipeline, how))

    def used(self, prompt, completion):
        self.tokens.append((prompt, completion))

    def answer(self, name, result=b"", code=None, detail=""):
        self.waiting[name].set_result(ErrandEnded(1, result, code, detail))

    async def until_asked(self, count):
        async with asyncio.timeout(5):
            while len(self.asked) < count:
                await self.arrivals.get()


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def runs(line):
    return Runs(line, lambda: (SERVED,), line)


async def test_branches_run_side_by_side_with_the_class_and_what_is_left_of_the_deadline(line, runs):
    run = asyncio.create_task(runs.run(PAIR, {"request": b"r"}, 5.0, "search"))
    await line.until_asked(2)
    assert line.asked == [((("turn", name),), b"r", "search") for name in "ab"]
    assert all(4.0 < left_s <= 5.0 for left_s in line.left_s)
    line.answer("b", b"2")
    line.answer("a", b"1")
    assert await run == Ended(joined({"a": b"1", "b": b"2"}))
    assert line.counted == [("pair", "done")]


async def test_the_first_that_fails_ends_the_run_and_cancels_what_runs(line, runs):
    run = asyncio.create_task(runs.run(PAIR, {"request": b"r"}, 5.0, "search"))
    await line.until_asked(2)
    line.answer("b", code=RejectCode.OVERLOADED, detail="no room")
    assert await run == Ended(b"", RejectCode.OVERLOADED, "step 'b' (turn.b): no room", 1.0)
    assert line.cancelled == ["a"]
    assert line.counted == [("pair", "overloaded")]


async def test_a_deadline_ends_it_and_cancels_what_runs(line, runs):
    ended = await runs.run(PAIR, {"request": b"r"}, 0.02, "search")
    assert ended.code is RejectCode.DEADLINE
    assert "'a', 'b', 'both'" in ended.detail
    assert sorted(line.cancelled) == ["a", "b"]


async def test_whom_the_door_refuses_begins_nothing(line, runs):
    line.word = PipelineJudged(1, 7.5, RejectCode.OVERLOADED, "it would take 7500 ms, and has 5000 ms", 3.0)
    ended = await runs.run(PAIR, {"request": b"four"}, 5.0, "search")
    assert ended == Ended(b"", RejectCode.OVERLOADED, "it would take 7500 ms, and has 5000 ms", 3.0)
    assert not line.asked
    ahead = (StepAhead("a", (), 4, "turn"), StepAhead("b", (), 4, "turn"))
    assert line.ahead == [("pair", "search", 5.0, ahead)]
    assert (line.foretold, line.counted) == ([("pair", 7.5)], [("pair", "overloaded")])


async def test_the_door_is_told_what_steps_were_like(line, runs):
    pipeline = Pipeline("ask", (*asking().steps, turn("after", "ask")), "after")
    line.script = script("Par", "is")
    for _ in range(2):
        run = asyncio.create_task(runs.run(pipeline, {"request": b"r"}, 5.0, ""))
        async with asyncio.timeout(5):
            await line.arrivals.get()
        line.answer("after", b"x")
        await run
    (_, _, _, first), (_, _, _, second) = line.ahead
    assert first == (StepAhead("ask", (), 1, "", TINY, True, 8), StepAhead("after", (0,), 1, "turn"))
    assert second == (StepAhead("ask", (), 1, "", TINY, True, 8, 3, 2), StepAhead("after", (0,), 5, "turn"))


async def test_who_leaves_takes_the_steps_along(line, runs):
    run = asyncio.create_task(runs.run(PAIR, {"request": b"r"}, 5.0, "search"))
    await line.until_asked(2)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert sorted(line.cancelled) == ["a", "b"]
    assert line.counted == [("pair", "cancelled")]


async def test_two_classes_at_once_each_with_its_own_deadline(line, runs):
    calm = asyncio.create_task(runs.run(PAIR, {"request": b"r"}, 5.0, "calm"))
    await line.until_asked(2)
    slow = dict(line.waiting)
    quick = await runs.run(PAIR, {"request": b"r"}, 0.02, "quick")
    assert quick.code is RejectCode.DEADLINE
    for waiting in slow.values():
        waiting.set_result(ErrandEnded(1, b"", None, ""))
    assert (await calm).code is None


async def test_runs_are_bounded(line, runs):
    many = [asyncio.create_task(runs.run(PAIR, {"request": b"r"}, 5.0, "")) for _ in range(RUNS_MAX)]
    await line.until_asked(2 * RUNS_MAX)
    ended = await runs.run(PAIR, {"request": b"r"}, 5.0, "")
    assert (ended.code, ended.retry_after_s) == (RejectCode.OVERLOADED, 1.0)
    for run in many:
        run.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    again = asyncio.create_task(runs.run(PAIR, {"request": b"r"}, 5.0, ""))
    await line.until_asked(2 * RUNS_MAX + 2)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_a_models_service_is_called_by_its_full_name(line, runs):
    pipeline = Pipeline("ids", (Step("ids", "tokenizer", ("request.text",), "encode", TINY),), "ids")
    run = asyncio.create_task(runs.run(pipeline, {"request.text": b"hello"}, 5.0, ""))
    await line.until_asked(1)
    assert line.asked[0][0] == (("tokenizer:0123456789abcdef", "encode"),)
    line.answer("encode", b"ids")
    assert (await run).answer == b"ids"


async def test_a_model_that_is_not_there_is_told_before_anything_is_begun(line):
    ended = await Runs(line, lambda: (), line).run(asking(), {"request": b"r"}, 5.0, "")
    assert ended == Ended(b"", RejectCode.UNKNOWN_MODEL, "step 'ask': no model 'tiny' here")
    assert not line.requests


# --- generations ------------------------------------------------------------------------------------------------------


def script(*texts, reason=FinishReason.STOP, tail=""):
    pieces = [Emit(NOBODY, Piece(1, text, None)) for text in texts]
    return [Accept(NOBODY, 3), *pieces, Finish(NOBODY, reason, tail, Usage(3, len(texts)), "why")]


async def test_a_generation_is_a_chat_of_the_runs_class_that_counts_nothing_itself(line, runs):
    line.script = script("Par", "is", tail=".")
    ended = await runs.run(asking(system="be brief"), {"request": "où?".encode()}, 5.0, "search")
    assert ended == Ended(b"Paris.")
    (request,) = line.requests
    assert isinstance(request.prompt, ChatPrompt)
    asked = (ChatMessage("system", "be brief"), ChatMessage("user", "où?"))
    assert unpack(RenderRequest, request.prompt.body) == RenderRequest(asked, add_generation_prompt=True)
    assert (request.deployment, request.tokens_max, request.kind, request.part) == (TINY, 8, "search", True)
    assert (request.promised, request.claim, request.sampling.temperature) == ("", None, 0.0)
    assert 4.0 < request.deadline_s <= 5.0
    assert line.tokens == [(3, 2)]


async def test_a_bare_prompt_is_no_chat(line, runs):
    line.script = script("x")
    await runs.run(asking(chat=False), {"request": b"r"}, 5.0, "")
    assert line.requests[0].prompt == TextPrompt("r")


@pytest.mark.parametrize(
    ("answers", "ended"),
    [
        (
            [Reject(NOBODY, RejectCode.OVERLOADED, "too many", 7.0)],
            Ended(b"", RejectCode.OVERLOADED, "step 'ask' (generate): too many", 7.0),
        ),
        (
            script("a", reason=FinishReason.FAILED),
            Ended(b"", RejectCode.STAGE_LOST, "step 'ask' (generate): why", 1.0),
        ),
        (
            script("a", reason=FinishReason.DEADLINE),
            Ended(b"", RejectCode.DEADLINE, "step 'ask' (generate): why", None),
        ),
        (script("a", reason=FinishReason.LENGTH), Ended(b"a")),
    ],
)
async def test_how_a_generation_ends_is_how_its_step_ends(line, runs, answers, ended):
    line.script = answers
    assert await runs.run(asking(), {"request": b"r"}, 5.0, "") == ended
