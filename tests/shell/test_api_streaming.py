import asyncio
import json

import pytest

from shoal_agent.shell.api import streaming
from shoal_agent.shell.api.streaming import DONE, ClientGone, EventStream, event, unless_gone


class Wire:
    """The two ends of an ASGI connection: what was sent, and a client that may leave."""

    def __init__(self):
        self.sent = []
        self.left = asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)


class Source:
    """A generator that tells whether it was closed; it gives ``count`` events and then waits."""

    def __init__(self, count):
        self.count = count
        self.given = asyncio.Event()
        self.closed = False
        self.events = self._events()

    async def _events(self):
        try:
            for number in range(self.count):
                yield event({"n": number})
            self.given.set()
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def ends(*chunks):
    for chunk in chunks:
        yield chunk


def test_an_event_is_one_line_of_json():
    raw = event({"text": "a\nb\r\n\u2028é"})
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    assert raw.count(b"\n") == 2
    assert json.loads(raw[6:]) == {"text": "a\nb\r\n\u2028é"}


async def test_a_stream_is_sent_event_by_event_and_ended():
    wire = Wire()
    await EventStream(ends(b"one", DONE), ends(), resumable=False)({}, wire.receive, wire.send)
    start, *bodies = wire.sent
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert [(message["body"], message["more_body"]) for message in bodies] == [
        (b"one", True),
        (DONE, True),
        (b"", False),
    ]


async def test_a_client_that_leaves_closes_the_source_at_once():
    wire, source = Wire(), Source(3)
    serving = asyncio.create_task(EventStream(source.events, ends(), resumable=False)({}, wire.receive, wire.send))
    await asyncio.wait_for(source.given.wait(), 5)
    wire.left.set()
    await asyncio.wait_for(serving, 5)
    assert source.closed
    assert wire.body.count(b"data:") == 3


async def test_a_client_that_left_before_the_first_event_closes_what_was_already_begun():
    wire, source = Wire(), Source(1)
    await anext(source.events)
    wire.left.set()

    async def never(message):
        await asyncio.Event().wait()

    await asyncio.wait_for(EventStream(ends(b"x"), source.events, resumable=False)({}, wire.receive, never), 5)
    assert source.closed


async def test_a_client_that_reads_nothing_is_gone_too(monkeypatch):
    monkeypatch.setattr(streaming, "API_SEND_S_MAX", 0.02)
    wire, source = Wire(), Source(3)

    async def stuck(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await asyncio.wait_for(EventStream(source.events, ends(), resumable=False)({}, wire.receive, stuck), 5)
    assert source.closed


async def test_a_fault_of_ours_is_not_hidden():
    wire = Wire()

    async def broken():
        yield b"one"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await EventStream(broken(), ends(), resumable=False)({}, wire.receive, wire.send)


async def test_work_goes_on_while_the_client_stays():
    wire = Wire()

    async def work():
        await asyncio.sleep(0)
        return 5

    assert await unless_gone(wire.receive, work()) == 5


async def test_work_is_cancelled_when_the_client_leaves():
    wire = Wire()
    cancelled = asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    wire.left.set()
    with pytest.raises(ClientGone):
        await unless_gone(wire.receive, work())
    assert cancelled.is_set()


async def test_nothing_is_left_behind_when_we_are_cancelled_ourselves():
    wire, source = Wire(), Source(0)
    serving = asyncio.create_task(EventStream(source.events, ends(), resumable=False)({}, wire.receive, wire.send))
    await asyncio.wait_for(source.given.wait(), 5)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert source.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
