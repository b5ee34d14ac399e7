"""What happens to the machines behind a session, and what is done about it.

    a link breaks, a node is suspected, a stage refuses or  ──► the node is shunned for a while, the route laid anew
      does not reach its neighbour, or does not open in time
    no token for much longer than tokens take               ──► the route's nodes are doubted: the watch asks them
    only another epoch has a route                          ──► what is left of the KV is brought there first
    a newer epoch serves                                    ──► whoever should, moves
    no route at all                                         ──► wait, and look again

What remains is a ``Failure``: the deadline is the ingress's to watch, so that means a request that was promised nothing
and waited too long, or one that breaks stage after stage and would go on to do so.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

from shoal_agent.core import chronicle
from shoal_agent.core.facts import RejectCode
from shoal_agent.core.ledger import Entry, Failure, Ledger, Step
from shoal_agent.core.migration import Migration
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.rescue import OPEN_S, Elsewhere, Rescue
from shoal_agent.core.resume import Reach
from shoal_agent.core.shortening import Shortening
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import CloseReason, HandedOver, PathBroken, RefusalCode, SessionOpened, SessionRefused
from shoal_protocol.ids import DeploymentId, Instant, NodeId

REFUSALS_MAX: Final = 4
"""A request that was promised nothing ends with so many refusals: its client may do better elsewhere."""
FAILURES_MAX: Final = 16
"""Refusals in a row, other than for want of room, that end an answer that was begun: it may be the request that breaks
stages, and not their machines."""

_REJECT_OF: Final[dict[RefusalCode, RejectCode]] = {
    RefusalCode.KV_FULL: RejectCode.OVERLOADED,
    RefusalCode.TOO_MANY_SESSIONS: RejectCode.OVERLOADED,
    RefusalCode.DEADLINE: RejectCode.DEADLINE,
    RefusalCode.STALE_EPOCH: RejectCode.NOT_READY,
    RefusalCode.NOT_HOSTED: RejectCode.NOT_READY,
    RefusalCode.NOT_CERTIFIED: RejectCode.NOT_READY,
}
"""What a stage's refusal means to a client whose request was not yet begun; STAGE_LOST for all others."""
_ROOM: Final = (RefusalCode.KV_FULL, RefusalCode.TOO_MANY_SESSIONS)
_PASSING: Final = (*_ROOM, RefusalCode.STALE_EPOCH, RefusalCode.NOT_HOSTED, RefusalCode.OLD_ATTEMPT)
"""Refusals that say nothing against the session."""

ANSWER_S: Final = 0.55
"""Whoever is asked whether it lives has answered by then, or does not."""

Failed = tuple[Entry, Failure]


