"""Moving a session to another epoch, its KV first: losing on purpose; see ADR 14.

    a newer epoch serves ─► HandOver to the old stages, which go on serving and copy to the new ones
                         ─► HandedOver from all: nearly up to date; the next token is held back
                         ─► HandOver(last) ─► HandedOver(last) from all: every row is there
                         ─► a route in the new epoch, resumed as after a loss; the old epoch closed

Who moves: sessions of a host that is going, and long ones, which would keep the old epoch's memory; short ones end
where they are. A session that cannot move (somebody refuses, or is too slow) goes on where it is, with the token it
held back, and tries again later: a move is never a reason to fail.

*Evacuation* is the same with no way back: the old epoch has no route any more. Whatever stages are left are told to
hand over at once, for at most ``EVACUATE_S``; where no KV comes from, it is computed again.
"""

from collections.abc import Iterable
from typing import Final

from shoal_agent.core.causes import is_gone
from shoal_agent.core.ledger import Entry, Failure, Move, Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.rescue import Elsewhere, Rescue
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import HandedOver, HandOver
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.messages import Plan

MIGRATE_S: Final = 2.0
"""A session that will last longer moves: as long as an epoch goes on taking sessions once it is superseded."""
COPY_S: Final = 30.0
"""What the copies may take while the session goes on: 3 GB over gigabit Ethernet."""
HOLD_S: Final = 0.5
"""A token is held back no longer than this: the last rows are a few, and a reader must not notice."""
EVACUATE_S: Final = 2.0
"""What is left may be brought to the new epoch for so long: 200 MB over gigabit Ethernet; then computing is as fast."""
AGAIN_S: Final = 2.0
"""After a move that was called off the next one is not tried before."""
MOVES_MAX: Final = 8
"""Sessions of one ingress that move at once: enough to fill a link, few enough that each is over soon."""


