"""The book of what this node holds of sessions: served ones and shadows.

Each has KV promised in the budget, a deadline that rings whatever happens, and counts in its epoch, so that no blocks
are closed under it. Who is served goes before who is only kept: shadows make room for sessions, oldest first, and never
the other way round.

What the engine was asked for is answered exactly once, also for a session that is gone meanwhile; until then its name
cannot be used again, or the answer would be taken for another one's. ``owes`` says so.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.admission import KvBudget
from shoal_agent.core.effects import CloseService, CloseStage, OpenStage
from shoal_agent.core.facts import SessionStage, TensorHandle
from shoal_agent.core.hosted import Hosted, Stand
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import decode_macs, run_blocks, slot_of, span_of
from shoal_agent.core.retention import Retention
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import HostDeadline
from shoal_protocol.headers import KvRows, OpenSession, RefusalCode, SessionRefused
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.limits import REASON_CHARS_MAX, REQUEST_DEADLINE_S_MAX
from shoal_protocol.messages import Plan

DEADLINE_GRACE_S: Final = 1.0
"""The ingress ends an expired session itself; a host waits this much longer before it does so alone."""


class Holdings:
    """All sessions and shadows on this node's stages."""

    def __init__(self, tables: Tables, kv_bytes_max: int) -> None:
        self._tenures = tables.tenures
        self._models = tables.models
        self._timers = tables.timers
        self._held: dict[SessionStage, Hosted] = {}
        self._owed: Counter[SessionStage] = Counter()
        self.budget = KvBudget(kv_bytes_max)
        self.retention = Retention()

    # --- looking up -----------------------------------------------------------------------------------------------

    def get(self, key: SessionStage) -> Hosted | None:
        """What is held under ``key``."""
        return self._held.get(key)

    def of(self, session: SessionId) -> list[Hosted]:
        """Everything held of ``session``."""
        return [hosted for key, hosted in self._held.items() if key[0] == session]

    def all(self) -> list[Hosted]:
        """Everything, oldest first."""
        return list(self._held.values())

    def served(self) -> list[Hosted]:
        """What is no shadow."""
        return [hosted for hosted in self._held.values() if hosted.stand is not Stand.SHADOW]

    def owes(self, key: SessionStage) -> bool:
        """Whether an answer is due for a session that is gone."""
        return key in self._owed

    def settled(self, key: SessionStage) -> None:
        """One such answer came; others nobody waits for."""
        if self._owed[key] > 1:
            self._owed[key] -= 1
        else:
            self._owed.pop(key, None)

    # --- room -----------------------------------------------------------------------------------------------------

    def kv_bytes(self, plan: Plan, asked: OpenSession | KvRows) -> int:
        """KV of the session that ``asked`` is of."""
        return sum(self._row_bytes(plan, asked)) * asked.tokens_max

    def _row_bytes(self, plan: Plan, asked: OpenSession | KvRows) -> tuple[int, ...]:
        blocks = run_blocks(self._models[plan.model], span_of(plan, asked.stage), asked.left_out)
        return tuple(0 if block is None else block.kv_bytes_per_token for block in blocks)

    def lacks_room(self, kv_bytes: int) -> tuple[RefusalCode, str] | None:
        """Why nothing of ``kv_bytes`` fits now; None if it does."""
        if self.budget.crowded():
            return RefusalCode.TOO_MANY_SESSIONS, f"{len(self.budget)} sessions are open"
        if not self.budget.fits(kv_bytes):
            free = self.budget.bytes_max - self.budget.bytes_reserved
            return RefusalCode.KV_FULL, f"{kv_bytes} bytes of KV wanted, {free} free"
        return None

    def make_room(self, kv_bytes: int, out: Outbox) -> tuple[RefusalCode, str] | None:
        """Drop shadows until ``kv_bytes`` fit, but none in vain; why they do not."""
        lack = self.lacks_room(kv_bytes)
        if lack is None:
            return None
        shadows = [hosted for hosted in self._held.values() if hosted.stand is Stand.SHADOW]
        spare = sum(self.budget.reserved(hosted.key) for hosted in shadows)
        if not shadows or self.budget.bytes_reserved - spare + kv_bytes > self.budget.bytes_max:
            return lack
        for shadow in shadows:
            self.drop(shadow, out)
            out.count("shadows_dropped", "ROOM")
            if self.lacks_room(kv_bytes) is None:
                break
        return None

    # --- coming and going -----------------------------------------------------------------------------------------

    def add(self, asked: OpenSession | KvRows, plan: Plan, ingress: NodeId, now: Instant, out: Outbox) -> Hosted:
        """Begin to hold what ``asked`` says of ``ingress``'s session, as a shadow without rows; there is room."""
        key = (asked.session, slot_of(plan.epoch, asked.stage))
        assert key not in self._held, "a session is held once per stage"
        assert key not in self._owed, "and not again before all of it is answered"
        tenure = self._tenures.get(plan.deployment, plan.epoch)
        assert tenure is not None, "only what is known is held"
        rows, span = self._row_bytes(plan, asked), span_of(plan, asked.stage)
        hosted = Hosted(key, plan, asked.stage, span, asked.tokens_max, rows, asked.attempt, ingress)
        hosted.left_out = asked.left_out
        hosted.depths = [0] * len(rows)
        hosted.finished = hosted.tokens_max if hosted.stateless else 0
        hosted.token_macs = decode_macs(self._models[span.model], span, asked.left_out)
        if asked.stage == len(plan.stages) - 1:
            hosted.sampler = services.service_name(services.ServiceKind.SAMPLER, plan.model)
        self._held[key] = hosted
        tenure.sessions += 1
        self.budget.reserve(key, sum(rows) * asked.tokens_max)
        self.until(hosted, Instant(now + min(asked.deadline_ms / 1000, REQUEST_DEADLINE_S_MAX)))
        out.add(OpenStage(*key, span, asked.tokens_max, asked.left_out))
        return hosted

    def until(self, hosted: Hosted, deadline: Instant) -> None:
        """Hold it until ``deadline``."""
        hosted.deadline = deadline
        self._timers.set(HostDeadline(*hosted.key), Instant(deadline + DEADLINE_GRACE_S))

    def drop(self, hosted: Hosted, out: Outbox) -> None:
        """Hold it no longer."""
        key = hosted.key
        self.quit(hosted, out)
        del self._held[key]
        tenure = self._tenures.get(hosted.plan.deployment, hosted.plan.epoch)
        assert tenure is not None, "an epoch is remembered while it has sessions"
        tenure.sessions -= 1
        self.budget.free(key)
        self._timers.clear(HostDeadline(*key))
        if hosted.due:
            self._owed[key] = hosted.due
        out.add(CloseStage(*key))

    def refuse(self, hosted: Hosted, code: RefusalCode, detail: str, out: Outbox) -> None:
        """Tell the ingress why its session ends here, and drop it."""
        self.complain(hosted, code, detail, out)
        self.drop(hosted, out)

    @staticmethod
    def complain(hosted: Hosted, code: RefusalCode, detail: str, out: Outbox) -> None:
        """Tell the ingress why its session cannot go on here."""
        assert hosted.lease is not None, "nobody waits for a shadow"
        header = SessionRefused(hosted.key[0], hosted.stage, code, detail[:REASON_CHARS_MAX], hosted.attempt)
        out.send(hosted.ingress, header)
        out.count("sessions_refused", code.name)

    def suspend(self, hosted: Hosted, stand: Stand, out: Outbox) -> None:
        """Forget what it was about to do; a run that is under way is let finish."""
        hosted.stand = stand
        for work in hosted.waiting:
            out.release(work.payload)
        hosted.waiting.clear()
        hosted.waiting_tokens = 0

    def rewind(self, hosted: Hosted, position: int, out: Outbox) -> None:
        """Go on from ``position``: what is here beyond, KV and outputs, comes again."""
        hosted.rewind(position)
        self.release(self.retention.rewind(hosted.key, position), out)

    def quit(self, hosted: Hosted, out: Outbox) -> None:
        """Serve it no longer: what is left is a shadow of what was finished."""
        if hosted.stand is not Stand.SHADOW:
            hosted.depths = [hosted.finished] * len(hosted.row_bytes)
        self.suspend(hosted, Stand.SHADOW, out)
        self.release(self.retention.drop(hosted.key), out)
        hosted.lease, hosted.history, hosted.standby, hosted.handover = None, None, None, None
        if hosted.sampling:
            hosted.sampling = False
            if not any(other.sampling for other in self.of(hosted.key[0])):
                assert hosted.sampler is not None, "only the last stage draws"
                out.add(CloseService(hosted.sampler, hosted.key[0]))

    @staticmethod
    def release(handles: Iterable[TensorHandle], out: Outbox) -> None:
        """Nobody needs these any more."""
        for handle in handles:
            out.release(handle)

    # --- looking in -----------------------------------------------------------------------------------------------

    def idle(self) -> bool:
        """Whether nothing is held, kept or owed."""
        return not self._held and not self._owed and not self.retention.byte_count

    def check(self) -> None:
        """Assert that everything held has KV and a deadline, and nothing else has, and that it is of one piece."""
        self.budget.check()
        self.retention.check()
        assert len(self.budget) == len(self._held)
        assert all(key in self._held for key in self.retention.sessions())
        for key, hosted in self._held.items():
            assert hosted.key == key
            assert HostDeadline(*key) in self._timers
            hosted.check()
