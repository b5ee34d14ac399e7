"""KV that goes ahead: to a standby, in case this node is lost, and to the heirs of a session that moves.

Both are streams (``kv_stream``) of rows that are finished here; they differ in where to and for how long (``heirs``).
The standby of a stage is the first of its primary and standbys that is another node than this one, not lost, and has
the blocks open as far as is known. One that refuses, never keeps anything, or whose link breaks is left alone for a
while, and the next one is asked: all of it starts at 0 there, and is spared what is there already by the first answer.

Whatever holds a copy that nobody serves hears of the session's end from the ingress, and from whoever sent rows there:
of the two one may be unable to reach it.
"""

from typing import Final

from shoal_agent.core.effects import ExportKv
from shoal_agent.core.events import KvExported
from shoal_agent.core.heirs import Heirs
from shoal_agent.core.holdings import Holdings
from shoal_agent.core.hosted import Handover, Hosted
from shoal_agent.core.kv_stream import STALLS_MAX, KvStream
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_protocol.headers import CloseSession, HandOver, KvKept, KvRows, RefusalCode
from shoal_protocol.ids import Instant, NodeId

LOOK_S: Final = 1.0
"""How often a session without a standby looks for one: a node that comes back needs seconds to open its blocks."""
LINK_REST_S: Final = 1.0
"""A link that broke is not tried at once again."""
REFUSED_REST_S: Final = 10.0
"""Who has no room, or does not serve those blocks, will not soon."""


