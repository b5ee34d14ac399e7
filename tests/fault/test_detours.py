"""Where frames go while there is a direct way, none, or suddenly one again; the brokers are in memory."""

import asyncio
import contextlib

import pytest

from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerRelayed
from shoal_agent.shell.sockets import listen, port_of
from shoal_protocol.messages import Endpoint
from shoal_protocol.relay import RelayKind
from tests.support.links import Person, person
from tests.support.relays import PATIENT, WAIT_S, PostOffice, arrived, pair, remote, send


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> list[Person]:
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2, 3)]


async def test_the_direct_way_is_taken_when_it_opens_and_nothing_is_lost_or_out_of_order(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        await b.station.until(PeerConnected)
        sent = 0
        a.station.addresses[people[1].node] = b.station.endpoint
        async with asyncio.timeout(WAIT_S):
            while not a.station.of(PeerRelayed):
                send(a, people[1], sent, 2000)
                sent += 1
                await asyncio.sleep(0.002)  # a stream that never ends
        for _ in range(20):
            send(a, people[1], sent, 2000)
            sent += 1
        assert await arrived(b, sent) == list(range(sent))
        assert a.station.events == [PeerRelayed(people[1].node, relayed=False)]
        assert [type(e) for e in b.station.events if not isinstance(e, FrameReceived)] == [PeerConnected]
        assert (a.station.plane.link_count, a.relay.open_count) == (1, 0)
        letters = len(office.letters)
        send(a, people[1], sent)
        assert (await arrived(b, sent + 1))[-1] == sent
        assert {letter.message[0] for letter in office.letters[letters:]} <= {RelayKind.CLOSE}


async def test_a_quiet_link_changes_its_way_too(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        a.station.addresses[people[1].node] = b.station.endpoint
        assert await a.station.until(PeerRelayed) == [PeerRelayed(people[1].node, relayed=False)]
        assert not a.station.of(PeerLost)
        assert not b.station.of(PeerLost)


async def test_failed_attempts_to_go_directly_are_nobodys_business(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        way = a.station.plane._ways[people[1].node]
        failures = way.failures
        way.retry_at = 0.0
        async with asyncio.timeout(WAIT_S):
            while way.failures == failures:  # noqa: ASYNC110 - a failure posts no event: that is what is tested
                await asyncio.sleep(0.02)
        send(a, people[1], 0)
        assert await arrived(b, 1) == [0]
        assert not a.station.events


async def test_a_wall_that_swallows_everything_is_gone_round_with_what_waited(people):
    """Nobody refuses, nobody answers: frames that waited for the handshake leave by the other way."""
    office = PostOffice()
    anna, bert, _ = people
    with contextlib.closing(listen("127.0.0.1", 0)) as silent:
        async with remote(office, anna, bert, pace=PATIENT) as a, remote(office, bert, anna, pace=PATIENT) as b:
            a.station.addresses[bert.node] = Endpoint("127.0.0.1", port_of(silent))
            for position in range(5):
                send(a, bert, position)
            assert await arrived(b, 5) == list(range(5))
            assert [type(event) for event in a.station.events] == [PeerRelayed, PeerConnected]
