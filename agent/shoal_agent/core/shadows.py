"""KV that others keep here: rows come in, a shadow of their session grows.

Rows are taken from whoever serves their blocks in any epoch of the deployment, if this node has the stage they are for
open. They must begin where what is here of those blocks ends. If they do not (a frame was lost, this node forgot, it
has more than was known), nothing is written, and the answer says where to go on. One frame per range is written at a
time; the answer goes out when it is.

Rows name the ingress whose session they are of, and only its trust zone takes the shadow up (``opening``). So rows that
name one of another zone than those before are refused: a host that lies gives nobody what another one keeps.

What a session does without, it does without everywhere and all its life: rows that say otherwise are refused.

Attempts are the fence. A node that was paused while it served a session does not know that it was replaced: rows of a
later attempt tell it, it stops serving and becomes the other's standby. Rows of an older attempt come from a node that
was replaced, and are refused.

A session that is over is remembered for a while: rows leave behind everything else, so some come after the word that
their session is closed, and would open a shadow that nobody closes.

Whatever a peer can get wrong is answered with a refusal and counted; nothing here raises for it.
"""

from dataclasses import replace
from typing import Final

from shoal_agent.core.effects import ImportKv
from shoal_agent.core.events import KvImported
from shoal_agent.core.facts import ModelFacts, TensorHandle
from shoal_agent.core.holdings import Holdings
from shoal_agent.core.hosted import Hosted, Import, Stand
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.plan import run_blocks, serves, slot_of, span_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_protocol.headers import CloseSession, KvKept, KvRows, RefusalCode
from shoal_protocol.ids import Epoch, Instant, NodeId, SessionId
from shoal_protocol.limits import KV_ROWS_BYTES_MAX, PREFILL_CHUNK_TOKENS

ENDED_S: Final = 30.0
"""How long the end of a session is remembered: a link that rows stand in line for so long is given up."""
ENDED_MAX: Final = 1024
"""And of how many sessions: as many as one node serves in half a minute."""


