import asyncio
import math
import threading

import numpy as np
import pytest

from shoal_agent.core import services
from shoal_agent.core.effects import CallService
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.facts import CallId, TensorHandle
from shoal_agent.core.services import ServiceKind, pack, service_name, unpack
from shoal_agent.shell.services import host as host_module
from shoal_agent.shell.services.host import ServiceHost
from shoal_protocol.headers import Sampling, ServiceFault
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import SERVICE_SLOW_CALLS_MAX, SESSIONS_MAX
from tests.support.texts import EOS, MODEL, TEMPLATE, assets, vocabulary

SESSION = SessionId(bytes(16))
GREEDY = Sampling(0.0, 0, 1.0, 1.0, 0, -1)
TEXT_KINDS = [kind for kind in ServiceKind if kind is not ServiceKind.EMBEDDER]
NAMES = {kind: service_name(kind, MODEL) for kind in TEXT_KINDS}


class Table:
    """A tensor table in a dict."""

    def __init__(self):
        self.values = {}

    def put(self, value):
        handle = TensorHandle(len(self.values) + 1)
        self.values[handle] = value
        return handle

    def take(self, handle):
        return self.values.pop(handle)

    def peek(self, handle):
        return self.values[handle]

    def release(self, handle):
        del self.values[handle]

    def __len__(self):
        return len(self.values)


class Caller:
    """Calls services and keeps their answers, in the order in which they came."""

    def __init__(self):
        self.tensors = Table()
        self.events = []
        self.came = asyncio.Event()
        self.calls = 0
        self.host = ServiceHost(self.tensors, self.post)

    def post(self, event):
        assert threading.current_thread() is threading.main_thread()
        self.events.append(event)
        self.came.set()

    def begin(self, service, method, request, tensor=None, left_s=math.inf):
        self.calls += 1
        raw = request if isinstance(request, bytes) else pack(request)
        handle = None if tensor is None else self.tensors.put(tensor)
        self.host.call(CallService(CallId(self.calls), service, method, raw, handle, left_s))
        assert len(self.tensors) == 0, "the tensor is gone from the table as soon as the call is taken"
        return CallId(self.calls)

    async def answer(self, call):
        async with asyncio.timeout(5):
            while not any(event.call == call for event in self.events):
                self.came.clear()
                await self.came.wait()
        [event] = [event for event in self.events if event.call == call]
        return event

    async def ask(self, kind, method, request, tensor=None):
        return await self.answer(self.begin(NAMES[kind], method, request, tensor))

    async def reason(self, kind, method, request, tensor=None):
        event = await self.ask(kind, method, request, tensor)
        assert isinstance(event, ServiceFailed), event
        return event.reason


@pytest.fixture
async def caller():
    made = Caller()
    yield made
    await made.host.shut_down()


@pytest.fixture
async def ready(caller):
    """A host whose services of one model are all built."""
    caller.host.add(assets())
    for kind in TEXT_KINDS:
        await caller.ask(kind, "warm", b"\x90")
    caller.events.clear()
    return caller


async def test_a_model_offers_four_services_by_name(caller):
    assert caller.host.names == ()
    caller.host.add(assets())
    assert set(caller.host.names) == set(NAMES.values())


async def test_a_model_without_a_template_cannot_converse(caller):
    caller.host.add(assets(chat_template=None))
    assert set(caller.host.names) == set(NAMES.values()) - {NAMES[ServiceKind.CHAT_TEMPLATE]}
    assert "no service" in await caller.reason(ServiceKind.CHAT_TEMPLATE, "render", b"")


async def test_a_conversation_becomes_tokens_and_tokens_become_text(caller):
    caller.host.add(assets())
    messages = (services.ChatMessage("user", "the dog"),)
    rendered = await caller.ask(ServiceKind.CHAT_TEMPLATE, "render", services.RenderRequest(messages, True))
    text = unpack(services.RenderAnswer, rendered.result).text
    encoded = await caller.ask(ServiceKind.TOKENIZER, "encode", services.EncodeRequest(text, special=True))
    tokens = unpack(services.EncodeAnswer, encoded.result).tokens
    await caller.ask(ServiceKind.DETOKENIZER, "open", services.OpenDetokenizerRequest(SESSION, (), False))
    shown = []
    for token in tokens:
        pushed = await caller.ask(ServiceKind.DETOKENIZER, "push", services.PushRequest(SESSION, token, ()))
        shown.append(unpack(services.PushAnswer, pushed.result).text)
    assert "".join(shown).endswith("user\nthe dog\nassistant\n")
    flushed = await caller.ask(ServiceKind.DETOKENIZER, "flush", services.FlushRequest(SESSION))
    assert unpack(services.FlushAnswer, flushed.result).text == ""


