"""One link, at the hands of a peer that does not keep to the rules."""

import asyncio
import socket
import struct

import numpy as np
import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerMisbehaved
from shoal_agent.shell.faults import Fault
from shoal_agent.shell.link_ends import Pace
from shoal_protocol.frames import encode_frame
from shoal_protocol.headers import (
    Activation,
    CloseReason,
    CloseSession,
    Credit,
    Hello,
    Ping,
    Probe,
    ProbeAnswered,
    ServiceCall,
    SessionOpened,
)
from shoal_protocol.ids import DeploymentId, Epoch, Incarnation, SessionId
from shoal_protocol.limits import (
    CREDIT_BYTES,
    HEADER_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUE_FRAMES_MAX,
    URGENT_FRAMES_MAX,
)
from shoal_protocol.tensors import Dtype
from tests.support.links import answering, call, person, station, tls_of

SESSION = SessionId(b"s" * 16)
CLOSE = CloseSession(SESSION, CloseReason.FINISHED)
QUICK = Pace(hello_s=0.2, quiet_s=0.1, silence_s=0.3, tick_s=0.05)


def activation(width: int) -> Activation:
    return Activation(DeploymentId("llm"), Epoch(0), SESSION, 1, 0, 1, True, 1000, Dtype.F32, (1, 1, width))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2, 3)]


@pytest.fixture
def anna(people):
    return people[0]


@pytest.fixture
def bert(people):
    return people[1]


async def reject(here, peer, *, raw=b"", headers=(), hello=True):
    """Call ``here`` as ``peer``, say all that, and be hung up on; the reasons it was counted under."""
    async with call(here.endpoint, tls_of(peer, here.one).client) as stranger:
        if hello:
            stranger.hello(peer.node)
            await here.until(PeerConnected)
        for header in headers:
            stranger.say(header)
        stranger.writer.write(raw)
        await stranger.gone()
    events = await here.until(PeerMisbehaved)
    return [(event.peer, event.reason) for event in events]


def corrupt_header() -> bytes:
    frame = bytearray(encode_frame(CLOSE, None)[0])
    frame[-1] ^= 1
    return bytes(frame)


def oversized(header_bytes: int, payload_bytes: int) -> bytes:
    return struct.pack(">2sBBII", b"SH", 1, 5, header_bytes, payload_bytes) + b"\0" * 4


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (corrupt_header(), "malformed"),
        (b"GET / HTTP/1.1\r\nHost: shoal\r\n\r\n", "malformed"),
        (oversized(HEADER_BYTES_MAX + 1, 0), "oversized"),
        (oversized(10, PAYLOAD_BYTES_MAX + 1), "oversized"),
    ],
    ids=["corrupt header", "another protocol", "oversized header", "oversized payload"],
)
@pytest.mark.parametrize("hello", [True, False], ids=["after Hello", "at once"])
async def test_a_malformed_frame_ends_the_link_and_is_counted(anna, bert, raw, reason, hello):
    async with station(anna, bert) as here:
        assert await reject(here, bert, raw=raw, hello=hello) == [(bert.node, reason)]
        assert here.plane.link_count == 0
        assert not here.of(FrameReceived)
        assert len(here.of(PeerLost)) == int(hello)


@pytest.mark.parametrize(
    ("hello", "headers", "reason"),
    [
        (False, [Hello(1, "z" * 32, Incarnation(1), 100)], Fault.HELLO),
        (False, [CLOSE], Fault.HELLO),
        (True, [Hello(1, "z" * 32, Incarnation(1), 100)], Fault.HELLO),
        (True, [Credit(1)], Fault.DIRECTION),
        (True, [ProbeAnswered(1)], Fault.DIRECTION),
    ],
    ids=["another's name", "no Hello first", "a second Hello", "credit from the sender", "an answer nobody asked for"],
)
async def test_what_no_correct_dialler_says_ends_the_link(anna, bert, hello, headers, reason):
    headers = [Hello(1, "y" * 32, Incarnation(1), 100) if isinstance(one, Hello) else one for one in headers]
    async with station(anna, bert) as here:
        assert await reject(here, bert, headers=headers, hello=hello) == [(bert.node, reason)]


