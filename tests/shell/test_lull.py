"""What comes together is read together, nothing waits longer than a lull, and nobody in a hurry waits at all."""

import asyncio
import socket
import time

import pytest

from shoal_agent.shell import lull as lull_module
from shoal_agent.shell.lull import LULL_S, SIPS_MAX, Lull

SOON_S = 5.0


class Reader:
    """A lull on one end of a pair; ``taken`` are the bytes read one by one, with their times."""

    def __init__(self):
        self.source, self.far = socket.socketpair()
        self.source.setblocking(False)
        self.taken = []
        self.bell = asyncio.Event()
        self.lull = Lull(self.source, self.read)

    def read(self):
        data = self.source.recv(1)
        if data:
            self.taken.append((data, time.monotonic()))
        else:
            asyncio.get_running_loop().remove_reader(self.source.fileno())
            self.source.close()
        self.bell.set()

    async def until(self, count):
        async with asyncio.timeout(SOON_S):
            while len(self.taken) < count:
                self.bell.clear()
                await self.bell.wait()
        return self.taken[count - 1][1]


@pytest.fixture
async def reader():
    made = Reader()
    yield made
    made.lull.end()
    if made.source.fileno() >= 0:
        asyncio.get_running_loop().remove_reader(made.source)
    made.source.close()
    made.far.close()


async def test_what_lies_there_is_read_in_one_turn(reader):
    reader.far.send(b"abc")
    await reader.until(1)
    assert [data for data, _ in reader.taken] == [b"a", b"b", b"c"]


async def test_the_first_after_a_silence_is_read_at_once_and_the_next_after_the_lull(reader):
    reader.far.send(b"a")
    first = await reader.until(1)
    reader.far.send(b"b")
    second = await reader.until(2)
    assert second - first >= LULL_S * 0.9
    await asyncio.sleep(2 * LULL_S)
    sent = time.monotonic()
    reader.far.send(b"c")
    assert await reader.until(3) - sent < LULL_S


async def test_nobody_in_a_hurry_waits(reader, monkeypatch):
    monkeypatch.setattr(lull_module, "LULL_S", 10 * SOON_S)
    reader.far.send(b"a")
    await reader.until(1)
    with reader.lull.hurry():
        for count in range(2, 6):
            reader.far.send(b"b")
            await reader.until(count)
        # Looking, not resting, when the hurry ends: the next sip ends it.
    reader.far.send(b"c")
    await reader.until(6)
    reader.far.send(b"d")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.until(7)
    reader.lull.end()
    await reader.until(7)


async def test_a_flood_leaves_turns_to_others(reader):
    reader.far.send(bytes(3 * SIPS_MAX))
    counts = []
    while len(reader.taken) < 3 * SIPS_MAX:
        await asyncio.sleep(0)
        counts.append(len(reader.taken))
    assert {SIPS_MAX, 2 * SIPS_MAX} <= set(counts)


async def test_a_socket_that_its_reader_closed_is_left_alone(reader):
    reader.far.close()
    async with asyncio.timeout(SOON_S):
        await reader.bell.wait()
    with reader.lull.hurry():
        pass
    await asyncio.sleep(2 * LULL_S)
    assert reader.source.fileno() < 0