async def test_a_token_is_sampled_at_once_on_the_loop(ready):
    ready.begin(NAMES[ServiceKind.SAMPLER], "open", services.OpenSamplerRequest(SESSION, (1, 2), GREEDY))
    logits = np.zeros((1, 1, vocabulary()), dtype=np.float32)
    logits[0, 0, EOS] = 1.0
    ready.begin(NAMES[ServiceKind.SAMPLER], "sample", services.SampleRequest(SESSION, 2), logits)
    opened, sampled = ready.events
    assert unpack(services.Done, opened.result) == services.Done()
    answer = unpack(services.SampleAnswer, sampled.result)
    assert (answer.token, answer.end) == (EOS, True)


SAID_WITH_EVERY_TOKEN = [
    (ServiceKind.SAMPLER, "open", services.OpenSamplerRequest(SESSION, (1, 2), Sampling(0.8, 5, 0.9, 1.1, 7, 2))),
    (ServiceKind.SAMPLER, "sample", services.SampleRequest(SESSION, 2)),
    (ServiceKind.DETOKENIZER, "open", services.OpenDetokenizerRequest(SESSION, (), True)),
    (ServiceKind.DETOKENIZER, "push", services.PushRequest(SESSION, 200, (201, 7))),
    (ServiceKind.DETOKENIZER, "flush", services.FlushRequest(SESSION)),
]


async def test_a_call_from_here_and_one_from_another_node_get_the_same_bytes(ready):
    """The same conversation twice: requests as messages, then packed."""
    logits = np.random.default_rng(1).standard_normal((1, 1, vocabulary())).astype(np.float32)
    told = []
    for travel in (lambda message: message, pack):
        for number, (kind, method, message) in enumerate(SAID_WITH_EVERY_TOKEN):
            handle = ready.tensors.put(logits) if method == "sample" else None
            ready.host.call(CallService(CallId(number), NAMES[kind], method, travel(message), handle))
        told.append([event.result for event in ready.events])
        ready.events.clear()
    here, abroad = told
    assert len(abroad) == len(SAID_WITH_EVERY_TOKEN)
    assert all(isinstance(result, bytes) for result in abroad)
    assert not any(isinstance(result, bytes) for result in here)
    assert [pack(result) for result in here] == abroad


async def test_calls_that_come_while_a_service_is_built_keep_their_order(caller):
    caller.host.add(assets())
    name = NAMES[ServiceKind.DETOKENIZER]
    calls = [caller.begin(name, "open", services.OpenDetokenizerRequest(SESSION, (), False))]
    calls += [caller.begin(name, "push", services.PushRequest(SESSION, 200, ())) for _ in range(5)]
    assert caller.events == []
    await caller.answer(calls[-1])
    assert [event.call for event in caller.events] == calls
    assert all(isinstance(event, ServiceReturned) for event in caller.events)


async def test_a_session_closed_while_its_service_is_built_is_not_kept(caller):
    caller.host.add(assets())
    name = NAMES[ServiceKind.SAMPLER]
    call = caller.begin(name, "open", services.OpenSamplerRequest(SESSION, (), GREEDY))
    caller.host.close(name, SESSION)
    await caller.answer(call)
    assert "no such session" in await caller.reason(
        ServiceKind.SAMPLER, "sample", services.SampleRequest(SESSION, 0), np.zeros(vocabulary(), np.float32)
    )


@pytest.mark.parametrize("kind", [ServiceKind.SAMPLER, ServiceKind.DETOKENIZER])
async def test_close_forgets_a_session(ready, kind):
    opens = {
        ServiceKind.SAMPLER: services.OpenSamplerRequest(SESSION, (), GREEDY),
        ServiceKind.DETOKENIZER: services.OpenDetokenizerRequest(SESSION, (), False),
    }
    await ready.ask(kind, "open", opens[kind])
    ready.host.close(NAMES[kind], SESSION)
    ready.host.close(NAMES[kind], SESSION)
    ready.host.close("nobody", SESSION)
    ready.host.close(NAMES[ServiceKind.TOKENIZER], SESSION)
    logits = np.zeros(vocabulary(), np.float32)
    uses = {
        ServiceKind.SAMPLER: ("sample", services.SampleRequest(SESSION, 0), logits),
        ServiceKind.DETOKENIZER: ("push", services.PushRequest(SESSION, 9, ()), None),
    }
    assert "no such session" in await ready.reason(kind, *uses[kind])


