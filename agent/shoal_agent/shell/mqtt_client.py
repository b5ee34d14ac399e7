"""What aiomqtt hides and the control plane needs: the paho client below, and how it is entered and read."""

import asyncio
import socket
import ssl
from typing import Final, cast

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.properties import Properties

from shoal_agent.shell.cancellation import cancel
from shoal_agent.shell.lull import Lull

ABANDON_S: Final = 1.0
"""How long a cancelled attempt is waited for: its thread cannot be cancelled."""


def properties_of(packet: int) -> Properties:
    """Empty properties of an MQTT 5 packet."""
    return Properties(packet)  # type: ignore[no-untyped-call]


def paho_of(client: aiomqtt.Client) -> PahoClient:
    """The client below, which does the work."""
    return client._client  # noqa: SLF001 - what this module is for


def calmed(client: aiomqtt.Client) -> Lull:
    """The reader of a client that is connected, in place of aiomqtt's, which is called for every single message."""
    paho = paho_of(client)
    source = cast("socket.socket | None", paho.socket())
    if source is None:
        raise aiomqtt.MqttError("the connection broke at once")

    def read() -> None:
        try:
            paho.loop_read()
            # What TLS has decrypted already makes no socket readable.
            while isinstance(source, ssl.SSLSocket) and source.fileno() >= 0 and source.pending() > 0:
                paho.loop_read()
        except Exception as fault:  # noqa: BLE001 - as aiomqtt has it: whatever paho raises, the connection is over
            if not client._disconnected.done():  # noqa: SLF001 - where its own reader tells it
                client._disconnected.set_exception(fault)  # noqa: SLF001

    return Lull(source, read)


async def enter(client: aiomqtt.Client) -> None:
    """Connect. aiomqtt does so in a thread, so a cancelled attempt is waited for, within reason."""
    opening = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.wait([opening])
    except asyncio.CancelledError:
        await asyncio.wait([opening], timeout=ABANDON_S)
        raise
    finally:
        await cancel(opening)
    opening.result()
