from dataclasses import replace

import pytest

from shoal_agent.core.calls import Ask, Calls, came_too_late
from shoal_agent.core.effects import CallService, SendFrame
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.facts import CallId
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.services import FlushAnswer, FlushRequest, Method, pack
from shoal_protocol.codec import encode_header
from shoal_protocol.headers import ServiceCall, ServiceFault, ServiceResult
from shoal_protocol.ids import NodeId, SessionId
from shoal_protocol.limits import LEVEL_MILLI_MAX, REASON_CHARS_MAX, SERVICE_CALLS_MAX

HERE, THERE, ELSEWHERE = NodeId("h" * 32), NodeId("t" * 32), NodeId("e" * 32)
ENCODE = Ask("tokenizer:0", "encode", b"text", 1000)
ASK = ServiceCall(17, "tokenizer:0", "encode", 1000, 0)


def called(calls: Calls, where: NodeId) -> tuple[CallId, Outbox]:
    out = Outbox(HERE)
    return calls.make(where, ENCODE, out), out


def served(calls: Calls, peer: NodeId = THERE, header: ServiceCall = ASK) -> CallService:
    out = Outbox(HERE)
    calls.serve(peer, header, b"text", out)
    (effect,) = out.effects
    return effect


def answer_to(calls: Calls, event: ServiceReturned | ServiceFailed) -> list[object]:
    out = Outbox(HERE)
    calls.answered(event, out)
    return out.effects


def test_ids_are_never_used_again():
    calls = Calls(HERE)
    assert len({calls.fresh() for _ in range(100)}) == 100


def test_a_call_here_is_an_effect():
    call, out = called(Calls(HERE), HERE)
    assert out.effects == [CallService(call, "tokenizer:0", "encode", b"text", None, 1.0)]


def test_a_call_abroad_is_a_frame_and_its_answer_an_event():
    calls = Calls(HERE)
    call, out = called(calls, THERE)
    assert out.effects == [SendFrame(THERE, ServiceCall(call, "tokenizer:0", "encode", 1000, 0), b"text")]
    assert calls.result(THERE, ServiceResult(call, "", None), b"answer") == ServiceReturned(call, b"answer")
    assert calls.result(THERE, ServiceResult(call, "", None), b"again") is None


@pytest.mark.parametrize(("owed", "milli"), [(0.0, 0), (1.5, 1500), (1e30, LEVEL_MILLI_MAX)])
def test_a_call_abroad_carries_what_its_class_is_owed(owed, milli):
    out = Outbox(HERE)
    Calls(HERE).make(THERE, replace(ENCODE, owed=owed), out)
    assert out.effects[0].header.owed_milli == milli
    assert encode_header(out.effects[0].header)


def test_only_what_travels_is_packed():
    calls, request = Calls(HERE), FlushRequest(SessionId(bytes(16)))
    ask = Ask("detokenizer:0", "flush", request, 1000)
    here, there = Outbox(HERE), Outbox(HERE)
    calls.make(HERE, ask, here)
    calls.make(THERE, ask, there)
    assert here.effects[0].request is request
    assert there.effects[0].payload == pack(request)
    asked = served(calls)
    (frame,) = answer_to(calls, ServiceReturned(asked.call, FlushAnswer("x")))
    assert frame.payload == pack(FlushAnswer("x"))


def test_the_names_that_travel_are_plain_strings():
    out = Outbox(HERE)
    Calls(HERE).make(THERE, replace(ENCODE, method=Method.ENCODE), out)
    (effect,) = out.effects
    assert encode_header(effect.header)
    assert type(effect.header.method) is str


@pytest.mark.parametrize("fault", ServiceFault)
def test_a_failure_abroad_is_a_failure_of_the_same_kind(fault):
    calls = Calls(HERE)
    call, _ = called(calls, THERE)
    assert calls.result(THERE, ServiceResult(call, "no", fault), b"ignored") == ServiceFailed(call, "no", fault)


def test_an_empty_answer_is_empty_bytes():
    calls = Calls(HERE)
    call, _ = called(calls, THERE)
    assert calls.result(THERE, ServiceResult(call, "", None), None) == ServiceReturned(call, b"")