class Shadows:
    """What this node keeps for others."""

    def __init__(self, node: NodeId, tables: Tables, holdings: Holdings) -> None:
        self._node = node
        self._tenures = tables.tenures
        self._models = tables.models
        self._zones = tables.zones
        self._holdings = holdings
        self._ended: dict[tuple[SessionId, Epoch | None], Instant] = {}

    def ended(self, header: CloseSession, now: Instant) -> None:
        """A session is over, or one epoch of it: no rows of it any more."""
        name = (header.session, header.epoch)
        self._ended.pop(name, None)
        self._ended[name] = Instant(now + ENDED_S)
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _is_over(self, header: KvRows, now: Instant) -> bool:
        until = max(self._ended.get((header.session, epoch), now) for epoch in (None, header.epoch))
        return until > now

    def rows(self, peer: NodeId, header: KvRows, payload: Payload, now: Instant, out: Outbox) -> None:
        """Rows have come: write them, or say why not."""
        hosted = self._holdings.get((header.session, slot_of(header.epoch, header.stage)))
        refusal = self._refusal(peer, header, payload, hosted, now)
        if refusal is None and hosted is None:
            refusal = self._begin(header, now, out)
            hosted = self._holdings.get((header.session, slot_of(header.epoch, header.stage)))
        if refusal is not None or hosted is None or payload is None or isinstance(payload, bytes):
            out.release(payload)
            code = refusal or RefusalCode.OUT_OF_ORDER
            out.count("kv_rows_refused", code.name)
            self._answer(peer, header, 0, code, out)
            return
        if hosted.stand is not Stand.SHADOW and hosted.running is None:
            out.count("sessions_superseded", "ROWS")
            self._holdings.quit(hosted, out)
        if hosted.stand is Stand.SHADOW:
            hosted.attempt, hosted.ingress = header.attempt, header.ingress
        self._write(peer, hosted, header, payload, out)

    def _begin(self, header: KvRows, now: Instant, out: Outbox) -> RefusalCode | None:
        """The first rows of a session: open a shadow of it, if there is room."""
        tenure = self._tenures.get(header.deployment, header.epoch)
        assert tenure is not None, "refused otherwise"
        lack = self._holdings.lacks_room(self._holdings.kv_bytes(tenure.plan, header))
        if lack is not None:
            return lack[0]
        self._holdings.add(header, tenure.plan, header.ingress, now, out)
        out.count("shadows_opened", "ROWS")
        return None

    def _refusal(
        self, peer: NodeId, header: KvRows, payload: Payload, hosted: Hosted | None, now: Instant
    ) -> RefusalCode | None:
        tenure = self._tenures.get(header.deployment, header.epoch)
        if tenure is None or (hosted is not None and hosted.plan.deployment != header.deployment):
            return RefusalCode.STALE_EPOCH
        if not self._hosts(tenure, header) or not self._feeds(peer, header):
            return RefusalCode.NOT_HOSTED
        facts = self._models[tenure.plan.model]
        if header.left_out is not None and facts.shortcut(header.left_out) is None:
            return RefusalCode.NOT_CERTIFIED
        if not _sound(tenure, header, facts) or payload is None or isinstance(payload, bytes):
            return RefusalCode.OUT_OF_ORDER
        if hosted is None and self._is_over(header, now):
            return RefusalCode.UNKNOWN_SESSION
        if hosted is None:
            owed = self._holdings.owes((header.session, slot_of(header.epoch, header.stage)))
            return RefusalCode.OUT_OF_ORDER if owed else None
        if header.ingress != hosted.ingress and not self._zones.shared(header.ingress, hosted.ingress):
            return RefusalCode.UNKNOWN_SESSION
        if header.left_out != hosted.left_out:
            return RefusalCode.OUT_OF_ORDER
        if header.attempt < hosted.attempt or (hosted.lease is not None and header.attempt == hosted.attempt):
            return RefusalCode.OLD_ATTEMPT
        fits = header.position + header.token_count <= hosted.tokens_max
        return None if fits else RefusalCode.OUT_OF_ORDER

    def _hosts(self, tenure: Tenure, header: KvRows) -> bool:
        """Whether this node could serve the stage they are for."""
        if not header.stage < len(tenure.plan.stages):
            return False
        return serves(tenure.plan, header.stage, self._node) and header.stage in tenure.open_stages

    def _feeds(self, peer: NodeId, header: KvRows) -> bool:
        """Whether ``peer`` is one that has those blocks, in whatever epoch."""
        return any(
            stage.first_block <= header.first_block
            and header.last_block <= stage.last_block
            and serves(tenure.plan, index, peer)
            for tenure in self._tenures.of(header.deployment)
            for index, stage in enumerate(tenure.plan.stages)
        )

    def _write(self, peer: NodeId, hosted: Hosted, header: KvRows, rows: TensorHandle, out: Outbox) -> None:
        """Write rows that go on where those of their blocks end, when nothing else writes there."""
        shadow = hosted.stand is Stand.SHADOW
        depth = hosted.depth(header.first_block, header.last_block) if shadow else hosted.finished
        if not shadow or header.position != depth or any(_overlap(other.rows, header) for other in hosted.imports):
            out.release(rows)
            self._answer(peer, header, depth, None, out)
            return
        hosted.imports.append(Import(header, peer))
        hosted.due += 1
        blocks = (header.first_block, header.last_block)
        out.add(ImportKv(*hosted.key, *blocks, header.position, header.token_count, rows))

    def imported(self, event: KvImported, out: Outbox) -> Hosted | None:
        """Rows are written, or cannot be. The session they are of, if it is still held."""
        key = (event.session, event.stage)
        hosted = self._holdings.get(key)
        done = None if hosted is None else next((one for one in hosted.imports if _is_of(one.rows, event)), None)
        if hosted is None or done is None:
            self._holdings.settled(key)
            return None
        hosted.imports.remove(done)
        hosted.due -= 1
        if event.reason:
            out.count("kv_rows_refused", RefusalCode.OUT_OF_ORDER.name)
            out.note("warning", "rows not kept", peer=done.feeder, stage=hosted.stage, reason=event.reason)
            self._answer(done.feeder, done.rows, 0, RefusalCode.OUT_OF_ORDER, out)
            return hosted
        hosted.deepen(done.rows)
        bytes_per_row = hosted.bytes_per_row(event.first_block, event.last_block)
        out.count("kv_bytes", "kept", bytes_per_row * event.token_count)
        self._answer(done.feeder, done.rows, hosted.depth(event.first_block, event.last_block), None, out)
        return hosted

    @staticmethod
    def _answer(peer: NodeId, rows: KvRows, position: int, refusal: RefusalCode | None, out: Outbox) -> None:
        blocks = (rows.first_block, rows.last_block)
        out.send(peer, KvKept(rows.deployment, rows.epoch, rows.session, rows.stage, *blocks, position, refusal))


def _sound(tenure: Tenure, header: KvRows, facts: ModelFacts) -> bool:
    """Whether they are rows that this stage could have."""
    part = tenure.plan.stages[header.stage]
    within = part.first_block <= header.first_block <= header.last_block <= part.last_block
    lengths = 0 < header.token_count <= PREFILL_CHUNK_TOKENS and header.position >= 0
    allowed = header.position + header.token_count <= header.tokens_max <= tenure.plan.context_tokens_max
    if not (within and lengths and allowed):
        return False
    span = span_of(tenure.plan, header.stage)
    blocks = run_blocks(
        facts, replace(span, first_block=header.first_block, last_block=header.last_block), header.left_out
    )
    row_bytes = sum(block.kv_bytes_per_token for block in blocks if block is not None)
    return row_bytes > 0 and (header.token_count == 1 or header.token_count * row_bytes <= KV_ROWS_BYTES_MAX)


def _overlap(one: KvRows, other: KvRows) -> bool:
    return one.first_block <= other.last_block and other.first_block <= one.last_block


def _is_of(rows: KvRows, event: KvImported) -> bool:
    asked = (rows.first_block, rows.last_block, rows.position, rows.token_count)
    return asked == (event.first_block, event.last_block, event.position, event.token_count)
