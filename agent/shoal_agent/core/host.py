"""The stage side of a session: what a node does for sessions whose stages it may serve.

    OpenSession, Resume ──► openings         Activation ──► runner: runs, outputs, tokens
    KvRows ──► shadows: KV that others keep here
    rows that are finished ──► copies: a standby, or the heirs of a session that moves (HandOver)

Losing a neighbour costs nothing that is here: a session without one of its neighbours is suspended and its ingress
told; one without its ingress is an orphan, which whoever asks next under a later attempt takes up. A session ends when
its ingress closes it, at its deadline, when a run fails, or when what it was sent cannot be.
"""

from collections.abc import Collection

from shoal_agent.core.calls import Calls
from shoal_agent.core.copies import Copies
from shoal_agent.core.events import KvExported, KvImported, ServiceFailed, ServiceReturned, StageFailed, StageFinished
from shoal_agent.core.facts import CallId, SessionStage
from shoal_agent.core.holdings import Holdings
from shoal_agent.core.hosted import Hosted, Stand
from shoal_agent.core.opening import Openings
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.runner import Runner
from shoal_agent.core.shadows import Shadows
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import (
    Activation,
    CloseReason,
    CloseSession,
    HandOver,
    KvKept,
    KvRows,
    OpenSession,
    PathBroken,
    RefusalCode,
    Resume,
)
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.limits import ORPHAN_S_MAX

HostHeader = OpenSession | Resume | Activation | CloseSession | KvRows | KvKept | HandOver
"""What is said to a stage."""