def test_only_the_one_that_was_asked_may_answer():
    calls = Calls(HERE)
    call, _ = called(calls, THERE)
    assert calls.result(ELSEWHERE, ServiceResult(call, "", None), b"false") is None
    assert calls.result(THERE, ServiceResult(call + 1, "", None), b"nothing") is None
    assert calls.result(THERE, ServiceResult(call, "", None), b"true") == ServiceReturned(call, b"true")


def test_an_answer_nobody_waits_for_is_dropped():
    calls = Calls(HERE)
    call, _ = called(calls, THERE)
    calls.forget(call)
    calls.forget(call)
    assert calls.result(THERE, ServiceResult(call, "", None), b"late") is None


def test_a_peers_call_is_answered_to_that_peer_under_its_own_number():
    calls = Calls(HERE)
    effect = served(calls)
    assert (effect.service, effect.method, effect.request) == ("tokenizer:0", "encode", b"text")
    assert effect.left_s == 1.0, "the time its caller has left counts from here on"
    assert answer_to(calls, ServiceReturned(effect.call, b"ids")) == [
        SendFrame(THERE, ServiceResult(17, "", None), b"ids")
    ]
    assert answer_to(calls, ServiceReturned(effect.call, b"ids")) == []


def test_two_peers_may_use_the_same_number():
    calls = Calls(HERE)
    one, two = served(calls, THERE), served(calls, ELSEWHERE)
    assert answer_to(calls, ServiceReturned(two.call, b"2"))[0].peer == ELSEWHERE
    assert answer_to(calls, ServiceReturned(one.call, b"1"))[0].peer == THERE


@pytest.mark.parametrize("fault", ServiceFault)
def test_a_failure_here_is_told_in_words_and_in_kind(fault):
    calls = Calls(HERE)
    (frame,) = answer_to(calls, ServiceFailed(served(calls).call, "no", fault))
    assert frame == SendFrame(THERE, ServiceResult(17, "no", fault), None)


def test_the_words_of_a_failure_are_cut_to_one_line_and_never_empty():
    calls = Calls(HERE)
    long, empty = served(calls), served(calls)
    (frame,) = answer_to(calls, ServiceFailed(long.call, "\U0001f41f" * 5000, ServiceFault.FAILED))
    assert frame.header == ServiceResult(17, "\U0001f41f" * REASON_CHARS_MAX, ServiceFault.FAILED)
    (frame,) = answer_to(calls, ServiceFailed(empty.call, "", ServiceFault.FAILED))
    assert frame.header.error


def test_more_calls_than_the_bound_are_refused_until_one_is_done():
    calls = Calls(HERE)
    effects = [served(calls, header=ServiceCall(number, "s", "m", 1, 0)) for number in range(SERVICE_CALLS_MAX)]
    out = Outbox(HERE)
    calls.serve(THERE, ASK, b"", out)
    (refusal,) = out.effects
    busy = ServiceResult(17, f"{SERVICE_CALLS_MAX} calls are under way", ServiceFault.BUSY)
    assert refusal == SendFrame(THERE, busy, None)
    answer_to(calls, ServiceReturned(effects[0].call, b""))
    assert isinstance(served(calls), CallService)


def test_a_lost_link_gives_up_what_was_on_it_in_both_directions():
    calls = Calls(HERE)
    lost, _ = called(calls, THERE)
    kept, _ = called(calls, ELSEWHERE)
    theirs, others = served(calls, THERE), served(calls, ELSEWHERE)
    assert calls.peer_lost(THERE) == [lost]
    assert calls.peer_lost(THERE) == []
    assert calls.result(THERE, ServiceResult(lost, "", None), b"late") is None
    assert calls.result(ELSEWHERE, ServiceResult(kept, "", None), b"fine") == ServiceReturned(kept, b"fine")
    assert answer_to(calls, ServiceReturned(theirs.call, b"")) == []
    assert len(answer_to(calls, ServiceReturned(others.call, b""))) == 1


@pytest.mark.parametrize(
    ("fault", "late"), [(ServiceFault.REFUSED, False), (ServiceFault.BUSY, True), (ServiceFault.FAILED, True)]
)
def test_who_was_too_late_may_say_so_before_our_alarm(fault, late):
    assert came_too_late(fault, 0) is late
    assert not came_too_late(fault, 1)