class Copies:
    """What this node sends of the KV it holds."""

    def __init__(self, node: NodeId, tables: Tables, holdings: Holdings) -> None:
        self._node = node
        self._tenures = tables.tenures
        self._holdings = holdings
        self._heirs = Heirs(tables, holdings)

    # --- as rows are finished -------------------------------------------------------------------------------------

    def advance(self, hosted: Hosted, now: Instant, out: Outbox, *, flush: bool = False) -> None:
        """More of it may be finished: send what is due; ``flush``: it came in a chunk, or nothing follows."""
        stream = hosted.standby
        if stream is not None and stream.target in self._tenures.lost:
            self._shun(hosted, stream.target, LINK_REST_S, now)
            stream = None
        if stream is None and now >= hosted.look_at and hosted.lease is not None:
            stream = self._look(hosted, now)
        if stream is not None:
            self._push(hosted, stream, now, out, flush=flush)
        if hosted.handover is not None:
            self._feed_heirs(hosted, hosted.handover, now, out)

    def _feed_heirs(self, hosted: Hosted, handover: Handover, now: Instant, out: Outbox) -> None:
        for heir in handover.streams:
            self._push(hosted, heir, now, out, flush=handover.asked.last)
            if hosted.handover is None:
                return  # that one never answers
        self._heirs.look(hosted, handover, out)

    def hand_over(self, peer: NodeId, header: HandOver, now: Instant, out: Outbox) -> None:
        """The ingress wants a session's KV in another epoch."""
        hosted = self._heirs.ask(peer, header, out)
        if hosted is not None:
            self.advance(hosted, now, out)

    def _push(self, hosted: Hosted, stream: KvStream, now: Instant, out: Outbox, *, flush: bool) -> None:
        if stream.unanswered(now) and stream.stalls > STALLS_MAX:
            self._end(hosted, stream, RefusalCode.OUT_OF_ORDER, now, out)
            return
        rows = stream.next(hosted.finished, flush=flush)
        if rows is not None:
            hosted.due += 1
            out.add(ExportKv(*hosted.key, stream.first_block, stream.last_block, *rows))

    def _look(self, hosted: Hosted, now: Instant) -> KvStream | None:
        """Choose a standby, or say when to look again."""
        tenure = self._tenures.get(hosted.plan.deployment, hosted.plan.epoch)
        part = hosted.plan.stages[hosted.stage]
        others = [node for node in (part.node, *part.standbys) if node != self._node]
        if tenure is None or not others or hosted.stateless:
            hosted.look_at = Instant(float("inf"))
            return None
        target = next((node for node in others if self._able(hosted, tenure, node, now)), None)
        if target is None:
            hosted.look_at = Instant(now + LOOK_S)
            return None
        span = hosted.span
        hosted.standby = hosted.stream_to(target, hosted.plan.epoch, hosted.stage, span.first_block, span.last_block)
        return hosted.standby

    def _able(self, hosted: Hosted, tenure: Tenure, node: NodeId, now: Instant) -> bool:
        if node in self._tenures.lost or hosted.shunned.get(node, now) > now:
            return False
        return node == hosted.plan.stages[hosted.stage].node or tenure.stands_by(node, hosted.stage)

    def _shun(self, hosted: Hosted, node: NodeId, rest_s: float, now: Instant) -> None:
        """Let ``node`` alone for a while, and look for another one."""
        hosted.standby, hosted.look_at = None, now
        hosted.shunned[node] = Instant(now + rest_s)

    def exported(self, event: KvExported, now: Instant, out: Outbox) -> None:
        """Rows are there: send them to who shall have them."""
        key = (event.session, event.stage)
        hosted = self._holdings.get(key)
        if hosted is None:
            self._holdings.settled(key)
            out.release(event.rows)
            return
        hosted.due -= 1
        asked = (event.first_block, event.last_block, event.position, event.token_count)
        stream = next((stream for stream in hosted.streams() if stream.awaits(*asked)), None)
        if stream is None or not stream.exported(event.position, event.token_count, now):
            out.release(event.rows)
        elif event.rows is None:
            out.note("error", "KV not copied", stage=hosted.stage, reason=event.reason)
            self._end(hosted, stream, RefusalCode.STAGE_FAILED, now, out)
        else:
            self._send(hosted, stream, event, now, out)

    @staticmethod
    def _send(hosted: Hosted, stream: KvStream, event: KvExported, now: Instant, out: Outbox) -> None:
        header = KvRows(
            hosted.plan.deployment,
            stream.epoch,
            event.session,
            stream.stage,
            event.first_block,
            event.last_block,
            event.position,
            event.token_count,
            hosted.tokens_max,
            hosted.left_ms(now),
            hosted.ingress,
            hosted.attempt,
            hosted.left_out,
        )
        hosted.fed[stream.target, stream.epoch] = None
        out.count("kv_bytes", "sent", event.byte_count)
        out.send(stream.target, header, event.rows)

    def kept(self, peer: NodeId, header: KvKept, now: Instant, out: Outbox) -> None:
        """A node tells how far it has the rows of some blocks, or why it will not take them."""
        found = self._answering(peer, header)
        if found is None:
            out.count("frames_dropped", "kv_kept")
            return
        hosted, stream = found
        stream.kept_before(header.position, hosted.finished)
        if header.refusal is not None or stream.stalls > STALLS_MAX:
            self._end(hosted, stream, header.refusal or RefusalCode.OUT_OF_ORDER, now, out)
        self.advance(hosted, now, out)

    def _answering(self, peer: NodeId, header: KvKept) -> tuple[Hosted, KvStream] | None:
        """The stream whose rows are under way to ``peer``."""
        named = (peer, header.epoch, header.stage, header.first_block, header.last_block)
        for hosted in self._holdings.of(header.session):
            for stream in hosted.streams():
                found = (stream.target, stream.epoch, stream.stage, stream.first_block, stream.last_block) == named
                if found and stream.sent and hosted.plan.deployment == header.deployment:
                    return hosted, stream
        return None

    def _end(self, hosted: Hosted, stream: KvStream, code: RefusalCode, now: Instant, out: Outbox) -> None:
        """``stream`` leads nowhere."""
        out.count("kv_rows_refused", code.name)
        if stream is hosted.standby:
            if stream.target not in hosted.shunned:
                out.note("warning", "no copy kept", stage=hosted.stage, standby=stream.target, why=code.name)
            self._shun(hosted, stream.target, REFUSED_REST_S, now)
        elif hosted.handover is not None:
            self._heirs.fail(hosted, hosted.handover, code, out)

    # --- losing and closing ---------------------------------------------------------------------------------------

    def peer_lost(self, hosted: Hosted, peer: NodeId, now: Instant, out: Outbox) -> None:
        """Nothing comes through to ``peer``, and what was under way is lost."""
        if hosted.standby is not None and hosted.standby.target == peer:
            self._shun(hosted, peer, LINK_REST_S, now)
            self.advance(hosted, now, out)
        handover = hosted.handover
        heir = None if handover is None else next((s for s in handover.streams if s.target == peer), None)
        if heir is not None:
            self._end(hosted, heir, RefusalCode.STAGE_FAILED, now, out)

    @staticmethod
    def closing(hosted: Hosted, header: CloseSession, out: Outbox) -> None:
        """The session is over: say so to whoever was sent rows of it."""
        for target, epoch in hosted.fed:
            if header.epoch in (None, epoch):
                out.send(target, CloseSession(header.session, header.reason, epoch))
