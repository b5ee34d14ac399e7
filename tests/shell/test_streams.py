"""Streams are read from their beginning, by one reader at a time, and end when nobody will come for them."""

import asyncio
from dataclasses import replace

import pytest

from shoal_agent.core.effects import Accept, Emit, Finish, Reject
from shoal_agent.core.events import CancelRequested, RequestArrived
from shoal_agent.core.facts import Claim, FinishReason, GenerationRequest, Piece, RejectCode, TextPrompt, Usage
from shoal_agent.shell import streams as module
from shoal_agent.shell.streams import Streams
from shoal_protocol.ids import DeploymentId, SessionId
from tests.support.toy import GREEDY

SESSION = SessionId(bytes(16))
CLAIM = Claim(bytes(32), bytes(32))
REQUEST = GenerationRequest(SESSION, DeploymentId("toy"), TextPrompt("x"), GREEDY, 4, (), 30.0, CLAIM)
ACCEPT = Accept(SESSION, 1)
WELL = Finish(SESSION, FinishReason.STOP, "", Usage(1, 3), "")


def emit(token):
    return Emit(SESSION, Piece(token, "x", None))


class Node:
    """Takes down what it is asked."""

    def __init__(self):
        self.seen = []
        self.streams = Streams(self.seen.append)

    def read(self, request=REQUEST, *, lingers=True):
        return self.streams.read(request, lingers=lingers)

    def say(self, *answers):
        for answer in answers:
            self.streams.answer(answer)


@pytest.fixture
async def node(monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 0.05)
    return Node()


async def begun(node, *answers, lingers=True):
    reader = node.read(lingers=lingers)
    first = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    node.say(ACCEPT, *answers)
    assert await first == ACCEPT
    return reader


async def test_who_comes_back_reads_everything_once_more_and_then_what_is_new(node):
    reader = await begun(node, emit(1))
    await reader.aclose()
    assert node.streams.read_count == 0
    node.say(emit(2))
    again = node.read()
    assert [await anext(again) for _ in range(3)] == [ACCEPT, emit(1), emit(2)]
    assert node.streams.read_count == 1
    node.say(emit(3), WELL)
    assert [answer async for answer in again] == [emit(3), WELL]
    assert [type(event) for event in node.seen] == [RequestArrived]


async def test_who_does_not_come_back_is_cancelled_after_a_while(node):
    await (await begun(node)).aclose()
    assert not any(isinstance(event, CancelRequested) for event in node.seen)
    await asyncio.sleep(0.1)
    assert node.seen[-1] == CancelRequested(SESSION)


async def test_who_did_not_say_so_is_cancelled_at_once(node):
    await (await begun(node, lingers=False)).aclose()
    assert node.seen[-1] == CancelRequested(SESSION)


async def test_the_end_can_be_heard_again(node):
    reader = await begun(node, WELL)
    assert [answer async for answer in reader] == [WELL]
    assert [answer async for answer in node.read()] == [ACCEPT, WELL]
    await asyncio.sleep(0.1)
    assert node.seen == [RequestArrived(REQUEST)]
    again = node.read()
    waiting = asyncio.ensure_future(anext(again))
    await asyncio.sleep(0)
    assert node.seen == [RequestArrived(REQUEST)] * 2, "it is forgotten"
    waiting.cancel()


@pytest.mark.parametrize(
    "end",
    [
        Finish(SESSION, FinishReason.FAILED, "", Usage(1, 0), "elsewhere"),
        Reject(SESSION, RejectCode.OVERLOADED, "full", 1.0),
    ],
)
async def test_a_bad_end_is_not_kept(node, end):
    reader = node.read()
    node.say()
    task = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    node.say(end)
    assert await task == end
    assert [answer async for answer in reader] == []
    assert not node.streams._streams


async def test_an_old_connection_is_shown_nothing_more(node):
    old = await begun(node)
    waiting = asyncio.ensure_future(anext(old, None))
    await asyncio.sleep(0)
    new = node.read()
    assert await anext(new) == ACCEPT
    node.say(emit(1))
    assert await waiting is None
    assert await anext(new) == emit(1)
    assert node.streams.read_count == 1
    assert len(node.seen) == 1
    await new.aclose()


async def test_another_wish_under_the_same_name_is_refused(node):
    reader = await begun(node)
    other = replace(REQUEST, claim=replace(CLAIM, intent=bytes([1]) * 32))
    (refusal,) = [answer async for answer in node.read(other)]
    assert refusal.code is RejectCode.CONFLICT
    node.say(WELL)
    assert await anext(reader) == WELL
    await reader.aclose()


async def test_no_more_linger_than_there_is_room_for(node, monkeypatch):
    monkeypatch.setattr(module, "LINGERING_MAX", 2)
    for number in range(4):
        session = SessionId(bytes([number]) * 16)
        reader = node.read(replace(REQUEST, session=session))
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        node.say(Accept(session, 1))
        await waiting
        await reader.aclose()
    gone = [event.session[0] for event in node.seen if isinstance(event, CancelRequested)]
    assert gone == [0, 1]


async def test_what_nobody_asked_for_is_dropped(node):
    node.say(ACCEPT)
    assert node.streams.read_count == 0
