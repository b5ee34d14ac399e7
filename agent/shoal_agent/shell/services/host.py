"""Runs the light services of the models this node has the texts of.

A service is an instance with a name (``sampler:<model>``). It is built when it is first called, because a node may
carry many models and serve few. Building and the methods that take milliseconds (rendering, encoding more than a few
kilobytes) go to a small pool of threads, so that the loop never stalls; everything else runs at once, on the loop. A
call that arrives while its service is being built waits in line behind the one that caused it, so a session's ``open``
is never overtaken by its ``push``.

Every call is answered exactly once, with ServiceReturned or ServiceFailed: an unknown name, a request that does not
decode, a service that refuses, breaks or has no room are no exceptions, but kinds of fault. A thread cannot be stopped:
a call that takes longer than its time is answered as BUSY, for its worker is, until it is done. So is one that still
waits when its caller's deadline comes (``left_s``, from when it came here), and that one is not run any more.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from shoal_agent.core.effects import CallService
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.services import (
    CheckRequest,
    EmbedRequest,
    EncodeRequest,
    FlushRequest,
    Method,
    OpenDetokenizerRequest,
    OpenSamplerRequest,
    Parcel,
    PushRequest,
    RenderRequest,
    SampleRequest,
    ServiceKind,
    pack,
    service_name,
    unpack,
)
from shoal_agent.shell.ports import Array, Post, TensorTable
from shoal_agent.shell.services.chat_template import ChatTemplate
from shoal_agent.shell.services.detokenizer import Detokenizer
from shoal_agent.shell.services.embedder import Embedder, Opened
from shoal_agent.shell.services.registered import LightService, Registered
from shoal_agent.shell.services.sampler import Sampler
from shoal_agent.shell.services.sessions import ServiceBusyError, ServiceError
from shoal_agent.shell.services.tokenizer import Tokenizer
from shoal_agent.shell.services.width import Width
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.headers import ServiceFault
from shoal_protocol.ids import Digest, SessionId
from shoal_protocol.limits import SERVICE_CALL_S_MAX, SERVICE_SLOW_CALLS_MAX

_WORKERS_MIN: Final = 2
"""One may be stuck in a template that will not end, and the other still encodes."""
_INLINE_BYTES_MAX: Final = 2048
"""A request up to this size is encoded on the loop: below a millisecond, less than the way to a thread and back."""

Service = ChatTemplate | Tokenizer | Sampler | Detokenizer | Embedder | Registered
Tensor = Array | bytes | memoryview | None


@dataclass(frozen=True, slots=True)
class ModelAssets:
    """What a package gives to its light services. ``chat_template`` None: the model was not taught to converse.

    ``vocabulary``: number of logits. ``bos`` opens a bare prompt (None: nothing does); each of ``eos`` ends a turn.
    ``embedding`` opens the first block (None: it is not here).
    """

    model: Digest
    tokenizer: bytes
    chat_template: str | None
    vocabulary: int
    bos: int | None
    eos: tuple[int, ...]
    embedding: Callable[[], Opened] | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: what is asked, and until when there is a point in beginning with it."""

    asked: CallService
    tensor: Tensor
    until: float

    def late(self) -> bool:
        return time.monotonic() >= self.until

    def too_late(self) -> ServiceFailed:
        waited = f"{self.asked.service!r} had no time for it before its deadline"
        return ServiceFailed(self.asked.call, waited, ServiceFault.BUSY)


@dataclass(slots=True)
class _Slot:
    """One name: how to build its instance, the instance once built (or why not), and what waits for it."""

    build: Callable[[], Service]
    width: Width = field(default_factory=lambda: Width(1))
    """Its instances: so many slow calls run at a time."""
    service: Service | None = None
    broken: str = ""
    waiting: list[_Call] = field(default_factory=list)
    closing: list[SessionId] = field(default_factory=list)


