"""What a served session does on a stage: input, runs, output, and the token at the end of it.

    Activation ──► queue ──► RunStage ──► next stage's Activation, retained    (last stage) ──► sampler ──► Token

One run per session and stage at a time, in the order of positions: the next chunk of a prompt may arrive while this one
runs and waits. What waits is bounded in tokens, so a thousand single ones that are fed again after a loss take no more
than one long prompt. A frame must carry the session's attempt, come from the stage before (the ingress for stage 0) and
start where the last one ended. Said under another attempt, it is of the past and dropped. Below the position, it is a
repetition and dropped. Beyond it, something was lost: the session is suspended and its ingress told. Anything else that
is wrong ends the session, and no other.

Input of the attempt that was just opened may overtake the word to go on, because they travel over different links: it
waits, and is judged when it is known where to go on. A prompt's chunk of which the first part is here already is run
as a whole: with the same boundaries the kernels do the same arithmetic, so what is written twice is written the same.

An output is narrowed, if the plan says so, by whoever made it, before anybody gets it: what is retained are the bytes
that were sent, and a stage on the same node is handed the very same. So a repetition is one whatever the width.

The next run is asked for before the last one's output is sent: the engine should not wait for us.
"""

from array import array
from collections import deque
from dataclasses import dataclass
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.calls import Calls
from shoal_agent.core.effects import CallService, RunStage
from shoal_agent.core.events import ServiceFailed, ServiceReturned, StageFailed, StageFinished
from shoal_agent.core.facts import CallId, TensorHandle
from shoal_agent.core.holdings import Holdings
from shoal_agent.core.hosted import Hosted, Lease, Stand, Work
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.plan import slot_of
from shoal_agent.core.retention import Output
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import Activation, RefusalCode, ServiceFault, SessionRefused, Token
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, STAGE_QUEUE_MAX
from shoal_protocol.tensors import Dtype, TensorSpec
from shoal_protocol.widths import DTYPE_OF

WAITING_TOKENS_MAX: Final = STAGE_QUEUE_MAX * PREFILL_CHUNK_TOKENS
"""Of one session at one stage: the longest prompt there is."""
_OPENING: Final = -1
"""In place of a position: the sampler was asked to open a session, not to draw."""

Fault = tuple[RefusalCode, str]


@dataclass(frozen=True, slots=True)
class _Question:
    """What a sampler was asked: for which session, at which position, under which attempt."""

    hosted: Hosted
    position: int
    attempt: int


