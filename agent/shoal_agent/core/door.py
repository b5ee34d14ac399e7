"""The door for runs of pipelines: who asks is told at once whether to come in, and when to ask again.

    PipelineArrived ──► what each step will take ──► the rule of ``forecast`` ──► PipelineJudged
    PipelineEnded   ──► Z of its class

``welcome`` judges. Here it is told: to whom asked, in the counters, and in the story, there only when the word for a
pipeline and a class is another than the last time, for a story must not grow with traffic.
"""

from collections.abc import Sequence
from typing import Final

from shoal_agent.core.effects import PipelineJudged
from shoal_agent.core.events import PipelineArrived, PipelineEnded
from shoal_agent.core.facts import RejectCode
from shoal_agent.core.forecast import Refused
from shoal_agent.core.movers import Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.pipeline import SUBJECT
from shoal_agent.core.tables import Tables
from shoal_agent.core.welcome import Leg, Takes, judged_run, legs_of
from shoal_protocol.ids import Instant

TOLD_STEPS: Final = 4
"""The longest of a run's steps, in its story."""


class Door:
    """Of one node."""

    def __init__(self, tables: Tables, movers: Movers, takes: Takes) -> None:
        self._tables = tables
        self._movers = movers
        self._takes = takes
        self._refuses: dict[tuple[str, str], bool] = {}
        """The last word for each pipeline and class; the operator wrote both down."""

    def heard(self, event: PipelineArrived | PipelineEnded, now: Instant, out: Outbox) -> None:
        """Somebody asks, or goes."""
        if isinstance(event, PipelineEnded):
            self._tables.classes.ended(event.kind, late=event.late)
        elif self._tables.leaving:
            out.count("pipelines_judged", "stopping")
            out.add(PipelineJudged(event.run, 0.0, RejectCode.STOPPING, "this node is stopping", None))
        else:
            self._judge(event, now, out)

    def _judge(self, event: PipelineArrived, now: Instant, out: Outbox) -> None:
        legs = legs_of(event, self._tables, self._movers, self._takes, now)
        word = judged_run(event, legs, self._tables)
        refused, finish_s = isinstance(word, Refused), word.finish_ms / 1000
        if self._refuses.get((event.pipeline, event.kind), False) != refused:
            self._refuses[event.pipeline, event.kind] = refused
            self._tell(event, legs, word.reason if isinstance(word, Refused) else "", word.finish_ms, now)
        if isinstance(word, Refused):
            late = word.finish_ms > event.deadline_s * 1000
            out.count("pipelines_judged", "late" if late else "behind")
            again_s = float(word.retry_after_s)
            out.add(PipelineJudged(event.run, finish_s, RejectCode.OVERLOADED, word.reason, again_s))
        else:
            out.count("pipelines_judged", "admitted")
            out.add(PipelineJudged(event.run, finish_s, None, "", None))

    def _tell(self, event: PipelineArrived, legs: Sequence[Leg], reason: str, finish: float, now: Instant) -> None:
        kind = f"class {event.kind}" if event.kind else "no class"
        word = f"refuses a run of {kind}: {reason}" if reason else f"lets runs of {kind} in again: {finish:.0f} ms"
        took = [(leg.step.took_ms, step.name) for leg, step in zip(legs, event.steps, strict=True)]
        longest = ", ".join(f"{name} {ms:.0f} ms" for ms, name in sorted(took, reverse=True)[:TOLD_STEPS])
        owed = self._tables.classes.owed(event.kind)
        story, subject = self._tables.story, f"{SUBJECT}{event.pipeline}"
        story.tell(now, subject, f"{word}; {longest}; Z {owed:.1f}", cause=story.last(subject))
