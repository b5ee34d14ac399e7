"""An intake takes every message, leaves the rest to paho, and notices as aiomqtt would that its broker is gone."""

import asyncio
import contextlib
import os
import signal

import aiomqtt
import pytest

from shoal_agent.shell.broker import embedded_broker
from shoal_agent.shell.lull import Lull
from shoal_agent.shell.mqtt_client import READ_BYTES, Intake, enter, paho_of
from tests.support.control import odd_broker

SOON_S = 10.0
MESSAGES = 200
ACCEPTED = b"\x20\x03\x00\x00\x00"
MESSAGE = b"\x30\x05\x00\x01t\x00x"


class Taken(list):
    """Messages, and a bell that rings for each."""

    def __init__(self):
        super().__init__()
        self.bell = asyncio.Event()

    def take(self, message):
        self.append(message)
        self.bell.set()

    async def until(self, count):
        async with asyncio.timeout(SOON_S):
            while len(self) < count:
                self.bell.clear()
                await self.bell.wait()


@contextlib.asynccontextmanager
async def entered(port, taken):
    client = aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5)
    intake = Intake(client, taken.take)
    await enter(client)
    source = Lull().join(intake.source, intake.read)
    try:
        yield client
    finally:
        source.end()
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
        paho_of(client)._sock_close()


async def ends(client):
    """Why the connection of ``client`` is over."""
    with pytest.raises(aiomqtt.MqttError) as fault:
        await asyncio.wait_for(anext(aiter(client.messages)), SOON_S)
    return str(fault.value.__cause__)


def speaking(port):
    return aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5)


@pytest.mark.parametrize("quality", [0, 1])
async def test_every_message_is_taken_in_order(tmp_path, quality):
    taken = Taken()
    async with embedded_broker(tmp_path) as broker, entered(broker.port, taken) as client:
        async with speaking(broker.port) as speaker:
            await client.subscribe("t", qos=1)
            for number in range(MESSAGES):
                await speaker.publish("t", str(number), qos=quality)
                if number % 50 == 0:
                    await asyncio.sleep(0.05)
        await taken.until(MESSAGES)
        assert [int(message.payload) for message in taken] == list(range(MESSAGES))


async def test_a_message_larger_than_many_reads_is_whole(tmp_path):
    taken, large = Taken(), os.urandom(40 * READ_BYTES)
    async with embedded_broker(tmp_path) as broker, entered(broker.port, taken) as client:
        await client.subscribe("t")
        async with speaking(broker.port) as speaker:
            await speaker.publish("t", large)
        await taken.until(1)
        assert taken[0].payload == large


async def test_what_was_taken_is_acknowledged_and_not_sent_again(tmp_path):
    """A broker repeats, to the next connection, what the last one of the same name left unacknowledged."""
    async with embedded_broker(tmp_path) as broker:

        def named():
            properties = aiomqtt.client.Properties(1)
            properties.SessionExpiryInterval = 60
            return aiomqtt.Client(
                "127.0.0.1",
                broker.port,
                identifier="a",
                protocol=aiomqtt.ProtocolVersion.V5,
                clean_start=False,
                properties=properties,
            )

        words = []
        for word in (b"first", b"second"):
            taken = Taken()
            client = named()
            intake = Intake(client, taken.take)
            await enter(client)
            source = Lull().join(intake.source, intake.read)
            await client.subscribe("t", qos=1)
            async with speaking(broker.port) as speaker:
                await speaker.publish("t", word, qos=1)
            await taken.until(1)
            await client.subscribe("answered after the acknowledgement")
            source.end()
            await client.__aexit__(None, None, None)
            words.append([(message.payload, message.repeated) for message in taken])
        assert words == [[(b"first", False)], [(b"second", False)]]


async def test_a_broker_that_dies_ends_the_client(tmp_path):
    async with embedded_broker(tmp_path) as broker, entered(broker.port, Taken()) as client:
        await client.subscribe("t")
        os.kill(broker.pid, signal.SIGKILL)
        assert await ends(client)


async def test_a_client_whose_connection_broke_at_once_has_nothing_to_read(tmp_path):
    async with embedded_broker(tmp_path) as broker:
        intake = Intake(speaking(broker.port), Taken().take)
        with pytest.raises(aiomqtt.MqttError, match="broke"):
            _ = intake.source


async def test_messages_right_behind_the_first_packet_are_taken():
    taken = Taken()
    async with odd_broker(ACCEPTED + 3 * MESSAGE) as address, entered(address.port, taken) as client:
        await taken.until(3)
        assert await client.subscribe("t")


async def test_all_that_comes_in_one_piece_reaches_paho():
    """Two answers in one read: the socket does not say a second time that there is something."""
    taken = Taken()
    farewell = MESSAGE + b"\xe0\x05\x8e\x03\x1f\x00\x00"
    async with odd_broker(ACCEPTED, farewell=farewell) as address, entered(address.port, taken) as client:
        await client.subscribe("t")
        assert "taken over" in await ends(client)
        assert len(taken) == 1


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_what_is_no_mqtt_ends_the_client_and_is_not_read_on(when):
    broken = MESSAGE + b"\x30\xff\xff\xff\xff" + 100 * MESSAGE
    connack, farewell = (ACCEPTED + broken, b"") if when == "at once" else (ACCEPTED, broken)
    taken = Taken()
    async with odd_broker(connack, farewell=farewell) as address:
        if when == "at once":
            client = aiomqtt.Client("127.0.0.1", address.port, protocol=aiomqtt.ProtocolVersion.V5, timeout=0.5)
            Intake(client, taken.take)
            with pytest.raises(aiomqtt.MqttError):
                await enter(client)
        else:
            async with entered(address.port, taken) as client:
                with contextlib.suppress(aiomqtt.MqttError):
                    await client.subscribe("t", timeout=0.5)
                assert await ends(client) == "a length without an end"
        assert paho_of(client).socket() is None
        assert len(taken) == 1
