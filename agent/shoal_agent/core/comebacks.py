"""Streams that pass from one ingress to another, because their client does (ADR 16).

    here                                                 there
    RequestArrived(claim: seen n) ── JournalRequested ──► keeper, or the ingress itself
                     revived ◄────── JournalServed ──────
    accepted, route laid ── OpenSession, a later attempt ──► stages ── SessionRefused ──► the ingress, if it lives
    client is shown token n+1, n+2, ...

A client that does not say that it comes back, but whose request's id a stage knows already, is looked for likewise: it
may have lost its connection before the first token. If nothing is found its request is refused, for what the stages
have under this id is not this request's.
"""

from shoal_agent.core import chronicle
from shoal_agent.core.diary import Diarist
from shoal_agent.core.effects import Accept
from shoal_agent.core.endings import Endings
from shoal_agent.core.facts import GenerationRequest, RejectCode
from shoal_agent.core.ledger import Entry, Ledger
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.revival import PEERS_MAX, SEEK_S, Found, Seek, Seeks, revived
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import RequestDeadline
from shoal_protocol.headers import RefusalCode, SessionRefused
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.journal import JournalServed


class Comebacks:
    """Streams that come to this node, and streams that leave it."""

    def __init__(self, node: NodeId, tables: Tables, ledger: Ledger, diary: Diarist, endings: Endings) -> None:
        self._node = node
        self._tables = tables
        self._timers = tables.timers
        self._ledger = ledger
        self._diary = diary
        self._endings = endings
        self._seeks = Seeks()

    # --- coming ---------------------------------------------------------------------------------------------------

    def seeks(self, session: SessionId) -> bool:
        """Whether ``session`` is being looked for."""
        return session in self._seeks

    def __len__(self) -> int:
        return len(self._seeks)

    def begin(self, request: GenerationRequest, now: Instant, out: Outbox, *, anew: bool) -> None:
        """Look for what another ingress wrote of this request."""
        asked = [self._node, *self._diary.peers(request.session, now, PEERS_MAX)]
        self._timers.set(RequestDeadline(request.session), Instant(now + SEEK_S))
        self._seeks.begin(Seek(request, dict.fromkeys(asked), anew), out)

    def served(self, peer: NodeId, header: JournalServed, payload: Payload, now: Instant, out: Outbox) -> Entry | None:
        """A peer tells what it keeps of a stream whose client came here; the stream, if it can go on now."""
        answer = self._seeks.served(peer, header, payload, now, out)
        if answer is None:
            return None
        seek, found = answer
        if found is None:
            self._nothing(seek, out)
            return None
        self._timers.clear(RequestDeadline(header.session))
        claim, known = seek.request.claim, self._tables.tenures.of(seek.request.deployment)
        if claim is None or found.page.intent != claim.intent or not known:
            self._endings.reject(seek.request, RejectCode.CONFLICT, "this id was another request's", out)
            return None
        own = [tenure.plan for tenure in known if tenure.plan.epoch == found.page.epoch]
        return self._revive(revived(seek.request, found, own[0] if own else known[-1].plan, now), found, now, out)

    def _revive(self, entry: Entry, found: Found, now: Instant, out: Outbox) -> Entry:
        """Go on where another ingress left."""
        self._ledger.add(entry)
        self._timers.set(RequestDeadline(entry.session), entry.deadline)
        out.count("sessions_revived", "ENDED" if entry.ending else "OPEN")
        chronicle.tell_revival(self._tables.story, entry, found.writer, now)
        entry.accepted = True
        out.add(Accept(entry.session, entry.prompt_tokens, self._diary.begin(entry, now, out), entry.left_out))
        return entry

    def _nothing(self, seek: Seek, out: Outbox) -> None:
        self._timers.clear(RequestDeadline(seek.request.session))
        if seek.anew:
            self._endings.reject(seek.request, RejectCode.CONFLICT, "another request has this id", out)
        else:
            self._endings.reject(seek.request, RejectCode.NOTHING_KEPT, "nothing of this stream is kept", out)

    def lost(self, node: NodeId, out: Outbox) -> None:
        """``node`` will not answer."""
        for seek in self._seeks.lost(node):
            self._nothing(seek, out)

    def expired(self, session: SessionId, out: Outbox) -> None:
        """Nobody who has anything answered in time."""
        seek = self._seeks.end(session)
        if seek is not None:
            self._nothing(seek, out)

    def cancel(self, session: SessionId) -> None:
        """The client went away again."""
        if self._seeks.end(session) is not None:
            self._timers.clear(RequestDeadline(session))

    # --- going ----------------------------------------------------------------------------------------------------

    def requested(self, peer: NodeId, session: SessionId, now: Instant, out: Outbox) -> bool:
        """Another ingress asks for a stream that may be served here; whether it is, and was told."""
        entry = self._ledger.get(session)
        if entry is None or entry.diary is None or not self._tables.zones.shared(peer, self._node):
            return False
        out.count("journals_served", "own")
        out.send(peer, JournalServed(session, self._node, entry.left_ms(now)), self._diary.told(entry))
        return True

    def overtaken(self, peer: NodeId, header: SessionRefused, now: Instant, out: Outbox) -> bool:
        """Whether a stage knows a later attempt than ours: the client is another ingress's, or comes from one."""
        entry = self._ledger.get(header.session)
        if entry is None or entry.request.claim is None or header.code is not RefusalCode.OLD_ATTEMPT:
            return False
        if not entry.speaks(peer, header.stage, header.attempt):
            return False
        if entry.accepted:
            self._endings.release(entry, "another node goes on with it", out)
        else:
            self._endings.forget(entry, out)
            self.begin(entry.request, now, out, anew=True)
        return True

    def stop(self, now: Instant, out: Outbox) -> None:
        """The node ends: who waits here is sent on, and who may come back elsewhere is left to do so."""
        for session in self._seeks.all():
            self.expired(session, out)
        for entry in self._ledger.entries():
            if entry.diary is not None:
                self._diary.flush(entry, now, out)
                self._endings.release(entry, "this node is stopping; ask another one for the rest", out)

    def check(self) -> None:
        """Assert that whoever waits has an end to it."""
        assert all(RequestDeadline(session) in self._timers for session in self._seeks.all())
