"""What must hold whatever happens, and what must come back once nothing happens any more.

*Safety* oracles see every step of every node and say at once what is wrong; *liveness* oracles are asked after the
last fault, again and again, and what they still miss when ``CALM_S_MAX`` has passed is a violation. Both are tables: a
new rule is a new entry, and every entry has a name, by which a violation is reported and a mutant recognised.

    requests     each gets one ending, and nothing after it; Accept stands before the first token
    tokens       what a client is shown is what the unsplit model says: a prefix, and all of it when it ended by itself
    epoch-fence  no block runs under an epoch that its host does not hold, or for an activation of another one
    accepted     no node accepts an envelope twice in one life, none that its sender never said, none of an earlier life
    invariants   no node raises, every table of a node agrees with the others, twins of drivers find contracts kept
    votes, certificates, unproven, fence, epochs   what agreement promises (``agreed``)
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from shoal_agent.core.effects import Accept, Broadcast, Count, Emit, Finish, Reject, ReleaseTensor, RunStage
from shoal_agent.core.events import EnvelopeReceived, FrameReceived
from shoal_agent.core.facts import ChatPrompt, FinishReason, GenerationRequest, TensorHandle, TextPrompt
from shoal_agent.core.services import RenderRequest, unpack
from shoal_agent.core.view import PeerView, StageView
from shoal_agent.sim.agreed import Agreed
from shoal_agent.sim.machine import Machine, Seen
from shoal_agent.sim.orders import block_bytes
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.toy import toy_tokens
from shoal_agent.sim.world import World
from shoal_protocol.envelope import Envelope
from shoal_protocol.headers import Activation
from shoal_protocol.ids import Incarnation, NodeId, SessionId
from shoal_protocol.limits import STAGES_MAX
from shoal_protocol.messages import Certified, NodePhase, Plan, PlanAnnounced, PlanStage, RecoveryOrdered
from shoal_protocol.trust import allowed

CALM_S_MAX: Final = 45.0
"""After the last fault everything is well again within this: three and a half periods of repeated records on the
slowest clock (10 s / 0.8), longer than any request's deadline."""

RECORDED_MAX: Final = 512
"""Envelopes an attacker keeps: half a minute of a small cluster."""

Life = tuple[NodeId, int]
"""A machine and which of its boots it was: unlike incarnations, boots are never lost."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken, when, and how."""

    oracle: str
    at_s: float
    detail: str


class Safety(Protocol):
    """Judges every step."""

    def handled(self, seen: Seen) -> Iterable[tuple[str, str]]: ...


@dataclass
class _Asked:
    """One request, where it was asked, and what was answered so far."""

    machine: Machine
    boots: int
    request: GenerationRequest
    accepted: bool = False
    shown: int = 0
    ending: Finish | Reject | None = None
    answer: list[int] | None = None

    def expected(self, blocks: int, context_tokens: int) -> list[int]:
        """What the unsplit model answers, computed when it is first needed."""
        if self.answer is None:
            prompt = prompt_tokens(self.request)
            room = context_tokens - len(prompt)
            self.answer = toy_tokens(prompt, blocks, min(self.request.tokens_max or room, room))
        return self.answer


def prompt_tokens(request: GenerationRequest) -> tuple[int, ...]:
    """The prompt of ``request`` as the toy's tokenizer has it."""
    match request.prompt:
        case TextPrompt(text):
            return tuple(text.encode())
        case ChatPrompt(body):
            messages = unpack(RenderRequest, body).messages
            return tuple("".join(message.content for message in messages).encode())
    return request.prompt.tokens