class ServiceHost:
    """All light services of this node. Create it inside the loop; ``close`` it at the end."""

    def __init__(self, tensors: TensorTable, post: Post, workers: int = _WORKERS_MIN) -> None:
        self._tensors = tensors
        self._post = post
        self._slots: dict[str, _Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = ThreadPoolExecutor(max_workers=max(workers, _WORKERS_MIN), thread_name_prefix="service")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._slots)

    def add(self, assets: ModelAssets) -> None:
        """Offer the services of one more model; a model already offered stays as it is."""
        # Two services share one tokenizer; whichever is called first builds it.
        tokenizer = _Once(partial(Tokenizer, assets.tokenizer, assets.vocabulary, assets.bos))
        builds: dict[ServiceKind, Callable[[], Service]] = {
            ServiceKind.TOKENIZER: tokenizer.get,
            ServiceKind.SAMPLER: lambda: Sampler(assets.vocabulary, assets.eos),
            ServiceKind.DETOKENIZER: lambda: Detokenizer(tokenizer.get()),
        }
        template = assets.chat_template
        if template is not None:
            builds[ServiceKind.CHAT_TEMPLATE] = lambda: _chat_template(template, tokenizer.get(), assets)
        embedding = assets.embedding
        if embedding is not None:
            builds[ServiceKind.EMBEDDER] = lambda: Embedder(embedding, assets.vocabulary)
        for kind, build in builds.items():
            self._slots.setdefault(service_name(kind, assets.model), _Slot(build))

    def register(self, service: LightService) -> None:
        """Offer a service that another package brings."""

        def build() -> Registered:
            return Registered(service.name, tuple(service.methods), service.build())

        self._slots.setdefault(service.name, _Slot(build))

    def call(self, effect: CallService) -> None:
        """Run a method; answered by ServiceReturned or ServiceFailed, at once or later."""
        # Taken out of the table here, so it is gone from there whatever happens below.
        tensor = None if effect.tensor is None else self._tensors.take(effect.tensor)
        call = _Call(effect, tensor, time.monotonic() + effect.left_s)
        slot = self._slots.get(effect.service)
        if slot is None:
            self._post(ServiceFailed(effect.call, f"no service {effect.service!r} here", ServiceFault.FAILED))
        elif slot.service is not None:
            self._run(slot, slot.service, call)
        elif slot.broken:
            self._post(ServiceFailed(effect.call, slot.broken, ServiceFault.FAILED))
        elif len(slot.waiting) >= SERVICE_SLOW_CALLS_MAX:
            busy = f"{SERVICE_SLOW_CALLS_MAX} calls wait for {effect.service!r}"
            self._post(ServiceFailed(effect.call, busy, ServiceFault.BUSY))
        else:
            slot.waiting.append(call)
            if len(slot.waiting) == 1:
                self._spawn(self._build(slot))

    def close(self, service: str, session: SessionId) -> None:
        """The session is over: a stateful service forgets it."""
        slot = self._slots.get(service)
        if slot is None:
            return
        if slot.waiting:
            slot.closing.append(session)  # its open may be in line; at most one close follows each
        elif isinstance(slot.service, Sampler | Detokenizer):
            slot.service.close(session)

    def scale(self, service: str, instances: int) -> None:
        """Run so many slow calls of ``service`` at a time; none: build it anew for the next call."""
        slot = self._slots.get(service)
        if slot is None:
            return
        slot.width.set(max(1, instances))
        if instances == 0 and not len(slot.width):
            slot.service = None

    async def shut_down(self) -> None:
        """End. Calls that are not answered yet will not be."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _build(self, slot: _Slot) -> None:
        try:
            slot.service = await asyncio.get_running_loop().run_in_executor(self._workers, slot.build)
        except ServiceError as fault:
            slot.broken = str(fault)
        except Exception as fault:  # noqa: BLE001 - as below: whatever the package's texts provoke is answered
            slot.broken = f"the service cannot be built: {type(fault).__name__}: {fault}"
        waiting, slot.waiting = slot.waiting, []
        closing, slot.closing = slot.closing, []
        for call in waiting:
            if slot.service is None:
                self._post(ServiceFailed(call.asked.call, slot.broken, ServiceFault.FAILED))
            else:
                self._run(slot, slot.service, call)
        for session in closing:
            if isinstance(slot.service, Sampler | Detokenizer):
                slot.service.close(session)

    def _run(self, slot: _Slot, service: Service, call: _Call) -> None:
        if call.late():
            self._post(call.too_late())
        elif not _is_slow(service, call.asked):
            self._post(_answer(service, call.asked, call.tensor))
        elif len(self._tasks) >= SERVICE_SLOW_CALLS_MAX:
            busy = f"{SERVICE_SLOW_CALLS_MAX} calls are under way"
            self._post(ServiceFailed(call.asked.call, busy, ServiceFault.BUSY))
        else:
            self._spawn(self._run_slowly(slot, service, call))

    async def _run_slowly(self, slot: _Slot, service: Service, call: _Call) -> None:
        effect, loop = call.asked, asyncio.get_running_loop()
        try:
            # The loop's clock is the one calls are timed by. What no worker has begun with is cancelled.
            async with asyncio.timeout_at(min(loop.time() + SERVICE_CALL_S_MAX, call.until)), slot.width.one():
                answer = await loop.run_in_executor(self._workers, _answer, service, effect, None)
        except TimeoutError:
            late = f"{effect.service!r} took more than {SERVICE_CALL_S_MAX:g} s"
            answer = call.too_late() if call.late() else ServiceFailed(effect.call, late, ServiceFault.BUSY)
        self._post(answer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Once:
    """A tokenizer built by whichever worker asks first; the other waits for it."""

    def __init__(self, build: Callable[[], Tokenizer]) -> None:
        self._build = build
        self._built: Tokenizer | None = None
        self._building = threading.Lock()

    def get(self) -> Tokenizer:
        with self._building:
            if self._built is None:
                self._built = self._build()
            return self._built


def _chat_template(source: str, tokenizer: Tokenizer, assets: ModelAssets) -> ChatTemplate:
    eos = tokenizer.marker(assets.eos[0]) if assets.eos else ""
    return ChatTemplate(source, tokenizer.markers, tokenizer.marker(assets.bos), eos)


def _is_slow(service: Service, effect: CallService) -> bool:
    return isinstance(service, ChatTemplate | Embedder | Registered) or (
        isinstance(service, Tokenizer) and isinstance(effect.request, bytes) and len(effect.request) > _INLINE_BYTES_MAX
    )


def _answer(service: Service, effect: CallService, tensor: Tensor) -> ServiceReturned | ServiceFailed:
    """Decode, run, encode what came encoded. Runs on the loop or in a worker; posts nothing itself."""
    try:
        answer = _invoke(service, effect, tensor)
        return ServiceReturned(effect.call, pack(answer) if isinstance(effect.request, bytes) else answer)
    except ServiceBusyError as fault:
        return ServiceFailed(effect.call, str(fault), ServiceFault.BUSY)
    except ServiceError as fault:
        return ServiceFailed(effect.call, str(fault), ServiceFault.REFUSED)
    except RemoteProtocolError as fault:
        reason = f"{effect.service!r} cannot read the request: {fault}"
        return ServiceFailed(effect.call, reason, ServiceFault.REFUSED)
    except Exception as fault:  # noqa: BLE001 - templates and vocabularies are data and may provoke anything
        reason = f"{effect.service!r} failed: {type(fault).__name__}: {fault}"
        return ServiceFailed(effect.call, reason, ServiceFault.FAILED)


def _invoke(service: Service, effect: CallService, tensor: Tensor) -> Parcel:
    request = effect.request
    match service, effect.method:
        case Sampler(), Method.SAMPLE:
            if not isinstance(tensor, np.ndarray):
                raise ServiceError("sample needs the logits as a tensor")
            return service.sample(unpack(SampleRequest, request), tensor)
        case Sampler(), Method.OPEN:
            return service.open(unpack(OpenSamplerRequest, request))
        case Detokenizer(), Method.PUSH:
            return service.push(unpack(PushRequest, request))
        case Detokenizer(), Method.OPEN:
            return service.open(unpack(OpenDetokenizerRequest, request))
        case Detokenizer(), Method.FLUSH:
            return service.flush(unpack(FlushRequest, request))
        case Tokenizer(), Method.ENCODE:
            return service.encode(unpack(EncodeRequest, request))
        case Tokenizer(), Method.CHECK:
            return service.check(unpack(CheckRequest, request))
        case Embedder(), Method.EMBED:
            return service.embed(unpack(EmbedRequest, request))
        case Registered(), method:
            return service.answer(method, request)
        case ChatTemplate(), Method.RENDER:
            return service.render(unpack(RenderRequest, request))
    raise ServiceError(f"{effect.service!r} has no method {effect.method!r}")
