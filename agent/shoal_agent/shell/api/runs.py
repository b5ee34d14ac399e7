"""Runs of pipelines on this node: what ``core/pipeline_run.py`` wants begun goes in where clients' requests go in.

A run is judged as a whole before any of its steps is begun (``core/welcome.py``), by what its steps were lately.

A light service's step is an errand, so rule B places it as it places any other; a generation enters the ingress as a
chat does. Both are given what is left of the deadline, and the class of the run, by which they are admitted and placed.
What still runs when a run is over is cancelled.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.effects import Accept, Emit, Finish, Reject
from shoal_agent.core.endings import retry_after_s
from shoal_agent.core.facts import (
    ChatPrompt,
    FinishReason,
    GenerationRequest,
    Prompt,
    RejectCode,
    TextPrompt,
)
from shoal_agent.core.habits import Habits
from shoal_agent.core.pipeline import Generation, Pipeline
from shoal_agent.core.pipeline_run import RUNS_MAX, Begin, Ended, Order, PipelineRun
from shoal_agent.core.services import ChatMessage, RenderRequest, ServiceKind, pack, service_name
from shoal_agent.shell.api.claims import lone
from shoal_agent.shell.api.ports import ServedModel
from shoal_agent.shell.metrics import Metrics
from shoal_agent.shell.ports import Answer, Ingress
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import Instant

CANCELLED: Final = "cancelled"
"""How a run ended that nobody waited for any more."""
_BROKEN: Final[Mapping[FinishReason, RejectCode]] = {
    FinishReason.DEADLINE: RejectCode.DEADLINE,
    FinishReason.CANCELLED: RejectCode.STAGE_LOST,
    FinishReason.FAILED: RejectCode.STAGE_LOST,
}
"""Ends of a generation that are none of a text."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why a step has no answer."""

    code: RejectCode
    detail: str
    retry_after_s: float | None


