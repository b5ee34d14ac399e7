"""The client side of a session: what a node does for the requests of its own API.

    RequestArrived ─► chat template ─► tokenizer ─► OpenSession to every stage ─► prompt, in chunks, to stage 0
    Token ─► next position to stage 0 at once ─► detokenizer ─► Emit
    end of turn, stop string, length, cancel, deadline, refusal ─► CloseSession to every stage, Finish

The next step is asked of the stages *before* the token is turned into text: the text is not on the path of the next
token, so the pipeline never waits for it. If a stop string turns out to have ended the answer, one step was in vain.

Each request is pinned to the plan that served when it arrived and never crosses epochs.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.calls import Calls
from shoal_agent.core.dispatch import place
from shoal_agent.core.effects import Accept, CloseService, Emit, Finish, Reject
from shoal_agent.core.events import CancelRequested, RequestArrived, ServiceFailed, ServiceReturned
from shoal_agent.core.facts import (
    CallId,
    ChatPrompt,
    FinishReason,
    Piece,
    RejectCode,
    TextPrompt,
    TokenLogprob,
    Usage,
)
from shoal_agent.core.ledger import Entry, Ledger, Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.services import Method, ServiceKind
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import RequestDeadline
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.headers import (
    Activation,
    CloseReason,
    CloseSession,
    OpenSession,
    RefusalCode,
    ServiceFault,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, REQUESTS_MAX, STAGE_QUEUE_MAX
from shoal_protocol.tensors import Dtype

RETRY_AFTER_S: Final = 1.0
"""What a refused client is told: about one short answer's time. Sized by measured load once there is a controller."""

PROMPT_TOKENS_MAX: Final = PREFILL_CHUNK_TOKENS * STAGE_QUEUE_MAX
"""The whole prompt is sent at once; the first stage keeps this much waiting while its first chunk runs."""

_REJECT_OF: Final[dict[RefusalCode, RejectCode]] = {
    RefusalCode.KV_FULL: RejectCode.OVERLOADED,
    RefusalCode.TOO_MANY_SESSIONS: RejectCode.OVERLOADED,
    RefusalCode.DEADLINE: RejectCode.DEADLINE,
    RefusalCode.STALE_EPOCH: RejectCode.NOT_READY,
    RefusalCode.NOT_HOSTED: RejectCode.NOT_READY,
}
"""What a stage's refusal means to a client whose request was not yet begun; STAGE_LOST for all others."""

_RETRY: Final = (RejectCode.OVERLOADED, RejectCode.NOT_READY, RejectCode.STAGE_LOST)
"""Rejections after which trying again may help."""