async def test_sessions_are_bounded(ready):
    for number in range(SESSIONS_MAX + 1):
        request = services.OpenSamplerRequest(SessionId(number.to_bytes(16, "big")), (), GREEDY)
        ready.begin(NAMES[ServiceKind.SAMPLER], "open", request)
    assert [isinstance(event, ServiceFailed) for event in ready.events] == [False] * SESSIONS_MAX + [True]
    assert ready.events[-1].fault is ServiceFault.BUSY


@pytest.mark.parametrize(
    ("service", "method", "request_", "reason"),
    [
        (NAMES[ServiceKind.TOKENIZER], "explode", b"", "no method"),
        (NAMES[ServiceKind.TOKENIZER], "sample", b"", "no method"),
        (NAMES[ServiceKind.TOKENIZER], "encode", b"\xc1", "cannot read the request"),
        (NAMES[ServiceKind.SAMPLER], "open", b"\x93", "cannot read the request"),
        (NAMES[ServiceKind.DETOKENIZER], "push", b"\x90", "cannot read the request"),
        (NAMES[ServiceKind.CHAT_TEMPLATE], "render", b"junk", "cannot read the request"),
        (NAMES[ServiceKind.SAMPLER], "sample", services.SampleRequest(SESSION, 0), "needs the logits"),
    ],
)
async def test_whatever_is_wrong_is_answered_not_raised(ready, service, method, request_, reason):
    event = await ready.answer(ready.begin(service, method, request_))
    assert isinstance(event, ServiceFailed)
    assert reason in event.reason
    assert event.fault is ServiceFault.REFUSED


async def test_a_service_that_is_not_here_is_not_the_callers_fault(ready):
    event = await ready.answer(ready.begin("tokenizer:unknown", "encode", b""))
    assert event == ServiceFailed(event.call, "no service 'tokenizer:unknown' here", ServiceFault.FAILED)


@pytest.mark.parametrize(
    "tensor", [np.full(8, np.nan, np.float32), np.zeros(3, np.float32), b"raw bytes"], ids=["nan", "short", "bytes"]
)
async def test_a_tensor_is_released_even_if_the_call_fails(ready, tensor):
    for service in (NAMES[ServiceKind.SAMPLER], NAMES[ServiceKind.TOKENIZER], "nobody"):
        event = await ready.answer(ready.begin(service, "sample", services.SampleRequest(SESSION, 0), tensor))
        assert isinstance(event, ServiceFailed)
    assert len(ready.tensors) == 0


async def test_logits_that_are_not_finite_fail_the_call(ready):
    await ready.ask(ServiceKind.SAMPLER, "open", services.OpenSamplerRequest(SESSION, (), GREEDY))
    logits = np.full(vocabulary(), np.nan, np.float32)
    assert "not finite" in await ready.reason(ServiceKind.SAMPLER, "sample", services.SampleRequest(SESSION, 0), logits)


async def test_a_long_text_is_encoded_off_the_loop(ready):
    begun = ready.begin(NAMES[ServiceKind.TOKENIZER], "encode", services.EncodeRequest("dog " * 5000, False))
    assert ready.events == []
    event = await ready.answer(begun)
    assert len(unpack(services.EncodeAnswer, event.result).tokens) >= 5000


async def test_a_broken_package_fails_every_call_with_the_reason(caller):
    caller.host.add(assets(chat_template="{% if %}"))
    for _ in range(2):
        event = await caller.ask(ServiceKind.CHAT_TEMPLATE, "render", b"")
        assert "chat template is broken" in event.reason
        assert event.fault is ServiceFault.FAILED
    assert isinstance(await caller.ask(ServiceKind.TOKENIZER, "check", services.CheckRequest((1,))), ServiceReturned)


async def test_a_call_that_takes_too_long_is_answered_and_the_other_worker_goes_on(ready, monkeypatch):
    gate = threading.Event()
    service = ready.host._slots[NAMES[ServiceKind.CHAT_TEMPLATE]].service
    monkeypatch.setattr(host_module, "SERVICE_CALL_S_MAX", 0.05)
    monkeypatch.setattr(service, "_template", type("Stuck", (), {"generate": lambda *_: iter([str(gate.wait(5))])})())
    messages = (services.ChatMessage("user", "hi"),)
    late = await ready.ask(ServiceKind.CHAT_TEMPLATE, "render", services.RenderRequest(messages, True))
    monkeypatch.setattr(host_module, "SERVICE_CALL_S_MAX", 5)
    assert "took more than" in late.reason
    assert late.fault is ServiceFault.BUSY
    event = await ready.ask(ServiceKind.TOKENIZER, "encode", services.EncodeRequest("dog " * 5000, False))
    gate.set()
    assert isinstance(event, ServiceReturned)
    assert len(ready.events) == 2, "the late answer is dropped"


