"""What the steps of pipelines are given, and generate, as a rule: what is to be known of a run before it begins.

The first steps of a run are given parts of the request, whose size is known. What comes out of them is not, so what a
later step will be given, how long a prompt and how long an answer is, is believed to be what it was lately (``fading``;
a step that was never run is given as much as the whole request). A run that is refused for what is believed measures
nothing; that belief halves every ``HALF_LIFE_S`` lets one in again before long.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from shoal_agent.core.events import StepAhead
from shoal_agent.core.fading import Fading
from shoal_agent.core.pipeline import JOIN, Pipeline, Step
from shoal_protocol.ids import Instant

HALF_LIFE_S: Final = 60.0
"""Longer than any run that a client waits for in earnest; within minutes a wrong belief is gone."""


class Habits:
    """Of all pipelines of one node; as many figures as their steps have."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], Fading] = {}
        self._prompts: dict[tuple[str, str], Fading] = {}
        self._answers: dict[tuple[str, str], Fading] = {}

    def began(self, pipeline: str, step: str, request_bytes: int, now: Instant) -> None:
        """A step was given so much."""
        self._given.setdefault((pipeline, step), Fading(HALF_LIFE_S)).measured(request_bytes, now)

    def generated(self, pipeline: str, step: str, prompt_tokens: int, answer_tokens: int, now: Instant) -> None:
        """A generation was answered."""
        self._prompts.setdefault((pipeline, step), Fading(HALF_LIFE_S)).measured(prompt_tokens, now)
        self._answers.setdefault((pipeline, step), Fading(HALF_LIFE_S)).measured(answer_tokens, now)

    def ahead(
        self, pipeline: Pipeline, request: Mapping[str, bytes], services: Mapping[str, str], now: Instant
    ) -> tuple[StepAhead, ...]:
        """The steps of a run to come, joins apart, which take no time; ``services``: their full names, by step."""
        steps = [step for step in pipeline.steps if step.service != JOIN]
        order = {step.name: index for index, step in enumerate(steps)}
        return tuple(
            StepAhead(
                step.name,
                tuple(sorted({order[name] for name in _before(pipeline, step)})),
                self._bytes(pipeline, step, request, now),
                services.get(step.name, ""),
                None if step.generation is None else step.model,
                step.generation is not None and step.generation.chat,
                0 if step.generation is None else step.generation.tokens_max,
                _believed(self._prompts, pipeline, step, now),
                _believed(self._answers, pipeline, step, now),
            )
            for step in steps
        )

    def _bytes(self, pipeline: Pipeline, step: Step, request: Mapping[str, bytes], now: Instant) -> int:
        part = request.get(step.inputs[0])
        if part is not None:
            return len(part)
        believed = _believed(self._given, pipeline, step, now)
        return sum(map(len, request.values())) if believed is None else believed


def _believed(figures: Mapping[tuple[str, str], Fading], pipeline: Pipeline, step: Step, now: Instant) -> int | None:
    figure = figures.get((pipeline.name, step.name))
    return None if figure is None else round(figure.believed(now))


def _before(pipeline: Pipeline, step: Step) -> Iterator[str]:
    """The steps that it waits for, through joins."""
    inner = {each.name: each for each in pipeline.steps}
    for given in step.inputs:
        if given in inner and inner[given].service == JOIN:
            yield from _before(pipeline, inner[given])
        elif given in inner:
            yield given
