"""What the hosts of an epoch say of themselves: this node's own words, and those of the others.

A report tells the phase, what there is to say about it, and for which stages its author could take another's place.
Of every deployment brokers keep a host's last word, so of several epochs the newest must be reported last. Retained
words come in any order: one about a plan that was not heard yet is kept until it is.
"""

from typing import Final

from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import concerned_by, own_stages, servers_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HELD, HostReport, Tenure
from shoal_agent.core.voice import Voice
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId
from shoal_protocol.messages import DeploymentPhase, PhaseReported

EARLY_REPORTS_MAX: Final = 1024
"""Reports kept for plans not heard yet. The oldest make room."""

_OPEN: Final = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)


class Phases:
    """Says how far this node is, and hears how far others are."""

    def __init__(self, tables: Tables, voice: Voice) -> None:
        self._tables = tables
        self._voice = voice
        self._here = voice.identity.node
        self._early: dict[tuple[DeploymentId, NodeId], tuple[Epoch, Digest, HostReport]] = {}

    # --- saying -----------------------------------------------------------------------------------------------------

    def announce(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Tell everybody, ourselves included, what this node's phase is now."""
        assert tenure.mine is not None
        plan, level = tenure.plan, "error" if tenure.mine is DeploymentPhase.FAILED else "info"
        phase, why = tenure.mine.name, tenure.detail
        out.note(level, "phase", deployment=plan.deployment, epoch=plan.epoch, phase=phase, why=why)
        took = f" after {now - tenure.since:.2f} s" if tenure.mine in _OPEN else ""
        self.tell(tenure, f"this node: {phase}{took} {why}".strip(), now)
        self.renew(tenure, now, out)

    def renew(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Say it again, because something else than the phase has changed."""
        assert tenure.mine is not None
        identity, standing_by = self._voice.identity, self._standing_by(tenure)
        incarnation, sequence = identity.incarnation, self._voice.sequence
        report = HostReport(tenure.mine, tenure.detail, incarnation, sequence, now, standing_by)
        tenure.hear(self._here, report)
        self.report(tenure, now, out)
        self._tables.changed(now)

    def report(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Say to the others how it stands."""
        assert tenure.mine is not None
        plan, standing_by = tenure.plan, self._standing_by(tenure)
        report = PhaseReported(plan.deployment, plan.epoch, tenure.digest, tenure.mine, tenure.detail, standing_by)
        direct = [node for node in concerned_by(plan) if node not in self._tables.tenures.lost]
        self._voice.say(report, now, out, retain=True, direct=direct)  # even if no broker is left

    def _standing_by(self, tenure: Tenure) -> tuple[int, ...]:
        own = own_stages(tenure.plan, self._here)
        return tuple(stage for stage in tenure.open_stages if stage not in own) if tenure.mine in _OPEN else ()

    def repeat(self, now: Instant, out: Outbox) -> None:
        """Say every phase of this node again."""
        for tenure in self._tables.tenures.all():
            if tenure.mine in (*HELD, DeploymentPhase.FAILED):
                self.report(tenure, now, out)

    def tell(self, tenure: Tenure, text: str, now: Instant) -> None:
        """Remember why something happened in an epoch."""
        self._tables.story.tell(now, f"{tenure.plan.deployment}/{tenure.plan.epoch}", text)

    # --- hearing ----------------------------------------------------------------------------------------------------

    def heard(self, envelope: Envelope, message: PhaseReported, now: Instant, out: Outbox) -> bool:
        """A host tells how far it is; whether that is news of an epoch that is known."""
        node = envelope.sender
        phase, detail, standing_by = message.phase, message.detail, message.standing_by
        report = HostReport(phase, detail, envelope.incarnation, envelope.sequence, now, standing_by)
        tenure = self._tables.tenures.get(message.deployment, message.epoch)
        if tenure is None:
            self._keep(message, node, report)
            return False
        if message.plan != tenure.digest or node not in servers_of(tenure.plan):
            self._tables.rejected["phase"] += 1
            out.count("messages_rejected", "phase")
            return False
        tenure.hear(node, report)
        return True

    def _keep(self, message: PhaseReported, node: NodeId, report: HostReport) -> None:
        """A report of an epoch not heard of yet; of each host and deployment the newest epoch's is kept."""
        key = message.deployment, node
        known = self._early.pop(key, None)
        head = self._tables.tenures.head(message.deployment)
        if head is not None and message.epoch < head.plan.epoch:
            return
        if known is not None and (known[0], known[2].incarnation, known[2].sequence) > (
            message.epoch,
            report.incarnation,
            report.sequence,
        ):
            self._early[key] = known
            return
        self._early[key] = message.epoch, message.plan, report
        if len(self._early) > EARLY_REPORTS_MAX:
            del self._early[next(iter(self._early))]

    def recall(self, tenure: Tenure) -> None:
        """The plan of ``tenure`` was heard: take in what its hosts said before."""
        plan = tenure.plan
        for node in servers_of(plan):
            epoch, about, early = self._early.get((plan.deployment, node), (None, None, None))
            if early is not None and (epoch, about) == (plan.epoch, tenure.digest):
                tenure.hear(node, early)
                del self._early[plan.deployment, node]
