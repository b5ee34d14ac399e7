"""The stage side of a session: what a node does for sessions whose stages it holds.

    OpenSession ──► reserve KV ──► SessionOpened
    Activation  ──► queue ──► RunStage ──► next stage's Activation, or logits ──► sampler ──► Token to the ingress
    CloseSession, deadline, or a lost ingress ──► CloseStage, KV freed

One run per session and stage at a time, in the order of positions: the next chunk of a prompt may arrive while this
one runs and waits in a bounded queue. A frame must come from the stage before (the ingress for stage 0), carry the
epoch that this session was opened under and start exactly where the last one ended; anything else is refused, so a
confused or stale peer costs its own session and never another's. An expired session is dropped at every stage.
"""

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.admission import KvBudget, SessionStage
from shoal_agent.core.effects import CallService, CloseService, CloseStage, OpenStage, ReleaseTensor, RunStage
from shoal_agent.core.events import ServiceFailed, ServiceReturned, StageFailed, StageFinished
from shoal_agent.core.facts import CallId, StageSpan, TensorHandle
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.plan import decode_macs, kv_bytes_per_token, span_of, stage_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import HostDeadline
from shoal_protocol.headers import (
    Activation,
    CloseSession,
    OpenSession,
    RefusalCode,
    ServiceFault,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, REASON_CHARS_MAX, REQUEST_DEADLINE_S_MAX, STAGE_QUEUE_MAX
from shoal_protocol.messages import DeploymentPhase, Plan
from shoal_protocol.tensors import Dtype

DEADLINE_GRACE_S: Final = 1.0
"""The ingress ends an expired session itself; a host waits this much longer before it does so alone."""

_TOKEN_BYTES: Final = 8
"""A token id travels as int64."""

_OPENING: Final = -1
"""In place of a position: the sampler was asked to open a session, not to draw."""


@dataclass(slots=True)
class _Work:
    activation: Activation
    payload: TensorHandle | bytes


@dataclass(slots=True)
class Hosted:
    """One session on one stage of this node."""

    opening: OpenSession
    ingress: NodeId
    plan: Plan
    span: StageSpan
    sampler: str | None
    deadline: Instant
    token_macs: int
    """What the profile predicts for one token."""
    position: int = 0
    """Where the next activation must start."""
    running: Activation | None = None
    waiting: deque[_Work] = field(default_factory=deque)

    @property
    def key(self) -> SessionStage:
        """What owns this session's KV."""
        return self.opening.session, self.opening.stage

    def source(self) -> NodeId:
        """Who may send activations for this stage."""
        stage = self.opening.stage
        return self.ingress if stage == 0 else self.plan.stages[stage - 1].node

    def target(self) -> NodeId | None:
        """Who gets this stage's output; None for the last stage."""
        after = self.opening.stage + 1
        return self.plan.stages[after].node if after < len(self.plan.stages) else None


class Host:
    """All sessions on this node's stages."""

    def __init__(self, node: NodeId, tables: Tables, kv_bytes_max: int) -> None:
        self._node = node
        self._tenures = tables.tenures
        self._models = tables.models
        self._timers = tables.timers
        self._pace = tables.pace
        self._budget = KvBudget(kv_bytes_max)
        self._sessions: dict[SessionStage, Hosted] = {}
        self._calls: dict[CallId, tuple[SessionStage, int]] = {}
        self._owed: dict[SessionStage, int] = {}

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(
        self, peer: NodeId, header: OpenSession, payload: Payload, now: Instant, call: CallId, out: Outbox
    ) -> None:
        """Admit a session, or say why not. ``call`` is a fresh id, used if this stage samples."""
        refusal = self._refusal(header, payload, now)
        if refusal is not None:
            code, detail = refusal
            out.send(peer, SessionRefused(header.session, header.stage, code, detail))
            out.count("sessions_refused", code.name)
            return
        tenure = self._tenures.get(header.deployment, header.epoch)
        assert tenure is not None, "checked above"
        span = span_of(tenure.plan, header.stage)
        last = header.stage == len(tenure.plan.stages) - 1
        sampler = services.service_name(services.ServiceKind.SAMPLER, tenure.plan.model) if last else None
        deadline = Instant(now + min(header.deadline_ms / 1000, REQUEST_DEADLINE_S_MAX))
        token_macs = decode_macs(self._models[span.model], span)
        hosted = Hosted(header, peer, tenure.plan, span, sampler, deadline, token_macs)
        self._sessions[hosted.key] = hosted
        tenure.sessions += 1
        self._budget.reserve(hosted.key, self._kv_bytes(header, span))
        self._timers.set(HostDeadline(*hosted.key), Instant(deadline + DEADLINE_GRACE_S))
        out.add(OpenStage(header.session, header.stage, span, header.tokens_max))
        if sampler is None:
            out.send(peer, SessionOpened(header.session, header.stage))
            return
        prompt = array("q", payload) if isinstance(payload, bytes) else ()
        request = services.OpenSamplerRequest(header.session, tuple(prompt), header.sampling)
        self._calls[call] = (hosted.key, _OPENING)
        out.add(CallService(call, sampler, services.Method.OPEN, services.pack(request), None))

    def _refusal(self, header: OpenSession, payload: Payload, now: Instant) -> tuple[RefusalCode, str] | None:
        tenure = self._tenures.get(header.deployment, header.epoch)
        if tenure is None:
            return RefusalCode.STALE_EPOCH, f"no epoch {header.epoch} of {header.deployment} here"
        if tenure.mine not in (DeploymentPhase.READY, DeploymentPhase.ACTIVE):
            return RefusalCode.NOT_HOSTED, "this stage is not loaded"
        if tenure.closed(now):
            return RefusalCode.STALE_EPOCH, f"epoch {header.epoch} takes no sessions any more"
        if stage_of(tenure.plan, self._node) != header.stage:
            return RefusalCode.NOT_HOSTED, f"stage {header.stage} is not this node's"
        if (header.session, header.stage) in self._sessions or (header.session, header.stage) in self._owed:
            return RefusalCode.OUT_OF_ORDER, "the session is open already"
        if not 0 < header.tokens_max <= tenure.plan.context_tokens_max:
            return RefusalCode.KV_FULL, f"{header.tokens_max} tokens, the plan allows {tenure.plan.context_tokens_max}"
        if isinstance(payload, bytes) and (
            len(payload) % _TOKEN_BYTES or len(payload) > header.tokens_max * _TOKEN_BYTES
        ):
            return RefusalCode.OUT_OF_ORDER, "the prompt is not a row of token ids"
        if self._budget.crowded():
            return RefusalCode.TOO_MANY_SESSIONS, f"{len(self._budget)} sessions are open"
        needed = self._kv_bytes(header, span_of(tenure.plan, header.stage))
        if not self._budget.fits(needed):
            free = self._budget.bytes_max - self._budget.bytes_reserved
            return RefusalCode.KV_FULL, f"{needed} bytes of KV wanted, {free} free"
        return None

    def _kv_bytes(self, header: OpenSession, span: StageSpan) -> int:
        return kv_bytes_per_token(self._models[span.model], span) * header.tokens_max

    def close(self, peer: NodeId, header: CloseSession, out: Outbox) -> None:
        """The ingress lets the session go; closing twice is harmless."""
        for key in [
            key for key, hosted in self._sessions.items() if key[0] == header.session and hosted.ingress == peer
        ]:
            self._drop(self._sessions[key], out)

    def peer_lost(self, peer: NodeId, out: Outbox) -> None:
        """Sessions of a lost ingress end here; of those that were to send to ``peer`` the ingress is told."""
        for hosted in list(self._sessions.values()):
            if hosted.ingress == peer:
                self._drop(hosted, out)
            elif hosted.target() == peer:
                self._refuse(hosted, RefusalCode.STAGE_FAILED, f"the link to {peer} broke", out)

    def expired(self, key: SessionStage, out: Outbox) -> None:
        """The deadline passed and the ingress did not close: drop the session alone."""
        hosted = self._sessions.get(key)
        if hosted is not None:
            self._refuse(hosted, RefusalCode.DEADLINE, "the deadline has passed", out)

    def evict(self, deployment: DeploymentId, epoch: Epoch, stages: tuple[int, ...], out: Outbox) -> None:
        """Memory is needed: sessions on these stages of an epoch end here, and their ingress is told."""
        for hosted in list(self._sessions.values()):
            if (hosted.plan.deployment, hosted.plan.epoch) == (deployment, epoch) and hosted.opening.stage in stages:
                self._refuse(hosted, RefusalCode.STALE_EPOCH, f"epoch {epoch} had to make room", out)

    def _refuse(self, hosted: Hosted, code: RefusalCode, detail: str, out: Outbox) -> None:
        opening = hosted.opening
        out.send(hosted.ingress, SessionRefused(opening.session, opening.stage, code, detail[:REASON_CHARS_MAX]))
        out.count("sessions_refused", code.name)
        self._drop(hosted, out)

    def _drop(self, hosted: Hosted, out: Outbox) -> None:
        key = hosted.key
        del self._sessions[key]
        tenure = self._tenures.get(hosted.plan.deployment, hosted.plan.epoch)
        assert tenure is not None, "an epoch is remembered while it has sessions"
        tenure.sessions -= 1
        self._budget.free(key)
        self._timers.clear(HostDeadline(*key))
        if hosted.running is not None:
            self._owed[key] = 1
        for work in hosted.waiting:
            self._release(work.payload, out)
        out.add(CloseStage(*key))
        if hosted.sampler is not None:
            out.add(CloseService(hosted.sampler, hosted.opening.session))

    @staticmethod
    def _release(payload: Payload, out: Outbox) -> None:
        if payload is not None and not isinstance(payload, bytes):
            out.add(ReleaseTensor(payload))

    # --- running --------------------------------------------------------------------------------------------------

    def activate(self, peer: NodeId, header: Activation, payload: Payload, now: Instant, out: Outbox) -> None:
        """Input for a stage has come."""
        hosted = self._sessions.get((header.session, header.stage))
        if hosted is None:
            self._release(payload, out)
            self._unknown(peer, header, out)
            return
        if hosted.source() != peer:
            self._release(payload, out)
            out.count("activations_refused", "WRONG_SENDER")
            return
        fault = self._activation_fault(hosted, header, payload, now)
        if fault is not None:
            self._release(payload, out)
            self._refuse(hosted, *fault, out)
            return
        assert payload is not None, "an activation without payload is a fault"
        hosted.position += header.token_count
        work = _Work(header, payload)
        if hosted.running is None:
            self._run(hosted, work, out)
        else:
            hosted.waiting.append(work)

    def _unknown(self, peer: NodeId, header: Activation, out: Outbox) -> None:
        """Nobody opened that session here, or it is over; of one that just closed the sender will hear anyway."""
        if (header.session, header.stage) in self._owed:
            return
        code = RefusalCode.UNKNOWN_SESSION
        if self._tenures.get(header.deployment, header.epoch) is None:
            code = RefusalCode.STALE_EPOCH
        out.count("activations_refused", code.name)
        out.send(peer, SessionRefused(header.session, header.stage, code, "no such session here"))

    @staticmethod
    def _activation_fault(
        hosted: Hosted, header: Activation, payload: Payload, now: Instant
    ) -> tuple[RefusalCode, str] | None:
        opening = hosted.opening
        if (header.deployment, header.epoch) != (opening.deployment, opening.epoch):
            return (
                RefusalCode.STALE_EPOCH,
                f"the session runs under epoch {opening.epoch}, the frame says {header.epoch}",
            )
        if header.position != hosted.position:
            return RefusalCode.OUT_OF_ORDER, f"position {header.position} came, {hosted.position} was next"
        if not 0 < header.token_count <= PREFILL_CHUNK_TOKENS or payload is None:
            return RefusalCode.OUT_OF_ORDER, f"{header.token_count} tokens in one frame"
        if header.shape[:2] != (1, header.token_count):
            return RefusalCode.OUT_OF_ORDER, f"{header.token_count} tokens in a tensor of shape {header.shape}"
        if header.position + header.token_count > opening.tokens_max:
            return RefusalCode.KV_FULL, f"the session was opened for {opening.tokens_max} tokens"
        if len(hosted.waiting) >= STAGE_QUEUE_MAX:
            return RefusalCode.OUT_OF_ORDER, f"{STAGE_QUEUE_MAX} chunks wait already"
        if now >= hosted.deadline:
            return RefusalCode.DEADLINE, "the deadline has passed"
        wanted = Dtype.F32 if header.stage else Dtype.I64
        if header.dtype is not wanted:
            return RefusalCode.OUT_OF_ORDER, f"stage {header.stage} takes {wanted.name}, not {header.dtype.name}"
        return None

    @staticmethod
    def _run(hosted: Hosted, work: _Work, out: Outbox) -> None:
        header = work.activation
        hosted.running = header
        out.add(RunStage(header.session, header.stage, header.position, header.token_count, work.payload, header.last))

    def finished(self, event: StageFinished, now: Instant, call: CallId, out: Outbox) -> None:
        """A run is done: pass its output on. ``call`` is a fresh id, used if a token is to be drawn."""
        hosted = self._sessions.get((event.session, event.stage))
        if hosted is None or hosted.running is None:
            self._owed.pop((event.session, event.stage), None)
            self._release(event.output, out)
            return
        done = hosted.running
        hosted.running = None
        if done.token_count == 1:
            self._pace.ran(event.took_s, hosted.token_macs, now)
        if hosted.waiting:
            self._run(hosted, hosted.waiting.popleft(), out)
        target = hosted.target()
        if target is not None:
            assert event.output is not None, "only a head may have no output"
            out.send(target, self._onward(hosted, done, event, now), event.output)
        elif event.output is not None:
            assert hosted.sampler is not None, "the last stage samples"
            position = done.position + done.token_count
            self._calls[call] = (hosted.key, position)
            request = services.SampleRequest(event.session, position)
            out.add(CallService(call, hosted.sampler, services.Method.SAMPLE, request, event.output))

    @staticmethod
    def _onward(hosted: Hosted, done: Activation, event: StageFinished, now: Instant) -> Activation:
        return Activation(
            done.deployment,
            done.epoch,
            done.session,
            done.stage + 1,
            done.position,
            done.token_count,
            done.last,
            max(0, int((hosted.deadline - now) * 1000)),
            Dtype.F32,
            event.shape,
        )

    def failed(self, event: StageFailed, out: Outbox) -> None:
        """A run failed, or was terminated because its session closed."""
        key = (event.session, event.stage)
        hosted = self._sessions.get(key)
        if hosted is None:
            self._owed.pop(key, None)
            return
        hosted.running = None
        out.note("error", "stage failed", stage=event.stage, position=event.position, reason=event.reason)
        self._refuse(hosted, RefusalCode.STAGE_FAILED, event.reason, out)

    # --- the sampler ----------------------------------------------------------------------------------------------

    def owns(self, call: CallId) -> bool:
        """Whether ``call`` was made here."""
        return call in self._calls

    def answered(self, event: ServiceReturned | ServiceFailed, out: Outbox) -> None:
        """The sampler opened a session, drew a token, or refused."""
        key, position = self._calls.pop(event.call)
        hosted = self._sessions.get(key)
        if hosted is None:
            return
        if isinstance(event, ServiceFailed):
            busy = event.fault is ServiceFault.BUSY
            self._refuse(hosted, RefusalCode.TOO_MANY_SESSIONS if busy else RefusalCode.STAGE_FAILED, event.reason, out)
            return
        opening = hosted.opening
        if position == _OPENING:
            out.send(hosted.ingress, SessionOpened(opening.session, opening.stage))
            return
        drawn = services.unpack(services.SampleAnswer, event.result)
        out.send(
            hosted.ingress,
            Token(
                opening.deployment,
                opening.epoch,
                opening.session,
                position,
                drawn.token,
                drawn.end,
                drawn.logprob,
                drawn.top,
            ),
        )

    # --- looking in -----------------------------------------------------------------------------------------------

    @property
    def session_count(self) -> int:
        """Sessions open on this node's stages."""
        return len(self._sessions)

    @property
    def kv_bytes(self) -> int:
        """KV promised to them."""
        return self._budget.bytes_reserved

    def check(self) -> None:
        """Assert that every open session owns KV and a deadline, and nobody else does."""
        self._budget.check()
        assert len(self._budget) == len(self._sessions)
        for key, hosted in self._sessions.items():
            assert hosted.key == key
            assert HostDeadline(*key) in self._timers
            assert hosted.position <= hosted.opening.tokens_max
            assert hosted.running is not None or not hosted.waiting