class Requests:
    """``requests`` and ``tokens``."""

    def __init__(self, blocks: int, context_tokens: int) -> None:
        self._blocks = blocks
        self._context_tokens = context_tokens
        self.book: dict[SessionId, _Asked] = {}

    def asked(self, machine: Machine, request: GenerationRequest) -> None:
        """A client asked."""
        self.book[request.session] = _Asked(machine, machine.boots, request)

    def handled(self, seen: Seen) -> Iterable[tuple[str, str]]:
        for effect in seen.effects:
            if isinstance(effect, Accept | Emit | Finish | Reject):
                asked = self.book.get(effect.session)
                if asked is None or asked.machine is not seen.machine:
                    yield "requests", f"{type(effect).__name__} for a session nobody asked for"
                else:
                    yield from self._told(asked, effect)

    def _told(self, asked: _Asked, effect: Accept | Emit | Finish | Reject) -> Iterable[tuple[str, str]]:
        if asked.ending is not None:
            yield "requests", f"{type(effect).__name__} after {type(asked.ending).__name__}"
            return
        if isinstance(effect, Accept):
            if asked.accepted:
                yield "requests", "accepted twice"
            asked.accepted = True
            return
        cancelled = isinstance(effect, Finish) and effect.reason is FinishReason.CANCELLED
        if isinstance(effect, Reject) is asked.accepted and not cancelled:
            yield "requests", f"{type(effect).__name__}, but accepted is {asked.accepted}"
        expected = asked.expected(self._blocks, self._context_tokens)
        if isinstance(effect, Emit):
            if asked.shown >= len(expected) or expected[asked.shown] != effect.piece.token:
                yield "tokens", f"token {effect.piece.token} at {asked.shown}, expected {expected[asked.shown :][:1]}"
            asked.shown += 1
            return
        asked.ending = effect
        if isinstance(effect, Finish):
            whole = effect.reason in (FinishReason.STOP, FinishReason.LENGTH) and not asked.request.stop
            if whole and asked.shown != len(expected):
                yield "tokens", f"finished ({effect.reason.value}) after {asked.shown} of {len(expected)} tokens"

    def open(self) -> list[SessionId]:
        """Requests without an ending at machines whose life goes on."""
        return [
            session
            for session, asked in self.book.items()
            if asked.ending is None and asked.machine.alive and asked.machine.boots == asked.boots
        ]


class EpochFence:
    """``epoch-fence``: a run is of an epoch that is open on this host, and what it runs came for that one."""

    def __init__(self) -> None:
        self._came: dict[tuple[Life, TensorHandle], int] = {}

    def handled(self, seen: Seen) -> Iterable[tuple[str, str]]:
        life, event = (seen.machine.name, seen.machine.boots), seen.event
        if isinstance(event, FrameReceived) and isinstance(event.header, Activation) and isinstance(event.payload, int):
            self._came[life, event.payload] = event.header.epoch
        for effect in seen.effects:
            if isinstance(effect, ReleaseTensor):
                self._came.pop((life, effect.handle), None)
            if not isinstance(effect, RunStage):
                continue
            epoch = effect.stage // STAGES_MAX
            came = epoch if isinstance(effect.payload, bytes) else self._came.pop((life, effect.payload), epoch)
            held = [span.epoch for span in seen.machine.device.loaded]
            if epoch not in held or epoch != came:
                yield "epoch-fence", f"a run under epoch {epoch} for input of {came}, the host holds {held}"


class Accepted:
    """``accepted``: what passed each gate."""

    def __init__(self) -> None:
        self._said: dict[bytes, Envelope] = {}
        self._passed: dict[tuple[Life, bytes], bool] = {}
        self._newest: dict[tuple[Life, NodeId], Incarnation] = {}
        self.recent: deque[tuple[str, bytes]] = deque(maxlen=RECORDED_MAX)
        """Topic and wire of what was said lately: what an attacker may have recorded."""

    def published(self, effect: Broadcast, envelope: Envelope) -> None:
        """A member really said this."""
        self._said[effect.wire] = envelope
        self.recent.append((effect.topic, effect.wire))

    def handled(self, seen: Seen) -> Iterable[tuple[str, str]]:
        event = seen.event
        if not isinstance(event, EnvelopeReceived):
            return
        refused = ("messages_duplicate", "messages_rejected")
        if any(isinstance(effect, Count) and effect.name in refused for effect in seen.effects):
            return
        envelope = self._said.get(event.wire)
        if envelope is None:
            yield "accepted", "an envelope that nobody said"
            return
        life = (seen.machine.name, seen.machine.boots)
        if (life, event.wire) in self._passed:
            yield "accepted", f"{type(envelope.message).__name__} of {envelope.sender} twice"
        self._passed[life, event.wire] = True
        if isinstance(envelope.message, PlanAnnounced | Certified | RecoveryOrdered):
            return  # a proof does not end with the life of who showed it
        newest = self._newest.get((life, envelope.sender), envelope.incarnation)
        if envelope.incarnation < newest:
            yield "accepted", f"incarnation {envelope.incarnation} of {envelope.sender} after {newest}"
        self._newest[life, envelope.sender] = max(newest, envelope.incarnation)