async def test_hello_of_another_version_ends_the_link(anna, bert):
    async with station(anna, bert) as here:
        headers = [Hello(2, bert.node, Incarnation(1), 100)]
        assert await reject(here, bert, headers=headers, hello=False) == [(bert.node, Fault.HELLO)]


@pytest.mark.parametrize(
    ("header", "reason"),
    [(CLOSE, Fault.DIRECTION), (Probe(1), Fault.DIRECTION), (Credit(10**9), Fault.CREDIT)],
    ids=["a frame", "a probe", "credit never had"],
)
async def test_what_no_correct_answerer_says_ends_the_link(anna, bert, header, reason):
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await take_call()
        stranger.hello(bert.node)
        stranger.say(header)
        assert [(e.peer, e.reason) for e in await here.until(PeerMisbehaved)] == [(bert.node, reason)]
        assert [e.peer for e in await here.until(PeerLost)] == [bert.node]


async def test_sending_without_credit_ends_the_link(anna, bert):
    """The receiver consumes at once, so only a frame that never ends can overdraw: many large ones in one go."""
    async with station(anna, bert) as here:
        link_credit = CREDIT_BYTES
        async with call(here.endpoint, tls_of(bert, anna).client) as stranger:
            stranger.hello(bert.node)
            await stranger.hear(Hello)
            here.plane._incoming[bert.node, False]._receiving.receive(link_credit)
            stranger.say(CLOSE)
            await stranger.gone()
        assert [e.reason for e in await here.until(PeerMisbehaved)] == [Fault.CREDIT]


async def test_no_hello_in_time_ends_the_link(anna, bert):
    async with station(anna, bert, pace=QUICK) as here:
        assert await reject(here, bert, hello=False) == [(bert.node, Fault.HELLO)]
        assert not here.of(PeerLost), "a link that never stood cannot be lost"


async def test_a_sender_stops_at_the_window_and_goes_on_with_credit(anna, bert):
    head, _ = encode_frame(activation(100), b"\0" * 400)
    frame_bytes = len(head) + 400
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        for _ in range(10):
            handle = here.tensors.put(np.zeros((1, 1, 100), np.float32))
            here.plane.send(SendFrame(bert.node, activation(100), handle))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=4 * frame_bytes + 1)
        assert len(await stranger.hear(Activation, 4)) == 4
        assert here.plane._outgoing[bert.node, False]._sending.in_flight == 4 * frame_bytes
        assert len(here.plane._outgoing[bert.node, False]._queue) == 6
        assert len(here.tensors) == 0, "what waits belongs to the link, not to the table"
        stranger.say(Credit(2 * frame_bytes))
        assert len(await stranger.hear(Activation, 6)) == 6
        stranger.say(Credit(4 * frame_bytes))
        assert len(await stranger.hear(Activation, 10)) == 10
        assert not here.of(PeerLost)


async def test_a_frame_larger_than_the_window_asks_for_what_is_saved_up(anna, bert):
    """A quarter of the window may be consumed and not yet returned: without asking, this frame would never go."""
    patient = Pace(quiet_s=60.0, silence_s=120.0)
    async with station(anna, bert, pace=patient) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        handle = here.tensors.put(np.zeros((1, 1, 5000), np.float32))
        here.plane.send(SendFrame(bert.node, activation(5000), handle))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=10_000)
        await stranger.hear(CloseSession)
        await stranger.hear(Probe)
        assert not [frame for frame in stranger.frames if isinstance(frame.header, Activation)]
        stranger.say(Credit(len(encode_frame(CLOSE, None)[0])))
        await stranger.hear(Activation)


