"""A client comes back with the rest of a stream in mind: what another ingress wrote of it is looked for (ADR 16).

    RequestArrived with a claim ──► JournalRequested to a few peers of the zone, those first who would keep it
    JournalServed from one of them ──► its pages open under the client's key ──► an entry as it stood there
    none, or SEEK_S are over ──► there is nothing to go on with

The first journal that opens is good enough: whatever it lacks is drawn again. Its attempt may be behind by some, so the
next one here leaps ahead; hosts then hear this ingress and no longer the other one, whether that one lives or not.
"""

from array import array
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import Claim, GenerationRequest
from shoal_agent.core.ledger import Entry, Step
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.runs import Runs
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.headers import Token
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.journal import JournalRequested, JournalServed, Page, open_page, unbind_pages
from shoal_protocol.limits import ATTEMPTS_MAX, TOKENS_MAX
from shoal_protocol.messages import Plan

PEERS_MAX: Final = 8
"""So many are asked: the keeper is the first of them, unless nodes came and went since."""
SEEK_S: Final = 1.0
"""Whoever has it answers in milliseconds."""
LEAP: Final = 64
"""Attempts that the other ingress may have made since it wrote, or may yet make."""
_TOKEN_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What ``writer`` wrote, as far as it was kept; ``page`` holds all tokens."""

    writer: NodeId
    page: Page
    tokens: tuple[int, ...]
    deadline: Instant


@dataclass(slots=True)
class Seek:
    """One client that waits for what is found; ``anew``: it did not say that there is something."""

    request: GenerationRequest
    asked: dict[NodeId, None]
    anew: bool


class Seeks:
    """All clients of this node that came back."""

    def __init__(self) -> None:
        self._seeks: dict[SessionId, Seek] = {}

    def __len__(self) -> int:
        return len(self._seeks)

    def __contains__(self, session: SessionId) -> bool:
        return session in self._seeks

    def begin(self, seek: Seek, out: Outbox) -> None:
        """Ask for what is kept."""
        self._seeks[seek.request.session] = seek
        for node in seek.asked:
            out.send(node, JournalRequested(seek.request.session))

    def served(
        self, peer: NodeId, header: JournalServed, payload: Payload, now: Instant, out: Outbox
    ) -> tuple[Seek, Found | None] | None:
        """A peer answers; the seek that is over with that, and what was found."""
        seek = self._seeks.get(header.session)
        if seek is None or peer not in seek.asked:
            out.count("frames_dropped", "journal_served")
            return None
        del seek.asked[peer]
        found = _read(seek, header, payload, now, out)
        if found is None and seek.asked:
            return None
        del self._seeks[header.session]
        return seek, found

    def lost(self, node: NodeId) -> list[Seek]:
        """``node`` will not answer; the seeks that are over with that."""
        for seek in self._seeks.values():
            seek.asked.pop(node, None)
        return [self._seeks.pop(session) for session, seek in list(self._seeks.items()) if not seek.asked]

    def end(self, session: SessionId) -> Seek | None:
        """Nobody waits any more."""
        return self._seeks.pop(session, None)

    def all(self) -> tuple[SessionId, ...]:
        """Every session that is looked for."""
        return tuple(self._seeks)


def revived(request: GenerationRequest, found: Found, plan: Plan, now: Instant) -> Entry:
    """The entry as it stood at the other ingress, its text still to be made again.

    What likelihoods its tokens had was not written down, so tokens whose likelihoods the client is still to see are
    left out, and drawn again.
    """
    page, tokens, claim = found.page, found.tokens, _claim(request)
    ended = page.ended
    if request.sampling.top_logprobs >= 0:
        tokens = tokens[: page.prompt_tokens + (claim.seen or 0)]
        ended = ended and len(tokens) == len(found.tokens)
    deadline = min(Instant(now + request.deadline_s), found.deadline)
    entry = Entry(request, plan, deadline, Step.WAITING)
    entry.begin(tokens[: page.prompt_tokens])
    entry.step, entry.tokens_max, entry.runs = Step.WAITING, page.tokens_max, Runs(page.prompt_tokens, page.runs)
    entry.attempt, entry.left_out = min(page.attempt + LEAP, ATTEMPTS_MAX), page.left_out
    for position in range(page.prompt_tokens, len(tokens)):
        token = tokens[position]
        entry.tokens.append(token)
        known = Token(plan.deployment, plan.epoch, entry.session, position, token, end=False, logprob=0.0, top=())
        entry.unshown.append(known)
    entry.ending = ended or entry.full()
    entry.heard_at = now
    return entry


def _claim(request: GenerationRequest) -> Claim:
    assert request.claim is not None, "nothing else is looked for"
    return request.claim


def _read(seek: Seek, header: JournalServed, payload: Payload, now: Instant, out: Outbox) -> Found | None:
    """What stands on the pages of an answer, as far as they follow each other."""
    if header.writer is None or not isinstance(payload, bytes):
        return None
    try:
        pages = unbind_pages(payload)
        page, tokens = _fold(_claim(seek.request).key, pages)
    except RemoteProtocolError as fault:
        out.count("journals_refused", fault.reason.upper())
        return None
    return Found(header.writer, page, tokens, Instant(now + header.deadline_ms / 1000))


def _fold(key: bytes, pages: tuple[bytes, ...]) -> tuple[Page, tuple[int, ...]]:
    """The last page, and the tokens of all of them."""
    tokens: array[int] = array("q")
    last = None
    for box in pages:
        page = open_page(key, box)
        if page.position != len(tokens) or len(page.token_ids) % _TOKEN_BYTES:
            raise MalformedMessage(f"a page from {page.position} on after {len(tokens)} tokens")
        tokens.frombytes(page.token_ids)
        last = page
    if last is None or not 0 < last.prompt_tokens <= len(tokens) <= last.tokens_max or not last.runs:
        raise MalformedMessage("a journal of nothing")
    if not all(0 <= token <= TOKENS_MAX for token in tokens):
        raise MalformedMessage("a journal of what are no tokens")
    return last, tuple(tokens)