class Judge:
    """All safety oracles of one world, and their verdicts."""

    def __init__(self, blocks: int, context_tokens: int) -> None:
        self.requests = Requests(blocks, context_tokens)
        self.accepted = Accepted()
        self.agreed = Agreed()
        self._safety: tuple[Safety, ...] = (self.requests, EpochFence(), self.accepted, self.agreed)
        self._open: Callable[[Broadcast], Envelope] | None = None
        self.violations: list[Violation] = []

    def begin(self, world: World) -> None:
        """The members of the world are known, and those whose word is worth nothing."""
        self._open = world.opened
        self.agreed.begin(world)

    def handled(self, seen: Seen) -> None:
        """A node took a step."""
        for oracle in self._safety:
            for name, detail in oracle.handled(seen):
                self.add(name, seen.at_s, f"{seen.machine.name[:8]}: {detail}")

    def published(self, node: NodeId, effect: Broadcast, at_s: float) -> None:
        """A member said something."""
        assert self._open is not None, "begin() comes first"
        envelope = self._open(effect)
        assert envelope.sender == node, "members speak for themselves"
        self.accepted.published(effect, envelope)
        for name, detail in self.agreed.shown(envelope, at_s):
            self.add(name, at_s, detail)

    def look(self, world: World) -> None:
        """Look at what every node believes now."""
        for machine in world.living():
            for name, detail in self.agreed.looked(machine):
                self.add(name, world.agenda.now, detail)

    def asked(self, machine: Machine, request: GenerationRequest) -> None:
        """A client asked."""
        self.requests.asked(machine, request)

    def add(self, oracle: str, at_s: float, detail: str) -> None:
        """A rule was broken."""
        self.violations.append(Violation(oracle, at_s, detail))


# --- liveness ------------------------------------------------------------------------------------------------------


def views_converge(world: World, _: Judge) -> str | None:
    """Every node sees every living node's latest record, present, and in its present life."""
    return converged(world, world.names)


def converged(world: World, asked: Iterable[NodeId]) -> str | None:
    """Those ``asked`` see every living node of their share of the cluster as it is."""
    living = world.honest()
    shards: dict[int, list[Machine]] = {}
    for machine in living:
        shards.setdefault(machine.shard, []).append(machine)
    own = {machine.name: _record(machine, machine.name) for machine in living}
    for name in asked:
        machine = world.machines[name]
        if machine not in living:
            continue
        known = {peer.node: peer for peer in machine.node.snapshot(machine.now()).nodes}
        for other in shards[machine.shard]:
            record, seen = own[other.name], known.get(other.name)
            if record is None or record.state.phase is not NodePhase.READY:
                return f"{other.name[:8]} is not ready"
            if seen is None or not seen.present or seen.state != record.state or seen.incarnation != record.incarnation:
                return f"{machine.name[:8]} does not see {other.name[:8]} as it is"
    return None


def _record(machine: Machine, name: NodeId) -> PeerView | None:
    return next((peer for peer in machine.node.snapshot(machine.now()).nodes if peer.node == name), None)


