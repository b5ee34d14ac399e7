"""A calmed client takes every message, and notices as aiomqtt's own reader would that its broker is gone."""

import asyncio
import contextlib
import os
import signal

import aiomqtt
import pytest

from shoal_agent.shell.broker import embedded_broker
from shoal_agent.shell.mqtt_client import calmed, enter, paho_of

SOON_S = 10.0
MESSAGES = 200


@contextlib.asynccontextmanager
async def entered(port):
    client = aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5)
    await enter(client)
    lull = calmed(client)
    try:
        yield client
    finally:
        lull.end()
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


async def test_every_message_is_taken_in_order(tmp_path):
    async with embedded_broker(tmp_path) as broker, entered(broker.port) as client:
        taken, over = [], asyncio.Event()

        def take(_client, _data, message):
            taken.append(int(message.payload))
            if len(taken) == MESSAGES:
                over.set()

        paho_of(client).on_message = take
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as speaker:
            await client.subscribe("t")
            for number in range(MESSAGES):
                await speaker.publish("t", str(number))
                if number % 50 == 0:
                    await asyncio.sleep(0.05)
        async with asyncio.timeout(SOON_S):
            await over.wait()
        assert taken == list(range(MESSAGES))


async def test_a_broker_that_dies_ends_the_client(tmp_path):
    async with embedded_broker(tmp_path) as broker, entered(broker.port) as client:
        await client.subscribe("t")
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(aiomqtt.MqttError):
            await asyncio.wait_for(anext(aiter(client.messages)), SOON_S)


async def test_a_client_whose_connection_broke_at_once_has_nothing_to_read(tmp_path):
    async with embedded_broker(tmp_path) as broker:
        client = aiomqtt.Client("127.0.0.1", broker.port)
        with pytest.raises(aiomqtt.MqttError, match="broke"):
            calmed(client)
