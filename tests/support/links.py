"""Nodes with keys and a roster for tests of the data plane, and a peer that says what it likes."""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal_agent.core.events import Event
from shoal_agent.shell.certificates import Credentials, make_node_certificate
from shoal_agent.shell.dataplane import DataPlane
from shoal_agent.shell.link_ends import Pace
from shoal_agent.shell.ports import Relays
from shoal_agent.shell.sockets import listen
from shoal_agent.shell.tensors import Tensors
from shoal_agent.shell.tls import DataTls, data_tls
from shoal_protocol.frames import Frame, FrameReader, encode_frame
from shoal_protocol.headers import Header, Hello
from shoal_protocol.ids import ClusterId, Incarnation, NodeId, node_id_of
from shoal_protocol.messages import Endpoint
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer

NOW_S: Final = 1_700_000_000
EVENT_S_MAX: Final = 10.0


@dataclass(frozen=True)
class Person:
    """A node's identity and where its certificate and key lie."""

    node: NodeId
    sealer: Ed25519Sealer
    credentials: Credentials
    folder: Path

    @property
    def public_key(self) -> bytes:
        return self.sealer.public_key

    @property
    def certificate_file(self) -> Path:
        return self.folder / "data.crt"

    @property
    def key_file(self) -> Path:
        return self.folder / "data.key"


def person(folder: Path, number: int) -> Person:
    sealer = Ed25519Sealer(bytes([number]) * 32)
    node = node_id_of(sealer.public_key)
    made = Person(node, sealer, make_node_certificate(node), folder / f"{number}")
    made.folder.mkdir(parents=True)
    made.credentials.write(made.certificate_file, made.key_file)
    return made


def roster_of(*people: Person) -> TrustedRoster:
    root = Ed25519Sealer(bytes([200]) * 32)
    members = tuple(
        Member(one.node, one.public_key, (Role.AGENT,), "lab", one.credentials.certificate_der) for one in people
    )
    roster = Roster(ClusterId("0" * 32), 1, NOW_S + 1000, (root.public_key,), 1, members)
    return TrustedRoster.open(sign_roster(roster, [root]), [root.public_key], 1, NOW_S)


def tls_of(one: Person, *roster: Person) -> DataTls:
    return data_tls(one.node, one.certificate_file, one.key_file, roster_of(one, *roster))


@dataclass
class Station:
    """A running data plane: what it posted, in order, and a bell that rings for each event."""

    one: Person
    tensors: Tensors = field(default_factory=Tensors)
    events: list[Event] = field(default_factory=list)
    addresses: dict[NodeId, Endpoint] = field(default_factory=dict)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    plane: DataPlane = field(init=False)

    def post(self, event: Event) -> None:
        self.events.append(event)
        self.bell.set()

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type, count: int = 1) -> list[Event]:
        """The events of ``kind`` once there are ``count``."""
        async with asyncio.timeout(EVENT_S_MAX):
            while len(self.of(kind)) < count:
                self.bell.clear()
                await self.bell.wait()
        return self.of(kind)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.plane.port)


def station_at_rest(
    one: Person, *roster: Person, pace: Pace | None = None, relays: Relays | None = None, life: int = 1
) -> Station:
    """A data plane that nobody runs yet."""
    made = Station(one)
    made.plane = DataPlane(
        one.node,
        Incarnation(life),
        tls_of(one, *roster),
        listen("127.0.0.1", 0),
        made.tensors,
        made.addresses.get,
        made.post,
        pace,
        relays,
    )
    return made


@contextlib.asynccontextmanager
async def station(
    one: Person, *roster: Person, pace: Pace | None = None, relays: Relays | None = None, life: int = 1
) -> AsyncIterator[Station]:
    """A data plane that trusts ``roster``; afterwards nothing of it is left."""
    made = station_at_rest(one, *roster, pace=pace, relays=relays, life=life)
    running = asyncio.create_task(made.plane.run())
    await asyncio.sleep(0)  # a task that is cancelled before its first step would not close the listener
    try:
        yield made
        assert not running.done(), "the data plane lives through everything a peer does"
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class Stranger:
    """A peer that speaks TLS and frames, but decides itself what to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames: list[Frame] = []
        self._parser = FrameReader()

    def say(self, header: Header, payload: bytes | None = None) -> None:
        head, body = encode_frame(header, payload)
        self.writer.write(head + bytes(body or b""))

    def hello(self, node: NodeId, credit_bytes: int = 1 << 20, version: int = 1) -> None:
        self.say(Hello(version, node, Incarnation(1), credit_bytes))

    async def hear(self, kind: type, count: int = 1) -> list[Header]:
        """The headers of ``kind`` once there are ``count``; ConnectionError if the other side hangs up before."""
        async with asyncio.timeout(EVENT_S_MAX):
            while True:
                heard = [frame.header for frame in self.frames if isinstance(frame.header, kind)]
                if len(heard) >= count:
                    return heard
                data = await self.reader.read(1 << 16)
                if not data:
                    raise ConnectionError("hung up")
                self.frames += self._parser.feed(data)

    async def gone(self) -> None:
        """Returns when the other side has hung up."""
        async with asyncio.timeout(EVENT_S_MAX):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await self.reader.read(1 << 16):
                    pass

    def hang_up(self) -> None:
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def call(endpoint: Endpoint, context: ssl.SSLContext) -> AsyncIterator[Stranger]:
    """Connect as a stranger with ``context``."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, server_hostname="")
    made = Stranger(reader, writer)
    try:
        yield made
    finally:
        made.hang_up()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def answering(context: ssl.SSLContext) -> AsyncIterator[tuple[Endpoint, Callable[[], Awaitable[Stranger]]]]:
    """A stranger that is called: its address, and how to take the next call."""
    callers: asyncio.Queue[Stranger] = asyncio.Queue()
    met: list[Stranger] = []

    async def on_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(Stranger(reader, writer))
        callers.put_nowait(met[-1])

    async def take_call() -> Stranger:
        async with asyncio.timeout(EVENT_S_MAX):
            return await callers.get()

    server = await asyncio.start_server(on_call, "127.0.0.1", 0, ssl=context)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), take_call
    finally:
        server.close()
        for one in met:
            one.hang_up()
            with contextlib.suppress(OSError):
                await one.writer.wait_closed()
        await server.wait_closed()


def known(number: int, folder: Path) -> Person:
    """The person that another process made in ``folder``."""
    sealer = Ed25519Sealer(bytes([number]) * 32)
    credentials = Credentials((folder / "data.key").read_bytes(), (folder / "data.crt").read_bytes())
    return Person(node_id_of(sealer.public_key), sealer, credentials, folder)


async def serve(here: Person, peer: Person) -> None:
    """A data plane in a process of its own, to be killed: prints its port."""
    async with station(here, peer) as running:
        sys.stdout.write(f"{running.plane.port}\n")
        sys.stdout.flush()
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(serve(known(int(sys.argv[1]), Path(sys.argv[2])), known(int(sys.argv[3]), Path(sys.argv[4]))))
