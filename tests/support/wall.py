"""Relays between real processes, and a wall that can be put up between any two of them.

A partition is not a closed port: packets vanish, connections stay, nobody is told. So a relay behind the wall neither
passes bytes on nor tells either side that the other hung up; when the wall falls, both happen, as TCP would make them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
Pair = frozenset[str]


@dataclass
class Wall:
    """Which pairs cannot hear each other. Names are whatever the relays call their ends."""

    _cut: set[Pair] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def part(self, *groups: Iterable[str]) -> None:
        """Cut every pair whose ends are in different groups; pairs with an end in no group stay as they are."""
        sides = [list(group) for group in groups]
        self._cut |= {
            frozenset((one, other))
            for index, side in enumerate(sides)
            for rest in sides[index + 1 :]
            for one in side
            for other in rest
        }

    def fall(self) -> None:
        """Everybody hears everybody again."""
        self._cut.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def passable(self, pair: Pair) -> None:
        """Wait until nothing stands between the two."""
        while pair in self._cut:
            await self._changed.wait()


@dataclass(frozen=True)
class Relay:
    """Passes connections to (``host``, ``port``) on to (``target``, ``port``).

    ``ends`` names both ends of a connection by the port it comes from; None: nobody knows it, and it is refused.
    """

    wall: Wall
    host: str
    port: int
    target: str
    ends: Callable[[int], Pair | None]

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
        pair = self.ends(writer.get_extra_info("peername")[1])
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if pair is None:
                return
            await self.wall.passable(pair)
            far_reader, far_writer = await asyncio.open_connection(self.target, self.port)
            with contextlib.closing(far_writer):
                there = asyncio.create_task(self._pump(reader, far_writer, pair))
                back = asyncio.create_task(self._pump(far_reader, writer, pair))
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
                    await asyncio.gather(there, back, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: Pair) -> None:
        """One direction, to its end; the end, too, is only heard when nothing stands between."""
        data = b"first"
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            await self.wall.passable(pair)
            writer.write(data)
            await writer.drain()
