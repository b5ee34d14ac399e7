"""Links that are down, really: what the core hears of a peer that was killed, stopped or never there."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE

import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost
from shoal_agent.core.facts import LinkFault
from shoal_agent.shell import dataplane
from shoal_agent.shell.faults import link_fault_of
from shoal_agent.shell.link_ends import Pace
from shoal_protocol.headers import Ping
from shoal_protocol.messages import Endpoint
from tests.support.house import ROOT
from tests.support.links import EVENT_S_MAX, person, station

PING = Ping(1)
SOON_S = 1.0
"""A refusal takes a millisecond; the machine may be busy."""


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2)]


@contextlib.asynccontextmanager
async def peer_process(people):
    """The second person's data plane in a process of its own, and its port."""
    anna, bert = people
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.links", "2", bert.folder, "1", anna.folder, cwd=ROOT, stdout=PIPE
    )
    try:
        yield child, int(await asyncio.wait_for(child.stdout.readline(), EVENT_S_MAX))
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), LinkFault.REFUSED),
        (OSError("Multiple exceptions: [Errno 111] ('::1', 1, 0, 0), [Errno 111] ('127.0.0.1', 1)"), LinkFault.REFUSED),
        (OSError("Multiple exceptions: [Errno 101] ('::1', 1, 0, 0), [Errno 111] ('127.0.0.1', 1)"), LinkFault.SILENT),
        (TimeoutError(), LinkFault.SILENT),
        (OSError(errno.EHOSTUNREACH, "no route"), LinkFault.SILENT),
        (OSError(errno.ENETUNREACH, "no network"), LinkFault.SILENT),
        (ConnectionAbortedError("SSL handshake is taking longer than 5.0 seconds"), LinkFault.SILENT),
        (ConnectionResetError(errno.ECONNRESET, "reset"), LinkFault.OTHER),
        (socket.gaierror(-2, "Name or service not known"), LinkFault.OTHER),
        (ssl.SSLError(1, "bad"), LinkFault.OTHER),
        (ValueError("no such port"), LinkFault.OTHER),
        (OverflowError(), LinkFault.OTHER),
    ],
)
def test_errors_of_the_system_become_one_word(error, fault):
    assert link_fault_of(error) is fault


async def test_a_killed_process_breaks_its_link_and_then_refuses(people):
    anna, bert = people
    async with peer_process(people) as (child, port), station(anna, bert) as a:
        a.addresses[bert.node] = Endpoint("127.0.0.1", port)
        a.plane.send(SendFrame(bert.node, PING, None))
        await a.until(PeerConnected)
        os.kill(child.pid, signal.SIGKILL)
        (broken,) = await a.until(PeerLost)
        assert broken.fault is LinkFault.BROKEN
        async with asyncio.timeout(SOON_S):
            while a.of(PeerLost)[-1].fault is not LinkFault.REFUSED:
                # Its sockets close one after the other: for some milliseconds its listener is still there.
                a.plane.send(SendFrame(bert.node, PING, None))
                await a.until(PeerLost, len(a.of(PeerLost)) + 1)


async def test_a_stopped_process_is_silent_to_whoever_dials_it(people, monkeypatch):
    """Its kernel still accepts; nobody shakes hands."""
    monkeypatch.setattr(dataplane, "LINK_CONNECT_S_MAX", 0.5)
    anna, bert = people
    async with peer_process(people) as (child, port), station(anna, bert) as a:
        os.kill(child.pid, signal.SIGSTOP)
        a.addresses[bert.node] = Endpoint("127.0.0.1", port)
        a.plane.send(SendFrame(bert.node, PING, None))
        (lost,) = await a.until(PeerLost)
        assert lost.fault is LinkFault.SILENT


async def test_a_stopped_process_is_silent_on_a_link_that_stands(people):
    anna, bert = people
    pace = Pace(quiet_s=0.2, silence_s=0.8, tick_s=0.1)
    async with peer_process(people) as (child, port), station(anna, bert, pace=pace) as a:
        a.addresses[bert.node] = Endpoint("127.0.0.1", port)
        a.plane.send(SendFrame(bert.node, PING, None))
        await a.until(PeerConnected)
        os.kill(child.pid, signal.SIGSTOP)
        (lost,) = await a.until(PeerLost)
        assert lost.fault is LinkFault.SILENT


async def test_an_address_from_which_nothing_comes_back_is_silent(people, monkeypatch):
    """A listener whose backlog is full drops what knocks, like a host that is not there."""
    monkeypatch.setattr(dataplane, "LINK_CONNECT_S_MAX", 0.5)
    anna, bert = people
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(full.getsockname())
        async with station(anna, bert) as a:
            a.addresses[bert.node] = Endpoint("127.0.0.1", full.getsockname()[1])
            a.plane.send(SendFrame(bert.node, PING, None))
            (lost,) = await a.until(PeerLost)
            assert lost.fault is LinkFault.SILENT


async def test_a_ping_reaches_the_node(people):
    anna, bert = people
    async with station(anna, bert) as a, station(bert, anna) as b:
        a.addresses[bert.node] = b.endpoint
        a.plane.send(SendFrame(bert.node, PING, None))
        (event,) = await b.until(FrameReceived)
        assert (event.peer, event.header) == (anna.node, PING)