class Runner:
    """Runs of all sessions that this node serves."""

    def __init__(self, tables: Tables, calls: Calls, holdings: Holdings) -> None:
        self._tenures = tables.tenures
        self._pace = tables.pace
        self._calls = calls
        self._holdings = holdings
        self._questions: dict[CallId, _Question] = {}

    # --- input ----------------------------------------------------------------------------------------------------

    def take(self, peer: NodeId, header: Activation, payload: Payload, now: Instant, out: Outbox) -> None:
        """Input for a stage has come."""
        hosted = self._addressed(header)
        lease = None if hosted is None else hosted.lease
        if hosted is None or lease is None:
            out.release(payload)
            self._unknown(peer, header, out)
            return
        dropped = self._unwanted(hosted, lease, peer, header)
        if dropped:
            out.release(payload)
            out.count("activations_refused", dropped)
            return
        fault = _fault(hosted, header, payload, now)
        if fault is not None:
            out.release(payload)
            self._holdings.refuse(hosted, *fault, out)
        elif hosted.stand is Stand.GOING:
            self._judge(hosted, Work(header, payload), out)
        else:
            self._wait(hosted, Work(header, payload))

    def _addressed(self, header: Activation) -> Hosted | None:
        """The session it is for, of the epoch it says."""
        hosted = self._holdings.get((header.session, slot_of(header.epoch, header.stage)))
        return hosted if hosted is not None and hosted.plan.deployment == header.deployment else None

    def _unknown(self, peer: NodeId, header: Activation, out: Outbox) -> None:
        """Nobody opened that session here, or it is over; of one that just closed the sender will hear anyway."""
        if self._holdings.owes((header.session, slot_of(header.epoch, header.stage))):
            return
        code = RefusalCode.UNKNOWN_SESSION
        if self._tenures.get(header.deployment, header.epoch) is None:
            code = RefusalCode.STALE_EPOCH
        out.count("activations_refused", code.name)
        out.send(peer, SessionRefused(header.session, header.stage, code, "no such session here", header.attempt))

    @staticmethod
    def _unwanted(hosted: Hosted, lease: Lease, peer: NodeId, header: Activation) -> str:
        """Why input is dropped without harm to its session; empty if it is not."""
        if header.attempt != hosted.attempt:
            return "OLD_ATTEMPT"
        if lease.source != peer:
            return "WRONG_SENDER"
        return "SUSPENDED" if hosted.stand in (Stand.HALTED, Stand.ORPHANED) else ""

    @staticmethod
    def _wait(hosted: Hosted, work: Work) -> None:
        hosted.waiting.append(work)
        hosted.waiting_tokens += work.activation.token_count

    def _judge(self, hosted: Hosted, work: Work, out: Outbox) -> None:
        """Run it now, later, or not at all, by where it starts."""
        header, idle = work.activation, hosted.running is None
        end = header.position + header.token_count
        if end <= hosted.position:
            out.release(work.payload)
            out.count("activations_repeated", "SAME")
            return
        if header.position > hosted.position or (header.position < hosted.position and not idle):
            out.release(work.payload)
            detail = f"position {header.position} came, {hosted.position} was next"
            self._holdings.suspend(hosted, Stand.HALTED, out)
            self._holdings.complain(hosted, RefusalCode.OUT_OF_ORDER, detail, out)
            return
        if header.position < hosted.position:
            out.count("activations_repeated", "PART")
            self._holdings.rewind(hosted, header.position, out)
        hosted.position = end
        if idle:
            self._run(hosted, work, out)
        else:
            self._wait(hosted, work)

    @staticmethod
    def _run(hosted: Hosted, work: Work, out: Outbox) -> None:
        header, lease = work.activation, hosted.lease
        assert lease is not None, "only what is served runs"
        assert hosted.stand is Stand.GOING, "who is suspended runs nothing new"
        assert work.payload is not None, "input without payload is a fault"
        hosted.running = header
        hosted.due += 1
        logits = header.last and header.position + header.token_count >= lease.known
        out.add(RunStage(*hosted.key, header.position, header.token_count, work.payload, logits))

    def go(self, hosted: Hosted, replay_from: int, now: Instant, out: Outbox) -> None:
        """Run and send from here on; first, outputs from ``replay_from`` on once more, then what came too early."""
        assert hosted.lease is not None, "only what is served goes on"
        hosted.stand = Stand.GOING
        target, retention = hosted.lease.target, self._holdings.retention
        again = () if target is None else tuple(retention.since(hosted.key, replay_from))
        if target == out.node:
            sent = {output.handle for output in again}
            self._holdings.release([gone for gone in retention.drop(hosted.key) if gone not in sent], out)
        for output in again:
            self._send(hosted, output, now, out)
        early, hosted.waiting, hosted.waiting_tokens = hosted.waiting, deque(), 0
        for work in early:
            if hosted.stand is Stand.GOING:
                self._judge(hosted, work, out)
            else:
                out.release(work.payload)

    # --- output ---------------------------------------------------------------------------------------------------

    def finished(self, event: StageFinished, now: Instant, out: Outbox) -> Hosted | None:
        """A run is done: pass its output on. The session it was of, if it is still held."""
        hosted = self._holdings.get((event.session, event.stage))
        if hosted is None or hosted.running is None:
            self._holdings.settled((event.session, event.stage))
            out.release(event.output)
            return None
        done, hosted.running = hosted.running, None
        hosted.due -= 1
        hosted.finished = done.position + done.token_count
        hosted.chunked = done.token_count > 1
        if not hosted.chunked:
            self._pace.ran(event.took_s, hosted.token_macs, now)
        if now >= hosted.deadline and hosted.stand is Stand.GOING:
            # Nobody waits for this any more, nor for what waits behind it.
            out.release(event.output)
            self._holdings.refuse(hosted, RefusalCode.DEADLINE, "the deadline has passed", out)
            return None
        if hosted.waiting and hosted.stand is Stand.GOING:
            work = hosted.waiting.popleft()
            hosted.waiting_tokens -= work.activation.token_count
            self._run(hosted, work, out)
        self._pass_on(hosted, done, event, now, out)
        return hosted

    def _pass_on(self, hosted: Hosted, done: Activation, event: StageFinished, now: Instant, out: Outbox) -> None:
        lease, going = hosted.lease, hosted.stand is Stand.GOING
        assert lease is not None, "what runs is served"
        if lease.target is None:
            if event.output is None or not going:
                out.release(event.output)
            else:
                self._draw(hosted, done.position + done.token_count, event.output, out)
            return
        assert event.output is not None, "only a head may have no output"
        size = TensorSpec(DTYPE_OF[hosted.span.gives], event.shape).byte_count
        output = Output(done.position, done.token_count, done.last, event.shape, event.output, size)
        if going:
            self._send(hosted, output, now, out)
        if lease.target != out.node or not going:
            self._keep(hosted, output, out)

    def _keep(self, hosted: Hosted, output: Output, out: Outbox) -> None:
        """To be sent again if need be. That the oldest are forgotten is told once for each session."""
        gone = self._holdings.retention.keep(hosted.key, output)
        if gone and not hosted.forgetful:
            hosted.forgetful = True
            out.count("outputs_forgotten", "ROOM")
        self._holdings.release(gone, out)

    def _send(self, hosted: Hosted, output: Output, now: Instant, out: Outbox) -> None:
        """To the stage after this one; what goes to another node is kept, to be sent again if need be."""
        lease = hosted.lease
        assert lease is not None, "a shadow sends nothing on"
        assert hosted.stand is Stand.GOING, "nor does who is suspended"
        assert lease.target is not None, "the last stage's output goes to the sampler"
        header = Activation(
            hosted.plan.deployment,
            hosted.plan.epoch,
            hosted.key[0],
            hosted.stage + 1,
            output.position,
            output.token_count,
            output.last,
            hosted.left_ms(now),
            DTYPE_OF[hosted.span.gives],
            output.shape,
            hosted.attempt,
        )
        out.send(lease.target, header, output.handle, keep=lease.target != out.node)

    def failed(self, event: StageFailed, out: Outbox) -> None:
        """A run failed, or was terminated because its session closed."""
        key = (event.session, event.stage)
        hosted = self._holdings.get(key)
        if hosted is None or hosted.running is None:
            self._holdings.settled(key)
            return
        hosted.running = None
        hosted.due -= 1
        out.note("error", "stage failed", stage=hosted.stage, position=event.position, reason=event.reason)
        self._holdings.refuse(hosted, RefusalCode.STAGE_FAILED, event.reason, out)

    # --- the sampler ----------------------------------------------------------------------------------------------

    def open_sampler(self, hosted: Hosted, out: Outbox) -> None:
        """Tell the sampler what the session consists of so far."""
        assert hosted.history is not None, "asked once"
        assert hosted.lease is not None, "for who is served"
        sampling = hosted.lease.opening.sampling
        request = services.OpenSamplerRequest(hosted.key[0], tuple(array("q", hosted.history)), sampling)
        hosted.history, hosted.sampling = None, True
        self._ask(hosted, _OPENING, services.Method.OPEN, services.pack(request), None, out)

    def _draw(self, hosted: Hosted, position: int, logits: TensorHandle, out: Outbox) -> None:
        request = services.SampleRequest(hosted.key[0], position)
        self._ask(hosted, position, services.Method.SAMPLE, request, logits, out)

    def _ask(
        self,
        hosted: Hosted,
        position: int,
        method: services.Method,
        request: services.Parcel,
        logits: TensorHandle | None,
        out: Outbox,
    ) -> None:
        assert hosted.sampler is not None, "the last stage samples"
        call = self._calls.fresh()
        self._questions[call] = _Question(hosted, position, hosted.attempt)
        hosted.asked += 1
        out.add(CallService(call, hosted.sampler, method, request, logits))

    def owns(self, call: CallId) -> bool:
        """Whether ``call`` was made here."""
        return call in self._questions

    def waiting(self) -> int:
        """Questions that are not answered yet."""
        return len(self._questions)

    def answered(self, event: ServiceReturned | ServiceFailed, out: Outbox) -> Hosted | None:
        """The sampler opened a session, drew a token, or refused. The session, if it is still held."""
        question = self._questions.pop(event.call)
        hosted = question.hosted
        hosted.asked -= 1
        if self._holdings.get(hosted.key) is not hosted:
            return None
        if hosted.lease is None or question.attempt != hosted.attempt:
            return hosted
        if isinstance(event, ServiceFailed):
            busy = event.fault is ServiceFault.BUSY
            code = RefusalCode.TOO_MANY_SESSIONS if busy else RefusalCode.STAGE_FAILED
            self._holdings.refuse(hosted, code, event.reason, out)
            return None
        if question.position != _OPENING and hosted.stand is Stand.GOING:
            self._tell(hosted, question.position, event, out)
        return hosted

    @staticmethod
    def _tell(hosted: Hosted, position: int, event: ServiceReturned, out: Outbox) -> None:
        drawn = services.unpack(services.SampleAnswer, event.result)
        out.send(
            hosted.ingress,
            Token(
                hosted.plan.deployment,
                hosted.plan.epoch,
                hosted.key[0],
                position,
                drawn.token,
                drawn.end,
                drawn.logprob,
                drawn.top,
                hosted.attempt,
            ),
        )


def _fault(hosted: Hosted, header: Activation, payload: Payload, now: Instant) -> Fault | None:
    """What no correct peer sends, wherever the session stands."""
    if not 0 < header.token_count <= PREFILL_CHUNK_TOKENS or payload is None:
        return RefusalCode.OUT_OF_ORDER, f"{header.token_count} tokens in one frame"
    if header.shape[:2] != (1, header.token_count):
        return RefusalCode.OUT_OF_ORDER, f"{header.token_count} tokens in a tensor of shape {header.shape}"
    if header.position + header.token_count > hosted.tokens_max:
        return RefusalCode.KV_FULL, f"the session was opened for {hosted.tokens_max} tokens"
    if hosted.waiting_tokens + header.token_count > WAITING_TOKENS_MAX:
        return RefusalCode.OUT_OF_ORDER, f"{hosted.waiting_tokens} tokens wait already"
    if now >= hosted.deadline:
        return RefusalCode.DEADLINE, "the deadline has passed"
    wanted = DTYPE_OF[hosted.span.takes] if header.stage else Dtype.I64
    if header.dtype is not wanted:
        return RefusalCode.OUT_OF_ORDER, f"stage {header.stage} takes {wanted.name}, not {header.dtype.name}"
    return None
