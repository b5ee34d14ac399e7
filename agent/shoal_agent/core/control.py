"""What a node says to its cluster and what it makes of what the cluster says: records and plans.

Out: a heartbeat every second, the capacity record when it changes and every ``RECORD_S``, the phase of every epoch
this node hosts along with it. Saying things again is the repair: brokers lose messages they acknowledged, so state
is repeated until it is replaced, and repeating it is harmless.

In: records go to the membership table; a plan is checked against this node itself and, if this node is one of its
hosts, loaded. When every host has said READY, each declares the epoch ACTIVE. There is no coordinator in this: every
node hears the same reports and draws the same conclusion.
"""

from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from shoal_agent.core.effects import Broadcast, LoadBlocks, Persist
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, Restored, Sampled
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.gate import Gate
from shoal_agent.core.membership import Membership
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import faults_for_host, faults_of, span_of, stage_of
from shoal_agent.core.story import Story
from shoal_agent.core.tenure import HostReport, Tenure, Tenures
from shoal_agent.core.timers import Routine, Timers
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import Envelope, seal
from shoal_protocol.ids import ClusterId, Digest, Incarnation, Instant, NodeId, Sequence, digest_of
from shoal_protocol.limits import REASON_CHARS_MAX, TTL_MS_MAX
from shoal_protocol.messages import (
    ControlMessage,
    DeploymentPhase,
    Endpoint,
    Heartbeat,
    HostedStage,
    LinkDeath,
    NodePhase,
    NodeState,
    PhaseReported,
    Plan,
    PlanAnnounced,
)
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.sealing import Sealer
from shoal_protocol.topics import topic_for

