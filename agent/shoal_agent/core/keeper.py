"""Journals of other ingresses' sessions, kept here, so that their clients may come back through another ingress.

Whoever keeps a journal cannot read it (``shoal_protocol.journal``), and keeps none of another trust zone, nor gives one
to another zone: not because it would open there, but because what a zone writes down stays in it.

A journal is kept until its session should be over; once its writer is lost, no longer than hosts keep the session's KV
(``ORPHAN_S_MAX``), for without that the client does as well to ask anew. It is bounded in number and in bytes: beyond
either, the oldest one goes. It is a help and no promise, so its writer is not told: it would write all of it again to a
peer that is as full, which would drop another one for it, and so on. The operator is: by a count of what was dropped
(``journals_dropped``), and in the log at most every ``COMPLAIN_S``.
"""

from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import JournalDeadline
from shoal_protocol.headers import CloseReason, CloseSession
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.journal import JournalServed, JournalWritten, bind_pages
from shoal_protocol.limits import (
    JOURNAL_BYTES_MAX,
    JOURNALS_BYTES_MAX,
    JOURNALS_MAX,
    ORPHAN_S_MAX,
    REQUEST_DEADLINE_S_MAX,
)

COMPLAIN_S: Final = 60.0
"""A node that is full drops one journal for each it is sent: a line a minute says as much."""
_NEVER: Final = Instant(float("-inf"))


@dataclass(slots=True)
class _Journal:
    """What ``writer`` wrote of one session."""

    writer: NodeId
    until: Instant
    pages: list[bytes] = field(default_factory=list)
    byte_count: int = 0


class Keeper:
    """All journals kept here."""

    def __init__(self, node: NodeId, tables: Tables) -> None:
        self._node = node
        self._zones = tables.zones
        self._timers = tables.timers
        self._journals: dict[SessionId, _Journal] = {}
        self._byte_count = 0
        self._complained = _NEVER

    def __len__(self) -> int:
        return len(self._journals)

    def written(self, peer: NodeId, header: JournalWritten, payload: Payload, now: Instant, out: Outbox) -> None:
        """An ingress writes a page; a page that is out of turn is dropped: what it would say can be drawn again."""
        page = payload if isinstance(payload, bytes) else b""
        if not self._zones.shared(peer, self._node):
            out.count("journals_refused", "ZONE")
            return
        kept = self._journals.get(header.session)
        if header.page == 0:
            self._drop(header.session)
            kept = self._journals[header.session] = _Journal(peer, now)
        elif kept is None or kept.writer != peer or header.page != len(kept.pages):
            out.count("journals_refused", "ORDER")
            return
        kept.pages.append(page)
        kept.byte_count += len(page)
        self._byte_count += len(page)
        kept.until = Instant(now + min(header.deadline_ms / 1000, REQUEST_DEADLINE_S_MAX))
        self._timers.set(JournalDeadline(header.session), kept.until)
        out.count("journal_bytes", "kept", len(page))
        if kept.byte_count > JOURNAL_BYTES_MAX:
            self._drop(header.session)
            out.count("journals_dropped", "SIZE")
        while len(self._journals) > JOURNALS_MAX or self._byte_count > JOURNALS_BYTES_MAX:
            self._drop(next(iter(self._journals)))
            out.count("journals_dropped", "ROOM")
            self._complain(now, out)

    def _complain(self, now: Instant, out: Outbox) -> None:
        if now >= self._complained + COMPLAIN_S:
            self._complained = now
            out.note("warning", "no room for all journals", kept=len(self._journals), bytes=self._byte_count)

    def asked(self, peer: NodeId, session: SessionId, now: Instant, out: Outbox) -> None:
        """Another ingress asks what is here of ``session``."""
        kept = self._journals.get(session)
        if kept is not None and not (self._zones.shared(peer, self._node) and self._zones.shared(peer, kept.writer)):
            out.count("journals_refused", "ZONE")
            kept = None
        if kept is None:
            out.send(peer, JournalServed(session, None, 0))
            return
        out.count("journals_served", "kept")
        left_ms = max(0, int((kept.until - now) * 1000))
        out.send(peer, JournalServed(session, kept.writer, left_ms), bind_pages(kept.pages))

    def closed(self, peer: NodeId, header: CloseSession) -> None:
        """An ingress lets a session go. One that came to its end is kept: its client may not have heard all of it."""
        kept = self._journals.get(header.session)
        final = header.epoch is None and header.reason is not CloseReason.FINISHED
        if final and kept is not None and kept.writer == peer:
            self._drop(header.session)

    def lost(self, peer: NodeId, now: Instant) -> None:
        """A writer is out of reach."""
        until = Instant(now + ORPHAN_S_MAX)
        for session, kept in self._journals.items():
            if kept.writer == peer and kept.until > until:
                kept.until = until
                self._timers.set(JournalDeadline(session), until)

    def expired(self, session: SessionId) -> None:
        """Nobody came for it."""
        self._drop(session)

    def _drop(self, session: SessionId) -> None:
        kept = self._journals.pop(session, None)
        if kept is not None:
            self._byte_count -= kept.byte_count
            self._timers.clear(JournalDeadline(session))

    def check(self) -> None:
        """Assert that the bytes add up and that everything ends."""
        assert self._byte_count == sum(kept.byte_count for kept in self._journals.values())
        assert all(JournalDeadline(session) in self._timers for session in self._journals)
