"""Relays between real processes, and what may come between any two of them: a wall, a broken wire, bad weather.

A partition is not a closed port: packets vanish, connections stay, nobody is told. So a relay behind the wall neither
passes bytes on nor tells either side that the other hung up; when the wall falls, both happen, as TCP would make them.
The wall may let one direction pass. A wire that breaks at one end is told to that end only: the other one's connection
stays open, and nothing ever comes through it.

Weather is what TCP makes of a bad link: bytes arrive late and in order. A lost packet is sent again after ``RETRY_S``,
twice that if it is lost again, and whatever comes after it waits; throughput is bounded by what may be under way.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

CHUNK_BYTES: Final = 64 * 1024
UNDER_WAY_MAX: Final = 64
"""Chunks on their way in one direction of one connection: 4 MB, a window as kernels have it."""
RETRY_S: Final = 0.2
"""The shortest time after which Linux sends again what was not acknowledged."""
RETRIES_MAX: Final = 5
Way = tuple[str, str]
"""Who speaks, and who should hear it."""
Bytes = asyncio.Queue[tuple[float, bytes]]
"""What is under way, and when it arrives."""


@dataclass(frozen=True)
class Weather:
    """A link on which everything takes ``delay_s`` longer, and this share of packets is lost."""

    delay_s: float = 0.0
    loss: float = 0.0


@dataclass(eq=False)
class Line:
    """One connection through a relay; ``writers`` lead to its two ends."""

    writers: dict[str, asyncio.StreamWriter]
    deaf: bool = False
    """It broke at one end: nothing passes any more, and the other end is not told."""


@dataclass
class Wall:
    """What is between whom. Names are whatever the relays call their ends."""

    _cut: set[Way] = field(default_factory=set)
    _weather: dict[frozenset[str], Weather] = field(default_factory=dict)
    _lines: list[Line] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _rng: Random = field(default_factory=lambda: Random(1))

    def part(self, *groups: Iterable[str]) -> None:
        """Cut every pair whose ends are in different groups; pairs with an end in no group stay as they are."""
        sides = [list(group) for group in groups]
        for index, side in enumerate(sides):
            for one, other in ((one, other) for rest in sides[index + 1 :] for one in side for other in rest):
                self._cut |= {(one, other), (other, one)}

    def mute(self, speaker: str, hearer: str) -> None:
        """What ``speaker`` says never reaches ``hearer``, who is still heard."""
        self._cut.add((speaker, hearer))

    def tear(self, told: str, other: str) -> None:
        """Every connection between the two breaks, which only ``told`` is told."""
        for line in self._lines:
            if {told, other} == {*line.writers}:
                line.deaf = True
                line.writers[told].transport.abort()

    def darken(self, one: str, other: str, weather: Weather) -> None:
        """From now on this is what the link between the two is like."""
        self._weather[frozenset((one, other))] = weather

    def fall(self) -> None:
        """Everybody hears everybody again, and the sky is clear."""
        self._cut.clear()
        self._weather.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def passable(self, way: Way) -> None:
        """Wait until nothing stands between the two in this direction."""
        while way in self._cut:
            await self._changed.wait()

    def lateness_s(self, way: Way) -> float:
        """How much longer than usual a chunk takes."""
        weather = self._weather.get(frozenset(way))
        if weather is None:
            return 0.0
        losses = 0
        while losses < RETRIES_MAX and self._rng.random() < weather.loss:
            losses += 1
        return weather.delay_s + RETRY_S * (2**losses - 1)

    @contextlib.contextmanager
    def lined(self, line: Line) -> Iterator[None]:
        """A connection exists for the time of the block."""
        self._lines.append(line)
        try:
            yield
        finally:
            self._lines.remove(line)


@dataclass(frozen=True)
class Relay:
    """Passes connections to (``host``, ``port``) on to (``target``, ``port``).

    ``ends`` names caller and called of a connection by the port it comes from; None: nobody knows it, it is refused.
    """

    wall: Wall
    host: str
    port: int
    target: str
    ends: Callable[[int], Way | None]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Relay for the time of the block; then every connection is gone."""
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, self.host, self.port)
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = self.ends(writer.get_extra_info("peername")[1])
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if ends is None:
                return
            caller, called = ends
            await self.wall.passable((caller, called))
            await self.wall.passable((called, caller))
            far_reader, far_writer = await asyncio.open_connection(self.target, self.port)
            line = Line({caller: writer, called: far_writer})
            with contextlib.closing(far_writer), self.wall.lined(line):
                await _first_of(
                    self._pass(line, reader, far_writer, (caller, called)),
                    self._pass(line, far_reader, writer, (called, caller)),
                )

    async def _pass(self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """One direction, to its end."""
        under_way: Bytes = asyncio.Queue(UNDER_WAY_MAX)
        await _first_of(self._take(reader, under_way, way), self._give(line, under_way, writer, way))

    async def _take(self, reader: asyncio.StreamReader, under_way: Bytes, way: Way) -> None:
        clock, data, at = asyncio.get_running_loop().time, b"first", 0.0
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            at = max(at, clock() + self.wall.lateness_s(way))
            await under_way.put((at, data))
        await asyncio.get_running_loop().create_future()  # what is under way arrives first

    async def _give(self, line: Line, under_way: Bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        """Until the end; that, too, is only heard when nothing stands between."""
        clock, data = asyncio.get_running_loop().time, b"first"
        while data:
            at, data = await under_way.get()
            if at > clock():
                await asyncio.sleep(at - clock())
            await self.wall.passable(way)
            if line.deaf:
                await asyncio.get_running_loop().create_future()  # the other end waits for ever
            writer.write(data)
            await writer.drain()


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of it until the first is done; the rest is given up."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