async def test_what_would_fit_does_not_overtake_what_waits(anna, bert):
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=10_000)
        await here.until(PeerConnected)
        for width in (1500, 1600, 10):
            handle = here.tensors.put(np.zeros((1, 1, width), np.float32))
            here.plane.send(SendFrame(bert.node, activation(width), handle))
        await stranger.hear(Activation)
        stranger.say(Credit(6000))
        assert [header.shape[2] for header in await stranger.hear(Activation, 3)] == [1500, 1600, 10]


async def test_a_ping_overtakes_what_waits_for_credit(anna, bert):
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        for _ in range(3):
            handle = here.tensors.put(np.zeros((1, 1, 1500), np.float32))
            here.plane.send(SendFrame(bert.node, activation(1500), handle))
        for nonce in range(2 * URGENT_FRAMES_MAX):
            here.plane.send(SendFrame(bert.node, Ping(nonce), None))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=10_000)
        pings = await stranger.hear(Ping, URGENT_FRAMES_MAX)
        assert pings[-1].nonce == 2 * URGENT_FRAMES_MAX - 1, "those dropped are the older ones"
        assert len([frame for frame in stranger.frames if isinstance(frame.header, Activation)]) <= 1
        assert here.plane._outgoing[bert.node, False]._sending.in_flight < 10_000, "a ping takes no credit"


async def test_a_larger_grant_than_ours_is_not_used(anna, bert):
    """What is in flight is in somebody's memory, and it might be ours."""
    width = CREDIT_BYTES // 4 // 4 - 100
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        for _ in range(6):
            handle = here.tensors.put(np.zeros((1, 1, width), np.float32))
            here.plane.send(SendFrame(bert.node, activation(width), handle))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=2**32 - 1)
        await stranger.hear(Activation, 4)
        link = here.plane._outgoing[bert.node, False]
        assert (len(link._queue), link._rest) == (2, None)
        assert link._sending.in_flight <= CREDIT_BYTES


async def test_too_many_waiting_bytes_lose_the_link(anna, bert):
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        (await take_call()).hello(bert.node, credit_bytes=1)
        await here.until(PeerConnected)
        megabytes = np.zeros((1, 1, 1 << 20), np.float32)
        for _ in range(SEND_QUEUE_BYTES_MAX // megabytes.nbytes):
            here.plane.send(SendFrame(bert.node, activation(1 << 20), here.tensors.put(megabytes)))
        assert "too far behind" in (await here.until(PeerLost))[0].reason


async def test_too_many_waiting_frames_lose_the_link_once(anna, bert):
    async with station(anna, bert) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=1)
        await here.until(PeerConnected)
        for _ in range(SEND_QUEUE_FRAMES_MAX + 1):
            here.plane.send(SendFrame(bert.node, CLOSE, None))
        lost = await here.until(PeerLost)
        assert len(lost) == 1
        assert "too far behind" in lost[0].reason
        assert here.plane.link_count == 0


async def test_a_peer_that_reads_nothing_fills_no_memory_and_is_lost(anna, bert):
    """It grants a large window and then does not read: what waits stays where it is, as the node made it."""
    pace = Pace(quiet_s=0.2, silence_s=0.6, tick_s=0.05)
    async with station(anna, bert, pace=pace) as here, answering(tls_of(bert, anna).server) as (endpoint, take_call):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await take_call()
        stranger.hello(bert.node, credit_bytes=2**32 - 1)
        await here.until(PeerConnected)
        stranger.writer.transport.pause_reading()
        link = here.plane._outgoing[bert.node, False]
        for _ in range(8):
            handle = here.tensors.put(np.zeros((1, 1, 1 << 20), np.float32))
            here.plane.send(SendFrame(bert.node, activation(1 << 20), handle))
        assert link._sending.in_flight <= CREDIT_BYTES, "a larger grant than ours is not used"
        assert not link._writable
        assert link._transport.get_write_buffer_size() < 2 << 20
        assert "silent" in (await here.until(PeerLost))[0].reason


