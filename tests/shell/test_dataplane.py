"""Two data planes with each other, and strangers at the door."""

import asyncio
import contextlib
import gc
import socket
import ssl
from pathlib import Path

import numpy as np
import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerMisbehaved
from shoal_agent.core.facts import LinkFault
from shoal_agent.shell import dataplane
from shoal_agent.shell.faults import Fault
from shoal_agent.shell.link_ends import Pace
from shoal_agent.shell.sockets import listen
from shoal_protocol.headers import Activation, CloseReason, CloseSession, Credit, Hello, OpenSession, Sampling
from shoal_protocol.ids import DeploymentId, Epoch, SessionId
from shoal_protocol.limits import CREDIT_BYTES
from shoal_protocol.messages import Endpoint
from shoal_protocol.tensors import Dtype
from tests.support.links import EVENT_S_MAX, answering, call, person, station, station_at_rest, tls_of

SESSION = SessionId(b"s" * 16)
LLM = DeploymentId("llm")
CLOSE = CloseSession(SESSION, CloseReason.FINISHED)
GREEDY = Sampling(0.0, 0, 1.0, 1.0, 0, -1)
QUICK = Pace(quiet_s=0.3, silence_s=1.5, tick_s=0.1)


def activation(position: int, tokens: int, width: int) -> Activation:
    return Activation(LLM, Epoch(3), SESSION, 1, position, tokens, True, 1000, Dtype.F32, (1, tokens, width))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2, 3)]


@pytest.fixture
def anna(people):
    return people[0]


@pytest.fixture
def bert(people):
    return people[1]


@contextlib.asynccontextmanager
async def pair(anna, bert, pace=None):
    async with station(anna, bert, pace=pace) as a, station(bert, anna, pace=pace) as b:
        a.addresses[bert.node] = b.endpoint
        b.addresses[anna.node] = a.endpoint
        yield a, b


async def test_a_tensor_that_the_node_keeps_is_sent_again(anna, bert):
    sent = np.arange(8, dtype="<f4").reshape(1, 1, 8)
    async with pair(anna, bert) as (a, b):
        handle = a.tensors.put(sent)
        for position in (0, 0, 1):
            a.plane.send(SendFrame(bert.node, activation(position, 1, 8), handle, keep=True))
        assert a.tensors.peek(handle) is sent
        a.plane.send(SendFrame(bert.node, activation(2, 1, 8), handle))
        assert len(a.tensors) == 0
        events = await b.until(FrameReceived, 4)
        assert all(bytes(b.tensors.take(event.payload)) == sent.tobytes() for event in events)


async def test_a_tensor_arrives_as_it_was_and_nothing_of_it_stays(anna, bert):
    async with pair(anna, bert) as (a, b):
        sent = np.random.default_rng(1).standard_normal((1, 7, 576)).astype(np.float32)
        header = activation(4, 7, 576)
        a.plane.send(SendFrame(bert.node, header, a.tensors.put(sent)))
        (event,) = await b.until(FrameReceived)
        assert (event.peer, event.header) == (anna.node, header)
        assert len(a.tensors) == 0
        got = b.tensors.take(event.payload)
        assert np.array_equal(np.frombuffer(got, np.float32).reshape(1, 7, 576), sent)
        assert got.readonly
        assert [e.peer for e in a.of(PeerConnected)] == [bert.node]
        assert [e.peer for e in b.of(PeerConnected)] == [anna.node]


async def test_small_payloads_and_none_keep_their_order(anna, bert):
    async with pair(anna, bert) as (a, b):
        ids = np.arange(5, dtype="<i8").tobytes()
        opening = OpenSession(LLM, Epoch(0), SESSION, 0, 64, 1000, GREEDY)
        a.plane.send(SendFrame(bert.node, opening, ids))
        for position in range(50):
            a.plane.send(SendFrame(bert.node, activation(position, 1, 8), a.tensors.put(np.zeros((1, 1, 8), "<f4"))))
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        events = await b.until(FrameReceived, 52)
        assert (events[0].header, events[0].payload) == (opening, ids)
        assert [e.header.position for e in events[1:-1]] == list(range(50))
        assert (events[-1].header, events[-1].payload) == (CLOSE, None)


