"""Links through real brokers: quick though others rest, polite to heartbeats, whole after a broker's death."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from statistics import median

import aiomqtt
import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, EnvelopeReceived, Event, FrameReceived, PeerLost, PeerMisbehaved
from shoal_agent.shell.broker import BrokerKind, RunningBroker, embedded_broker
from shoal_agent.shell.lull import LULL_S
from shoal_agent.shell.mqtt import MqttControlPlane
from shoal_agent.shell.relay import Relay
from shoal_protocol.relay import RelayKind
from shoal_protocol.topics import RelayTopic, build, relay_filter
from tests.support.broker import needs_mosquitto
from tests.support.control import EVENT_S_MAX, Soonest, address_of
from tests.support.links import Person, person, roster_of, station
from tests.support.ports import fixed_ports
from tests.support.relays import PATIENT, Meter, Remote, arrived, reach, send

pytestmark = needs_mosquitto
BEAT = "t/beat"


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> list[Person]:
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2)]


@dataclass
class Member(Remote):
    """A node at real brokers; ``heard`` is what came by them and was no relayed message."""

    postman: MqttControlPlane
    heard: list[EnvelopeReceived]


@contextlib.asynccontextmanager
async def member(brokers: Sequence[RunningBroker], one: Person, other: Person) -> AsyncIterator[Member]:
    """``one``, connected to all ``brokers`` and knowing no address of ``other``."""
    roster, meter, heard = roster_of(one, other), Meter(), []
    connected: asyncio.Queue[Event] = asyncio.Queue()

    def post(event: Event) -> None:
        if isinstance(event, EnvelopeReceived):
            heard.append(event)
        elif isinstance(event, BrokerConnected):
            connected.put_nowait(event)

    inbox = relay_filter(roster.cluster, one.node)
    addresses = [address_of(broker) for broker in brokers]
    control = MqttControlPlane(one.node, addresses, (inbox, BEAT), None, post, meter.count, Soonest())
    relay = Relay(one.node, roster, one.sealer, control, meter.count)
    control.divert(inbox.removesuffix("+"), relay.arrived)
    running = asyncio.create_task(control.run())
    try:
        async with asyncio.timeout(EVENT_S_MAX):
            for _ in brokers:
                await connected.get()
        async with station(one, other, pace=PATIENT, relays=relay) as made:
            yield Member(made, relay, control, meter, heard)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@contextlib.asynccontextmanager
async def pair(brokers: Sequence[RunningBroker], people: list[Person]) -> AsyncIterator[tuple[Member, Member]]:
    anna, bert = people
    async with member(brokers, anna, bert) as a, member(brokers, bert, anna) as b:
        await reach(a, bert)
        yield a, b


def beat(number: int) -> Broadcast:
    return Broadcast(BEAT, b"%d" % number, retain=False, at_least_once=False, expiry_s=60)


async def test_frames_cross_whole_and_in_order_and_nothing_else_hears_them(tmp_path, people):
    async with embedded_broker(tmp_path, BrokerKind.MOSQUITTO) as broker, pair([broker], people) as (a, b):
        for position in range(30):
            send(a, people[1], position, 576 if position % 5 else 500_000)
        assert await arrived(b, 30) == list(range(30))
        assert not a.heard
        assert not b.heard
        assert b.meter.counted["relay_bytes", "in"] > 6 * 4 * 500_000


async def test_a_relayed_frame_does_not_wait_for_the_lulls_of_heartbeats(tmp_path, people):
    async with embedded_broker(tmp_path, BrokerKind.MOSQUITTO) as broker, pair([broker], people) as (a, b):
        took = []
        for position in range(20):
            b.postman.publish(beat(position))
            a.postman.publish(beat(position))  # both have heard something just now, and would rest
            begun = time.perf_counter()
            send(a, people[1], position)
            await arrived(b, position + 1)
            took.append(time.perf_counter() - begun)
        assert median(took) < LULL_S / 4


async def test_heartbeats_do_not_wait_for_a_flood_of_frames(tmp_path, people):
    async with embedded_broker(tmp_path, BrokerKind.MOSQUITTO) as broker, pair([broker], people) as (a, b):
        flood = 20_000_000 // 4
        send(a, people[1], 0, flood)
        for number in itertools.count():
            a.postman.publish(beat(number))
            await asyncio.sleep(0.02)  # the rhythm of the beats
            if any(isinstance(event, FrameReceived) and event.payload for event in b.station.events):
                break
        assert number > 5, "the flood took a while"
        async with asyncio.timeout(EVENT_S_MAX):
            while len(b.heard) <= number:  # noqa: ASYNC110 - beats ring no bell
                await asyncio.sleep(0.01)
        assert [event.wire for event in b.heard] == [b"%d" % each for each in range(number + 1)]
        assert a.meter.counted["broadcasts_dropped", "slow broker"] == 0


@pytest.mark.parametrize("count", [1, 2])
async def test_a_broker_that_dies_in_mid_stream_takes_nothing_with_it(tmp_path, people, count):
    """With one broker the stream stands still until it is back; with two it goes on by the other."""
    ports = fixed_ports(count)
    async with contextlib.AsyncExitStack() as stack:
        first = contextlib.AsyncExitStack()
        folders = [tmp_path / str(index) for index in range(count)]
        brokers = [await first.enter_async_context(embedded_broker(folders[0], BrokerKind.MOSQUITTO, ports[0]))]
        for folder, port in list(zip(folders, ports, strict=True))[1:]:
            brokers.append(await stack.enter_async_context(embedded_broker(folder, BrokerKind.MOSQUITTO, port)))
        a, b = await stack.enter_async_context(pair(brokers, people))
        sent = 0
        for _ in range(2):
            for _ in range(20):
                send(a, people[1], sent, 20_000)
                sent += 1
            await arrived(b, sent - 10)
        await first.aclose()
        for _ in range(20):
            send(a, people[1], sent, 20_000)
            sent += 1
        if count == 1:
            await stack.enter_async_context(embedded_broker(folders[0], BrokerKind.MOSQUITTO, ports[0]))
        assert await arrived(b, sent) == list(range(sent))
        assert not a.station.of(PeerLost)
        assert not b.station.of(PeerMisbehaved)


async def test_what_a_broker_kept_is_not_even_looked_at(tmp_path, people):
    """Relayed messages are never retained; one that is was made by somebody else."""
    anna, bert = people
    topic = build(RelayTopic(roster_of(anna, bert).cluster, bert.node, anna.node))
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(embedded_broker(tmp_path, BrokerKind.MOSQUITTO))
        stranger = await stack.enter_async_context(aiomqtt.Client("127.0.0.1", broker.port))
        await stranger.publish(topic, bytes([RelayKind.OPEN]), qos=1, retain=True)
        b = await stack.enter_async_context(member([broker], bert, anna))
        await stranger.publish(topic, bytes([RelayKind.DATA]), qos=1)
        await b.meter.until("relay_refused", "malformed")
        assert b.meter.counted["relay_refused", "malformed"] == 1
        assert not b.heard
