"""The client side of a session: what a node does for the requests of its own API.

    RequestArrived ─► chat template ─► tokenizer ─► OpenSession to every stage ─► prompt, in chunks, to stage 0
    Token ─► next position to stage 0 at once ─► detokenizer ─► Emit
    end of turn, stop string, length, cancel, deadline, refusal ─► CloseSession to every stage, Finish

The next step is asked of the stages *before* the token is turned into text: the text is not on the path of the next
token, so the pipeline never waits for it. If a stop string turns out to have ended the answer, one step was in vain.

What happens to the machines behind a request is no reason to end it: ``scribe`` has its text done elsewhere, and
``journey`` finds it another way through its stages. What happens to this node is none either, to a client that comes
back: ``diary`` writes down what another ingress needs, and ``revival`` is how one begins with that.
"""

from collections.abc import Iterable
from typing import Final

from shoal_agent.core.calls import Calls
from shoal_agent.core.diary import Scribbler, seal
from shoal_agent.core.effects import Accept, Emit, Finish, Reject
from shoal_agent.core.events import CancelRequested, RequestArrived, ServiceFailed, ServiceReturned
from shoal_agent.core.facts import FinishReason, RejectCode, Standing, Usage
from shoal_agent.core.journey import Failed, Journey
from shoal_agent.core.ledger import NEVER, Entry, Failure, Ledger, Step
from shoal_agent.core.membership import PRESENT
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.rescue import AWAY
from shoal_agent.core.revival import PEERS_MAX, SEEK_S, Found, Seek, Seeks, revived
from shoal_agent.core.scribe import Encoded, Ready, Scribe, Shown, Told
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import RequestDeadline, RequestDue
from shoal_protocol.headers import (
    CloseReason,
    HandedOver,
    PathBroken,
    RefusalCode,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.journal import JournalRequested, JournalServed, bind_pages
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, REQUESTS_MAX, STAGE_QUEUE_MAX
from shoal_protocol.messages import NodePhase

RETRY_AFTER_S: Final = 1.0
"""What a refused client is told: about one short answer's time. Sized by measured load once there is a controller."""

PROMPT_TOKENS_MAX: Final = PREFILL_CHUNK_TOKENS * STAGE_QUEUE_MAX
"""The whole prompt is sent at once; the first stage keeps this much waiting while its first chunk runs."""

_RETRY: Final = (RejectCode.OVERLOADED, RejectCode.NOT_READY, RejectCode.STAGE_LOST)
"""Rejections after which trying again may help."""


class Ingress:
    """All requests of this node's clients."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls) -> None:
        self._tables = tables
        self._tenures = tables.tenures
        self._lateness = tables.lateness
        self._timers = tables.timers
        self._ledger = Ledger()
        self.scribe = Scribe(node, tables, calls, self._ledger)
        self._journey = Journey(node, tables, self._ledger)
        self._node = node
        self._diary = Scribbler(node, tables)
        self._seeks = Seeks()

    # --- before the stages ----------------------------------------------------------------------------------------

    def arrived(self, event: RequestArrived, now: Instant, out: Outbox) -> None:
        """A client wants a generation: begin it, or say at once why not."""
        request = event.request
        assert request.tokens_max is None or request.tokens_max > 0, "the API asks for at least one token"
        if self._tables.phase is NodePhase.DRAINING:
            self._reject(request.session, RejectCode.NOT_READY, "this node is stopping", out)
            return
        if not self._tenures.known(request.deployment):
            self._reject(request.session, RejectCode.UNKNOWN_MODEL, f"no model {request.deployment!r} here", out)
            return
        if self._ledger.get(request.session) is not None or request.session in self._seeks:
            self._reject(request.session, RejectCode.CONFLICT, "another request here has this id", out)
            return
        if request.claim is not None and request.claim.seen is not None:
            self._seek(request, now, out, anew=False)
            return
        tenure = self._tenures.serving(request.deployment)
        if tenure is None:
            self._reject(request.session, RejectCode.NOT_READY, "not every stage is ready yet", out)
            return
        if len(self._ledger) >= REQUESTS_MAX:
            self._reject(request.session, RejectCode.OVERLOADED, f"{REQUESTS_MAX} requests are in flight", out)
            return
        deadline = Instant(now + request.deadline_s)
        entry = Entry(request, tenure.plan, deadline, Step.RENDERING)
        self._ledger.add(entry)
        self._timers.set(RequestDeadline(request.session), deadline)
        self._heed(entry, self.scribe.begin(entry, now, out), now, out)

    def owns(self, event: ServiceReturned | ServiceFailed) -> bool:
        """Whether a request here waits for this answer."""
        return self._ledger.owns(event.call)

    def answered(self, event: ServiceReturned | ServiceFailed, now: Instant, out: Outbox) -> None:
        """A light service answered the request that waited for it."""
        entry = self._ledger.answered(event.call)
        assert entry is not None, "owns() was asked first"
        word = self.scribe.answered(entry, event, now, out)
        match word:
            case Shown(piece, stopped):
                out.add(Emit(entry.session, piece))
                if stopped:
                    self._finish(entry, FinishReason.STOP, "", "", now, out)
                elif entry.unshown or entry.ending:
                    self._write(entry, now, out)
                return
            case Encoded(tokens):
                self._encoded(entry, tokens, now, out)
                return
            case Ready():
                self._begin(entry, now, out)
            case Told(tail):
                reason = FinishReason.LENGTH if entry.full() else FinishReason.STOP
                self._finish(entry, reason, tail, "", now, out)
                return
            case Failure():
                self._heed(entry, word, now, out)
                return
            case None if isinstance(event, ServiceFailed):
                self._journey.look_soon(entry, now)
                return
        self._write(entry, now, out)

    def _write(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Ask for what comes next in the request's text."""
        failure = self.scribe.advance(entry, now, out)
        if failure is not None:
            self._heed(entry, failure, now, out)
        elif entry.call is None and self.scribe.waits(entry):
            self._journey.look_soon(entry, now)

    # --- opening --------------------------------------------------------------------------------------------------

    def _encoded(self, entry: Entry, tokens: tuple[int, ...], now: Instant, out: Outbox) -> None:
        """The prompt is known: lay the first route."""
        failure = _too_long(entry, tokens)
        if failure is None:
            entry.begin(tokens)
            failure = self.scribe.advance(entry, now, out) or self._journey.lay(entry, now, out)
            if self.scribe.waits(entry):
                self._journey.look_soon(entry, now)
        self._heed(entry, failure, now, out)

    def opened(self, peer: NodeId, header: SessionOpened, now: Instant, out: Outbox) -> None:
        """A stage is there."""
        entry = self._journey.opened(peer, header, out)
        if entry is not None:
            self._begin(entry, now, out)

    def _begin(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Let the stages go on, once all of them are there, and at first the detokenizer too."""
        if not entry.is_open() or (not entry.accepted and entry.pushed is None):
            return
        if not entry.accepted:
            entry.accepted = True
            resumable = self._diary.begin(entry, now, out)
            out.add(Accept(entry.session, entry.prompt_tokens, resumable))
        self._journey.go(entry, now, out)

    # --- streaming ------------------------------------------------------------------------------------------------

    def token(self, peer: NodeId, header: Token, now: Instant, out: Outbox) -> None:
        """The next token was drawn: ask for the one after it, then show this one."""
        entry = self._ledger.get(header.session)
        if entry is None or not entry.expects(peer, header):
            out.count("frames_dropped", "token")
            return
        if entry.patience_s:
            self._journey.going(entry, now, out)
        else:
            entry.heard(now)
        if header.end:
            entry.ending = True
        else:
            entry.tokens.append(header.token)
            entry.unshown.append(header)
            entry.ending = entry.full()
        if entry.ending:
            self._journey.over(entry, now, out)
        else:
            self._journey.drawn(entry, now, out)
            self._diary.drawn(entry, now, out)
        if entry.call is None:
            self._write(entry, now, out)

    # --- what happens to machines ---------------------------------------------------------------------------------

    def refused(self, peer: NodeId, header: SessionRefused, now: Instant, out: Outbox) -> None:
        """A stage will not serve, or not go on with, a session."""
        entry = self._ledger.get(header.session)
        claimed = entry is not None and entry.request.claim is not None and header.code is RefusalCode.OLD_ATTEMPT
        if entry is not None and claimed and entry.speaks(peer, header.stage, header.attempt):
            self._overtaken(entry, now, out)
            return
        self._bury((self._journey.refused(peer, header, now, out),), now, out)

    def broken(self, peer: NodeId, header: PathBroken, now: Instant, out: Outbox) -> None:
        """A stage does not reach its neighbour."""
        self._bury((self._journey.broken(peer, header, now, out),), now, out)

    def handed(self, peer: NodeId, header: HandedOver, now: Instant, out: Outbox) -> None:
        """A stage's KV is where the session moves to."""
        self._bury((self._journey.handed(peer, header, now, out),), now, out)

    def stood(self, node: NodeId, standing: Standing, now: Instant, out: Outbox) -> None:
        """``node`` is seen in another way."""
        if standing in AWAY:
            self.lost(node, f"it is {standing.value}", now, out)
        elif standing in PRESENT:
            self.back(node, now, out)

    def back(self, node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` can be reached."""
        self._journey.back(node, now, out)
        self._diary.back(self._ledger.entries(), node, now, out)

    def lost(self, node: NodeId, why: str, now: Instant, out: Outbox) -> None:
        """``node`` is out of reach: whatever it did for a request is done elsewhere."""
        self._bury(self._journey.lost(node, why, now, out), now, out)
        self._diary.lost(self._ledger.entries(), node, now, out)
        for seek in self._seeks.lost(node):
            self._found_nothing(seek, out)
        for entry in self._ledger.entries():
            failure = self.scribe.lost(entry, node, now, out)
            if failure is None and self.scribe.waits(entry):
                self._journey.look_soon(entry, now)
            self._heed(entry, failure, now, out)

    def settled(self, now: Instant, out: Outbox) -> None:
        """Plans, or what hosts report of them, have changed."""
        self._bury(self._journey.settled(now, out), now, out)

    def due(self, session: SessionId, now: Instant, out: Outbox) -> Iterable[NodeId]:
        """Something of a request may be overdue; nodes of whom it is doubted that they live."""
        entry = self._ledger.get(session)
        if entry is None:
            return ()
        entry.due_at = NEVER
        if self.scribe.waits(entry):
            self._journey.look_soon(entry, now)
            self._heed(entry, self.scribe.again(entry, now, out), now, out)
        if self._ledger.get(session) is None or not entry.routed:
            return ()
        failure, doubted = self._journey.due(entry, now, out)
        self._heed(entry, failure, now, out)
        return doubted

    # --- ending ---------------------------------------------------------------------------------------------------

    def cancel(self, event: CancelRequested, now: Instant, out: Outbox) -> None:
        """The client went away."""
        if self._seeks.end(event.session) is not None:
            self._timers.clear(RequestDeadline(event.session))
        entry = self._ledger.get(event.session)
        if entry is not None:
            self._finish(entry, FinishReason.CANCELLED, "", "the client cancelled", now, out)

    def expired(self, session: SessionId, now: Instant, out: Outbox) -> None:
        """The deadline of a request has come."""
        seek = self._seeks.end(session)
        if seek is not None:
            self._found_nothing(seek, out)
        entry = self._ledger.get(session)
        if entry is not None:
            detail = f"not done within {entry.request.deadline_s:g} s"
            self._heed(entry, Failure(RejectCode.DEADLINE, detail), now, out)

    def stop(self, now: Instant, out: Outbox) -> None:
        """The node ends: nobody is left without an ending, and who may come back elsewhere is left to do so."""
        for session in self._seeks.all():
            self._found_nothing(self._seeks.end(session), out)
        for entry in self._ledger.entries():
            if entry.diary is not None:
                self._diary.flush(entry, now, out)
                self._release(entry, "this node is stopping; another one can go on", now, out)
                continue
            self._heed(entry, Failure(RejectCode.NOT_READY, "this node is stopping"), now, out)

    def _bury(self, failed: Iterable[Failed | None], now: Instant, out: Outbox) -> None:
        for pair in failed:
            if pair is not None:
                self._heed(*pair, now, out)

    def _heed(self, entry: Entry, failure: Failure | None, now: Instant, out: Outbox) -> None:
        """End early if there is a reason: as a rejection while nothing was promised, as a failed stream afterwards."""
        if failure is None:
            return
        late = failure.code is RejectCode.DEADLINE
        if entry.accepted:
            self._finish(entry, FinishReason.DEADLINE if late else FinishReason.FAILED, "", failure.detail, now, out)
        else:
            self._leave(entry, CloseReason.DEADLINE if late else CloseReason.FAILED, now, out)
            self._reject(entry.session, failure.code, failure.detail, out)

    @staticmethod
    def _reject(session: SessionId, code: RejectCode, detail: str, out: Outbox) -> None:
        out.count("requests_rejected", code.value)
        out.add(Reject(session, code, detail, RETRY_AFTER_S if code in _RETRY else None))

    def _finish(self, entry: Entry, reason: FinishReason, tail: str, detail: str, now: Instant, out: Outbox) -> None:
        close = {
            FinishReason.CANCELLED: CloseReason.CANCELLED,
            FinishReason.DEADLINE: CloseReason.DEADLINE,
            FinishReason.FAILED: CloseReason.FAILED,
        }.get(reason, CloseReason.FINISHED)
        if close is CloseReason.FINISHED:
            self._diary.over(entry, now, out)
        else:
            self._diary.close(entry, close, out)
        self._leave(entry, close, now, out)
        out.count("requests_finished", reason.value)
        out.add(Finish(entry.session, reason, tail, Usage(entry.prompt_tokens, entry.shown), detail))

    def _leave(self, entry: Entry, reason: CloseReason, now: Instant, out: Outbox) -> None:
        """Take the request out of the book and free what it holds anywhere."""
        self._forget(entry, out)
        if reason in (CloseReason.FINISHED, CloseReason.DEADLINE):
            self._lateness.ended(entry.plan.deployment, late=reason is CloseReason.DEADLINE)
        self._journey.leave(entry, reason, now, out)

    def _forget(self, entry: Entry, out: Outbox) -> None:
        """Take the request out of the book, and leave its stages alone."""
        self.scribe.leave(entry, out)
        self._ledger.remove(entry.session)
        self._timers.clear(RequestDeadline(entry.session))
        self._timers.clear(RequestDue(entry.session))

    # --- from one ingress to another ------------------------------------------------------------------------------

    def _seek(self, request: GenerationRequest, now: Instant, out: Outbox, *, anew: bool) -> None:
        """Look for what another ingress wrote of this request."""
        asked = [self._node, *self._diary.peers(request.session, now, PEERS_MAX)]
        self._timers.set(RequestDeadline(request.session), Instant(now + SEEK_S))
        self._seeks.begin(Seek(request, dict.fromkeys(asked), anew), out)

    def _found_nothing(self, seek: Seek, out: Outbox) -> None:
        session = seek.request.session
        self._timers.clear(RequestDeadline(session))
        if seek.anew:
            self._reject(session, RejectCode.CONFLICT, "another request has this id, or had it a moment ago", out)
        else:
            self._reject(session, RejectCode.NOTHING_KEPT, "nothing of this stream is kept", out)

    def served(self, peer: NodeId, header: JournalServed, payload: Payload, now: Instant, out: Outbox) -> None:
        """A peer tells what it keeps of a stream whose client came here."""
        answer = self._seeks.served(peer, header, payload, now, out)
        if answer is None:
            return
        seek, found = answer
        if found is None:
            self._found_nothing(seek, out)
            return
        self._timers.clear(RequestDeadline(header.session))
        claim, known = seek.request.claim, self._tenures.of(seek.request.deployment)
        if claim is None or found.page.intent != claim.intent or not known:
            self._reject(header.session, RejectCode.CONFLICT, "this id was another request's", out)
            return
        own = [tenure.plan for tenure in known if tenure.plan.epoch == found.page.epoch]
        self._revive(revived(seek.request, found, own[0] if own else known[-1].plan, now), found, now, out)

    def _revive(self, entry: Entry, found: Found, now: Instant, out: Outbox) -> None:
        """Go on where another ingress left."""
        self._ledger.add(entry)
        self._timers.set(RequestDeadline(entry.session), entry.deadline)
        out.count("sessions_revived", "ENDED" if entry.ending else "OPEN")
        chronicle.tell_revival(self._tables.story, entry, found.writer, now)
        if found.writer != self._node:
            out.send(found.writer, JournalRequested(entry.session, taking=True))
        entry.accepted = True
        out.add(Accept(entry.session, entry.prompt_tokens, self._diary.begin(entry, now, out)))
        failure = None if entry.ending else self._journey.lay(entry, now, out)
        self._heed(entry, failure, now, out)
        if failure is None:
            self._write(entry, now, out)

    def requested(self, peer: NodeId, header: JournalRequested, now: Instant, out: Outbox) -> bool:
        """Another ingress asks for, or takes, a stream that is served here; whether there is such a one."""
        entry = self._ledger.get(header.session)
        if entry is None or entry.diary is None or not self._tables.zones.shared(peer, self._node):
            return False
        if header.taking:
            self._release(entry, "another node goes on with it", now, out)
        elif _fits(entry):
            out.send(peer, JournalServed(entry.session, self._node, entry.left_ms(now)), bind_pages((seal(entry, 0),)))
        return True

    def _overtaken(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """A stage knows a later attempt than ours: the client turned to another ingress, or has just come from one."""
        if entry.accepted:
            self._release(entry, "another node goes on with it", now, out)
        else:
            self._forget(entry, out)
            self._seek(entry.request, now, out, anew=True)

    def _release(self, entry: Entry, why: str, now: Instant, out: Outbox) -> None:
        """Let go of a stream without a word to its stages: they are another ingress's, or will be."""
        del now
        self._forget(entry, out)
        out.count("requests_finished", "released")
        usage = Usage(entry.prompt_tokens, entry.shown)
        out.add(Finish(entry.session, FinishReason.FAILED, "", usage, why))

    # --- looking in -----------------------------------------------------------------------------------------------

    @property
    def request_count(self) -> int:
        """Requests in flight."""
        return len(self._ledger)

    def check(self) -> None:
        """Assert the books, and that every request has its deadline, and what it waits for an end."""
        self._ledger.check()
        for entry in self._ledger.entries():
            assert RequestDeadline(entry.session) in self._timers
            assert (RequestDue(entry.session) in self._timers) == (entry.due_at < NEVER)
        assert all(RequestDeadline(session) in self._timers for session in self._seeks.all())


def _too_long(entry: Entry, tokens: tuple[int, ...]) -> Failure | None:
    """Why a prompt of these tokens cannot be served, if so."""
    context, wanted = entry.plan.context_tokens_max, entry.request.tokens_max
    if not tokens:
        return Failure(RejectCode.BAD_PROMPT, "the prompt has no tokens")
    if len(tokens) + (wanted or 1) > context:
        asked = f"{len(tokens)} prompt tokens + {wanted or 1} to generate"
        return Failure(RejectCode.CONTEXT_EXCEEDED, f"{asked} exceed the context of {context} tokens")
    if len(tokens) > PROMPT_TOKENS_MAX:
        return Failure(RejectCode.CONTEXT_EXCEEDED, f"{len(tokens)} prompt tokens, at most {PROMPT_TOKENS_MAX}")
    return None
