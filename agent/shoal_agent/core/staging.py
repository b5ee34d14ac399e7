"""How a plan comes to life and goes again: make before break.

    adopted ─► package known? ─► room for it? ─► LOADING ─► READY ─► all primaries READY: ACTIVE
                  │ fetch           │ no, or the engine cannot: FAILED      └► open what it stands by for (``reserve``)
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

*Standbys.* A node that only stands by has a phase too, to be heard; it is READY when it has opened what it can, and
nobody waits for that: an epoch is ACTIVE by its primaries alone.

*Deadline.* Primaries that are not READY ``staging_ms`` after the plan was heard of, or say FAILED, are named in a
``StagingFailed``, once: the next epoch is for others to propose. Numbers never go back.

*Leaving.* A host that is asked to stop says so, and goes on serving until others serve in its place.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.effects import FetchBlocks, FetchModel, LoadBlocks, UnloadBlocks
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, ModelMissing
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.phases import Phases
from shoal_agent.core.plan import (
    faults_for_host,
    faults_of,
    hosts_of,
    own_stages,
    rendezvous_order,
    servers_of,
    span_of,
    stage_at,
    stages_on,
)
from shoal_agent.core.reserve import Reserve, SessionsOverdue
from shoal_agent.core.room import room_for
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Holding, Tenure
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import Voice
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import DeploymentPhase, NodePhase, PhaseReported, Plan, SwitchMode

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


StagingFact = StagingFailed | SessionsOverdue


class Staging:
    """This node's part in the life of every plan."""

    def __init__(self, tables: Tables, voice: Voice, kv_bytes_max: int) -> None:
        self._tables = tables
        self._voice = voice
        self._here = voice.identity.node
        self._kv_bytes_max = kv_bytes_max
        self._reserve = Reserve(tables, voice, kv_bytes_max)
        self._phases = Phases(tables, voice)

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
            self._phases.tell(tenure, "break before make: memory does not hold the old and the new blocks at once", now)
        self._phases.recall(tenure)
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
                self._give_back(tenure, out)
                self._serve(tenure, now)
            if head.mine is DeploymentPhase.READY and head.complete(tenures.lost):
                head.advance(DeploymentPhase.ACTIVE, head.detail)
                self._phases.announce(head, now, out)
            if head.mine is None and stages_on(head.plan, self._here):
                self._begin(head, now, out)
            ending = self._make_room(head, past, now, out)
            facts += ending
            again += [now] * bool(ending)
            self._open(head, past, out)
            for tenure in past:
                if self._retire(tenure, head, now, out):
                    again.append(Instant(now + SETTLE_S))
                facts += self._hurry(tenure, head, now)
            self._open(head, past, out)  # what had to break first is made now
            again += self._stand_by(head, past, now, out)
            facts += self._failures(head, now)
            again += self._look_for_sources(head, now, out)
            if not head.overdue:
                again.append(Instant(head.since + head.plan.staging_ms / 1000))
            tenures.forget_past(deployment)
        if again:
            self._tables.timers.set(Routine.SETTLE, min(again))
        return tuple(facts)

    def _failures(self, head: Tenure, now: Instant) -> list[StagingFact]:
        """Hosts of the newest epoch that will not be ready, and of whom nobody was told yet."""
        nodes = hosts_of(head.plan.stages)
        failed = [node for node in nodes if head.phase_of(node) is DeploymentPhase.FAILED]
        if not head.overdue and now >= head.since + head.plan.staging_ms / 1000:
            head.overdue = True
            late = [] if head.served is not None else [node for node in nodes if not head.ready(node)]
            if late:
                names = ", ".join(node[:8] for node in late)
                self._phases.tell(head, f"not ready after {now - head.since:.0f} s: {names}", now)
            failed = [node for node in nodes if node in failed or node in late]
        new = tuple(node for node in failed if node not in head.failed)
        head.failed = dict.fromkeys(failed) | {node: None for node in head.failed if not head.ready(node)}
        return [StagingFailed(head.plan.deployment, head.plan.epoch, new)] if new else []

    def _serve(self, tenure: Tenure, now: Instant) -> None:
        """All primaries are ready: there is something to serve with, and to fall back on."""
        if tenure.served is None and tenure.serving(self._tables.tenures.lost):
            tenure.served = now
            self._phases.tell(
                tenure, f"every host is ready, {now - tenure.since:.2f} s after the plan was heard of", now
            )

    def _begin(self, head: Tenure, now: Instant, out: Outbox) -> None:
        """This node has a part in the newest epoch: see to it that it can play it."""
        if head.plan.model in self._tables.models:
            self._examine(head, now, out)
            return
        head.mine, head.detail = DeploymentPhase.LOADING, "fetching the package"
        out.add(FetchModel(head.plan.model, self._sources(head)))
        self._phases.announce(head, now, out)

    def _examine(self, head: Tenure, now: Instant, out: Outbox) -> None:
        """Check its stages against this node; what passes is opened by ``_open``."""
        plan, facts = head.plan, self._tables.models[head.plan.model]
        memory = self._voice.sampled.capacity.memory_bytes
        room = room_for(self._tables, self._here, plan, memory, self._kv_bytes_max)
        faults = faults_for_host(plan, self._here, facts, room) if own_stages(plan, self._here) else []
        if head.mine is DeploymentPhase.FAILED:
            head.advance(DeploymentPhase.LOADING)
        head.mine, head.detail = DeploymentPhase.LOADING, ""
        if faults:
            self._fail(head, "; ".join(faults), now, out)
        else:
            self._phases.announce(head, now, out)

    def _make_room(self, head: Tenure, past: Iterable[Tenure], now: Instant, out: Outbox) -> list[SessionsOverdue]:
        """Close what this node stands by for in earlier epochs, if its own stages need the room."""
        ending = []
        for tenure, stages in self._reserve.in_the_way(head, past):
            tenure.held |= dict.fromkeys(stages, Holding.CLOSING)
            self._phases.tell(tenure, f"this node makes room: it stands by for stages {stages} no longer", now)
            self._phases.renew(tenure, now, out)
            self._phases.report(head, now, out)  # of a deployment the last word is kept
            ending.append(SessionsOverdue(tenure.plan.deployment, tenure.plan.epoch, stages))
        return ending

    def _give_back(self, tenure: Tenure, out: Outbox) -> None:
        """Sessions on these stages were ended; now nobody needs the blocks."""
        closing = [stage for stage, holding in sorted(tenure.held.items()) if holding is Holding.CLOSING]
        self._unload(tenure, closing, out)

    def _open(self, head: Tenure, past: Iterable[Tenure], out: Outbox) -> None:
        """Ask for the blocks of this node's own stages of the head, once."""
        lacking = [stage for stage in own_stages(head.plan, self._here) if stage not in head.held]
        if not lacking or head.mine is not DeploymentPhase.LOADING:
            return
        breaks = _breaks(head)
        waits = any(Holding.CLOSING in tenure.held.values() or (breaks and tenure.asked) for tenure in past)
        if waits or head.plan.model not in self._tables.models:
            return
        for stage in lacking:
            self._load(head, stage, out)

    def _load(self, head: Tenure, stage: int, out: Outbox) -> None:
        head.held[stage] = Holding.OPENING
        out.add(LoadBlocks(span_of(head.plan, stage), self._sources(head)))

    def _stand_by(self, head: Tenure, past: Iterable[Tenure], now: Instant, out: Outbox) -> list[Instant]:
        """Open what this node stands by for, as far as there is room; when to look again."""
        if head.mine is None:
            return []
        due = self._reserve.due(head, past, now)
        for stage in due.opened:
            self._load(head, stage, out)
        for stage in due.cached:
            out.add(FetchBlocks(span_of(head.plan, stage), self._sources(head)))
        lacking = self._reserve.lacking(head)
        if head.mine in _OPEN and lacking != head.detail:
            head.detail = lacking
            self._phases.tell(head, f"this node stands by for {lacking or 'all that it should'}", now)
            self._phases.renew(head, now, out)
        if self._reserve.settled(head):
            head.advance(DeploymentPhase.READY, lacking)
            self._phases.announce(head, now, out)
            return [now]
        return self._reserve.retries(head, now)

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
        self._unload(tenure, sorted(tenure.held), out)
        self._phases.announce(tenure, now, out)
        if head.mine is not None:
            self._phases.report(head, now, out)  # of a deployment the last word is kept
        return False

    @staticmethod
    def _hurry(tenure: Tenure, head: Tenure, now: Instant) -> list[StagingFact]:
        """Nothing is served while old sessions are in the way of a new epoch."""
        in_the_way = tenure.asked and tenure.sessions and _breaks(head) and not head.asked
        if in_the_way and now >= head.since + BREAK_S:
            return [SessionsOverdue(tenure.plan.deployment, tenure.plan.epoch, tuple(sorted(tenure.held)))]
        return []

    def _fail(self, tenure: Tenure, why: str, now: Instant, out: Outbox) -> None:
        tenure.advance(DeploymentPhase.FAILED, why[:REASON_CHARS_MAX])
        self._unload(tenure, sorted(tenure.held), out)
        self._phases.announce(tenure, now, out)

    @staticmethod
    def _unload(tenure: Tenure, stages: list[int], out: Outbox) -> None:
        for stage in stages:
            del tenure.held[stage]
            out.add(UnloadBlocks(span_of(tenure.plan, stage)))

    def _sources(self, head: Tenure) -> tuple[NodeId, ...]:
        """Who says it has the package: hosts of earlier epochs first, then everybody, each asker in another order."""
        tenures, plan = self._tables.tenures, head.plan
        owners = [node for tenure in reversed(tenures.of(plan.deployment)) for node in servers_of(tenure.plan)]
        there = self._tables.membership.holders(plan.model)
        holders = [node for node in there if node not in tenures.lost and node != self._here]
        others = rendezvous_order(self._here.encode() + plan.model, holders)
        head.sourced = bool(holders)
        ranked = [node for node in owners if node in holders] + others
        return tuple(dict.fromkeys(ranked))[:SOURCES_MAX]

    def _look_for_sources(self, head: Tenure, now: Instant, out: Outbox) -> list[Instant]:
        """Who has only just begun knows nobody: name those who have the package as soon as they are known."""
        if head.mine is not DeploymentPhase.LOADING or head.sourced:
            return []
        if sources := self._sources(head):
            out.add(FetchModel(head.plan.model, sources))
        return [] if sources else [Instant(now + SETTLE_S)]

    # --- what happens -----------------------------------------------------------------------------------------------

    def reported(self, envelope: Envelope, message: PhaseReported, now: Instant, out: Outbox) -> None:
        """A host tells how far it is."""
        if self._phases.heard(envelope, message, now, out):
            self._tables.timers.set(Routine.SETTLE, now)

    def repeat(self, now: Instant, out: Outbox) -> None:
        """Say every phase of this node again."""
        self._phases.repeat(now, out)

    def model_available(self, facts: ModelFacts, now: Instant, out: Outbox) -> None:
        """A package is known; a plan that waited for it may go on, one that failed is tried again."""
        self._tables.models[facts.model] = facts
        self._tables.changed(now)
        for head in self._heads(facts.model):
            head.without.clear()
            if not head.asked and head.mine in (DeploymentPhase.LOADING, DeploymentPhase.FAILED):
                self._examine(head, now, out)
        self._tables.timers.set(Routine.SETTLE, now)

    def model_missing(self, event: ModelMissing, now: Instant, out: Outbox) -> None:
        """A package could not be had."""
        for head in self._heads(event.model):
            if head.mine is not DeploymentPhase.LOADING or event.model in self._tables.models:
                continue
            if own_stages(head.plan, self._here):
                self._fail(head, event.reason, now, out)
            else:
                self._reserve.hopeless(head, event.reason)
        self._tables.timers.set(Routine.SETTLE, now)

    def _heads(self, model: Digest) -> list[Tenure]:
        heads = [self._tables.tenures.head(deployment) for deployment in self._tables.tenures.deployments()]
        return [head for head in heads if head is not None and head.plan.model == model]

    def loaded(self, event: BlocksLoaded | BlocksFailed, now: Instant, out: Outbox) -> None:
        """The engine opened the blocks, or could not."""
        span = event.span
        tenure = self._tables.tenures.get(span.deployment, span.epoch)
        stage = None if tenure is None else stage_at(tenure.plan, span.first_block)
        if tenure is None or stage is None or tenure.held.get(stage) is not Holding.OPENING:
            return
        own = own_stages(tenure.plan, self._here)
        what = f"blocks {span.first_block}-{span.last_block}"
        if isinstance(event, BlocksLoaded):
            out.count("blocks_opened", span.deployment, event.opened)
            tenure.held[stage] = Holding.OPEN
            tenure.without.pop(stage, None)
            if stage not in own:
                self._phases.renew(tenure, now, out)
            elif all(tenure.held.get(each) is Holding.OPEN for each in own):
                tenure.advance(DeploymentPhase.READY)
                self._phases.announce(tenure, now, out)
            spare = ", to stand by" if stage not in own else ""
            self._phases.tell(tenure, f"{what} hold {event.resident_bytes} bytes{spare}", now)
        else:
            del tenure.held[stage]
            if stage in own:
                self._fail(tenure, event.reason, now, out)
            else:
                self._reserve.failed(tenure, stage, f"{what}: {event.reason}", now)
        self._tables.timers.set(Routine.SETTLE, now)

    # --- leaving ----------------------------------------------------------------------------------------------------

    def needed(self) -> bool:
        """Whether others need time to take over what this node holds, and somebody is there to see to it."""
        tenures = self._tables.tenures
        served = [tenure for tenure in tenures.all() if self._bears(tenure)]
        return any(self._inherits(voter) for tenure in served for voter in tenure.plan.voters)

    def _bears(self, tenure: Tenure) -> bool:
        """Whether a stage of it is this node's to serve: its own, or one whose primary is lost."""
        lost, stages = self._tables.tenures.lost, tenure.plan.stages
        own = any(stage in tenure.held for stage in own_stages(tenure.plan, self._here))
        return own or any(stages[stage].node in lost for stage in tenure.open_stages)

    def _inherits(self, voter: NodeId) -> bool:
        peer = self._tables.membership.peer(voter)
        stays = peer is not None and peer.state.phase in (NodePhase.STARTING, NodePhase.READY)
        return stays and voter not in self._tables.tenures.lost


def _breaks(head: Tenure) -> bool:
    return head.plan.mode is SwitchMode.BREAK_BEFORE_MAKE
