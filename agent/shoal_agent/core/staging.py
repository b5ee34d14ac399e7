"""How a plan comes to life: every host checks it against itself, opens its blocks, says READY, and all go ACTIVE.

When every host has said READY, each declares the epoch ACTIVE. There is no coordinator in this: every node hears the
same reports and draws the same conclusion.
"""

from typing import Final

from shoal_agent.core.effects import LoadBlocks, Persist
from shoal_agent.core.events import BlocksFailed, BlocksLoaded
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import faults_for_host, faults_of, span_of, stage_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HostReport, Tenure
from shoal_agent.core.voice import Voice
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import Digest, Instant, NodeId
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import DeploymentPhase, PhaseReported, Plan

EARLY_REPORTS_MAX: Final = 1024
"""Reports kept for plans not heard yet: retained messages come in any order."""


class Staging:
    """This node's part in the life of every plan."""

    def __init__(self, tables: Tables, voice: Voice) -> None:
        self._tables = tables
        self._voice = voice
        self._early: dict[tuple[str, int, NodeId], tuple[Digest, HostReport]] = {}

    def repeat(self, now: Instant, out: Outbox) -> None:
        """Say every phase of this node again."""
        for tenure in self._tables.tenures.all():
            if tenure.mine is not None:
                self._report(tenure, now, out)

    def _report(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        assert tenure.mine is not None
        plan = tenure.plan
        report = PhaseReported(plan.deployment, plan.epoch, tenure.digest, tenure.mine, tenure.detail)
        self._voice.say(report, now, out, retain=True)

    def adopt(self, plan: Plan, digest: Digest, wire: bytes, now: Instant, out: Outbox) -> None:
        """Take up a plan that somebody entitled to it announced; ``wire``, if any, is kept for the next life."""
        subject = f"{plan.deployment}/{plan.epoch}"
        known = self._tables.tenures.get(plan.deployment, plan.epoch)
        if known is not None:
            if known.digest != digest:
                self._tables.rejected["equivocation"] += 1
                out.count("plans_rejected", "equivocation")
                self._tables.story.tell(
                    now, subject, f"refused: plan {known.digest.hex()[:16]} holds this epoch already"
                )
            return
        faults = faults_of(plan, self._voice.identity.roster)
        if faults:
            self._tables.rejected["invalid-plan"] += 1
            out.count("plans_rejected", "invalid")
            out.note("warning", "plan refused", plan=subject, why="; ".join(faults))
            self._tables.story.tell(now, subject, f"refused: {'; '.join(faults)}")
            return
        tenure = self._tables.tenures.add(plan, digest)
        assert tenure is not None, "looked up above"
        self._tables.story.tell(now, subject, f"accepted plan {digest.hex()[:16]} of {len(plan.stages)} stages")
        if wire:
            out.add(Persist(f"plan.{plan.deployment}", wire))
        for stage in plan.stages:
            about, early = self._early.pop((plan.deployment, plan.epoch, stage.node), (None, None))
            if early is not None and about == digest:
                tenure.hear(stage.node, early)
        if stage_of(plan, self._voice.identity.node) is not None:
            self._load(tenure, now, out)

    def _load(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Check a plan this node is a host of against this node, and open its blocks."""
        here = self._voice.identity.node
        faults = faults_for_host(tenure.plan, here, self._tables.models, self._voice.sampled.capacity.memory_bytes)
        tenure.mine = DeploymentPhase.FAILED if faults else DeploymentPhase.LOADING
        tenure.detail = "; ".join(faults)[:REASON_CHARS_MAX]
        if not faults:
            stage = stage_of(tenure.plan, here)
            assert stage is not None
            out.add(LoadBlocks(span_of(tenure.plan, stage)))
        self._announce(tenure, now, out)

    def _announce(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Tell everybody, ourselves included, what this node's phase is now."""
        assert tenure.mine is not None
        plan = tenure.plan
        level = "error" if tenure.mine is DeploymentPhase.FAILED else "info"
        out.note(
            level, "phase", deployment=plan.deployment, epoch=plan.epoch, phase=tenure.mine.name, why=tenure.detail
        )
        self._tables.story.tell(
            now, f"{plan.deployment}/{plan.epoch}", f"this node: {tenure.mine.name} {tenure.detail}".strip()
        )
        report = HostReport(tenure.mine, tenure.detail, self._voice.identity.incarnation, self._voice.sequence)
        tenure.reports[self._voice.identity.node] = report
        self._report(tenure, now, out)
        self._tables.changed(now)
        self._activate(tenure, now, out)

    def _activate(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        if tenure.mine is DeploymentPhase.READY and tenure.serving():
            tenure.advance(DeploymentPhase.ACTIVE)
            self._announce(tenure, now, out)

    def reported(self, envelope: Envelope, message: PhaseReported, now: Instant, out: Outbox) -> None:
        """A host tells how far it is."""
        node = envelope.sender
        report = HostReport(message.phase, message.detail, envelope.incarnation, envelope.sequence)
        tenure = self._tables.tenures.get(message.deployment, message.epoch)
        if tenure is None:
            if len(self._early) < EARLY_REPORTS_MAX:
                self._early[(message.deployment, message.epoch, node)] = message.plan, report
            return
        if message.plan != tenure.digest or stage_of(tenure.plan, node) is None:
            self._tables.rejected["phase"] += 1
            out.count("messages_rejected", "phase")
            return
        tenure.hear(node, report)
        self._activate(tenure, now, out)

    def model_available(self, facts: ModelFacts, now: Instant, out: Outbox) -> None:
        """A package is in the store; a plan that waited for it may go on."""
        self._tables.models[facts.model] = facts
        self._tables.changed(now)
        for tenure in self._tables.tenures.all():
            if tenure.mine is DeploymentPhase.FAILED and tenure.plan.model == facts.model:
                self._load(tenure, now, out)

    def loaded(self, event: BlocksLoaded | BlocksFailed, now: Instant, out: Outbox) -> None:
        """The engine opened the blocks, or could not."""
        tenure = self._tables.tenures.get(event.span.deployment, event.span.epoch)
        if tenure is None or tenure.mine is not DeploymentPhase.LOADING:
            return
        if isinstance(event, BlocksLoaded):
            tenure.advance(DeploymentPhase.READY)
        else:
            tenure.advance(DeploymentPhase.FAILED, event.reason[:REASON_CHARS_MAX])
        self._announce(tenure, now, out)
