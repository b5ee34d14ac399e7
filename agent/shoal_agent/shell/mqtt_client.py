"""What aiomqtt hides and the control plane needs: the paho client below, how it is entered, and how it is read."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.properties import Properties

from shoal_agent.shell.cancellation import cancel
from shoal_agent.shell.mqtt_packets import BrokenStreamError, Message, Packets

ABANDON_S: Final = 1.0
"""How long a cancelled attempt is waited for: its thread cannot be cancelled."""
READ_BYTES: Final = 4096
"""Asked of the socket at a time: a dozen heartbeats, more than usually come during one lull."""


def properties_of(packet: int) -> Properties:
    """Empty properties of an MQTT 5 packet."""
    return Properties(packet)  # type: ignore[no-untyped-call]


def paho_of(client: aiomqtt.Client) -> PahoClient:
    """The client below, which does the work."""
    return client._client  # noqa: SLF001 - what this module is for


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


class Intake:
    """Stands between the socket and paho: takes the messages out of what comes, and hands paho the rest.

    ``take`` is called for each message, which is acknowledged afterwards. Made before the client is entered, for a
    broker may send what it kept for us right after its first packet.
    """

    def __init__(self, client: aiomqtt.Client, take: Callable[[Message], None]) -> None:
        self._client = client
        self._paho = paho_of(client)
        self._receive = self._paho._sock_recv  # noqa: SLF001 - what this class is for
        self._take = take
        self._packets = Packets()
        self._pieces = 0
        client._disconnected.add_done_callback(_heed)  # noqa: SLF001
        self._paho.manual_ack_set(True)  # noqa: FBT003 - paho's
        self._paho._sock_recv = self._hand  # type: ignore[method-assign]  # noqa: SLF001

    @property
    def source(self) -> socket.socket:
        """The socket; MqttError if there is none any more."""
        source = cast("socket.socket | None", self._paho.socket())
        if source is None:
            raise aiomqtt.MqttError("the connection broke at once")
        return source

    def read(self) -> bool:
        """Take in a piece of what lies in the socket; False if nothing does."""
        before = self._pieces
        try:
            self._paho.loop_read()
            while self._packets.others and self._paho.socket() is not None:
                self._paho.loop_read()
        except Exception as fault:  # noqa: BLE001 - as aiomqtt has it: whatever paho raises, the connection is over
            if not self._client._disconnected.done():  # noqa: SLF001 - where its own reader tells it
                self._client._disconnected.set_exception(fault)  # noqa: SLF001
        return self._pieces > before

    def _hand(self, bufsize: int) -> bytes:
        """What paho takes for the socket: gives it up to ``bufsize`` bytes of packets that are its business."""
        others = self._packets.others
        if not others:
            data = self._receive(READ_BYTES)
            self._pieces += 1
            if not data:
                return data
            self._sort(data)
            if not others:
                raise BlockingIOError
        handed = bytes(others[:bufsize])
        del others[:bufsize]
        return handed

    def _sort(self, data: bytes) -> None:
        try:
            for message in self._packets.split(data):
                self._take(message)
                if message.number:
                    self._paho.ack(message.number, 1)
        except BrokenStreamError:
            self._paho._sock_close()  # noqa: SLF001 - nothing that follows can be understood
            raise


def _heed(disconnected: asyncio.Future[None]) -> None:
    """Nobody may be waiting for the end of a connection, for instance while it is not subscribed yet.

    That is no reason to complain, as the loop would about an exception that nobody asked for, to whom it is a mistake
    of ours.
    """
    if not disconnected.cancelled():
        disconnected.exception()