class Host:
    """All sessions on this node's stages."""

    def __init__(self, node: NodeId, tables: Tables, calls: Calls, kv_bytes_max: int) -> None:
        self._holdings = Holdings(tables, kv_bytes_max)
        self._runner = Runner(tables, calls, self._holdings)
        self._openings = Openings(node, tables, self._holdings, self._runner)
        self._shadows = Shadows(node, tables, self._holdings)
        self._copies = Copies(node, tables, self._holdings)

    def frame(self, peer: NodeId, header: HostHeader, payload: Payload, now: Instant, out: Outbox) -> None:
        """Somebody says something to a stage of this node."""
        match header:
            case Activation():
                self._runner.take(peer, header, payload, now, out)
            case KvKept():
                self._copies.kept(peer, header, now, out)
            case KvRows():
                self._shadows.rows(peer, header, payload, now, out)
            case OpenSession():
                self._openings.open(peer, header, payload, now, out)
            case Resume():
                self._openings.resume(peer, header, now, out)
            case HandOver():
                self._copies.hand_over(peer, header, now, out)
            case CloseSession():
                self._close(peer, header, now, out)

    # --- what the engine and the sampler answer -------------------------------------------------------------------

    def finished(self, event: StageFinished, now: Instant, out: Outbox) -> None:
        """A run is done."""
        hosted = self._runner.finished(event, now, out)
        if hosted is None:
            return
        if hosted.stand is Stand.OPENING:
            self._openings.settle(hosted, now, out)
        self._copies.advance(hosted, now, out, flush=hosted.chunked)

    def failed(self, event: StageFailed, out: Outbox) -> None:
        """A run failed, or was terminated because its session closed."""
        self._runner.failed(event, out)

    def exported(self, event: KvExported, now: Instant, out: Outbox) -> None:
        """Rows that were asked for are there."""
        self._copies.exported(event, now, out)

    def imported(self, event: KvImported, now: Instant, out: Outbox) -> None:
        """Rows are written."""
        hosted = self._shadows.imported(event, out)
        if hosted is not None:
            self._openings.settle(hosted, now, out)
            self._copies.advance(hosted, now, out)

    def owns(self, call: CallId) -> bool:
        """Whether ``call`` was made here."""
        return self._runner.owns(call)

    def answered(self, event: ServiceReturned | ServiceFailed, now: Instant, out: Outbox) -> None:
        """The sampler opened a session, drew a token, or refused."""
        hosted = self._runner.answered(event, out)
        if hosted is not None:
            self._openings.settle(hosted, now, out)

    # --- losing and closing ---------------------------------------------------------------------------------------

    def peer_lost(self, peer: NodeId, now: Instant, out: Outbox) -> None:
        """What was on its way to or from ``peer`` is lost: suspend what depends on it."""
        for hosted in self._holdings.all():
            self._copies.peer_lost(hosted, peer, now, out)
            lease = hosted.lease
            if lease is None or hosted.stand is Stand.ORPHANED:
                continue
            if hosted.ingress == peer:
                self._orphan(hosted, now, out)
            elif peer in (lease.source, lease.target) and hosted.stand is not Stand.HALTED:
                self._holdings.suspend(hosted, Stand.HALTED, out)
                out.count("paths_broken", "SOURCE" if peer == lease.source else "TARGET")
                out.send(hosted.ingress, PathBroken(hosted.key[0], hosted.stage, hosted.attempt, peer))

    def _orphan(self, hosted: Hosted, now: Instant, out: Outbox) -> None:
        """Its client may come back through another ingress, for a while."""
        self._holdings.suspend(hosted, Stand.ORPHANED, out)
        self._holdings.until(hosted, Instant(min(hosted.deadline, now + ORPHAN_S_MAX)))
        out.count("sessions_orphaned", "INGRESS")

    def _close(self, peer: NodeId, header: CloseSession, now: Instant, out: Outbox) -> None:
        """The ingress lets the session go, or whoever fed a shadow says that it did; closing twice is harmless."""
        held = [hosted for hosted in self._holdings.of(header.session) if header.epoch in (None, hosted.plan.epoch)]
        if any(not _may_close(hosted, peer) for hosted in held):
            held = [hosted for hosted in held if _may_close(hosted, peer)]
        else:
            self._shadows.ended(header, now)
        for hosted in held:
            self._copies.closing(hosted, header, out)
            self._holdings.drop(hosted, out)

    def expired(self, key: SessionStage, out: Outbox) -> None:
        """The deadline passed and the ingress did not close: drop the session alone."""
        hosted = self._holdings.get(key)
        if hosted is None:
            return
        if hosted.lease is None:
            out.count("shadows_dropped", "DEADLINE")
            self._holdings.drop(hosted, out)
        elif hosted.stand is Stand.ORPHANED:
            out.count("sessions_refused", "ORPHANED")
            self._copies.closing(hosted, CloseSession(key[0], CloseReason.FAILED), out)
            self._holdings.drop(hosted, out)
        else:
            self._holdings.refuse(hosted, RefusalCode.DEADLINE, "the deadline has passed", out)

    def evict(self, deployment: DeploymentId, epoch: Epoch, stages: Collection[int], out: Outbox) -> None:
        """Memory is needed: sessions on these stages of this epoch end here, and their ingress is told."""
        for hosted in self._holdings.all():
            if (hosted.plan.deployment, hosted.plan.epoch) != (deployment, epoch) or hosted.stage not in stages:
                continue
            if hosted.lease is None:
                out.count("shadows_dropped", "EPOCH")
                self._holdings.drop(hosted, out)
            else:
                self._holdings.refuse(hosted, RefusalCode.STALE_EPOCH, f"epoch {epoch} had to make room", out)

    # --- looking in -----------------------------------------------------------------------------------------------

    @property
    def session_count(self) -> int:
        """Sessions that this node's stages serve; one that goes through two of them is one."""
        return len({hosted.key[0] for hosted in self._holdings.served()})

    @property
    def shadow_count(self) -> int:
        """Sessions of which others keep a copy here."""
        return len(self._holdings.all()) - len(self._holdings.served())

    @property
    def kv_bytes(self) -> int:
        """KV promised to both."""
        return self._holdings.budget.bytes_reserved

    def idle(self) -> bool:
        """Whether nothing is held, kept or awaited."""
        return self._holdings.idle() and not self._runner.waiting()

    def check(self) -> None:
        """Assert that everything held owns its KV and its deadline, and is of one piece."""
        self._holdings.check()


def _may_close(hosted: Hosted, peer: NodeId) -> bool:
    """Whether ``peer`` may end it: a shadow and an orphan belong to nobody."""
    return hosted.lease is None or hosted.ingress == peer or hosted.stand is Stand.ORPHANED
