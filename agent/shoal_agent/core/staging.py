"""How a plan comes to life and goes again: make before break.

    adopted ─► package known? ─► room for it? ─► LOADING ─► READY ─► all hosts READY: ACTIVE
                  │ fetch           │ no, or the engine cannot: FAILED
    a later epoch serves ─► no new sessions here ─► the last one ends ─► DRAINED, blocks given back

There is no coordinator in this: every node hears the same reports and draws the same conclusions. All of them are
drawn in one place, ``settle``, which compares what this node holds with the plans there are. It looks at a deployment's
head (its newest epoch), at its anchor (the newest that served, kept until the head does) and gives back everything
else. It runs after every change and, while something drains, every ``SETTLE_S``.

The head's blocks are asked for before the past's are given back, and the engine counts who holds a block: only blocks
that change owner are ever opened. An epoch that served takes sessions for ``RETIRE_S`` more once its successor does,
because an ingress hears of the change a moment later; sessions stay in the epoch they began in, to their end.

*Break before make.* If a plan says so, memory does not allow both: older epochs take no sessions from its adoption on,
get ``BREAK_S`` to end those they have, and only then the new blocks are opened. Meanwhile nothing is served.

*Deadline.* Hosts that are not READY ``staging_ms`` after the plan was heard of, or say FAILED, are named in a
``StagingFailed``, once: the next epoch is for others to propose. Numbers never go back.

*Leaving.* A host that is asked to stop says so, and goes on serving until others serve in its place.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.effects import FetchModel, LoadBlocks, UnloadBlocks
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, ModelMissing
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import faults_for_host, faults_of, rendezvous_order, span_of, stage_of
from shoal_agent.core.room import room_for
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HELD, Holding, HostReport, Tenure
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import Voice
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import DeploymentPhase, NodePhase, PhaseReported, Plan, SwitchMode

EARLY_REPORTS_MAX: Final = 1024
"""Reports kept for plans not heard yet: retained messages come in any order. The oldest make room."""
SETTLE_S: Final = 0.25
"""How soon the end of a session may be noticed by what waits for it."""
RETIRE_S: Final = 2.0
"""Between the first moment a newer epoch serves and the last at which a session may begin in the older one."""
BREAK_S: Final = 10.0
"""What sessions get to end when memory is needed first; nothing else can be served meanwhile."""
SOURCES_MAX: Final = 8
"""Peers named as having a package: more than these are not asked at once anyway."""

_OPEN: Final = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)


@dataclass(frozen=True, slots=True)
class StagingFailed:
    """``nodes`` did not open their blocks: they said so, or their time is up."""

    deployment: DeploymentId
    epoch: Epoch
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class SessionsOverdue:
    """Sessions that are still open on this node's stage of an epoch have to end now."""

    deployment: DeploymentId
    epoch: Epoch


StagingFact = StagingFailed | SessionsOverdue


