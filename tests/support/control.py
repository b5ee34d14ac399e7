"""A control plane that runs, what it posted and counted; and brokers that misbehave."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import aiomqtt
import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import EnvelopeReceived, Event
from shoal_agent.shell.broker import RunningBroker
from shoal_agent.shell.certificates import Purpose, issue, make_ca
from shoal_agent.shell.mqtt import Filters, MqttControlPlane, Will
from shoal_agent.shell.mqtt_address import BrokerAddress

EVENT_S_MAX: Final = 15.0
SUBSCRIBE: Final = 0x82
CONNECT: Final = 0x10


class Soonest(Random):
    """Draws the lower end: tries again at once."""

    def uniform(self, a: float, b: float) -> float:
        return a


def address_of(broker: RunningBroker) -> BrokerAddress:
    return BrokerAddress(broker.url, "127.0.0.1", broker.port, None)


def retained(topic: str, wire: bytes, expiry_s: int = 60) -> Broadcast:
    return Broadcast(topic, wire, retain=True, at_least_once=True, expiry_s=expiry_s)


def passing(topic: str, wire: bytes) -> Broadcast:
    return Broadcast(topic, wire, retain=False, at_least_once=False, expiry_s=60)


@dataclass
class Member:
    """One client of all brokers: its events in order, and a bell that rings for each."""

    plane: MqttControlPlane = field(init=False)
    events: list[Event] = field(default_factory=list)
    counted: list[tuple[str, str]] = field(default_factory=list)
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, event: Event) -> None:
        self.events.append(event)
        self.bell.set()

    def count(self, name: str, label: str) -> None:
        self.counted.append((name, label))
        self.bell.set()

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def wires(self, broker: str | None = None) -> list[bytes]:
        return [e.wire for e in self.of(EnvelopeReceived) if broker is None or e.broker == broker]

    async def until(self, holds: Callable[[], object]) -> None:
        """Returns once ``holds()`` is true, looked at after each event."""
        async with asyncio.timeout(EVENT_S_MAX):
            while not holds():
                self.bell.clear()
                await self.bell.wait()

    async def until_count(self, kind: type, count: int = 1) -> list[Event]:
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


@contextlib.asynccontextmanager
async def member(
    name: str,
    brokers: Sequence[BrokerAddress],
    filters: Sequence[str] = ("t/#",),
    will: Will | None = None,
    rng: Random | None = None,
    filters_of: Filters | None = None,
) -> AsyncIterator[Member]:
    """A control plane for the time of the block; afterwards nothing of it is left."""
    made = Member()
    made.plane = MqttControlPlane(name, brokers, filters, will, made.post, made.count, rng or Random(7), filters_of)
    running = asyncio.create_task(made.plane.run())
    try:
        yield made
        assert not running.done(), "the control plane lives through everything a broker does"
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class Clients(list[aiomqtt.Client]):
    """Every client that was made, in order, and a bell that rings for each."""

    def __init__(self) -> None:
        super().__init__()
        self.bell = asyncio.Event()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(EVENT_S_MAX):
            while len(self) < count:
                self.bell.clear()
                await self.bell.wait()


def note_clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    made = Clients()

    class Noted(aiomqtt.Client):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)
            made.bell.set()

    monkeypatch.setattr(aiomqtt, "Client", Noted)
    return made


def break_connection(client: aiomqtt.Client) -> None:
    """As a network does: without a word."""
    client._client.socket().shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def frozen(broker: RunningBroker) -> Iterator[None]:
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Tls:
    """The two ends of connections to 127.0.0.1."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def tls_in(folder: Path) -> Tls:
    """Certificates of an authority that was made for this, in ``folder``."""
    authority = make_ca("authority")
    certificate, key = folder / "server.crt", folder / "server.key"
    issue(authority, "server", ["127.0.0.1"], Purpose.SERVER).write(certificate, key)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return Tls(server, ssl.create_default_context(cadata=authority.certificate_pem.decode()))


@contextlib.asynccontextmanager
async def odd_broker(
    connack: bytes | None, suback_code: int | None = 0, farewell: bytes = b"", tls: Tls | None = None
) -> AsyncIterator[BrokerAddress]:
    """A broker that answers CONNECT with ``connack`` (None: never) and every subscription with ``suback_code``.

    After the subscription it says ``farewell``. With no code for it, it hangs up instead.
    """
    met: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                kind, length = await reader.readexactly(2)
                body = await reader.readexactly(length)
                if kind == CONNECT and connack is not None:
                    writer.write(connack)
                elif kind == SUBSCRIBE and suback_code is None:
                    writer.transport.abort()
                elif kind == SUBSCRIBE:
                    writer.write(bytes([0x90, 4]) + body[:2] + bytes([0, suback_code]) + farewell)

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls and tls.server)
    port = server.sockets[0].getsockname()[1]
    try:
        yield BrokerAddress(f"mqtt://127.0.0.1:{port}", "127.0.0.1", port, tls and tls.client)
    finally:
        server.close()
        for writer in met:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await server.wait_closed()