async def test_a_silent_peer_is_probed_and_lost(anna, bert):
    async with (
        station(anna, bert, pace=QUICK) as here,
        answering(tls_of(bert, anna).server) as (endpoint, take_call),
    ):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await take_call()
        stranger.hello(bert.node)
        probe = (await stranger.hear(Probe))[0]
        assert probe.nonce > 0
        lost = await here.until(PeerLost)
        assert [(e.peer, e.reason.split()[0]) for e in lost] == [(bert.node, "silent")]


async def test_a_peer_that_answers_probes_stays(anna, bert):
    async with (
        station(anna, bert, pace=QUICK) as here,
        answering(tls_of(bert, anna).server) as (endpoint, take_call),
    ):
        here.addresses[bert.node] = endpoint
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await take_call()
        stranger.hello(bert.node)
        for count in range(1, 6):
            probe = (await stranger.hear(Probe, count))[-1]
            stranger.say(ProbeAnswered(probe.nonce))
        assert not here.of(PeerLost)


async def test_a_dialler_that_falls_silent_is_lost(anna, bert):
    async with station(anna, bert, pace=QUICK) as here, call(here.endpoint, tls_of(bert, anna).client) as stranger:
        stranger.hello(bert.node)
        await here.until(PeerConnected)
        assert "silent" in (await here.until(PeerLost))[0].reason


async def test_a_probe_is_answered_after_everything_consumed_was_returned(anna, bert):
    async with station(anna, bert) as here, call(here.endpoint, tls_of(bert, anna).client) as stranger:
        stranger.hello(bert.node)
        stranger.say(CLOSE)
        stranger.say(Probe(7))
        assert await stranger.hear(ProbeAnswered) == [ProbeAnswered(7)]
        headers = [frame.header for frame in stranger.frames]
        assert headers[1:] == [Credit(len(encode_frame(CLOSE, None)[0])), ProbeAnswered(7)]


async def test_our_own_sleep_is_nobodys_silence(anna, bert):
    async with station(anna, bert, pace=QUICK) as here, call(here.endpoint, tls_of(bert, anna).client) as stranger:
        stranger.hello(bert.node)
        await here.until(PeerConnected)
        link = here.plane._incoming[bert.node, False]
        link._heard_at -= 10.0
        link.excuse(asyncio.get_running_loop().time())
        link.tick(asyncio.get_running_loop().time(), QUICK)
        assert not here.of(PeerLost)


async def test_a_call_to_the_wrong_end_is_our_own_mistake(anna, bert):
    async with station(anna, bert) as here, call(here.endpoint, tls_of(bert, anna).client) as stranger:
        stranger.hello(bert.node)
        await here.until(PeerConnected)
        with pytest.raises(AssertionError):
            here.plane._incoming[bert.node, False].send(CLOSE, None)


async def test_a_flood_of_probes_that_reads_no_answers_ends_the_link(anna, bert):
    async with station(anna, bert) as here, call(here.endpoint, tls_of(bert, anna).client) as stranger:
        stranger.hello(bert.node)
        await here.until(PeerConnected)
        # Small kernel buffers: what does not fit there is what would pile up in the process.
        here_socket = here.plane._incoming[bert.node, False]._transport.get_extra_info("socket")
        here_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stranger.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stranger.writer.transport.pause_reading()
        probes = b"".join(encode_frame(Probe(nonce), None)[0] for nonce in range(2000))
        while not here.of(PeerMisbehaved):
            stranger.writer.write(probes)
            await asyncio.sleep(0)
        assert [e.reason for e in here.of(PeerMisbehaved)] == [Fault.UNREAD]


@pytest.mark.parametrize("payload", [b"", b"request"])
async def test_small_payloads_arrive_as_bytes(anna, bert, payload):
    async with station(anna, bert) as here, call(here.endpoint, tls_of(bert, anna).client) as stranger:
        stranger.hello(bert.node)
        header = ServiceCall(1, "tokenizer:00", "encode", 100, 0) if payload else SessionOpened(SESSION, 0)
        stranger.say(header, payload or None)
        assert await here.until(FrameReceived) == [FrameReceived(bert.node, header, payload or None)]