class Staging:
    """This node's part in the life of every plan."""

    def __init__(self, tables: Tables, voice: Voice, kv_bytes_max: int) -> None:
        self._tables = tables
        self._voice = voice
        self._here = voice.identity.node
        self._kv_bytes_max = kv_bytes_max
        self._early: dict[tuple[DeploymentId, NodeId], tuple[Epoch, Digest, HostReport]] = {}

    # --- saying -----------------------------------------------------------------------------------------------------

    def repeat(self, now: Instant, out: Outbox) -> None:
        """Say every phase of this node again, the newest epoch's last: of a deployment the last word is kept."""
        for tenure in self._tables.tenures.all():
            if tenure.mine in (*HELD, DeploymentPhase.FAILED):
                self._report(tenure, now, out)

    def _report(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        assert tenure.mine is not None
        plan = tenure.plan
        report = PhaseReported(plan.deployment, plan.epoch, tenure.digest, tenure.mine, tenure.detail)
        self._voice.say(report, now, out, retain=True, direct=self._concerned(plan))

    def _concerned(self, plan: Plan) -> Iterable[NodeId]:
        """Who must hear of this epoch even if no broker is left."""
        nodes = [stage.node for stage in plan.stages] + list(plan.voters)
        return [node for node in dict.fromkeys(nodes) if node not in self._tables.tenures.lost]

    def _announce(self, tenure: Tenure, now: Instant, out: Outbox) -> None:
        """Tell everybody, ourselves included, what this node's phase is now."""
        assert tenure.mine is not None
        plan, level = tenure.plan, "error" if tenure.mine is DeploymentPhase.FAILED else "info"
        phase, why = tenure.mine.name, tenure.detail
        out.note(level, "phase", deployment=plan.deployment, epoch=plan.epoch, phase=phase, why=why)
        took = f" after {now - tenure.since:.2f} s" if tenure.mine in _OPEN else ""
        self._tell(tenure, f"this node: {phase}{took} {why}".strip(), now)
        identity = self._voice.identity
        tenure.hear(self._here, HostReport(tenure.mine, why, identity.incarnation, self._voice.sequence, now))
        self._report(tenure, now, out)
        self._tables.changed(now)

    def _tell(self, tenure: Tenure, text: str, now: Instant) -> None:
        self._tables.story.tell(now, f"{tenure.plan.deployment}/{tenure.plan.epoch}", text)

    # --- plans ------------------------------------------------------------------------------------------------------

    def adopt(self, plan: Plan, digest: Digest, now: Instant, out: Outbox) -> None:
        """Take up a plan that was decided, and is proven.

        What comes of it is settled a moment later: plans restored from a disk, or caught up with, come in a row.
        """
        tables, subject = self._tables, f"{plan.deployment}/{plan.epoch}"
        known = tables.tenures.get(plan.deployment, plan.epoch)
        if known is not None:
            if known.digest != digest:
                why = f"plan {known.digest.hex()[:16]} holds this epoch already"
                self._refuse(subject, "equivocation", why, now, out)
            return
        faults = faults_of(plan, self._voice.identity.roster)
        if faults:
            self._refuse(subject, "invalid-plan", "; ".join(faults), now, out)
            return
        tenure = tables.tenures.add(plan, digest, now)
        assert tenure is not None, "looked up above"
        tables.story.tell(now, subject, f"accepted plan {digest.hex()[:16]} of {len(plan.stages)} stages")
        if plan.mode is SwitchMode.BREAK_BEFORE_MAKE:
            self._tell(tenure, "break before make: memory does not hold the old and the new blocks at once", now)
        for stage in plan.stages:
            epoch, about, early = self._early.get((plan.deployment, stage.node), (None, None, None))
            if early is not None and (epoch, about) == (plan.epoch, digest):
                tenure.hear(stage.node, early)
                del self._early[plan.deployment, stage.node]
        tables.timers.set(Routine.SETTLE, now)

    def _refuse(self, subject: str, label: str, why: str, now: Instant, out: Outbox) -> None:
        self._tables.rejected[label] += 1
        out.count("plans_rejected", label)
        out.note("warning", "plan refused", plan=subject, why=why)
        self._tables.story.tell(now, subject, f"refused: {why}")

    def settle(self, now: Instant, out: Outbox) -> tuple[StagingFact, ...]:
        """Bring this node's blocks in line with the plans there are; what others need to know of it."""
        facts: list[StagingFact] = []
        tenures, again = self._tables.tenures, []
        for deployment in tenures.deployments():
            epochs = tenures.of(deployment)
            past, head = epochs[:-1], epochs[-1]
            for tenure in epochs:
                self._serve(tenure, now)
            if head.mine is DeploymentPhase.READY and head.complete(tenures.lost):
                head.advance(DeploymentPhase.ACTIVE)
                self._announce(head, now, out)
            if head.mine is None and stage_of(head.plan, self._here) is not None:
                self._begin(head, now, out)
            self._open(head, past, out)
            for tenure in past:
                if self._retire(tenure, head, now, out):
                    again.append(Instant(now + SETTLE_S))
                facts += self._hurry(tenure, head, now)
            self._open(head, past, out)  # what had to break first is made now
            facts += self._failures(head, now)
            if not head.overdue:
                again.append(Instant(head.since + head.plan.staging_ms / 1000))
            tenures.forget_past(deployment)
        if again:
            self._tables.timers.set(Routine.SETTLE, min(again))
        return tuple(facts)

    def _failures(self, head: Tenure, now: Instant) -> list[StagingFact]:
        """Hosts of the newest epoch that will not be ready, and of whom nobody was told yet."""
        nodes = [stage.node for stage in head.plan.stages]
        failed = [node for node in nodes if head.phase_of(node) is DeploymentPhase.FAILED]
        if not head.overdue and now >= head.since + head.plan.staging_ms / 1000:
            head.overdue = True
            late = [] if head.served is not None else [node for node in nodes if not head.ready(node)]
            if late:
                names = ", ".join(node[:8] for node in late)
                self._tell(head, f"not ready after {now - head.since:.0f} s: {names}", now)
            failed = [node for node in nodes if node in failed or node in late]
        new = tuple(node for node in failed if node not in head.failed)
        head.failed = dict.fromkeys(failed) | {node: None for node in head.failed if not head.ready(node)}
        return [StagingFailed(head.plan.deployment, head.plan.epoch, new)] if new else []

    def _serve(self, tenure: Tenure, now: Instant) -> None:
        """All hosts are ready: there is something to serve with, and to fall back on."""
        if tenure.served is None and tenure.serving(self._tables.tenures.lost):
            tenure.served = now
            self._tell(tenure, f"every host is ready, {now - tenure.since:.2f} s after the plan was heard of", now)

    def _begin(self, head: Tenure, now: Instant, out: Outbox) -> None:
        """This node is a host of the newest epoch: see to it that it can be."""
        if head.plan.model in self._tables.models:
            self._examine(head, now, out)
            return
        head.mine, head.detail = DeploymentPhase.LOADING, "fetching the package"
        out.add(FetchModel(head.plan.model, self._sources(head.plan)))
        self._announce(head, now, out)

    def _examine(self, head: Tenure, now: Instant, out: Outbox) -> None:
        """Check the stage against this node; what passes is opened by ``_open``."""
        plan, facts = head.plan, self._tables.models[head.plan.model]
        memory = self._voice.sampled.capacity.memory_bytes
        faults = faults_for_host(
            plan, self._here, facts, room_for(self._tables, self._here, plan, memory, self._kv_bytes_max)
        )
        if head.mine is DeploymentPhase.FAILED:
            head.advance(DeploymentPhase.LOADING)
        head.mine, head.detail = DeploymentPhase.LOADING, ""
        if faults:
            self._fail(head, "; ".join(faults), now, out)
        else:
            self._announce(head, now, out)

    def _open(self, head: Tenure, past: Iterable[Tenure], out: Outbox) -> None:
        """Ask for the blocks of the head, once."""
        if head.asked or head.mine is not DeploymentPhase.LOADING or head.plan.model not in self._tables.models:
            return
        if _breaks(head) and any(tenure.asked for tenure in past):
            return
        stage = stage_of(head.plan, self._here)
        assert stage is not None, "only a host has a phase"
        head.held[stage] = Holding.OPENING
        out.add(LoadBlocks(span_of(head.plan, stage), self._sources(head.plan)))

    def _retire(self, tenure: Tenure, head: Tenure, now: Instant, out: Outbox) -> bool:
        """Give back what an epoch of the past holds here, as soon as that harms nobody; whether there is more to do."""
        breaks = _breaks(head) and head.mine is DeploymentPhase.LOADING
        if tenure.mine is None or tenure.mine is DeploymentPhase.DRAINED:
            return False
        if tenure is self._tables.tenures.anchor(tenure.plan.deployment) and not breaks:
            return False
        if tenure.closing is None:
            superseded = head.served is not None and tenure.served is not None
            tenure.closing = Instant(head.served + RETIRE_S) if superseded and head.served is not None else now
        if not tenure.closed(now) or tenure.sessions:
            return True
        tenure.advance(DeploymentPhase.DRAINED)
        for stage in sorted(tenure.held):
            out.add(UnloadBlocks(span_of(tenure.plan, stage)))
        tenure.held.clear()
        self._announce(tenure, now, out)
        if head.mine is not None:
            self._report(head, now, out)  # of a deployment the last word is kept
        return False

    @staticmethod
    def _hurry(tenure: Tenure, head: Tenure, now: Instant) -> list[StagingFact]:
        """Nothing is served while old sessions are in the way of a new epoch."""
        in_the_way = tenure.asked and tenure.sessions and _breaks(head) and not head.asked
        if in_the_way and now >= head.since + BREAK_S:
            return [SessionsOverdue(tenure.plan.deployment, tenure.plan.epoch)]
        return []

    def _fail(self, tenure: Tenure, why: str, now: Instant, out: Outbox) -> None:
        tenure.advance(DeploymentPhase.FAILED, why[:REASON_CHARS_MAX])
        tenure.held.clear()
        self._announce(tenure, now, out)

    def _sources(self, plan: Plan) -> tuple[NodeId, ...]:
        """Who says it has the package: hosts of earlier epochs first, then everybody, each asker in another order."""
        tenures = self._tables.tenures
        owners = [stage.node for tenure in reversed(tenures.of(plan.deployment)) for stage in tenure.plan.stages]
        holders = [
            peer.node
            for peer in self._tables.membership.peers()
            if plan.model in peer.state.models and peer.node not in tenures.lost and peer.node != self._here
        ]
        others = rendezvous_order(self._here.encode() + plan.model, holders)
        ranked = [node for node in owners if node in holders] + others
        return tuple(dict.fromkeys(ranked))[:SOURCES_MAX]

    # --- what happens -----------------------------------------------------------------------------------------------

    def reported(self, envelope: Envelope, message: PhaseReported, now: Instant, out: Outbox) -> None:
        """A host tells how far it is."""
        node = envelope.sender
        report = HostReport(
            message.phase, message.detail, envelope.incarnation, envelope.sequence, now, message.standing_by
        )
        tenure = self._tables.tenures.get(message.deployment, message.epoch)
        if tenure is None:
            self._keep(message, node, report)
        elif message.plan != tenure.digest or stage_of(tenure.plan, node) is None:
            self._tables.rejected["phase"] += 1
            out.count("messages_rejected", "phase")
        else:
            tenure.hear(node, report)
            self._tables.timers.set(Routine.SETTLE, now)

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

    def model_available(self, facts: ModelFacts, now: Instant, out: Outbox) -> None:
        """A package is known; a plan that waited for it may go on, one that failed is tried again."""
        self._tables.models[facts.model] = facts
        self._tables.changed(now)
        for head in self._heads(facts.model):
            if not head.asked and head.mine in (DeploymentPhase.LOADING, DeploymentPhase.FAILED):
                self._examine(head, now, out)
        self._tables.timers.set(Routine.SETTLE, now)

    def model_missing(self, event: ModelMissing, now: Instant, out: Outbox) -> None:
        """A package could not be had."""
        for head in self._heads(event.model):
            if head.mine is DeploymentPhase.LOADING and event.model not in self._tables.models:
                self._fail(head, event.reason, now, out)
        self._tables.timers.set(Routine.SETTLE, now)

    def _heads(self, model: Digest) -> list[Tenure]:
        heads = [self._tables.tenures.head(deployment) for deployment in self._tables.tenures.deployments()]
        return [head for head in heads if head is not None and head.plan.model == model]

    def loaded(self, event: BlocksLoaded | BlocksFailed, now: Instant, out: Outbox) -> None:
        """The engine opened the blocks, or could not."""
        span = event.span
        tenure = self._tables.tenures.get(span.deployment, span.epoch)
        if tenure is None or tenure.mine is not DeploymentPhase.LOADING or not tenure.asked:
            return
        if isinstance(event, BlocksFailed):
            self._fail(tenure, event.reason, now, out)
        else:
            stage = stage_of(tenure.plan, self._here)
            assert stage is not None, "only a host has a phase"
            tenure.held[stage] = Holding.OPEN
            tenure.advance(DeploymentPhase.READY)
            self._announce(tenure, now, out)
            self._tell(tenure, f"blocks {span.first_block}-{span.last_block} hold {event.resident_bytes} bytes", now)
        self._tables.timers.set(Routine.SETTLE, now)

    def noticed(self, node: NodeId, lost: bool, now: Instant) -> None:  # noqa: FBT001 - what the watch found
        """``node`` is dead or left, or is back."""
        (self._tables.tenures.lost.add if lost else self._tables.tenures.lost.discard)(node)
        self._tables.timers.set(Routine.SETTLE, now)

    # --- leaving ----------------------------------------------------------------------------------------------------

    def needed(self) -> bool:
        """Whether others need time to take over what this node holds, and somebody is there to see to it."""
        tenures = self._tables.tenures
        held = [head for name in tenures.deployments() for head in tenures.of(name) if head.asked]
        return any(self._inherits(voter) for tenure in held for voter in tenure.plan.voters)

    def _inherits(self, voter: NodeId) -> bool:
        peer = self._tables.membership.peer(voter)
        stays = peer is not None and peer.state.phase in (NodePhase.STARTING, NodePhase.READY)
        return stays and voter not in self._tables.tenures.lost


def _breaks(head: Tenure) -> bool:
    return head.plan.mode is SwitchMode.BREAK_BEFORE_MAKE