def decides(world: World, judge: Judge) -> str | None:
    """Every honest node serves under the newest plan, whose hosts all live."""
    plan = judge.agreed.newest(TOY)
    if plan is None:
        return "there is no plan"
    dead = [stage.node[:8] for stage in plan.stages if not world.machines[stage.node].alive]
    if dead:
        return f"epoch {plan.epoch} needs {dead}, which are dead"
    for machine in world.honest():
        views = [view for view in machine.node.snapshot(machine.now()).deployments if view.deployment == TOY]
        newest = max(views, key=lambda view: view.epoch, default=None)
        if newest is None or newest.epoch != plan.epoch or not newest.serving:
            held = "nothing" if newest is None else f"{newest.epoch}: {[_phase(stage) for stage in newest.stages]}"
            return f"{machine.name[:8]} does not serve under epoch {plan.epoch}; it has {held}"
    return None


def backed(world: World, judge: Judge) -> str | None:
    """Every stage that another node could hold too is open at a standby, or the standby says why it is not."""
    plan = judge.agreed.newest(TOY)
    if plan is None or not plan.terms.standbys:
        return None
    living = [machine.name for machine in world.living()]
    honest = [name for name in world.homely() if name in living and name not in world.liars]
    for stage in plan.stages:
        able = [name for name in honest if _may_hold(world, plan, stage, name)]
        there = [world.machines[name] for name in stage.standbys if name in living]
        if not there and any(name != stage.node for name in able):
            return f"nobody stands by for blocks {stage.first_block}-{stage.last_block} in epoch {plan.epoch}"
        idle = [each for each in there if each.name in able and not _stands_by(each, plan, stage)]
        if idle:
            return f"{idle[0].name[:8]} does not stand by for blocks {stage.first_block}-{stage.last_block}"
    return None


def _may_hold(world: World, plan: Plan, stage: PlanStage, name: NodeId) -> bool:
    """Whether ``name`` stands in a zone that may hold ``stage``, and has room for it beside its own of ``plan``."""
    settings, own = world.settings, (stage.node, *stage.standbys)
    if not allowed(plan.terms.guarded, stage.first_block, stage.last_block, world.zone_of(name)):
        return False
    stages = [other for other in plan.stages if other is stage or name in (other.node, *other.standbys)]
    count = sum(other.last_block - other.first_block + 1 for other in stages)
    return name in own or count * block_bytes(settings) <= world.machines[name].setup.memory_bytes


def _stands_by(machine: Machine, plan: Plan, stage: PlanStage) -> bool:
    """Whether the blocks of ``stage`` are open there, or it tells everybody why they are not."""
    blocks = (plan.epoch, stage.first_block, stage.last_block)
    if any((span.epoch, span.first_block, span.last_block) == blocks for span in machine.device.loaded):
        return True
    views = [view for view in machine.node.snapshot(machine.now()).deployments if view.epoch == plan.epoch]
    said = [each for view in views for part in view.stages for each in part.standbys]
    return any(each.node == machine.name and each.detail for each in said)


def _phase(stage: StageView) -> str:
    return "-" if stage.phase is None else stage.phase.name


def drained(_: World, judge: Judge) -> str | None:
    """Every request has its ending."""
    count = len(judge.requests.open())
    return f"{count} requests have no ending" if count else None


def balanced(world: World, _: Judge) -> str | None:
    """KV, tensors, sessions and calls: nothing is left when nobody asks for anything."""
    for machine in world.honest():
        view = machine.node.snapshot(machine.now())
        left = machine.device.leftovers()
        if left or view.requests or view.sessions or view.kv_bytes:
            return f"{machine.name[:8]}: {left}, {view.requests} requests, {view.sessions} sessions, {view.kv_bytes} KV"
    return None


UNDECIDED: Final = "decides"
"""The oracle that misses an agreed and active plan."""

LIVENESS: Final[dict[str, Callable[[World, Judge], str | None]]] = {
    "views-converge": views_converge,
    UNDECIDED: decides,
    "backed": backed,
    "drains": drained,
    "balances": balanced,
}
"""What must be true in the end; each says what is missing, None if nothing."""

SAFETY: Final = (
    "requests",
    "tokens",
    "epoch-fence",
    "accepted",
    "invariants",
    "votes",
    "certificates",
    "unproven",
    "fence",
    "epochs",
)
"""Names under which a safety violation is reported."""
