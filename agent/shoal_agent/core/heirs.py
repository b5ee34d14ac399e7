"""KV that goes to the heirs of a session that moves.

The ingress names the nodes of another epoch. Each whose stage overlaps this one is sent the blocks they have in common,
as a standby is sent all of them, while the session goes on here. HandedOver says once that all of them lack
``NEAR_TOKENS`` at the most, and, when the ingress adds nothing any more, that they lack nothing. One that refuses, or
is lost, ends the hand-over and not the session. A later wish replaces an earlier one; the same one is answered again.

Whoever holds rows may be asked, a shadow too: it is what a dead host left. Asking is for the session's ingress; what
nobody serves, a shadow or an orphan, also follows another one of its trust zone (``opening``).
"""

from shoal_agent.core.holdings import Holdings
from shoal_agent.core.hosted import Handover, Hosted, Stand
from shoal_agent.core.kv_stream import NEAR_TOKENS, KvStream
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import serves, slot_of
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import HandedOver, HandOver, RefusalCode
from shoal_protocol.ids import NodeId


class Heirs:
    """Sessions that are to go on in another epoch."""

    def __init__(self, tables: Tables, holdings: Holdings) -> None:
        self._tenures = tables.tenures
        self._zones = tables.zones
        self._holdings = holdings

    def ask(self, peer: NodeId, header: HandOver, out: Outbox) -> Hosted | None:
        """The ingress wants a session's KV in another epoch. The session, if it is to be sent there from now on."""
        hosted = self._holdings.get((header.session, slot_of(header.epoch, header.stage)))
        if hosted is None or hosted.plan.deployment != header.deployment:
            return self._decline(peer, header, RefusalCode.UNKNOWN_SESSION, out)
        adrift = hosted.stand in (Stand.SHADOW, Stand.ORPHANED)
        if hosted.ingress != peer and not (adrift and self._zones.shared(hosted.ingress, peer)):
            out.count("frames_dropped", "hand_over")
            return None
        if header.attempt != hosted.attempt and (hosted.lease is not None or header.attempt < hosted.attempt):
            return self._decline(peer, header, RefusalCode.OLD_ATTEMPT, out)
        before = hosted.handover
        if before is None or _course(before.asked) != _course(header) or before.ingress != peer:
            streams = self._streams(hosted, header)
            if isinstance(streams, RefusalCode):
                return self._decline(peer, header, streams, out)
            before = hosted.handover = Handover(header, peer, streams)
        before.asked, before.told = header, False
        return hosted

    @staticmethod
    def _decline(peer: NodeId, header: HandOver, code: RefusalCode, out: Outbox) -> None:
        out.count("kv_rows_refused", code.name)
        out.send(peer, HandedOver(header.session, header.stage, header.attempt, 0, header.last, code))

    def _streams(self, hosted: Hosted, header: HandOver) -> list[KvStream] | RefusalCode:
        """A stream for each stage of the target epoch that shares blocks with this one; or why not."""
        tenure = self._tenures.get(header.deployment, header.target_epoch)
        if tenure is None:
            return RefusalCode.STALE_EPOCH
        plan, span = tenure.plan, hosted.span
        if header.target_epoch == header.epoch or plan.model != span.model or len(header.route) != len(plan.stages):
            return RefusalCode.NOT_HOSTED
        streams = []
        for index, part in enumerate(plan.stages):
            first, last = max(part.first_block, span.first_block), min(part.last_block, span.last_block)
            if first > last or not hosted.bytes_per_row(first, last):
                continue
            if not serves(plan, index, header.route[index]):
                return RefusalCode.NOT_HOSTED
            streams.append(hosted.stream_to(header.route[index], plan.epoch, index, first, last))
        return streams

    def look(self, hosted: Hosted, handover: Handover, out: Outbox) -> None:
        """Tell the ingress once the heirs are near, or there."""
        if handover.told:
            return
        behind = max((hosted.finished - stream.kept for stream in handover.streams), default=0)
        at_rest = hosted.running is None and not hosted.waiting
        if (behind == 0 and at_rest) if handover.asked.last else behind <= NEAR_TOKENS:
            handover.told = True
            self._tell(hosted, handover, None, out)

    def fail(self, hosted: Hosted, handover: Handover, code: RefusalCode, out: Outbox) -> None:
        """One of them will not have its rows: it leads nowhere."""
        self._tell(hosted, handover, code, out)
        hosted.handover = None

    @staticmethod
    def _tell(hosted: Hosted, handover: Handover, refusal: RefusalCode | None, out: Outbox) -> None:
        position = min((stream.kept for stream in handover.streams), default=hosted.finished)
        session, stage = hosted.key[0], hosted.stage
        header = HandedOver(session, stage, handover.asked.attempt, position, handover.asked.last, refusal)
        out.send(handover.ingress, header)


def _course(asked: HandOver) -> tuple[object, ...]:
    """Where to, under which attempt."""
    return asked.attempt, asked.target_epoch, asked.route
