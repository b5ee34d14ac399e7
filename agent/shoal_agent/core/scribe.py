"""Between a client's words and the model's tokens: the light services of a request, wherever they run.

    prompt ─► chat template ─► tokenizer ─► stages ─► detokenizer ─► text

A request has one call under way at a time. A call whose node is lost is made again elsewhere: template and tokenizer
keep nothing, and a detokenizer's state follows from the tokens alone. So a new one is opened and told all tokens so
far; what it says of those that were shown already is dropped, and the text goes on as it would have.

While nothing was promised to the client a service that fails ends the request, with a word that says whose fault it is.
Afterwards it is tried elsewhere, or again: without end where there is no room, a bounded number of times otherwise, for
``MISHAPS_MAX`` failures without a word between them are no accident.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.calls import Ask, Calls, came_too_late
from shoal_agent.core.dispatch import place
from shoal_agent.core.effects import CloseService
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.facts import ChatPrompt, Piece, RejectCode, TextPrompt, TokenLogprob
from shoal_agent.core.ledger import BEGIN_S_MAX, Asked, Entry, Failure, Ledger, Step
from shoal_agent.core.movers import Movers
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import servers_of
from shoal_agent.core.services import Method, ServiceKind
from shoal_agent.core.tables import Tables
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.headers import ServiceFault
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.limits import SERVICE_CALL_S_MAX

MISHAPS_MAX: Final = 4
"""A node is lost, the next has no room, the third knows nothing of the session: beyond that something is wrong."""
FORGET_MS: Final = int(1000 * SERVICE_CALL_S_MAX)
"""A detokenizer abroad is to forget a session also when the request is late; as soon as any other call."""

_EARLY: Final = (Step.RENDERING, Step.ENCODING)
"""Steps in which there is no token yet."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The prompt as tokens."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The detokenizer is open."""


@dataclass(slots=True)
class Shown:
    """What the next token adds to the text. ``stopped``: a stop string ends it here."""

    piece: Piece
    stopped: bool


@dataclass(frozen=True, slots=True)
class Told:
    """All is shown; ``tail`` was held back until the end."""

    tail: str


Word = Encoded | Ready | Shown | Told | Failure | None


class Scribe:
    """The light-service calls of all requests of this node."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls, movers: Movers, ledger: Ledger) -> None:
        self._node = node
        self._membership = tables.membership
        self._classes = tables.classes
        self._calls = calls
        self._movers = movers
        self._ledger = ledger
        self.services: tuple[str, ...] = ()
        """Light services of this node; the conductor keeps it up to date."""

    # --- asking ---------------------------------------------------------------------------------------------------

    def begin(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Have the prompt turned into tokens."""
        prompt = entry.request.prompt
        if isinstance(prompt, ChatPrompt):
            entry.step = Step.RENDERING
            return self._call(entry, ServiceKind.CHAT_TEMPLATE, Method.RENDER, prompt.body, now, out)
        entry.step = Step.ENCODING
        if isinstance(prompt, TextPrompt):
            request = services.pack(services.EncodeRequest(prompt.text, special=False))
            return self._call(entry, ServiceKind.TOKENIZER, Method.ENCODE, request, now, out)
        request = services.pack(services.CheckRequest(prompt.tokens))
        return self._call(entry, ServiceKind.TOKENIZER, Method.CHECK, request, now, out)

    def advance(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Ask for whatever is next to be asked of the detokenizer, if anything."""
        kind = ServiceKind.DETOKENIZER
        if entry.call is not None or entry.step in _EARLY:
            return None
        if entry.pushed is None:
            logprobs = entry.request.sampling.top_logprobs >= 0
            opening = services.OpenDetokenizerRequest(entry.session, entry.request.stop, logprobs)
            return self._call(entry, kind, Method.OPEN, services.pack(opening), now, out)
        if entry.pushed < entry.shown:
            known = entry.tokens[entry.prompt_tokens + entry.pushed]
            return self._call(entry, kind, Method.PUSH, services.PushRequest(entry.session, known, ()), now, out)
        if entry.unshown:
            token = entry.unshown[0]
            request = services.PushRequest(entry.session, token.token, tuple(rival for rival, _ in token.top))
            return self._call(entry, kind, Method.PUSH, request, now, out)
        if entry.ending:
            end = services.pack(services.FlushRequest(entry.session))
            return self._call(entry, kind, Method.FLUSH, end, now, out)
        return None

    def _call(
        self, entry: Entry, kind: ServiceKind, method: Method, request: services.Parcel, now: Instant, out: Outbox
    ) -> Failure | None:
        service = services.service_name(kind, entry.plan.model)
        where = entry.detokenizer if kind is ServiceKind.DETOKENIZER else None
        where = where or self._place(entry, service, now)
        if where is None:
            # Whoever was promised an answer waits until somebody runs it, and who lost somebody for a while.
            waits = entry.accepted or entry.lost_at <= now < entry.lost_at + BEGIN_S_MAX
            return None if waits else Failure(RejectCode.NOT_READY, f"no node runs {service}")
        if kind is ServiceKind.DETOKENIZER:
            entry.detokenizer = where
        entry.asked = Asked(where, kind, method, request)
        ask = Ask(service, method, request, entry.left_ms(now), self._classes.owed(entry.request.kind))
        if where == self._node and kind is not ServiceKind.DETOKENIZER:
            call = self._movers.ask(ask, now, out, entry.shunned)
        else:
            call = self._calls.make(where, ask, out)
        self._ledger.await_call(entry, call)
        return None

    def _place(self, entry: Entry, service: str, now: Instant) -> NodeId | None:
        shunned = [node for node in entry.shunned if entry.shuns(node, now)]
        hosts: Sequence[NodeId] = servers_of(entry.plan)
        return place(service, entry.session, self._node, self.services, self._membership, hosts, now, shunned)

    def waits(self, entry: Entry) -> bool:
        """Whether there is something to ask, and nobody was there to be asked."""
        if entry.call is not None:
            return False
        return entry.step in _EARLY or entry.pushed is None or entry.pushed < entry.generated or entry.ending

    def again(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Ask once more what was not answered."""
        if entry.call is not None:
            return None
        if entry.step not in _EARLY:
            return self.advance(entry, now, out)
        asked = entry.asked
        if asked is None:
            return self.begin(entry, now, out)
        return self._call(entry, asked.kind, asked.method, asked.request, now, out)

    def lost(self, entry: Entry, node: NodeId, now: Instant, out: Outbox) -> Failure | None:
        """``node`` is gone: whatever this request has there is made again elsewhere."""
        called = entry.call is not None and entry.asked is not None and entry.asked.where == node
        if called:
            self._drop(entry)
        if entry.detokenizer == node:
            self._close(entry, out)
        elif not called:
            return None
        entry.shun(node, now)
        entry.lost_at = min(entry.lost_at, now)
        return self.again(entry, now, out)

    def _drop(self, entry: Entry) -> None:
        """Nobody waits for the answer any more."""
        if entry.call is not None:
            self._movers.forget(entry.call)
            self._calls.forget(entry.call)
            self._ledger.forget_call(entry)

    def leave(self, entry: Entry, out: Outbox) -> None:
        """The request is over: its detokenizer forgets it."""
        self._drop(entry)
        self._close(entry, out)

    def _close(self, entry: Entry, out: Outbox) -> None:
        """Have the detokenizer forget the session, also one that is out of reach: it may only have been paused."""
        service = services.service_name(ServiceKind.DETOKENIZER, entry.plan.model)
        if entry.detokenizer == self._node:
            out.add(CloseService(service, entry.session))
        elif entry.detokenizer is not None:
            # A flush is how a detokenizer abroad forgets a session; nobody waits for what it says.
            ask = Ask(service, Method.FLUSH, services.pack(services.FlushRequest(entry.session)), FORGET_MS)
            self._calls.forget(self._calls.make(entry.detokenizer, ask, out))
        entry.detokenizer = entry.pushed = None

    # --- hearing --------------------------------------------------------------------------------------------------

    def answered(self, entry: Entry, event: ServiceReturned | ServiceFailed, now: Instant, out: Outbox) -> Word:
        """A light service answered the request that waited for it; it may have been another node's, and wrong."""
        if isinstance(event, ServiceFailed):
            return self._failed(entry, event, now, out)
        try:
            word = self._word(entry, event, now, out)
        except RemoteProtocolError as fault:
            out.count("service_answers_rejected", fault.reason)
            return Failure(RejectCode.INTERNAL, f"a light service answered nonsense: {fault}")
        if isinstance(word, Encoded | Shown):
            entry.mishaps = 0
        return word

    def _failed(self, entry: Entry, event: ServiceFailed, now: Instant, out: Outbox) -> Failure | None:
        if came_too_late(event.fault, entry.left_ms(now)):
            return entry.late()
        entry.mishaps += not entry.accepted or event.fault is not ServiceFault.BUSY
        if entry.accepted and entry.mishaps <= MISHAPS_MAX:
            if entry.detokenizer is not None and entry.detokenizer != self._node:
                entry.shun(entry.detokenizer, now)
            self._close(entry, out)
            return None
        refused = RejectCode.BAD_PROMPT if entry.step in _EARLY else RejectCode.INTERNAL
        codes = {ServiceFault.REFUSED: refused, ServiceFault.BUSY: RejectCode.OVERLOADED}
        return Failure(codes.get(event.fault, RejectCode.INTERNAL), event.reason)

    def _word(self, entry: Entry, event: ServiceReturned, now: Instant, out: Outbox) -> Word:
        assert entry.asked is not None, "nothing is answered that was not asked"
        if entry.asked.method is Method.PUSH:
            return self._pushed(entry, services.unpack(services.PushAnswer, event.result))
        match entry.asked.method:
            case Method.RENDER:
                rendered = services.unpack(services.RenderAnswer, event.result)
                request = services.pack(services.EncodeRequest(rendered.text, special=True))
                entry.step = Step.ENCODING
                return self._call(entry, ServiceKind.TOKENIZER, Method.ENCODE, request, now, out)
            case Method.ENCODE | Method.CHECK:
                return Encoded(services.unpack(services.EncodeAnswer, event.result).tokens)
            case Method.OPEN:
                entry.pushed = 0
                return Ready()
            case _:
                entry.detokenizer = None  # which has forgotten the session with this answer
                return Told(services.unpack(services.FlushAnswer, event.result).text)

    @staticmethod
    def _pushed(entry: Entry, answer: services.PushAnswer) -> Shown | None:
        assert entry.pushed is not None, "nothing is asked of a detokenizer that is not open"
        if entry.pushed < entry.shown:
            entry.pushed += 1
            return None
        token = entry.unshown[0]
        logprob = None
        if entry.request.sampling.top_logprobs >= 0:
            if len(answer.top_bytes) != len(token.top):
                raise MalformedMessage(f"bytes of {len(answer.top_bytes)} rivals, {len(token.top)} were asked")
            rivals = zip(token.top, answer.top_bytes, strict=True)
            top = tuple((rival, text, value) for (rival, value), text in rivals)
            logprob = TokenLogprob(token.token, answer.token_bytes, token.logprob, top)
        entry.unshown.popleft()
        entry.pushed += 1
        entry.shown += 1
        return Shown(Piece(token.token, answer.text, logprob), answer.stopped)
