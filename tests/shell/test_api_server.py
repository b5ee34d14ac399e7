import asyncio
import contextlib
import json
import signal

import pytest

from shoal_agent.shell.api import server as server_module
from shoal_agent.shell.api.app import build_app
from shoal_agent.shell.api.server import ApiServer
from shoal_agent.shell.sockets import listen
from shoal_protocol.limits import API_HEADERS_BYTES_MAX
from tests.support.twin import KEY, NAME, TwinIngress, twin_ports

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class Running:
    """A server in this loop, and raw connections to it."""

    def __init__(self):
        self.ingress = TwinIngress()
        self.server = ApiServer(build_app(twin_ports(self.ingress)), listen("127.0.0.1", 0))
        self.task = asyncio.create_task(self.server.run())
        self.writers = []

    async def connect(self):
        reader, writer = await asyncio.open_connection(*self.server.address, limit=2**22)
        self.writers.append(writer)
        return reader, writer

    async def end(self):
        for writer in self.writers:
            writer.close()
        self.server.stop()
        await asyncio.wait_for(self.task, 10)


@pytest.fixture
async def running():
    made = Running()
    yield made
    await made.end()


def chat(**fields):
    body = json.dumps({"model": NAME, "prompt": "x", "max_tokens": 3000, "stream": True} | fields).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def closed(reader):
    """What is still said before the connection ends."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), 5)
    return b""


async def test_it_answers_and_keeps_the_connection(running):
    reader, writer = await running.connect()
    for _ in range(2):
        writer.write(GET)
        assert (await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)).startswith(b"HTTP/1.1 200")


async def test_signals_stay_with_the_agent(running):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    reader, writer = await running.connect()
    writer.write(GET)
    await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_an_idle_server_sleeps_until_it_is_told_to_leave(monkeypatch):
    monkeypatch.setattr(server_module, "_DATE_S", 60.0)
    looked = []
    on_tick = server_module._TenantServer.on_tick
    monkeypatch.setattr(
        server_module._TenantServer, "on_tick", lambda self, count: looked.append(count) or on_tick(self, count)
    )
    running = Running()
    reader, writer = await running.connect()
    writer.write(GET)
    assert b"\r\ndate: " in await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)
    await running.end()
    assert len(looked) == 2, "when it began and when it was told"


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_client_that_does_not_send_its_headers_is_closed(running, monkeypatch, begun):
    monkeypatch.setattr(server_module, "API_HEADERS_S_MAX", 0.05)
    reader, writer = await running.connect()
    writer.write(begun)
    assert await closed(reader) == b""


async def test_a_client_that_begins_a_second_request_and_stalls_is_closed(running, monkeypatch):
    monkeypatch.setattr(server_module, "API_HEADERS_S_MAX", 0.05)
    reader, writer = await running.connect()
    writer.write(GET)
    await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)
    writer.write(b"GET /")
    assert await closed(reader) == b""


async def test_a_stream_may_take_longer_than_headers(running, monkeypatch):
    monkeypatch.setattr(server_module, "API_HEADERS_S_MAX", 0.05)
    reader, writer = await running.connect()
    writer.write(chat(max_tokens=1500))
    text = await asyncio.wait_for(reader.readuntil(b"[DONE]"), 20)
    assert text.count(b"data: ") > 500


async def test_headers_are_bounded(running):
    reader, writer = await running.connect()
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * (API_HEADERS_BYTES_MAX + 1))
    assert (await closed(reader)).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
async def test_what_is_no_http_is_refused_and_the_server_lives(running, junk):
    reader, writer = await running.connect()
    writer.write(junk + b"\r\n\r\n")
    assert (await closed(reader)).startswith(b"HTTP/1.1 400")
    reader, writer = await running.connect()
    writer.write(GET)
    assert await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)


async def test_connections_are_bounded(running, monkeypatch):
    monkeypatch.setattr(server_module, "API_CONNECTIONS_MAX", 2)
    connections = [await running.connect() for _ in range(2)]
    for reader, writer in connections:
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)
    reader, writer = await running.connect()
    assert await closed(reader) == b""
    connections[0][1].close()
    await connections[0][1].wait_closed()
    await asyncio.sleep(0)
    reader, writer = await running.connect()
    writer.write(GET)
    assert await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)


async def test_a_client_that_hangs_up_frees_its_generation(running):
    reader, writer = await running.connect()
    writer.write(chat())
    await asyncio.wait_for(reader.readuntil(b"data: "), 5)
    assert len(running.ingress.open) == 1
    writer.close()
    await asyncio.wait_for(running.ingress.cancelled.wait(), 5)
    assert running.ingress.open == {}


async def test_stopping_lets_a_stream_end_only_so_long(running):
    running.server._server.config.timeout_graceful_shutdown = 0.1
    _, writer = await running.connect()
    running.ingress.scripted = [[]]
    writer.write(chat())
    await asyncio.wait_for(running.ingress.arrived.wait(), 5)
    running.server.stop()
    await asyncio.wait_for(asyncio.shield(running.task), 10)
    await asyncio.wait_for(running.ingress.cancelled.wait(), 5)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*running.server.address)


async def test_who_connected_just_before_it_stops_is_answered_and_then_let_go(running):
    """The request was on its way; on a connection that was kept, it would be the client's to ask again."""
    reader, writer = await running.connect()
    kept_reader, kept_writer = await running.connect()
    kept_writer.write(GET)
    await asyncio.wait_for(kept_reader.readuntil(b"}"), 5)
    running.server.stop()
    assert await closed(kept_reader) == b""
    writer.write(GET)
    assert (await closed(reader)).startswith(b"HTTP/1.1 200")
    await asyncio.wait_for(running.task, 5)


async def test_who_connected_and_asks_nothing_holds_nobody_up(running, monkeypatch):
    monkeypatch.setattr(server_module, "_LAST_CALL_S", 0.05)
    reader, _ = await running.connect()
    await asyncio.sleep(0)
    running.server.stop()
    assert await closed(reader) == b""
    await asyncio.wait_for(running.task, server_module._STOP_S / 2)


async def test_a_server_that_is_cancelled_listens_no_more():
    running = Running()
    reader, writer = await running.connect()
    writer.write(GET)
    await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 5)
    address = running.server.address
    running.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running.task
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    writer.close()
