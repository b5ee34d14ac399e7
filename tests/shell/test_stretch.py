"""Rates within frames: by the clock of the test, and over a real link that a token bucket shapes."""

import asyncio
import contextlib
import time

import numpy as np
import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived
from shoal_agent.shell.stretch import BYTES_MIN, FRESH_S, KEPT, KNOWN, SPAN_S_MIN, Rates, Stretch
from shoal_protocol.headers import Activation
from shoal_protocol.ids import DeploymentId, Epoch, NodeId, SessionId
from shoal_protocol.messages import Endpoint
from shoal_protocol.tensors import Dtype
from tests.support.links import person, station

PEER = NodeId("a" * 32)
MB = 1_000_000
HONEST = 1.4
"""By what factor a rate may be wrong on a machine that does other things as well."""


def test_the_rate_is_that_within_a_frame():
    stretch = Stretch()
    assert stretch.came(16_000, 10.0, completed=False, midway=True) is None
    assert stretch.came(100_000, 10.01, completed=False, midway=True) is None
    assert stretch.came(100_000, 10.02, completed=True, midway=False) == pytest.approx(10 * MB)


def test_what_passes_between_two_frames_does_not_count():
    stretch = Stretch()
    stretch.came(16_000, 0.0, completed=False, midway=True)
    stretch.came(200_000, 0.1, completed=True, midway=False)
    assert stretch.came(1_000, 9.0, completed=False, midway=True) is None
    assert stretch.came(200_000, 9.1, completed=True, midway=True) == pytest.approx(2 * MB)
    assert stretch.came(200_000, 9.2, completed=True, midway=False) == pytest.approx(2 * MB), "and one more at once"


def test_a_frame_that_comes_at_once_or_is_short_tells_nothing():
    stretch = Stretch()
    assert stretch.came(10 * MB, 0.0, completed=True, midway=False) is None
    stretch.came(100, 1.0, completed=False, midway=True)
    assert stretch.came(BYTES_MIN - 1, 2.0, completed=True, midway=False) is None


def test_no_rate_is_endless():
    stretch = Stretch()
    stretch.came(1, 1.0, completed=False, midway=True)
    assert stretch.came(BYTES_MIN, 1.0, completed=True, midway=False) == round(BYTES_MIN / SPAN_S_MIN)


def test_a_burst_and_a_pause_do_not_move_what_is_told():
    rates = Rates()
    for rate in (5 * MB, 400 * MB, 5 * MB, MB // 10, 5 * MB):
        rates.add(PEER, rate, 0.0)
    assert rates.told(1.0) == {PEER: 5 * MB}


def test_a_few_frames_are_not_enough_and_old_ones_are_forgotten():
    rates = Rates()
    for number in range(KNOWN):
        assert rates.told(0.0) == {}
        rates.add(PEER, MB, float(number))
    assert rates.told(float(KNOWN)) == {PEER: MB}
    for _ in range(KEPT):
        rates.add(PEER, 2 * MB, 10.0)
    assert rates.told(10.0) == {PEER: 2 * MB}
    assert rates.told(11.0 + FRESH_S) == {}


@contextlib.asynccontextmanager
async def shaped(target, bytes_per_s):
    """A way to ``target`` that lets so much through, in small pieces, one way; the other way all."""

    async def carry(reader, writer, rate):
        begun, passed = time.monotonic(), 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(8 * 1024):
                if passed / rate < time.monotonic() - begun - 0.05:  # an idle bucket holds little
                    begun, passed = time.monotonic(), 0
                passed += len(data)
                await asyncio.sleep(max(0.0, begun + passed / rate - time.monotonic()))
                writer.write(data)
                await writer.drain()

    async def on_call(reader, writer):
        there, back = await asyncio.open_connection(target.host, target.port)
        tasks = [asyncio.create_task(carry(reader, back, bytes_per_s)), asyncio.create_task(carry(there, writer, 1e9))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            back.close()
            writer.close()

    server = await asyncio.start_server(on_call, "127.0.0.1", 0)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("rate", [2 * MB, 16 * MB])
async def test_a_shaped_link_is_measured_by_what_flows_over_it(tmp_path, rate):
    anna, bert = (person(tmp_path, number) for number in (1, 2))
    session, model = SessionId(b"s" * 16), DeploymentId("llm")
    count, tokens = 5, max(64, rate // (512 * 4) // 16)
    async with station(anna, bert) as a, station(bert, anna) as b, shaped(b.endpoint, rate) as way:
        a.addresses[bert.node], b.addresses[anna.node] = way, a.endpoint
        for number in range(count):
            header = Activation(model, Epoch(0), session, 1, number, 1, True, 1000, Dtype.F32, (1, tokens, 512))
            a.plane.send(SendFrame(bert.node, header, a.tensors.put(np.zeros((1, tokens, 512), "<f4"))))
        await b.until(FrameReceived, count)
        ((peer, measured),) = b.plane.rates()
        assert peer == anna.node
        assert rate / HONEST <= measured <= rate * HONEST
        assert a.plane.rates() == (), "nothing large came back"