SOON_S = 0.05


def is_late(event):
    return event.fault is ServiceFault.BUSY and "before its deadline" in event.reason


async def test_a_call_without_time_left_is_not_run(ready):
    opening = services.OpenSamplerRequest(SESSION, (), GREEDY)
    late = await ready.answer(ready.begin(NAMES[ServiceKind.SAMPLER], "open", opening, left_s=0.0))
    assert is_late(late)
    logits = np.zeros(vocabulary(), np.float32)
    reason = await ready.reason(ServiceKind.SAMPLER, "sample", services.SampleRequest(SESSION, 0), logits)
    assert "no such session" in reason


async def test_a_call_whose_deadline_comes_while_its_service_is_built_is_not_run(caller):
    caller.host.add(assets())
    name, gate = NAMES[ServiceKind.DETOKENIZER], threading.Event()
    slot = caller.host._slots[name]
    build = slot.build
    slot.build = lambda: (gate.wait(5), build())[1]
    late = caller.begin(name, "open", services.OpenDetokenizerRequest(SESSION, (), False), left_s=SOON_S)
    fine = caller.begin(name, "push", services.PushRequest(SESSION, 200, ()), left_s=60.0)
    await asyncio.sleep(2 * SOON_S)
    gate.set()
    assert is_late(await caller.answer(late))
    assert "no such session" in (await caller.answer(fine)).reason


async def test_a_call_whose_deadline_comes_while_all_workers_are_busy_is_not_run(ready, monkeypatch):
    gate, run = threading.Event(), []
    template = ready.host._slots[NAMES[ServiceKind.CHAT_TEMPLATE]].service
    tokenizer = ready.host._slots[NAMES[ServiceKind.TOKENIZER]].service
    monkeypatch.setattr(template, "_template", type("Stuck", (), {"generate": lambda *_: iter([str(gate.wait(5))])})())
    encode = tokenizer.encode
    monkeypatch.setattr(type(tokenizer), "encode", lambda _, request: run.append(request) or encode(request))
    rendering = services.RenderRequest((services.ChatMessage("user", "hi"),), True)
    ready.host.scale(NAMES[ServiceKind.CHAT_TEMPLATE], 2)
    stuck = [ready.begin(NAMES[ServiceKind.CHAT_TEMPLATE], "render", rendering) for _ in range(2)]
    text = services.EncodeRequest("dog " * 5000, False)
    late = await ready.answer(ready.begin(NAMES[ServiceKind.TOKENIZER], "encode", text, left_s=SOON_S))
    assert is_late(late)
    assert not gate.is_set(), "it is answered when its deadline comes, not when a worker is free"
    gate.set()
    for call in stuck:
        assert isinstance(await ready.answer(call), ServiceReturned)
    fine = await ready.answer(ready.begin(NAMES[ServiceKind.TOKENIZER], "encode", text, left_s=60.0))
    assert isinstance(fine, ServiceReturned)
    assert len(run) == 1


async def test_calls_under_way_are_bounded(ready):
    messages = (services.ChatMessage("user", "hi"),)
    request = services.RenderRequest(messages, add_generation_prompt=True)
    calls = [
        ready.begin(NAMES[ServiceKind.CHAT_TEMPLATE], "render", request) for _ in range(SERVICE_SLOW_CALLS_MAX + 3)
    ]
    for call in calls:
        await ready.answer(call)
    failed = [event for event in ready.events if isinstance(event, ServiceFailed)]
    assert [event.fault for event in failed] == [ServiceFault.BUSY] * 3
    assert "under way" in failed[0].reason


async def test_calls_that_wait_for_a_build_are_bounded(caller):
    caller.host.add(assets())
    name = NAMES[ServiceKind.TOKENIZER]
    calls = [caller.begin(name, "check", services.CheckRequest((1,))) for _ in range(SERVICE_SLOW_CALLS_MAX + 1)]
    assert [(event.call, event.fault) for event in caller.events] == [(calls[-1], ServiceFault.BUSY)]
    await caller.answer(calls[0])
    assert len(caller.events) == len(calls)


async def test_a_template_that_fails_like_a_program_is_answered(caller):
    caller.host.add(assets(chat_template=TEMPLATE + "{{ 1 // 0 }}"))
    messages = (services.ChatMessage("user", "hi"),)
    event = await caller.ask(ServiceKind.CHAT_TEMPLATE, "render", services.RenderRequest(messages, True))
    assert "fails on these messages" in event.reason
    assert event.fault is ServiceFault.REFUSED