HEARTBEAT_S: Final = 1.0
"""A dead node is missed within seconds; a beat costs each hearer about 0.2 ms."""
HEARTBEAT_JITTER: Final = 0.1
"""+-10 %: a cluster that was started at once does not beat at once."""
RECORD_S: Final = 10.0
"""Records and phases are repeated this often even if nothing changed."""
RECORD_SPACING_S: Final = 0.5
"""At most two records a second, however fast things change."""
TTL_MS: Final = 300_000
"""Age at which a broadcast is refused: far above any delay, and above the clock skew we tolerate."""
EARLY_REPORTS_MAX: Final = 1024
"""Reports kept for plans not heard yet: retained messages come in any order."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What a node knows of itself before anything happens."""

    cluster: ClusterId
    data: Endpoint
    api: str
    kv_bytes_max: int
    software: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is: its id, its boot counter, its key, and whom it trusts."""

    node: NodeId
    incarnation: Incarnation
    sealer: Sealer
    roster: TrustedRoster


class Control:
    """This node's part in the conversation over the brokers."""

    def __init__(self, config: CoreConfig, identity: Identity, rng: Random, timers: Timers, story: Story) -> None:
        self._config = config
        self._identity = identity
        self._rng = rng
        self._timers = timers
        self._story = story
        self.membership = Membership()
        self.tenures = Tenures()
        self.models: dict[Digest, ModelFacts] = {}
        self.services: tuple[str, ...] = ()
        self.phase = NodePhase.STARTING
        self.state: NodeState | None = None
        self.rejected: Counter[str] = Counter()
        self._sampled: Sampled | None = None
        self._sampled_at = Instant(0.0)
        self._sequence = 0
        self._beat = 0
        self._early: dict[tuple[str, int, NodeId], tuple[Digest, HostReport]] = {}

    # --- saying ---------------------------------------------------------------------------------------------------

    def begin(self, now: Instant) -> None:
        """Arm the clock of what is said regularly."""
        self._timers.set(Routine.HEARTBEAT, now)
        self._timers.set(Routine.RECORD, now)

    def wall_ms(self, now: Instant) -> int:
        """Unix time, as the last sensor reading had it, carried on by the monotonic clock."""
        assert self._sampled is not None, "the shell samples before anything else"
        return self._sampled.wall_ms + int((now - self._sampled_at) * 1000)

    def _seal(self, message: ControlMessage, now: Instant, ttl_ms: int = TTL_MS) -> bytes:
        self._sequence += 1
        who = self._identity
        return seal(
            who.sealer,
            self._config.cluster,
            who.node,
            who.incarnation,
            Sequence(self._sequence),
            ttl_ms,
            self.wall_ms(now),
            message,
        )

    def _say(self, message: ControlMessage, retain: bool, now: Instant, out: Outbox) -> None:  # noqa: FBT001
        topic = topic_for(self._config.cluster, self._identity.node, message)
        out.add(Broadcast(topic, self._seal(message, now), retain, retain, TTL_MS // 1000))

    def will(self, broker: str, connection: int, now: Instant) -> tuple[str, bytes]:
        """Topic and wire of the last will for one connection to one broker; it may lie there for years."""
        message = LinkDeath(connection, broker)
        return topic_for(self._config.cluster, self._identity.node, message), self._seal(message, now, TTL_MS_MAX)

    def beat(self, now: Instant, out: Outbox) -> None:
        """Say: I am here."""
        jitter = 1 + HEARTBEAT_JITTER * (2 * self._rng.random() - 1)
        self._timers.set(Routine.HEARTBEAT, Instant(now + HEARTBEAT_S * jitter))
        if self.state is not None:
            self._beat += 1
            self._say(Heartbeat(self._beat, self.state.version), False, now, out)  # noqa: FBT003

    def changed(self, now: Instant) -> None:
        """Something the record tells has changed: publish it soon."""
        if Routine.RECORD_SOON not in self._timers:
            self._timers.set(Routine.RECORD_SOON, Instant(now + RECORD_SPACING_S))

    def publish(self, sessions: int, kv_bytes: int, now: Instant, out: Outbox) -> None:
        """Say everything this node says about itself."""
        self._timers.set(Routine.RECORD, Instant(now + RECORD_S))
        self._timers.clear(Routine.RECORD_SOON)
        assert self._sampled is not None
        self.state = NodeState(
            version=1 if self.state is None else self.state.version + 1,
            phase=self.phase,
            data=self._config.data,
            api=self._config.api,
            capacity=self._sampled.capacity,
            load=replace(self._sampled.load, session_count=sessions, kv_bytes=kv_bytes),
            hosted=tuple(self._hosted()),
            models=tuple(sorted(self.models)),
            services=self.services,
            software=self._config.software,
        )
        self._say(self.state, True, now, out)  # noqa: FBT003
        for tenure in self.tenures.all():
            if tenure.mine is not None:
                self._report(tenure, now, out)

    def _hosted(self) -> list[HostedStage]:
        held = []
        for tenure in self.tenures.all():
            stage = stage_of(tenure.plan, self._identity.node)
            if stage is not None and tenure.mine in (DeploymentPhase.READY, DeploymentPhase.ACTIVE):
                part = tenure.plan.stages[stage]
                held.append(HostedStage(tenure.plan.deployment, tenure.plan.epoch, part.first_block, part.last_block))
        return held

    def _report(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        assert tenure.mine is not None
        plan = tenure.plan
        self._say(
            PhaseReported(plan.deployment, plan.epoch, tenure.digest, tenure.mine, tenure.detail),
            True,  # noqa: FBT003
            now,
            out,
        )

    # --- hearing --------------------------------------------------------------------------------------------------

    def sampled(self, event: Sampled, now: Instant) -> None:
        """The sensors were read."""
        self._sampled = event
        self._sampled_at = now

    def heard(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox) -> None:
        """A verified envelope from somebody else."""
        message = envelope.message
        match message:
            case NodeState():
                if self.membership.merge(envelope.sender, envelope.incarnation, message, now):
                    out.count("records_merged", "cap")
            case Heartbeat():
                self.membership.heard(envelope.sender, envelope.incarnation, message, now)
            case LinkDeath():
                out.note("info", "a link broke", node=envelope.sender, broker=message.broker)
            case PhaseReported():
                self._phase(envelope, message, now, out)
            case PlanAnnounced():
                self._plan(decode_plan(message.plan), digest_of(message.plan), wire, now, out)

    def restored(self, event: Restored, gate: Gate, now: Instant, out: Outbox) -> None:
        """A plan this node accepted in an earlier life."""
        message = gate.reopen(event.data).message
        if isinstance(message, PlanAnnounced):
            self._plan(decode_plan(message.plan), digest_of(message.plan), b"", now, out)

    # --- plans ----------------------------------------------------------------------------------------------------

    def _plan(self, plan: Plan, digest: Digest, wire: bytes, now: Instant, out: Outbox) -> None:
        subject = f"{plan.deployment}/{plan.epoch}"
        known = self.tenures.get(plan.deployment, plan.epoch)
        if known is not None:
            if known.digest != digest:
                self.rejected["equivocation"] += 1
                out.count("plans_rejected", "equivocation")
                self._story.tell(now, subject, f"refused: plan {known.digest.hex()[:16]} holds this epoch already")
            return
        faults = faults_of(plan, self._identity.roster)
        if faults:
            self.rejected["invalid-plan"] += 1
            out.count("plans_rejected", "invalid")
            out.note("warning", "plan refused", plan=subject, why="; ".join(faults))
            self._story.tell(now, subject, f"refused: {'; '.join(faults)}")
            return
        tenure = self.tenures.add(plan, digest)
        assert tenure is not None, "looked up above"
        self._story.tell(now, subject, f"accepted plan {digest.hex()[:16]} of {len(plan.stages)} stages")
        if wire:
            out.add(Persist(f"plan.{plan.deployment}", wire))
        for stage in plan.stages:
            about, early = self._early.pop((plan.deployment, plan.epoch, stage.node), (None, None))
            if early is not None and about == digest:
                tenure.hear(stage.node, early)
        if stage_of(plan, self._identity.node) is not None:
            self._load(tenure, now, out)

    def _load(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Check a plan this node is a host of against this node, and open its blocks."""
        assert self._sampled is not None
        here = self._identity.node
        faults = faults_for_host(tenure.plan, here, self.models, self._sampled.capacity.memory_bytes)
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
        self._story.tell(
            now, f"{plan.deployment}/{plan.epoch}", f"this node: {tenure.mine.name} {tenure.detail}".strip()
        )
        report = HostReport(tenure.mine, tenure.detail, self._identity.incarnation, Sequence(self._sequence))
        tenure.reports[self._identity.node] = report
        self._report(tenure, now, out)
        self.changed(now)
        self._activate(tenure, now, out)

    def _activate(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        if tenure.mine is DeploymentPhase.READY and tenure.serving():
            tenure.advance(DeploymentPhase.ACTIVE)
            self._announce(tenure, now, out)

    def _phase(self, envelope: Envelope, message: PhaseReported, now: Instant, out: Outbox) -> None:
        node = envelope.sender
        report = HostReport(message.phase, message.detail, envelope.incarnation, envelope.sequence)
        tenure = self.tenures.get(message.deployment, message.epoch)
        if tenure is None:
            if len(self._early) < EARLY_REPORTS_MAX:
                self._early[(message.deployment, message.epoch, node)] = message.plan, report
            return
        if message.plan != tenure.digest or stage_of(tenure.plan, node) is None:
            self.rejected["phase"] += 1
            out.count("messages_rejected", "phase")
            return
        tenure.hear(node, report)
        self._activate(tenure, now, out)

    def model_available(self, facts: ModelFacts, now: Instant, out: Outbox) -> None:
        """A package is in the store; a plan that waited for it may go on."""
        self.models[facts.model] = facts
        self.changed(now)
        for tenure in self.tenures.all():
            if tenure.mine is DeploymentPhase.FAILED and tenure.plan.model == facts.model:
                self._load(tenure, now, out)

    def loaded(self, event: BlocksLoaded | BlocksFailed, now: Instant, out: Outbox) -> None:
        """The engine opened the blocks, or could not."""
        tenure = self.tenures.get(event.span.deployment, event.span.epoch)
        if tenure is None or tenure.mine is not DeploymentPhase.LOADING:
            return
        if isinstance(event, BlocksLoaded):
            tenure.advance(DeploymentPhase.READY)
        else:
            tenure.advance(DeploymentPhase.FAILED, event.reason[:REASON_CHARS_MAX])
        self._announce(tenure, now, out)