class Ingress:
    """All requests of this node's clients."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls) -> None:
        self._node = node
        self._tenures = tables.tenures
        self._membership = tables.membership
        self._lateness = tables.lateness
        self._calls = calls
        self._timers = tables.timers
        self._ledger = Ledger()
        self.services: tuple[str, ...] = ()
        """Light services of this node; the conductor keeps it up to date."""

    # --- before the stages ----------------------------------------------------------------------------------------

    def arrived(self, event: RequestArrived, now: Instant, out: Outbox) -> None:
        """A client wants a generation: begin it, or say at once why not."""
        request = event.request
        assert request.tokens_max is None or request.tokens_max > 0, "the API asks for at least one token"
        if not self._tenures.known(request.deployment):
            self._reject(request.session, RejectCode.UNKNOWN_MODEL, f"no model {request.deployment!r} here", out)
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
        self._prepare(entry, now, out)

    def _prepare(self, entry: Entry, now: Instant, out: Outbox) -> None:
        prompt = entry.request.prompt
        if isinstance(prompt, ChatPrompt):
            self._call(entry, ServiceKind.CHAT_TEMPLATE, Method.RENDER, prompt.body, now, out)
            return
        entry.step = Step.ENCODING
        if isinstance(prompt, TextPrompt):
            request = services.pack(services.EncodeRequest(prompt.text, special=False))
            self._call(entry, ServiceKind.TOKENIZER, Method.ENCODE, request, now, out)
        else:
            request = services.pack(services.CheckRequest(prompt.tokens))
            self._call(entry, ServiceKind.TOKENIZER, Method.CHECK, request, now, out)

    def _call(
        self, entry: Entry, kind: ServiceKind, method: Method, request: services.Parcel, now: Instant, out: Outbox
    ) -> None:
        service = services.service_name(kind, entry.plan.model)
        where = self._place(entry, service, now)
        if where is None:
            self._end(entry, RejectCode.NOT_READY, f"no node runs {service}", out)
            return
        if kind is ServiceKind.DETOKENIZER:
            entry.detokenizer = where
        left_ms = _left_ms(entry, now)
        self._ledger.await_call(entry, self._calls.make(where, service, method, request, left_ms, out))

    def _place(self, entry: Entry, service: str, now: Instant) -> NodeId | None:
        if entry.detokenizer is not None and service.startswith(ServiceKind.DETOKENIZER):
            return entry.detokenizer
        hosts: Sequence[NodeId] = [stage.node for stage in entry.plan.stages]
        return place(service, entry.session, self._node, self.services, self._membership, hosts, now)

    def owns(self, event: ServiceReturned | ServiceFailed) -> bool:
        """Whether a request here waits for this answer."""
        return self._ledger.owns(event.call)

    def answered(self, event: ServiceReturned | ServiceFailed, now: Instant, out: Outbox) -> None:
        """A light service answered the request that waited for it; it may have been another node's, and wrong."""
        entry = self._ledger.answered(event.call)
        assert entry is not None, "owns() was asked first"
        if isinstance(event, ServiceFailed):
            early = entry.step in (Step.RENDERING, Step.ENCODING)
            refused = RejectCode.BAD_PROMPT if early else RejectCode.INTERNAL
            code = {ServiceFault.REFUSED: refused, ServiceFault.BUSY: RejectCode.OVERLOADED}.get(event.fault)
            self._end(entry, code or RejectCode.INTERNAL, event.reason, out)
            return
        try:
            self._go_on(entry, event, now, out)
        except RemoteProtocolError as fault:
            out.count("service_answers_rejected", fault.reason)
            self._end(entry, RejectCode.INTERNAL, f"a light service answered nonsense: {fault}", out)

    def _go_on(self, entry: Entry, event: ServiceReturned, now: Instant, out: Outbox) -> None:
        if entry.step is Step.RENDERING:
            entry.step = Step.ENCODING
            rendered = services.unpack(services.RenderAnswer, event.result)
            request = services.pack(services.EncodeRequest(rendered.text, special=True))
            self._call(entry, ServiceKind.TOKENIZER, Method.ENCODE, request, now, out)
        elif entry.step is Step.ENCODING:
            self._open(entry, services.unpack(services.EncodeAnswer, event.result).tokens, now, out)
        elif entry.step is Step.OPENING:
            self._begin(entry, now, out)
        elif entry.unshown:
            self._show(entry, services.unpack(services.PushAnswer, event.result), now, out)
        else:
            tail = services.unpack(services.FlushAnswer, event.result).text
            entry.detokenizer = None  # which has forgotten the session with this answer
            reason = FinishReason.LENGTH if entry.full() else FinishReason.STOP
            self._finish(entry, reason, tail, "", out)

    # --- opening --------------------------------------------------------------------------------------------------

    def _open(self, entry: Entry, tokens: tuple[int, ...], now: Instant, out: Outbox) -> None:
        context = entry.plan.context_tokens_max
        wanted = entry.request.tokens_max
        if not tokens:
            self._end(entry, RejectCode.BAD_PROMPT, "the prompt has no tokens", out)
            return
        if len(tokens) + (wanted or 1) > context:
            asked = f"{len(tokens)} prompt tokens + {wanted or 1} to generate"
            self._end(entry, RejectCode.CONTEXT_EXCEEDED, f"{asked} exceed the context of {context} tokens", out)
            return
        if len(tokens) > PROMPT_TOKENS_MAX:
            detail = f"{len(tokens)} prompt tokens, at most {PROMPT_TOKENS_MAX}"
            self._end(entry, RejectCode.CONTEXT_EXCEEDED, detail, out)
            return
        entry.tokens = list(tokens)
        entry.prompt_tokens = len(tokens)
        entry.tokens_max = context if wanted is None else len(tokens) + wanted
        entry.step = Step.OPENING
        entry.unopened = set(range(len(entry.plan.stages)))
        request = services.OpenDetokenizerRequest(
            entry.session, entry.request.stop, entry.request.sampling.top_logprobs >= 0
        )
        self._call(entry, ServiceKind.DETOKENIZER, Method.OPEN, services.pack(request), now, out)
        if self._ledger.get(entry.session) is None:
            return
        last = len(entry.plan.stages) - 1
        for index, stage in enumerate(entry.plan.stages):
            header = OpenSession(
                entry.plan.deployment,
                entry.plan.epoch,
                entry.session,
                index,
                entry.tokens_max,
                _left_ms(entry, now),
                entry.request.sampling,
            )
            out.send(stage.node, header, array("q", tokens).tobytes() if index == last else None)

    def opened(self, peer: NodeId, header: SessionOpened, now: Instant, out: Outbox) -> None:
        """A stage reserved its KV."""
        entry = self._ledger.get(header.session)
        if entry is None or not self._speaks_for(peer, entry, header.stage):
            out.count("frames_dropped", "session_opened")
            return
        entry.unopened.discard(header.stage)
        self._begin(entry, now, out)

    @staticmethod
    def _speaks_for(peer: NodeId, entry: Entry, stage: int) -> bool:
        return 0 <= stage < len(entry.plan.stages) and entry.plan.stages[stage].node == peer

    def _begin(self, entry: Entry, now: Instant, out: Outbox) -> None:
        if entry.step is not Step.OPENING or entry.unopened or entry.call is not None:
            return
        entry.step = Step.STREAMING
        out.add(Accept(entry.session, entry.prompt_tokens))
        for start in range(0, entry.prompt_tokens, PREFILL_CHUNK_TOKENS):
            self._feed(entry, start, min(start + PREFILL_CHUNK_TOKENS, entry.prompt_tokens), now, out)

    def _feed(self, entry: Entry, start: int, end: int, now: Instant, out: Outbox) -> None:
        tokens = array("q", entry.tokens[start:end])
        header = Activation(
            entry.plan.deployment,
            entry.plan.epoch,
            entry.session,
            0,
            start,
            end - start,
            end == len(entry.tokens),
            _left_ms(entry, now),
            Dtype.I64,
            (1, end - start),
        )
        out.send(entry.plan.stages[0].node, header, tokens.tobytes())

    # --- streaming ------------------------------------------------------------------------------------------------

    def token(self, peer: NodeId, header: Token, now: Instant, out: Outbox) -> None:
        """The next token was drawn: ask for the one after it, then show this one."""
        entry = self._ledger.get(header.session)
        expected = entry is not None and entry.step is Step.STREAMING and not entry.ending
        if entry is None or not expected or header.position != len(entry.tokens):
            out.count("frames_dropped", "token")
            return
        epoch = (entry.plan.deployment, entry.plan.epoch)
        if (header.deployment, header.epoch) != epoch or not self._speaks_for(peer, entry, len(entry.plan.stages) - 1):
            out.count("frames_dropped", "token")
            return
        if header.end:
            entry.ending = True
        else:
            entry.tokens.append(header.token)
            entry.unshown.append(header)
            entry.ending = entry.full()
            if not entry.ending:
                self._feed(entry, len(entry.tokens) - 1, len(entry.tokens), now, out)
        if entry.call is None:
            self._advance(entry, now, out)

    def _advance(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Turn the next unshown token into text, or end the text."""
        if entry.unshown:
            token = entry.unshown[0]
            request = services.PushRequest(entry.session, token.token, tuple(rival for rival, _ in token.top))
            self._call(entry, ServiceKind.DETOKENIZER, Method.PUSH, request, now, out)
        elif entry.ending:
            request_end = services.FlushRequest(entry.session)
            self._call(entry, ServiceKind.DETOKENIZER, Method.FLUSH, services.pack(request_end), now, out)

    def _show(self, entry: Entry, answer: services.PushAnswer, now: Instant, out: Outbox) -> None:
        token = entry.unshown[0]
        logprob = None
        if entry.request.sampling.top_logprobs >= 0:
            if len(answer.top_bytes) != len(token.top):
                raise MalformedMessage(f"bytes of {len(answer.top_bytes)} rivals, {len(token.top)} were asked")
            rivals = zip(token.top, answer.top_bytes, strict=True)
            top = tuple((rival, text, value) for (rival, value), text in rivals)
            logprob = TokenLogprob(token.token, answer.token_bytes, token.logprob, top)
        entry.unshown.popleft()
        entry.shown += 1
        out.add(Emit(entry.session, Piece(token.token, answer.text, logprob)))
        if answer.stopped:
            self._finish(entry, FinishReason.STOP, "", "", out)
        else:
            self._advance(entry, now, out)

    # --- ending ---------------------------------------------------------------------------------------------------

    def cancel(self, event: CancelRequested, out: Outbox) -> None:
        """The client went away."""
        entry = self._ledger.get(event.session)
        if entry is not None:
            self._finish(entry, FinishReason.CANCELLED, "", "the client cancelled", out)

    def expired(self, session: SessionId, out: Outbox) -> None:
        """The deadline of a request has come."""
        entry = self._ledger.get(session)
        if entry is not None:
            self._end(entry, RejectCode.DEADLINE, f"not done within {entry.request.deadline_s:g} s", out)

    def refused(self, peer: NodeId, header: SessionRefused, out: Outbox) -> None:
        """A stage will not serve, or not go on with, a session."""
        entry = self._ledger.get(header.session)
        if entry is None or entry.ending or not self._speaks_for(peer, entry, header.stage):
            out.count("frames_dropped", "session_refused")
            return
        code = _REJECT_OF.get(header.code, RejectCode.STAGE_LOST)
        self._end(entry, code, f"stage {header.stage}: {header.detail}", out)

    def peer_lost(self, peer: NodeId, calls: Sequence[CallId], out: Outbox) -> None:
        """Requests that wait for one of ``calls`` at ``peer``, or whose plan still needs it, cannot go on."""
        for entry in self._ledger.entries():
            needed = not entry.ending and any(stage.node == peer for stage in entry.plan.stages)
            if needed or entry.call in calls:
                self._end(entry, RejectCode.STAGE_LOST, f"the link to {peer} broke", out)

    def stop(self, out: Outbox) -> None:
        """The node ends: nobody is left without an ending."""
        for entry in self._ledger.entries():
            self._end(entry, RejectCode.NOT_READY, "this node is stopping", out)

    def _end(self, entry: Entry, code: RejectCode, detail: str, out: Outbox) -> None:
        """End early: as a rejection while nothing was promised, as a failed stream afterwards."""
        if entry.step is Step.STREAMING:
            reason = FinishReason.DEADLINE if code is RejectCode.DEADLINE else FinishReason.FAILED
            self._finish(entry, reason, "", detail, out)
            return
        self._leave(entry, CloseReason.DEADLINE if code is RejectCode.DEADLINE else CloseReason.FAILED, out)
        self._reject(entry.session, code, detail, out)

    @staticmethod
    def _reject(session: SessionId, code: RejectCode, detail: str, out: Outbox) -> None:
        out.count("requests_rejected", code.value)
        out.add(Reject(session, code, detail, RETRY_AFTER_S if code in _RETRY else None))

    def _finish(self, entry: Entry, reason: FinishReason, tail: str, detail: str, out: Outbox) -> None:
        close = {
            FinishReason.CANCELLED: CloseReason.CANCELLED,
            FinishReason.DEADLINE: CloseReason.DEADLINE,
            FinishReason.FAILED: CloseReason.FAILED,
        }.get(reason, CloseReason.FINISHED)
        self._leave(entry, close, out)
        out.count("requests_finished", reason.value)
        out.add(Finish(entry.session, reason, tail, Usage(entry.prompt_tokens, entry.shown), detail))

    def _leave(self, entry: Entry, reason: CloseReason, out: Outbox) -> None:
        """Take the request out of the book and free what it holds anywhere."""
        if entry.call is not None:
            self._calls.forget(entry.call)
        self._ledger.remove(entry.session)
        if reason in (CloseReason.FINISHED, CloseReason.DEADLINE):
            self._lateness.ended(entry.plan.deployment, late=reason is CloseReason.DEADLINE)
        self._timers.clear(RequestDeadline(entry.session))
        if entry.step not in (Step.OPENING, Step.STREAMING):
            return
        for node in dict.fromkeys(stage.node for stage in entry.plan.stages):
            out.send(node, CloseSession(entry.session, reason))
        service = services.service_name(ServiceKind.DETOKENIZER, entry.plan.model)
        if entry.detokenizer == self._node:
            out.add(CloseService(service, entry.session))
        elif entry.detokenizer is not None:
            # A flush is how a detokenizer abroad forgets a session; nobody waits for what it says.
            request = services.pack(services.FlushRequest(entry.session))
            self._calls.forget(self._calls.make(entry.detokenizer, service, Method.FLUSH, request, 0, out))

    # --- looking in -----------------------------------------------------------------------------------------------

    @property
    def request_count(self) -> int:
        """Requests in flight."""
        return len(self._ledger)

    def check(self) -> None:
        """Assert the books, and that every request has its deadline."""
        self._ledger.check()
        for entry in self._ledger.entries():
            assert RequestDeadline(entry.session) in self._timers


def _left_ms(entry: Entry, now: Instant) -> int:
    return max(0, int((entry.deadline - now) * 1000))
