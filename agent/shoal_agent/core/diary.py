"""What this ingress writes down of its streams, so that another one can go on with them (ADR 16).

One peer of the own trust zone keeps a session's journal: the one with the highest rendezvous hash of those present, and
the next one if it is lost. It is told the tokens in small batches, ``BATCH_TOKENS`` or ``BATCH_S``, whichever comes
first, and a new attempt at once. So it lags by a few tokens; what is missing is drawn again by whoever goes on, and is
the same: a token follows from those before it, the seed, and its position.

A token costs two comparisons; a page costs a hash and a cipher over some 200 bytes, every eighth token.
"""

from array import array
from collections.abc import Iterable
from typing import Final

from shoal_agent.core.dispatch import rendezvous
from shoal_agent.core.ledger import Diary, Entry
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import CloseReason, CloseSession
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.journal import JournalWritten, Page, bind_pages, seal_page
from shoal_protocol.limits import JOURNAL_BYTES_MAX, JOURNAL_PAGES_MAX, ORPHAN_S_MAX, RUNS_MAX

BATCH_TOKENS: Final = 8
BATCH_S: Final = 0.25
"""A fast stream writes every eighth token, a slow one every token: either way little is drawn again."""
_TOKEN_BYTES: Final = 8
_TOKENS_MAX: Final = JOURNAL_BYTES_MAX // _TOKEN_BYTES // 2
"""Longer sessions are written no further: a keeper would not keep them."""


class Diarist:
    """The journals of all streams of this node."""

    def __init__(self, node: NodeId, tables: Tables) -> None:
        self._node = node
        self._membership = tables.membership
        self._zones = tables.zones

    def peers(self, session: SessionId, now: Instant, count: int, lost: NodeId | None = None) -> list[NodeId]:
        """Those of this node's zone that are present, whom ``session`` likes best first; at most ``count``.

        ``lost`` was seen a moment ago and is out of reach now.
        """
        able = [
            peer.node
            for peer in self._membership.peers()
            if self._zones.shared(peer.node, self._node)
            and self._membership.present(peer.node, now)
            and peer.node != lost
        ]
        found: list[NodeId] = []
        while able and len(found) < count:
            best = rendezvous(session, able)
            assert best is not None, "somebody is there"
            able.remove(best)
            found.append(best)
        return found

    # --- writing --------------------------------------------------------------------------------------------------

    def begin(self, entry: Entry, now: Instant, out: Outbox, lost: NodeId | None = None) -> bool:
        """Find a keeper and write down all there is; whether there is one."""
        if entry.request.claim is None:
            return False
        found = self.peers(entry.session, now, 1, lost)
        entry.diary = Diary(found[0]) if found and _fits(entry) else None
        if entry.diary is not None:
            self._write(entry, entry.diary, entry.left_ms(now), now, out)
        return entry.diary is not None

    def drawn(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """A token was drawn: write if it is time to."""
        diary = entry.diary
        if diary is None:
            return
        late = len(entry.tokens) - diary.tokens >= BATCH_TOKENS or now >= diary.at + BATCH_S
        if late or entry.attempt != diary.attempt:
            self._write(entry, diary, entry.left_ms(now), now, out)

    def over(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """The text came to its end: whoever missed some of it may ask for the rest a while longer."""
        if entry.diary is not None:
            self._write(entry, entry.diary, int(ORPHAN_S_MAX * 1000), now, out, ended=True)

    def flush(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Write whatever is not written: this ingress goes."""
        if entry.diary is not None:
            self._write(entry, entry.diary, entry.left_ms(now), now, out)

    @staticmethod
    def told(entry: Entry) -> bytes:
        """All of it as one page, for who asks this ingress itself."""
        return bind_pages((seal(entry, 0),))

    @staticmethod
    def close(entry: Entry, reason: CloseReason, out: Outbox) -> None:
        """Nobody will come back for it."""
        if entry.diary is not None:
            out.send(entry.diary.keeper, CloseSession(entry.session, reason))

    def _write(
        self, entry: Entry, diary: Diary, left_ms: int, now: Instant, out: Outbox, *, ended: bool = False
    ) -> None:
        if not _fits(entry):
            self.close(entry, CloseReason.FAILED, out)
            entry.diary = None
            return
        if diary.pages == JOURNAL_PAGES_MAX:
            diary.pages = diary.tokens = 0
        box = seal(entry, diary.tokens, ended=ended)
        out.send(diary.keeper, JournalWritten(entry.session, diary.pages, left_ms), box)
        out.count("journal_bytes", "sent", len(box))
        diary.pages += 1
        diary.tokens, diary.attempt, diary.at = len(entry.tokens), entry.attempt, now

    # --- keepers come and go --------------------------------------------------------------------------------------

    def lost(self, entries: Iterable[Entry], node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` is out of reach: what it kept is written again elsewhere."""
        for entry in entries:
            if entry.diary is not None and entry.diary.keeper == node:
                self.begin(entry, now, out, node)

    def back(self, entries: Iterable[Entry], node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` can be reached: it may keep what nobody keeps."""
        for entry in entries:
            if entry.diary is None and entry.accepted and self._zones.shared(node, self._node):
                self.begin(entry, now, out)


def seal(entry: Entry, position: int, *, ended: bool = False) -> bytes:
    """The page that tells what stands at ``position`` and after it."""
    claim = entry.request.claim
    assert claim is not None, "only what may be claimed is written down"
    page = Page(
        claim.intent,
        entry.plan.epoch,
        entry.attempt,
        entry.prompt_tokens,
        entry.tokens_max,
        entry.runs.segments,
        position,
        ended,
        array("q", entry.tokens[position:]).tobytes(),
        entry.left_out,
    )
    return seal_page(claim.key, page)


def _fits(entry: Entry) -> bool:
    return len(entry.tokens) <= _TOKENS_MAX and len(entry.runs.segments) <= RUNS_MAX
