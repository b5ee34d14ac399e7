"""Two ends of a circuit and whatever a test lets through between them."""

import asyncio
from collections.abc import Callable

import pytest

from shoal_agent.shell import circuit as module
from shoal_agent.shell.circuit import ACK_S, Circuit
from shoal_agent.shell.circuit_window import WAIT_S_MIN
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import RELAY_WINDOW_BYTES_MAX
from shoal_protocol.relay import BODY_BYTES_MAX, CircuitBox, RelayKind, circuit_of, decode_ack, kind_of

NAME = b"c" * 16
KEYS = (b"1" * 32, b"2" * 32)
PEER = NodeId("a" * 32)
WAIT_S = 10.0


class Reader:
    """What a link is to its wire."""

    def __init__(self) -> None:
        self.data = b""
        self.told: list[str] = []
        self.changed = asyncio.Event()

    def _tell(self, word: str) -> None:
        self.told.append(word)
        self.changed.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def pause_writing(self) -> None:
        self._tell("full")

    def resume_writing(self) -> None:
        self._tell("room")

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell("lost" if exc is None else f"lost: {exc}")

    def misbehave(self, fault: str, detail: str) -> None:
        self._tell(f"{fault}: {detail}")

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class End:
    """One end; ``said`` keeps its messages, ``passes`` decides which reach the other."""

    def __init__(self, ours: bytes, theirs: bytes) -> None:
        self.reader = Reader()
        self.said: list[tuple[bytes, bool]] = []
        self.passes: Callable[[bytes], bool] = lambda _: True
        self.over = 0
        self.other: End | None = None
        self.circuit = Circuit(PEER, self.reader, CircuitBox(NAME, ours, theirs), self.say, self.ended)
        self.circuit.set_write_buffer_limits(1 << 20)

    def say(self, message: bytes, *, in_vain: bool = False) -> None:
        assert circuit_of(message) == NAME
        self.said.append((message, in_vain))
        if self.other is not None and self.passes(message):
            there = self.other.circuit
            asyncio.get_running_loop().call_soon(lambda: there.received(*there.open(message)))

    def ended(self, circuit: Circuit) -> None:
        assert circuit is self.circuit
        self.over += 1

    def kinds(self) -> list[RelayKind]:
        return [kind_of(message) for message, _ in self.said]


@pytest.fixture
async def ends() -> tuple[End, End]:
    here, there = End(*KEYS), End(*reversed(KEYS))
    here.other, there.other = there, here
    return here, there


async def test_what_is_written_in_one_turn_leaves_together(ends):
    here, there = ends
    for part in (b"a", memoryview(b"bc"), b"d" * 1000):
        here.circuit.write(part)
    await there.reader.until(lambda: len(there.reader.data) == 1003)
    assert there.reader.data == b"abc" + b"d" * 1000
    assert here.kinds() == [RelayKind.DATA]
    await here.reader.until(lambda: here.circuit.drained) if here.circuit.drained else await asyncio.sleep(2 * ACK_S)
    assert there.kinds() == [RelayKind.ACK]
    assert here.circuit.drained


async def test_much_is_cut_into_equal_messages_and_waits_for_the_window(ends):
    here, there = ends
    here.circuit.set_write_buffer_limits(1000)
    data = bytes(range(256)) * 8000
    here.circuit.write(data)
    assert here.reader.told == ["full"]
    await there.reader.until(lambda: len(there.reader.data) == len(data))
    assert there.reader.data == data
    await here.reader.until(lambda: here.reader.told == ["full", "room"])
    sizes = [len(message) for message, _ in here.said]
    assert max(sizes) - min(sizes) < 100
    assert len(sizes) == -(-len(data) // BODY_BYTES_MAX)


async def test_a_full_window_lets_nothing_out_until_something_is_acknowledged(ends):
    here, there = ends
    there.passes = lambda _: False
    here.circuit.write(bytes(3 * RELAY_WINDOW_BYTES_MAX))
    await there.reader.until(lambda: there.reader.data)
    await asyncio.sleep(3 * ACK_S)
    first_copies = {message for message, _ in here.said}
    assert sum(map(len, first_copies)) <= RELAY_WINDOW_BYTES_MAX
    there.passes = lambda _: True
    await there.reader.until(lambda: len(there.reader.data) == 3 * RELAY_WINDOW_BYTES_MAX)


async def test_what_is_not_acknowledged_is_said_again_elsewhere_and_taken_once(ends):
    here, there = ends
    here.passes = lambda _: len(here.said) > 1
    here.circuit.write(b"once")
    await there.reader.until(lambda: there.reader.data == b"once")
    assert [in_vain for _, in_vain in here.said] == [False, True]
    assert here.said[0][0] == here.said[1][0], "the same bytes: a copy says nothing new to anybody"
    there.circuit.received(*there.circuit.open(here.said[0][0]))
    assert there.reader.data == b"once"
    assert decode_ack(here.circuit.open(there.said[-1][0])[2]).following == 1, "a repetition is answered at once"


async def test_who_is_heard_meanwhile_is_not_given_up(ends):
    """Only a message was lost: the broker that brings the others is a good one."""
    here, there = ends
    here.passes = lambda _: len(here.said) > 1
    here.circuit.write(b"first")
    await asyncio.sleep(WAIT_S_MIN / 2)
    there.circuit.write(b"something")
    await there.reader.until(lambda: there.reader.data == b"first")
    assert [in_vain for message, in_vain in here.said if kind_of(message) is RelayKind.DATA] == [False, False]


async def test_who_closes_waits_until_everything_is_there(ends):
    here, there = ends
    here.circuit.write(b"the last words")
    here.circuit.close()
    await there.reader.until(lambda: there.reader.told)
    assert there.reader.data == b"the last words"
    assert there.reader.told == ["lost: the peer says: closed"]
    await here.reader.until(lambda: here.reader.told == ["lost"])
    assert (here.over, there.over) == (1, 1)


async def test_who_aborts_is_gone_at_once_and_says_nothing_afterwards(ends):
    here, there = ends
    here.circuit.write(b"never said")
    here.circuit.abort()
    here.circuit.abort()
    here.circuit.write(b"nor this")
    await there.reader.until(lambda: there.reader.told)
    assert here.kinds() == [RelayKind.CLOSE]
    assert there.reader.data == b""
    there.circuit.write(b"to nobody")
    await asyncio.sleep(0)
    assert there.said == []
    assert here.over == 1


async def test_timers_end_with_the_circuit(ends):
    here, there = ends
    there.passes = lambda _: False
    here.circuit.write(b"x")
    await there.reader.until(lambda: there.reader.data)
    there.circuit.abort()
    here.circuit.abort()
    said = len(here.said), len(there.said)
    await asyncio.sleep(WAIT_S_MIN + 0.1)
    assert (len(here.said), len(there.said)) == said


def test_a_piece_fits_into_a_message():
    assert module.PIECE_BYTES <= BODY_BYTES_MAX