class Journey:
    """The way of every request of this node through its stages."""

    def __init__(self, node: NodeId, tables: Tables, ledger: Ledger) -> None:
        self._node = node
        self._tenures = tables.tenures
        self._story = tables.story
        self._ledger = ledger
        self._rescue = Rescue(node, tables)
        self._migration = Migration(node, tables, self._rescue)
        self._shortening = Shortening(tables)

    # --- setting out ------------------------------------------------------------------------------------------------

    def crowded(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Choose how ``entry`` is to run; why it would not be done in time even so, with all under way, if so."""
        others = self._under_way(entry.plan.deployment, entry)
        ahead = self._rescue.ahead(entry, others, now)
        if ahead is None:
            return None
        takes_s = partial(self._rescue.done_s, entry, ahead)
        entry.left_out = self._shortening.choose(entry, ahead, takes_s, self._ledger.entries(), now, out)
        late_s = self._rescue.late_s(entry, ahead, now)
        if late_s is None:
            return None
        return Failure(RejectCode.OVERLOADED, f"it would not be done in time beside {others} others", late_s)

    def takes_s(self, deployment: DeploymentId, prompt: int, answer: int | None, answer_max: int) -> float | None:
        """How long a generation of so many tokens would take beside those under way; None if nobody can tell.

        ``answer`` None: nothing is known but the most that it may be.
        """
        return self._rescue.takes_s(deployment, self._under_way(deployment), prompt, answer, answer_max)

    def _under_way(self, deployment: DeploymentId, but: Entry | None = None) -> int:
        """Sessions of ``deployment`` that its stages are at work for."""
        return sum(e.routed and e.plan.deployment == deployment for e in self._ledger.entries() if e is not but)

    def lay(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Lay the session's route, for the first time or anew."""
        found = self._rescue.lay(entry, now, out)
        return self._migration.evacuate(entry, found, now, out) if isinstance(found, Elsewhere) else found

    def _again(self, entry: Entry, cause: int | None, now: Instant, out: Outbox) -> Failure | None:
        """Something happened to the route."""
        self._rescue.stop(entry, cause, now)
        self._migration.turn_back(entry, now)
        return self.lay(entry, now, out)

    def opened(self, peer: NodeId, header: SessionOpened, out: Outbox) -> Entry | None:
        """A stage reserved its KV, or tells how much of it is there; the session, if that was the last one."""
        entry = self._ledger.get(header.session)
        opening = entry is not None and entry.step is Step.OPENING
        if entry is None or not opening or not entry.speaks(peer, header.stage, header.attempt):
            out.count("frames_dropped", "session_opened")
            return None
        entry.reaches[header.stage] = Reach(header.position, header.retained_from)
        return entry if entry.is_open() else None

    def go(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Every stage is there: set them going."""
        self._rescue.resume(entry, now, out)
        if entry.move is not None:
            self._migration.arrived(entry, out)
            self._migration.settle(self._ledger.entries(), now, out)

    # --- going ------------------------------------------------------------------------------------------------------

    def drawn(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """The next token was drawn: ask for the one after it, unless it is held back to move."""
        if entry.move is None or not self._migration.hold(entry, now, out):
            self._rescue.feed_one(entry, now, out)

    def going(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """The first token since the stages were set going."""
        entry.heard_at, entry.patience_s = now, 0.0
        entry.kicks = entry.refusals = 0
        gap, entry.gap = entry.gap, None
        if gap is not None:
            chronicle.tell_resume(self._story, entry, gap, now, out)

    def over(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Nothing more is asked of the stages."""
        self._migration.call_off(entry, now, out)

    def leave(self, entry: Entry, reason: CloseReason, now: Instant, out: Outbox) -> None:
        """The request is over: everybody who may hold something of it frees it."""
        self._shortening.ended(entry, self._under_way(entry.plan.deployment, entry), now)
        self._rescue.close(entry, reason, now, out)

    def back(self, node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` can be reached again."""
        self._rescue.back(node, now, out)

    # --- trouble ----------------------------------------------------------------------------------------------------

    def refused(self, peer: NodeId, header: SessionRefused, now: Instant, out: Outbox) -> Failed | None:
        """A stage will not serve, or not go on with, a session."""
        entry = self._ledger.get(header.session)
        if entry is None or not entry.on_way() or not entry.speaks(peer, header.stage, header.attempt):
            out.count("frames_dropped", "session_refused")
            return None
        out.count("stages_refused", header.code.name)
        code, why = header.code, f"stage {header.stage}: {header.detail}"
        if code is RefusalCode.NOT_CERTIFIED and entry.left_out is not None and not entry.accepted:
            entry.left_out = None  # nothing ran yet: the whole model, then
            out.count("shortcuts_refused", peer[:8])
            return _of(entry, self._again(entry, None, now, out))
        entry.refusals += not entry.accepted or code not in _PASSING
        final = code is RefusalCode.DEADLINE or (code in _ROOM and not entry.accepted)
        if final or entry.refusals >= (FAILURES_MAX if entry.accepted else REFUSALS_MAX):
            return entry, Failure(_REJECT_OF.get(code, RejectCode.STAGE_LOST), why)
        if entry.move is None or entry.move.forced:
            entry.shun(peer, now)
        cause = chronicle.tell_loss(self._story, [entry], peer, why, now)
        return _of(entry, self._again(entry, cause, now, out))

    def broken(self, peer: NodeId, header: PathBroken, now: Instant, out: Outbox) -> Failed | None:
        """A stage does not reach the one before or after it: one of the two must be replaced."""
        entry = self._ledger.get(header.session)
        if entry is None or not entry.on_way() or not entry.speaks(peer, header.stage, header.attempt):
            out.count("frames_dropped", "path_broken")
            return None
        node, tenure = header.node, self._tenures.get(entry.plan.deployment, entry.plan.epoch)
        culprit = peer if node == self._node or node not in entry.route else node
        entry.shun(culprit, now)
        spare = tenure is not None and self._rescue.route(entry, tenure, now) is not None
        if culprit != peer and not spare and not self._rescue.away(culprit):
            # It is well as far as this node sees, and nobody can take its place; somebody may take the other's.
            del entry.shunned[culprit]
            entry.shun(peer, now)
        why = f"{peer[:8]}, stage {header.stage}, does not reach it"
        cause = chronicle.tell_loss(self._story, [entry], node, why, now)
        return _of(entry, self._again(entry, cause, now, out))

    def handed(self, peer: NodeId, header: HandedOver, now: Instant, out: Outbox) -> Failed | None:
        """A stage's KV is where the session moves to."""
        entry = self._ledger.get(header.session)
        if entry is None:
            out.count("frames_dropped", "handed_over")
            return None
        return _of(entry, self._migration.handed(peer, header, entry, now, out))

    def lost(self, node: NodeId, why: str, now: Instant, out: Outbox) -> list[Failed]:
        """``node`` is out of reach; the requests that end with that."""
        self._rescue.lost(node, now)
        failed: list[Failed | None] = []
        entries = self._ledger.entries()
        hit = [entry for entry in entries if entry.on_way() and node in entry.route]
        cause = chronicle.tell_loss(self._story, hit, node, why, now) if hit else None
        for entry in hit:
            entry.shun(node, now)
            failed.append(_of(entry, self._again(entry, cause, now, out)))
        moving = [entry for entry in entries if entry not in hit and entry.move is not None]
        failed += [_of(entry, self._unmoved(entry, node, now, out)) for entry in moving]
        return [pair for pair in failed if pair is not None]

    def _unmoved(self, entry: Entry, node: NodeId, now: Instant, out: Outbox) -> Failure | None:
        """Somebody is lost whom a session needs to move, not to go on."""
        move = entry.move
        assert move is not None
        if node in move.route and move.forced:
            entry.move = None
            return self.lay(entry, now, out)
        if node in move.route:
            self._migration.call_off(entry, now, out)
            return None
        return self._migration.lost(entry, node, now, out)

    def settled(self, now: Instant, out: Outbox) -> list[Failed]:
        """Plans, or what hosts report of them, have changed."""
        waiting = [e for e in self._ledger.entries() if e.step is Step.WAITING and e.move is None]
        failed = [_of(entry, self.lay(entry, now, out)) for entry in waiting]
        self._migration.settle(self._ledger.entries(), now, out)
        return [pair for pair in failed if pair is not None]

    # --- time -------------------------------------------------------------------------------------------------------

    def look_soon(self, entry: Entry, now: Instant) -> None:
        """Look at the request again in a moment."""
        self._rescue.look_soon(entry, now)

    def due(self, entry: Entry, now: Instant, out: Outbox) -> tuple[Failure | None, Iterable[NodeId]]:
        """Something may be overdue; nodes of whom it is doubted that they live."""
        if entry.step is Step.OPENING:
            return self._late(entry, now, out)
        if entry.step is Step.WAITING and entry.move is None:
            return self.lay(entry, now, out), ()
        failure = self._migration.due(entry, now, out)
        if failure is None and entry.step is Step.STREAMING:
            return self._stalled(entry, now, out)
        if failure is None and entry.step is Step.WAITING and entry.move is not None:
            self._rescue.until(entry, entry.move.until)
        return failure, ()

    def _late(self, entry: Entry, now: Instant, out: Outbox) -> tuple[Failure | None, Iterable[NodeId]]:
        """See whether every stage of a new route has answered."""
        missing = [node for stage, node in enumerate(entry.route) if stage not in entry.reaches]
        if not missing:
            return None, ()
        if now < entry.until:
            self._rescue.until(entry, entry.until)
            return None, ()
        if not entry.doubted:
            entry.doubted = True
            self._rescue.until(entry, Instant(now + 2 * OPEN_S))
            return None, missing
        for node in missing:
            entry.shun(node, now)
        cause = chronicle.tell_loss(self._story, [entry], missing[0], "it does not open its stage", now)
        return self._again(entry, cause, now, out), ()

    def _stalled(self, entry: Entry, now: Instant, out: Outbox) -> tuple[Failure | None, Iterable[NodeId]]:
        """See whether the next token is overdue."""
        if entry.move is not None and entry.move.last:
            self._rescue.until(entry, entry.move.until)
            return None, ()
        if entry.fed < len(entry.tokens):
            self._rescue.feed(entry, now, out)
        if self._migration.may(entry, now) is not None:
            self._migration.settle(self._ledger.entries(), now, out)
        if now < entry.heard_at + entry.span_s:
            self._rescue.until(entry, Instant(entry.heard_at + entry.span_s))
            return None, ()
        if not self._rescue.hopeless(entry, now):
            self._rescue.until(entry, Instant(now + ANSWER_S))
            return None, entry.route
        entry.kicks += 1
        text = (
            f"session {entry.session.hex()[:8]} heard nothing for {now - entry.heard_at:.1f} s: its route is laid anew"
        )
        cause = self._story.tell(now, chronicle.subject_of(entry), text)
        return self._again(entry, cause, now, out), ()


def _of(entry: Entry, failure: Failure | None) -> Failed | None:
    return None if failure is None else (entry, failure)
