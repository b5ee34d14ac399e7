"""What comes together is read together, nothing waits longer than a lull, and nobody in a hurry waits at all."""

import asyncio
import contextlib
import socket
import time

import pytest

from shoal_agent.shell import lull as lull_module
from shoal_agent.shell.lull import LULL_S, SIPS_MAX, Lull

SOON_S = 5.0


class Reader:
    """One end of a pair, read within ``lull``; ``taken`` are the bytes read one by one, with their times.

    ``hidden`` more pieces come with the next byte, though the socket does not show them, as with TLS.
    """

    def __init__(self, lull):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.taken = []
        self.hidden = 0
        self.bell = asyncio.Event()
        self.source = lull.join(self.near, self.read)

    def read(self):
        try:
            data = self.near.recv(1)
        except BlockingIOError:
            if not self.hidden or not self.taken:
                return False
            self.hidden -= 1
            data = b"-"
        if data:
            self.taken.append((data, time.monotonic()))
        else:
            self.close()
        self.bell.set()
        return True

    def end(self):
        source, self.source = self.source, None
        if source is not None:
            source.end()

    def close(self):
        if self.near.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.near)
        self.near.close()

    async def until(self, count):
        async with asyncio.timeout(SOON_S):
            while len(self.taken) < count:
                self.bell.clear()
                await self.bell.wait()
        return self.taken[count - 1][1]


@pytest.fixture
async def lull():
    return Lull()


@pytest.fixture
async def readers(lull):
    made = [Reader(lull), Reader(lull)]
    yield made
    for each in made:
        each.end()
        each.close()
        each.far.close()


async def test_what_lies_there_is_read_in_one_turn(readers):
    reader, other = readers
    reader.far.send(b"abc")
    other.far.send(b"de")
    await reader.until(1)
    assert [data for data, _ in reader.taken] == [b"a", b"b", b"c"]
    assert [data for data, _ in other.taken] == [b"d", b"e"], "all sockets in one sip"


async def test_the_first_after_a_silence_is_read_at_once_and_the_next_after_the_lull(readers):
    reader, other = readers
    reader.far.send(b"a")
    first = await reader.until(1)
    other.far.send(b"b")
    second = await other.until(1)
    assert second - first >= LULL_S * 0.9, "they rest together"
    await asyncio.sleep(3 * LULL_S)
    sent = time.monotonic()
    reader.far.send(b"c")
    assert await reader.until(2) - sent < LULL_S / 2


async def test_nobody_in_a_hurry_waits_and_the_others_rest(readers, monkeypatch):
    monkeypatch.setattr(lull_module, "LULL_S", 10 * SOON_S)
    reader, other = readers
    reader.far.send(b"a")
    await reader.until(1)
    other.far.send(b"x")
    with reader.source.hurry():
        for count in range(2, 6):
            reader.far.send(b"b")
            await reader.until(count)
    reader.far.send(b"c")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.until(6)
    assert other.taken == []
    reader.end()
    await reader.until(6)
    reader.far.send(b"d")
    await reader.until(7)


async def test_a_hurry_while_nobody_rests_leaves_everybody_looking(lull, readers):
    reader, other = readers
    with reader.source.hurry():
        reader.far.send(b"a")
        await reader.until(1)
        assert not lull.resting, "its own haste makes nobody rest"
    other.far.send(b"b")
    await other.until(1)
    assert lull.resting


async def test_a_flood_leaves_turns_to_others_and_has_no_lulls(readers, monkeypatch):
    monkeypatch.setattr(lull_module, "LULL_S", 10 * SOON_S)
    reader, _ = readers
    reader.far.send(bytes(3 * SIPS_MAX))
    counts = []
    while len(reader.taken) < 3 * SIPS_MAX:
        await asyncio.sleep(0)
        counts.append(len(reader.taken))
    assert {SIPS_MAX, 2 * SIPS_MAX} <= set(counts)


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_the_socket_does_not_show_is_read_too(readers, hurried, monkeypatch):
    monkeypatch.setattr(lull_module, "LULL_S", 10 * SOON_S)
    reader, _ = readers
    with reader.source.hurry() if hurried else contextlib.nullcontext():
        reader.hidden = 3 * SIPS_MAX
        reader.far.send(b"a")
        await reader.until(1 + 3 * SIPS_MAX)


async def test_a_socket_that_its_reader_closed_is_left_alone(readers):
    reader, other = readers
    reader.far.close()
    async with asyncio.timeout(SOON_S):
        await reader.bell.wait()
    with reader.source.hurry():
        pass
    other.far.send(b"a")
    await other.until(1)
    await asyncio.sleep(3 * LULL_S)
    assert reader.near.fileno() < 0


async def test_who_left_is_read_without_lulls_and_does_not_disturb_the_others(lull, readers):
    reader, other = readers
    reader.end()
    for count in range(1, 4):
        reader.far.send(b"a")
        await reader.until(count)
    assert not lull.resting
    other.far.send(b"b")
    await other.until(1)
    assert lull.resting