class Runs:
    """All of this node."""

    def __init__(self, ingress: Ingress, models: Callable[[], tuple[ServedModel, ...]], metrics: Metrics) -> None:
        self._ingress = ingress
        self._models = models
        self._metrics = metrics
        self._habits = Habits()
        self._count = 0

    async def run(self, pipeline: Pipeline, request: Mapping[str, bytes], deadline_s: float, kind: str) -> Ended:
        """The answer, or why there is none; ``kind`` is the class whose request this is, if any."""
        begun, how = time.monotonic(), CANCELLED
        self._count += 1
        try:
            ended = self._refused(pipeline) or await self._judged(pipeline, request, deadline_s, kind)
            if ended is None:
                ended = await self._drive(pipeline, request, begun + deadline_s, kind)
            how = "done" if ended.code is None else ended.code.value
        finally:
            self._count -= 1
            self._metrics.run_ended(pipeline.name, how, time.monotonic() - begun)
        return ended

    def _refused(self, pipeline: Pipeline) -> Ended | None:
        if self._count > RUNS_MAX:
            code = RejectCode.OVERLOADED
            return Ended(b"", code, f"{RUNS_MAX} runs of pipelines are under way", retry_after_s(code))
        served = {model.id for model in self._models()}
        for step in pipeline.steps:
            if step.model is not None and step.model not in served:
                return Ended(b"", RejectCode.UNKNOWN_MODEL, f"step {step.name!r}: no model {step.model!r} here")
        return None

    async def _judged(
        self, pipeline: Pipeline, request: Mapping[str, bytes], deadline_s: float, kind: str
    ) -> Ended | None:
        ahead = self._habits.ahead(pipeline, request, self._names(pipeline), Instant(time.monotonic()))
        word = await self._ingress.judge(pipeline.name, kind, deadline_s, ahead)
        self._metrics.run_foretold(pipeline.name, word.finish_s)
        return None if word.code is None else Ended(b"", word.code, word.detail, word.retry_after_s)

    async def _drive(self, pipeline: Pipeline, request: Mapping[str, bytes], until: float, kind: str) -> Ended:
        run, names = PipelineRun(pipeline, request, Instant(until)), self._names(pipeline)
        tasks: dict[str, asyncio.Task[bytes | _Failed]] = {}
        orders = run.begin(Instant(time.monotonic()))
        try:
            while True:
                for order in orders:
                    if isinstance(order, Ended):
                        return order
                    tasks[order.step.name] = asyncio.create_task(self._step(pipeline.name, order, names, kind))
                left_s = max(0.0, until - time.monotonic())
                await asyncio.wait(tasks.values(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                orders = self._came(run, tasks, Instant(time.monotonic()))
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    @staticmethod
    def _came(run: PipelineRun, tasks: dict[str, asyncio.Task[bytes | _Failed]], now: Instant) -> list[Order]:
        """What follows from the steps that are over; from the time, if none is."""
        over = [name for name, task in tasks.items() if task.done()]
        if not over:
            return run.expired(now)
        orders = []
        for name in over:
            came = tasks.pop(name).result()
            if isinstance(came, _Failed):
                orders += run.failed(name, came.code, came.detail, came.retry_after_s)
            else:
                orders += run.done(name, came, now)
        return orders

    # --- one step ---------------------------------------------------------------------------------------------------

    def _names(self, pipeline: Pipeline) -> dict[str, str]:
        """What each step's service is called in full: that of a model has the model's digest in its name."""
        digests = {model.id: model.model for model in self._models()}
        return {
            step.name: step.service
            if step.model is None
            else service_name(ServiceKind(step.service), digests[step.model])
            for step in pipeline.steps
            if step.generation is None
        }

    async def _step(self, pipeline: str, order: Begin, names: Mapping[str, str], kind: str) -> bytes | _Failed:
        step = order.step
        self._habits.began(pipeline, step.name, len(order.request), Instant(time.monotonic()))
        if step.generation is not None:
            return await self._generated(pipeline, order, step.generation, kind)
        ended = await self._ingress.run(((names[step.name], step.method),), order.request, order.left_s, kind)
        if ended.code is not None:
            return _Failed(ended.code, ended.detail, retry_after_s(ended.code))
        return ended.result

    async def _generated(self, pipeline: str, order: Begin, how: Generation, kind: str) -> bytes | _Failed:
        own, model = lone(), order.step.model
        assert model is not None, "a pipeline whose generation has no model is refused"
        sampling = Sampling(how.temperature, 0, 1.0, 1.0, own.seed, -1)
        request = GenerationRequest(
            own.session,
            model,
            _prompt(order.request.decode(), how),
            sampling,
            how.tokens_max,
            (),
            order.left_s,
            kind=kind,
            part=True,
        )
        return await self._text(pipeline, order.step.name, self._ingress.generate(request, lingers=False))

    async def _text(self, pipeline: str, step: str, answers: AsyncGenerator[Answer, None]) -> bytes | _Failed:
        text: list[str] = []
        async with aclosing(answers):
            async for answer in answers:
                match answer:
                    case Emit(_, piece):
                        text.append(piece.text)
                    case Finish(_, reason, tail, usage, detail):
                        self._metrics.used(usage.prompt_tokens, usage.completion_tokens)
                        code = _BROKEN.get(reason)
                        if code is None:
                            now = Instant(time.monotonic())
                            self._habits.generated(pipeline, step, usage.prompt_tokens, usage.completion_tokens, now)
                            return "".join((*text, tail)).encode()
                        return _Failed(code, detail or "the generation ended early", retry_after_s(code))
                    case Reject(_, code, detail, again_s):
                        return _Failed(code, detail, again_s)
                    case Accept():
                        pass
        raise AssertionError("a generation ends with Finish or Reject")


def _prompt(text: str, how: Generation) -> Prompt:
    if not how.chat:
        return TextPrompt(text)
    system = (ChatMessage("system", how.system),) if how.system else ()
    messages = (*system, ChatMessage("user", text))
    return ChatPrompt(pack(RenderRequest(messages, add_generation_prompt=True)))
