"""How a request ends: refused while nothing was promised, finished well or badly afterwards, or let go of.

Whatever the way, the request leaves the book, its timers and its detokenizer. Its stages are told and free what they
hold, with one exception: a request that is *released* goes on at another ingress, and its stages belong to that one.
"""

from typing import Final

from shoal_agent.core.diary import Diarist
from shoal_agent.core.effects import Finish, Reject
from shoal_agent.core.facts import FinishReason, GenerationRequest, RejectCode, Usage
from shoal_agent.core.journey import Journey
from shoal_agent.core.ledger import Entry, Failure, Ledger
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.scribe import Scribe
from shoal_agent.core.service_classes import counts
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import RequestDeadline, RequestDue, Routine
from shoal_protocol.headers import CloseReason
from shoal_protocol.ids import Instant

RETRY_AFTER_S: Final = 1.0
"""What a refused client is told, unless more is known: about one short answer's time."""

_RETRY: Final = (
    RejectCode.OVERLOADED,
    RejectCode.STOPPING,
    RejectCode.STARTING,
    RejectCode.NOT_READY,
    RejectCode.STAGE_LOST,
)
"""Rejections after which trying again may help."""
_CLOSE: Final = {
    FinishReason.CANCELLED: CloseReason.CANCELLED,
    FinishReason.DEADLINE: CloseReason.DEADLINE,
    FinishReason.FAILED: CloseReason.FAILED,
}
"""FINISHED for all others."""


def retry_after_s(code: RejectCode) -> float | None:
    """What a client is told that is refused for ``code``, unless more is known; None: trying again is no use."""
    return RETRY_AFTER_S if code in _RETRY else None


class Endings:
    """The ways out of the book."""

    def __init__(self, tables: Tables, ledger: Ledger, scribe: Scribe, journey: Journey, diary: Diarist) -> None:
        self._lateness = tables.lateness
        self._classes = tables.classes
        self._timers = tables.timers
        self._ledger = ledger
        self._scribe = scribe
        self._journey = journey
        self._diary = diary

    def reject(
        self,
        request: GenerationRequest,
        code: RejectCode,
        detail: str,
        out: Outbox,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        """The request was not begun."""
        if counts(code):
            self._classes.ended(request.promised, late=True)
        out.count("requests_rejected", code.value)
        out.add(Reject(request.session, code, detail, retry_after_s if code in _RETRY else None))

    def heed(self, entry: Entry, failure: Failure | None, now: Instant, out: Outbox) -> None:
        """End early if there is a reason: as a rejection while nothing was promised, as a failed stream afterwards."""
        if failure is None:
            return
        late = failure.code is RejectCode.DEADLINE
        if entry.accepted:
            self.finish(entry, FinishReason.DEADLINE if late else FinishReason.FAILED, "", failure.detail, now, out)
        else:
            self._leave(entry, CloseReason.DEADLINE if late else CloseReason.FAILED, now, out)
            self.reject(entry.request, failure.code, failure.detail, out, failure.retry_after_s or RETRY_AFTER_S)

    def finish(self, entry: Entry, reason: FinishReason, tail: str, detail: str, now: Instant, out: Outbox) -> None:
        """The stream is over."""
        close = _CLOSE.get(reason, CloseReason.FINISHED)
        if close is CloseReason.FINISHED:
            self._diary.over(entry, now, out)
        else:
            self._diary.close(entry, close, out)
        if close is not CloseReason.CANCELLED:
            self._classes.ended(entry.request.promised, late=close is not CloseReason.FINISHED)
        self._leave(entry, close, now, out)
        out.count("requests_finished", reason.value)
        out.add(Finish(entry.session, reason, tail, Usage(entry.prompt_tokens, entry.shown), detail))

    def _leave(self, entry: Entry, reason: CloseReason, now: Instant, out: Outbox) -> None:
        """Take the request out of the book and free what it holds anywhere."""
        self.forget(entry, out)
        if reason in (CloseReason.FINISHED, CloseReason.DEADLINE):
            slow = self._lateness.ended(entry.plan.deployment, now, late=reason is CloseReason.DEADLINE)
            if slow:
                self._timers.set(Routine.STEER, now)  # whatever is better is better at once
        self._journey.leave(entry, reason, now, out)

    def forget(self, entry: Entry, out: Outbox) -> None:
        """Take the request out of the book, and leave its stages alone."""
        self._scribe.leave(entry, out)
        self._ledger.remove(entry.session)
        self._timers.clear(RequestDeadline(entry.session))
        self._timers.clear(RequestDue(entry.session))

    def release(self, entry: Entry, why: str, out: Outbox) -> None:
        """Let go of a stream whose stages are another ingress's, or will be."""
        self.forget(entry, out)
        out.count("requests_finished", "released")
        usage = Usage(entry.prompt_tokens, entry.shown)
        out.add(Finish(entry.session, FinishReason.FAILED, "", usage, why))