class Migration:
    """The moves of all requests of this node."""

    def __init__(self, node: NodeId, tables: Tables, rescue: Rescue) -> None:
        self._node = node
        self._tables = tables
        self._rescue = rescue

    # --- beginning ------------------------------------------------------------------------------------------------

    def settle(self, entries: Iterable[Entry], now: Instant, out: Outbox) -> None:
        """Something about the epochs has changed, or a move is over: see who should move now."""
        listed = list(entries)
        moving = sum(entry.move is not None for entry in listed)
        for entry in listed:
            if moving >= MOVES_MAX:
                return
            where = self.may(entry, now)
            if where is not None:
                self._begin(entry, *where, now, out)
                moving += 1

    def may(self, entry: Entry, now: Instant) -> tuple[Plan, tuple[NodeId, ...]] | None:
        """Where ``entry`` should move now, if it should."""
        steady = entry.step is Step.STREAMING and entry.gap is None and entry.move is None and not entry.ending
        if not steady or now < entry.move_at:
            return None
        newest = self._tables.tenures.serving(entry.plan.deployment)
        if newest is None or newest.plan.epoch <= entry.plan.epoch or not self._worth(entry):
            return None
        route = self._rescue.route(entry, newest, now)
        return None if route is None else (newest.plan, route)

    def _begin(self, entry: Entry, plan: Plan, route: tuple[NodeId, ...], now: Instant, out: Outbox) -> None:
        stages = dict.fromkeys(range(len(entry.route)))
        move = entry.move = Move(entry.plan, plan, route, stages, Instant(now + COPY_S))
        self._await(entry, move, out)

    def _worth(self, entry: Entry) -> bool:
        going = any(is_gone(self._tables, self._node, node) for node in entry.route)
        return going or (entry.tokens_max - len(entry.tokens)) * entry.usual_s > MIGRATE_S

    @staticmethod
    def _ask(entry: Entry, move: Move, stages: Iterable[int], out: Outbox) -> None:
        """Say HandOver to ``stages``."""
        for stage in stages:
            header = HandOver(
                move.old.deployment,
                move.old.epoch,
                entry.session,
                stage,
                entry.attempt,
                move.plan.epoch,
                move.route,
                last=move.last,
            )
            out.send(entry.route[stage], header)

    def _await(self, entry: Entry, move: Move, out: Outbox) -> None:
        """Ask every stage that is awaited, and wait for all of them."""
        if move.plan not in entry.plans:
            entry.plans.append(move.plan)
        self._ask(entry, move, move.awaited, out)
        self._rescue.until(entry, move.until)

    def evacuate(self, entry: Entry, where: Elsewhere, now: Instant, out: Outbox) -> Failure | None:
        """The session's epoch has no route: bring what is left to where there is one, then go on there."""
        left = [
            stage
            for stage, node in enumerate(entry.route)
            if not self._rescue.away(node) and not entry.shuns(node, now)
        ]
        self._rescue.stop(entry, None, now)
        entry.step = Step.WAITING
        until = Instant(now + EVACUATE_S)
        awaited = dict.fromkeys(left)
        move = entry.move = Move(entry.plan, where.plan, where.route, awaited, until, last=True, forced=True)
        if not left:
            return self._arrive(entry, now, out)
        self._await(entry, move, out)
        return None

    # --- going on -------------------------------------------------------------------------------------------------

    def hold(self, entry: Entry, now: Instant, out: Outbox) -> bool:
        """A token was drawn: hold it back if the copies wait for nothing else."""
        move = entry.move
        if move is None or not move.ready:
            return False
        move.last, move.until = True, Instant(now + HOLD_S)
        move.awaited = dict.fromkeys(range(len(entry.route)))
        self._rescue.stop(entry, None, now, moved=True)
        self._await(entry, move, out)
        return True

    def handed(self, peer: NodeId, header: HandedOver, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """A stage of the old epoch says that its KV is where it shall go, or that it will not be."""
        move = entry.move
        awaited = move is not None and header.stage in move.awaited and header.last == move.last
        if move is None or not awaited or not entry.speaks(peer, header.stage, header.attempt):
            out.count("frames_dropped", "handed_over")
            return None
        if header.refusal is not None:
            out.count("moves_refused", header.refusal.name)
            if not move.forced:
                self.call_off(entry, now, out)
                return None
        return self._heard(entry, header.stage, now, out)

    def _heard(self, entry: Entry, stage: int, now: Instant, out: Outbox) -> Failure | None:
        """One stage less to wait for."""
        move = entry.move
        assert move is not None
        move.awaited.pop(stage, None)
        return self._arrive(entry, now, out) if move.last and not move.awaited else None

    def _arrive(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Whatever will be there is there: lay the route of the new epoch."""
        move = entry.move
        assert move is not None
        move.awaited.clear()
        return self._rescue.open(entry, move.plan, move.route, now, out)

    def lost(self, entry: Entry, node: NodeId, now: Instant, out: Outbox) -> Failure | None:
        """``node`` is gone: nothing more comes from it."""
        move = entry.move
        if move is None or entry.step is not Step.WAITING:
            return None
        for stage in [stage for stage in move.awaited if entry.route[stage] == node]:
            failure = self._heard(entry, stage, now, out)
            if failure is not None or not move.awaited:
                return failure
        return None

    def due(self, entry: Entry, now: Instant, out: Outbox) -> Failure | None:
        """Look whether a move takes too long."""
        move = entry.move
        if move is None or now < move.until or entry.step is Step.OPENING:
            return None
        if move.forced:
            return self._arrive(entry, now, out)
        self.call_off(entry, now, out)
        return None

    # --- ending ---------------------------------------------------------------------------------------------------

    def call_off(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Stay where it is: go on with the token that was held back, if one was."""
        move, entry.move = entry.move, None
        if move is None:
            return
        entry.move_at = Instant(now + AGAIN_S)
        out.count("moves_called_off", entry.plan.deployment)
        if move.last and entry.step is Step.STREAMING and not entry.ending:
            # There will be more after all, and no hurry.
            entry.gap, move.last = None, False
            self._ask(entry, move, range(len(entry.route)), out)
            self._rescue.feed(entry, now, out)
            self._rescue.until(entry, Instant(now + entry.span_s))

    def turn_back(self, entry: Entry, now: Instant) -> None:
        """The session is to be laid anew; if it had not begun in the new epoch, its home is the old one still."""
        move, entry.move = entry.move, None
        if move is not None and not move.forced:
            entry.plan, entry.move_at = move.old, Instant(now + AGAIN_S)

    def arrived(self, entry: Entry, out: Outbox) -> None:
        """It goes on in the new epoch: what the old one has of it is not needed any more."""
        move, entry.move = entry.move, None
        if move is None:
            return
        out.count("sessions_migrated", move.plan.deployment)
        self._rescue.close_epoch(entry, move.old, out)