async def test_more_than_the_window_and_larger_than_the_window_arrive(anna, bert):
    width = (CREDIT_BYTES // 4) + 1000
    async with pair(anna, bert) as (a, b):
        payload = np.arange(width, dtype="<f4").reshape(1, 1, width)
        for position in range(3):
            a.plane.send(SendFrame(bert.node, activation(position, 1, width), a.tensors.put(payload)))
        for position in range(3, 12):
            part = payload[:, :, : width // 5]
            a.plane.send(
                SendFrame(bert.node, activation(position, 1, width // 5), a.tensors.put(np.ascontiguousarray(part)))
            )
        events = await b.until(FrameReceived, 12)
        assert [e.header.position for e in events] == list(range(12))
        assert all(np.frombuffer(b.tensors.take(e.payload), "<f4")[-1] == e.header.shape[2] - 1 for e in events)
        link = a.plane._outgoing[bert.node, False]
        assert not link._queue
        assert link._rest is None


async def test_both_ways_are_two_connections(anna, bert):
    async with pair(anna, bert) as (a, b):
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        b.plane.send(SendFrame(anna.node, CLOSE, None))
        await a.until(FrameReceived)
        await b.until(FrameReceived)
        assert (a.plane.link_count, b.plane.link_count) == (2, 2)


async def test_nagle_is_off_at_both_ends(anna, bert):
    async with pair(anna, bert) as (a, b):
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        await b.until(FrameReceived)
        for link in (a.plane._outgoing[bert.node, False], b.plane._incoming[anna.node, False]):
            sock = link._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- links that end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["nobody listens", "none known", "no host", "no port"])
async def test_who_cannot_be_dialled_is_lost_once_and_its_frames_are_gone(anna, bert, address):
    with listen("127.0.0.1", 0) as unused:
        closed = unused.getsockname()[1]
    where = {
        "nobody listens": Endpoint("127.0.0.1", closed),
        "none known": None,
        "no host": Endpoint("x" * 300, 1),
        "no port": Endpoint("127.0.0.1", 70_000),
    }[address]
    async with station(anna, bert) as a:
        if where is not None:
            a.addresses[bert.node] = where
        for _ in range(3):
            a.plane.send(SendFrame(bert.node, activation(0, 1, 8), a.tensors.put(np.zeros((1, 1, 8), "<f4"))))
        (lost,) = await a.until(PeerLost)
        assert lost.peer == bert.node
        assert len(a.tensors) == 0
        assert a.plane.link_count == 0
        assert a.events == [lost]
        assert (lost.fault is LinkFault.REFUSED) is (address == "nobody listens")


async def test_after_a_loss_the_next_frame_dials_again(anna, bert):
    async with station(anna, bert) as a:
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        await a.until(PeerLost)
        async with station(bert, anna) as b:
            a.addresses[bert.node] = b.endpoint
            a.plane.send(SendFrame(bert.node, CLOSE, None))
            await b.until(FrameReceived)


async def test_a_peer_that_stops_in_order_is_lost_on_both_links(anna, bert):
    async with station(anna, bert) as a:
        async with station(bert, anna) as b:
            a.addresses[bert.node] = b.endpoint
            b.addresses[anna.node] = a.endpoint
            a.plane.send(SendFrame(bert.node, CLOSE, None))
            b.plane.send(SendFrame(anna.node, CLOSE, None))
            await a.until(FrameReceived)
            await b.until(FrameReceived)
        assert {e.peer for e in await a.until(PeerLost, 2)} == {bert.node}
        assert not b.of(PeerLost), "who goes by itself has lost nobody"
        assert a.plane.link_count == 0


async def test_what_was_sent_before_the_end_still_arrives(anna, bert):
    """More than the kernel holds for a reader that is late: the rest is in the process that is about to end."""
    async with answering(tls_of(bert, anna).server) as (endpoint, take_call):
        async with station(anna, bert) as a:
            a.addresses[bert.node] = endpoint
            a.plane.send(SendFrame(bert.node, CLOSE, None))
            stranger = await take_call()
            stranger.hello(bert.node)
            await a.until(PeerConnected)
            sending = a.plane._outgoing[bert.node, False]._transport.get_extra_info("socket")
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            stranger.writer.transport.pause_reading()
            for position in range(40):
                payload = a.tensors.put(np.zeros((1, 1, 2000), "<f4"))
                a.plane.send(SendFrame(bert.node, activation(position, 1, 2000), payload))
            stranger.writer.transport.resume_reading()
            hearing = asyncio.create_task(stranger.hear(Activation, 40))
        assert len(await hearing) == 40


async def test_a_second_call_replaces_the_first(anna, bert):
    async with station(anna, bert) as a, call(a.endpoint, tls_of(bert, anna).client) as first:
        first.hello(bert.node)
        await a.until(PeerConnected)
        async with call(a.endpoint, tls_of(bert, anna).client) as second:
            second.hello(bert.node)
            await first.gone()
            await a.until(PeerConnected, 2)
            assert [type(e) for e in a.events] == [PeerConnected, PeerLost, PeerConnected]
            assert a.plane.link_count == 1
            second.say(CLOSE)
            await a.until(FrameReceived)


# --- strangers --------------------------------------------------------------------------------------------------------


async def test_a_certificate_outside_the_roster_is_refused_and_counted(anna, bert, people):
    stranger = people[2]
    async with station(anna, bert) as a:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            async with call(a.endpoint, tls_of(stranger, anna).client) as caller:
                await caller.gone()
        assert await a.until(PeerMisbehaved) == [PeerMisbehaved(None, Fault.CERTIFICATE)]
        assert a.plane.link_count == 0


async def test_no_certificate_at_all_is_refused_and_counted(anna, bert):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    async with station(anna, bert) as a:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            async with call(a.endpoint, bare) as caller:
                await caller.gone()
        assert await a.until(PeerMisbehaved) == [PeerMisbehaved(None, Fault.CERTIFICATE)]


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "something else"])
async def test_who_does_not_speak_tls_is_counted(anna, bert, said):
    async with station(anna, bert) as a:
        _, writer = await asyncio.open_connection(a.endpoint.host, a.endpoint.port)
        writer.write(said)
        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert await a.until(PeerMisbehaved) == [PeerMisbehaved(None, Fault.HANDSHAKE)]


async def test_a_member_at_anothers_address_is_refused(anna, bert, people):
    third = people[2]
    async with station(anna, bert, third) as a, answering(tls_of(third, anna).server) as (endpoint, _):
        a.addresses[bert.node] = endpoint
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        assert await a.until(PeerMisbehaved) == [PeerMisbehaved(third.node, Fault.IDENTITY)]
        (lost,) = await a.until(PeerLost)
        assert lost.peer == bert.node


async def test_a_listener_outside_the_roster_is_refused(anna, bert, people):
    stranger = people[2]
    async with station(anna, bert) as a, answering(tls_of(stranger, anna).server) as (endpoint, _):
        a.addresses[bert.node] = endpoint
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        assert await a.until(PeerMisbehaved) == [PeerMisbehaved(None, Fault.CERTIFICATE)]
        assert [e.peer for e in await a.until(PeerLost)] == [bert.node]


async def test_a_right_certificate_with_anothers_name_is_refused(anna, bert, people):
    async with station(anna, bert) as a, call(a.endpoint, tls_of(bert, anna).client) as caller:
        caller.hello(people[2].node)
        await caller.gone()
        assert await a.until(PeerMisbehaved) == [PeerMisbehaved(bert.node, Fault.HELLO)]


async def test_handshakes_are_bounded_and_the_next_caller_is_still_heard(anna, bert, monkeypatch):
    monkeypatch.setattr(dataplane, "LINK_HANDSHAKES_MAX", 2)
    async with station(anna, bert) as a:
        idle = [await asyncio.open_connection(a.endpoint.host, a.endpoint.port) for _ in range(4)]
        surplus = [asyncio.create_task(reader.read()) for reader, _ in idle]
        done, pending = await asyncio.wait(surplus, timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, pending = await asyncio.wait(pending, timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert len(pending) == 2, "two are in the middle of a handshake, two were hung up on"
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*surplus, return_exceptions=True)
        await a.until(PeerMisbehaved, 2)
        async with call(a.endpoint, tls_of(bert, anna).client) as caller:
            caller.hello(bert.node)
            await a.until(PeerConnected)


async def test_the_agent_lives_through_a_crowd(anna, bert):
    """Everything at once, and an honest peer is served as if nothing were."""
    async with pair(anna, bert) as (a, b):
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        await b.until(FrameReceived)
        for said in (b"", b"\x16\x03\x01", b"SH\x01" + b"\xff" * 100):
            for _ in range(5):
                _, writer = await asyncio.open_connection(b.endpoint.host, b.endpoint.port)
                writer.write(said)
                writer.close()
        await b.until(PeerMisbehaved, 15)
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        await b.until(FrameReceived, 2)
        assert not b.of(PeerLost)


# --- the end ----------------------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left_behind(anna, bert):
    gc.collect()
    before = asyncio.all_tasks(), open_files()
    async with pair(anna, bert) as (a, b):
        port = a.plane.port
        a.plane.send(SendFrame(bert.node, CLOSE, None))
        b.plane.send(SendFrame(anna.node, CLOSE, None))
        await a.until(FrameReceived)
        await b.until(FrameReceived)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    gc.collect()
    assert (asyncio.all_tasks(), open_files()) == before
    with listen("127.0.0.1", port):
        pass


async def test_stopping_while_dialling_leaves_nothing(anna, bert):
    before = asyncio.all_tasks()
    with listen("127.0.0.1", 0) as mute:
        async with station(anna, bert) as a:
            a.addresses[bert.node] = Endpoint("127.0.0.1", mute.getsockname()[1])
            a.plane.send(SendFrame(bert.node, CLOSE, None))
            accepted, _ = await asyncio.get_running_loop().sock_accept(mute)
        accepted.close()
    assert asyncio.all_tasks() == before


async def test_our_own_mistake_ends_the_plane(anna, bert):
    """A bug is no peer's fault: it must reach whoever runs the plane."""

    def broken(_node):
        raise ZeroDivisionError

    a = station_at_rest(anna, bert)
    a.plane._resolve = broken
    a.plane.send(SendFrame(bert.node, CLOSE, None))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(a.plane.run(), EVENT_S_MAX)


async def test_a_frame_to_ourselves_is_our_own_mistake(anna, bert):
    async with station(anna, bert) as a:
        with pytest.raises(AssertionError):
            a.plane.send(SendFrame(anna.node, CLOSE, None))


async def test_credit_goes_back_rarely(anna, bert):
    async with station(anna, bert) as a, call(a.endpoint, tls_of(bert, anna).client) as caller:
        caller.hello(bert.node)
        await caller.hear(Hello)
        width = 1 << 18
        for position in range(9):
            caller.say(activation(position, 1, width), bytes(4 * width))
        await a.until(FrameReceived, 9)
        credits_ = await caller.hear(Credit, 2)
        assert len(credits_) == 2
        assert all(credit.credit_bytes * 4 >= CREDIT_BYTES for credit in credits_)
