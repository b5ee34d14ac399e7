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
from shoal_agent.core.comebacks import Comebacks
from shoal_agent.core.diary import Diarist
from shoal_agent.core.effects import Accept, Emit
from shoal_agent.core.endings import Endings
from shoal_agent.core.events import CancelRequested, RequestArrived, ServiceFailed, ServiceReturned
from shoal_agent.core.facts import FinishReason, RejectCode, Standing
from shoal_agent.core.forecast import Refused
from shoal_agent.core.journey import Failed, Journey
from shoal_agent.core.ledger import NEVER, Entry, Failure, Ledger, Step
from shoal_agent.core.membership import PRESENT
from shoal_agent.core.movers import Movers
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.rescue import AWAY
from shoal_agent.core.scribe import Encoded, Ready, Scribe, Shown, Told
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import RequestDeadline, RequestDue
from shoal_agent.core.welcome import judged
from shoal_protocol.headers import (
    HandedOver,
    PathBroken,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Instant, NodeId, SessionId
from shoal_protocol.journal import JournalServed
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, REQUESTS_MAX, STAGE_QUEUE_MAX

COMING_BACK_S: Final = 5.0
"""By then a node that came back has heard every host that speaks: hosts repeat what they say to whoever appears."""
PROMPT_TOKENS_MAX: Final = PREFILL_CHUNK_TOKENS * STAGE_QUEUE_MAX
"""The whole prompt is sent at once; the first stage keeps this much waiting while its first chunk runs."""


class Ingress:
    """All requests of this node's clients."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls, movers: Movers) -> None:
        self._tables = tables
        self._movers = movers
        self._tenures = tables.tenures
        self._lateness = tables.lateness
        self._timers = tables.timers
        self._ledger = Ledger()
        self.scribe = Scribe(node, tables, calls, movers, self._ledger)
        self._journey = Journey(node, tables, self._ledger)
        self._diary = Diarist(node, tables)
        self._endings = Endings(tables, self._ledger, self.scribe, self._journey, self._diary)
        self._comebacks = Comebacks(node, tables, self._ledger, self._diary, self._endings)

    # --- before the stages ----------------------------------------------------------------------------------------

    def arrived(self, event: RequestArrived, now: Instant, out: Outbox) -> None:
        """A client wants a generation: begin it, or say at once why not."""
        request = event.request
        assert request.tokens_max is None or request.tokens_max > 0, "the API asks for at least one token"
        if self._tables.leaving:
            self._endings.reject(request, RejectCode.STOPPING, "this node is stopping", out)
            return
        if not self._tenures.known(request.deployment):
            self._endings.reject(request, RejectCode.UNKNOWN_MODEL, f"no model {request.deployment!r} here", out)
            return
        if self._ledger.get(request.session) is not None or self._comebacks.seeks(request.session):
            self._endings.reject(request, RejectCode.CONFLICT, "another request here has this id", out)
            return
        if request.claim is not None and request.claim.seen is not None:
            self._comebacks.begin(request, now, out, anew=False)
            return
        tenure = self._tenures.serving(request.deployment)
        if tenure is None:
            back = self._tables.restored is not None and now < self._tables.restored + COMING_BACK_S
            code = RejectCode.STARTING if back else RejectCode.NOT_READY
            self._endings.reject(request, code, "not every stage is ready yet", out)
            return
        if self.request_count >= REQUESTS_MAX:
            self._endings.reject(request, RejectCode.OVERLOADED, f"{REQUESTS_MAX} requests are in flight", out)
            return
        word = judged(request, tenure.plan, self._tables, self._movers, now)
        if isinstance(word, Refused):
            self._endings.reject(request, RejectCode.OVERLOADED, word.reason, out, word.retry_after_s)
            return
        deadline = Instant(now + request.deadline_s)
        entry = Entry(request, tenure.plan, deadline, Step.RENDERING)
        self._ledger.add(entry)
        self._timers.set(RequestDeadline(request.session), deadline)
        self._heed(entry, self.scribe.begin(entry, now, out), now, out)

    def takes_s(self, deployment: DeploymentId, prompt: int, answer: int | None, answer_max: int) -> float | None:
        """How long a generation would take on its stages now; see ``Journey.takes_s``."""
        return self._journey.takes_s(deployment, prompt, answer, answer_max)

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
                    self._endings.finish(entry, FinishReason.STOP, "", "", now, out)
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
                self._endings.finish(entry, reason, tail, "", now, out)
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
            failure = self._journey.crowded(entry, now, out)
        if failure is None:
            failure = self.scribe.advance(entry, now, out) or self._journey.lay(entry, now, out)
            if self.scribe.waits(entry):
                self._journey.look_soon(entry, now)
        if failure is None:
            self._tables.demands.began(entry.plan.deployment, len(tokens), now)
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
            out.add(Accept(entry.session, entry.prompt_tokens, resumable, entry.left_out))
        self._journey.go(entry, now, out)

    # --- streaming ------------------------------------------------------------------------------------------------

    def token(self, peer: NodeId, header: Token, now: Instant, out: Outbox) -> None:
        """The next token was drawn: ask for the one after it, then show this one."""
        entry = self._ledger.get(header.session)
        if entry is None or not entry.expects(peer, header):
            out.count("frames_dropped", "token")
            return
        self._tables.demands.answered(entry.plan.deployment, now)
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
        if not self._comebacks.overtaken(peer, header, now, out):
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
        self._comebacks.lost(node, out)
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
        self._comebacks.cancel(event.session)
        entry = self._ledger.get(event.session)
        if entry is not None:
            self._endings.finish(entry, FinishReason.CANCELLED, "", "the client cancelled", now, out)

    def expired(self, session: SessionId, now: Instant, out: Outbox) -> None:
        """The deadline of a request has come."""
        self._comebacks.expired(session, out)
        entry = self._ledger.get(session)
        if entry is not None:
            self._heed(entry, entry.late(), now, out)

    def stop(self, now: Instant, out: Outbox) -> None:
        """The node ends: nobody is left without an ending, and who may come back elsewhere is left to do so."""
        self._comebacks.stop(now, out)
        for entry in self._ledger.entries():
            self._heed(entry, Failure(RejectCode.STOPPING, "this node is stopping"), now, out)

    def _bury(self, failed: Iterable[Failed | None], now: Instant, out: Outbox) -> None:
        for pair in failed:
            if pair is not None:
                self._heed(*pair, now, out)

    def _heed(self, entry: Entry, failure: Failure | None, now: Instant, out: Outbox) -> None:
        self._endings.heed(entry, failure, now, out)

    # --- from one ingress to another ------------------------------------------------------------------------------

    def served(self, peer: NodeId, header: JournalServed, payload: Payload, now: Instant, out: Outbox) -> None:
        """A peer tells what it keeps of a stream whose client came here."""
        entry = self._comebacks.served(peer, header, payload, now, out)
        if entry is None:
            return
        failure = None if entry.ending else self._journey.lay(entry, now, out)
        self._heed(entry, failure, now, out)
        if failure is None:
            self._write(entry, now, out)

    def requested(self, peer: NodeId, session: SessionId, now: Instant, out: Outbox) -> bool:
        """Another ingress asks for a stream that may be served here; whether it is, and was told."""
        return self._comebacks.requested(peer, session, now, out)

    # --- looking in -----------------------------------------------------------------------------------------------

    @property
    def request_count(self) -> int:
        """Requests in flight."""
        return len(self._ledger) + len(self._comebacks)

    def check(self) -> None:
        """Assert the books, and that every request has its deadline, and what it waits for an end."""
        self._ledger.check()
        for entry in self._ledger.entries():
            assert RequestDeadline(entry.session) in self._timers
            assert (RequestDue(entry.session) in self._timers) == (entry.due_at < NEVER)
        self._comebacks.check()


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
