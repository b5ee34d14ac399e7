"""One run of a pipeline: what was answered comes in, what is to be begun goes out.

    begin        the request is there
    done         a step answered            -> the steps that waited for this alone, now
    failed       a step did not             -> the run is over; what still runs is for nothing
    expired      the deadline came          -> the same

A step begins as soon as all of its inputs are there, beside whatever else runs: branches of the graph cost time only
once. It is given what is left of the run's deadline, and is not begun when nothing is left. So a run takes the longest
way through its graph, as admission predicts it (``forecast``), as long as no more than ``AT_ONCE`` steps run at a time.
Where more could, those named first go first.

What no step needs any more is let go of, so a run holds what is between two steps and no history.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.pipeline import JOIN, Pipeline, Step, joined
from shoal_protocol.ids import Instant
from shoal_protocol.limits import API_BODY_BYTES_MAX

RUNS_MAX: Final = 32
"""Runs of one ingress under way."""
AT_ONCE: Final = 4
"""Steps of one run that run at a time: with ``RUNS_MAX``, half of the errands a node has under way, so pipelines cannot
push all others aside."""
HELD_BYTES_MAX: Final = 4 * API_BODY_BYTES_MAX
"""What lies between the steps of one run: as if each of those that run had the largest request there is."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Have ``step`` done, within ``left_s``."""

    step: Step
    request: bytes
    left_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer of the pipeline, or why there is none. What still runs need not go on."""

    answer: bytes
    code: RejectCode | None = None
    detail: str = ""
    retry_after_s: float | None = None


Order = Begin | Ended


class PipelineRun:
    """Begun once; after ``Ended`` nothing comes out of it any more."""

    def __init__(self, pipeline: Pipeline, request: Mapping[str, bytes], deadline: Instant) -> None:
        """``request``: what every input that is no step is, by its name."""
        self._pipeline = pipeline
        self._deadline = deadline
        self._waiting = {step.name: step for step in pipeline.steps}
        self._running: dict[str, Step] = {}
        self._held = dict(request)
        self._uses = Counter(given for step in pipeline.steps for given in step.inputs)
        self._uses[pipeline.output] += 1
        self._over = False

    def begin(self, now: Instant) -> list[Order]:
        """The request is there."""
        return self._advance(now)

    def done(self, name: str, answer: bytes, now: Instant) -> list[Order]:
        """A step has answered; one that nobody waits for any more says nothing."""
        if self._over or self._running.pop(name, None) is None:
            return []
        self._held[name] = answer
        size = sum(len(each) for each in self._held.values())
        if size > HELD_BYTES_MAX:
            detail = f"{size} bytes lie between its steps, at most {HELD_BYTES_MAX}"
            return self._end(Ended(b"", RejectCode.BAD_PROMPT, detail))
        return self._advance(now)

    def failed(self, name: str, code: RejectCode, detail: str, retry_after_s: float | None) -> list[Order]:
        """A step has not, and will not."""
        step = self._running.pop(name, None)
        if self._over or step is None:
            return []
        return self._end(Ended(b"", code, _told(step, detail), retry_after_s))

    def expired(self, now: Instant) -> list[Order]:
        """Time passed."""
        if self._over or now < self._deadline:
            return []
        undone = ", ".join(repr(name) for name in (*self._running, *self._waiting))
        return self._end(Ended(b"", RejectCode.DEADLINE, f"its deadline came before these steps were done: {undone}"))

    def _advance(self, now: Instant) -> list[Order]:
        """Begin what can begin; end if that was all, or nothing more is to be begun."""
        orders: list[Order] = []
        for step in self._settled():
            if len(self._running) >= AT_ONCE:
                break
            if now >= self._deadline:
                return self.expired(now)
            given = self._take(step)[step.inputs[0]]
            try:
                request = step.request(given)
            except UnicodeDecodeError:
                return self._end(Ended(b"", RejectCode.BAD_PROMPT, _told(step, "what it was given is no UTF-8 text")))
            self._running[step.name] = step
            orders.append(Begin(step, request, self._deadline - now))
        output = self._pipeline.output
        if output in self._held:
            return self._end(Ended(self._held[output]))
        return orders

    def _settled(self) -> list[Step]:
        """Do every join that can be done; the other steps whose inputs are all there."""
        while True:
            ready = [step for step in self._waiting.values() if all(given in self._held for given in step.inputs)]
            joins = [step for step in ready if step.service == JOIN]
            if not joins:
                return ready
            for step in joins:
                self._held[step.name] = joined(self._take(step))

    def _take(self, step: Step) -> dict[str, bytes]:
        """The inputs of a step that begins; what was its last use is let go of."""
        del self._waiting[step.name]
        taken = {given: self._held[given] for given in step.inputs}
        for given in step.inputs:
            self._uses[given] -= 1
            if not self._uses[given]:
                del self._held[given]
        return taken

    def _end(self, ended: Ended) -> list[Order]:
        self._over = True
        return [ended]


def _told(step: Step, detail: str) -> str:
    return f"step {step.name!r} ({step.call}): {detail}"
