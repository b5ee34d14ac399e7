"""Messages out of the stream of bytes that a broker sends; everything else in it is passed on as it came.

Up to fifty heartbeats a second come from each of two brokers. paho asks the socket four times for a packet, and builds
a message, its properties and a line for a log nobody keeps: 32 us, twice for every heartbeat, were half of what gossip
cost a node. Here a packet is a slice of what one read brought: 2 us. Only PUBLISH is looked into, which needs no answer
that depends on state; whoever speaks MQTT with the broker is handed the rest, packet by packet.

The part of MQTT 5 that is read here (OASIS, sections 2.1 and 3.3)::

    packet      kind << 4 | flags, length of the body (1-4 bytes of 7 bits, the lowest first), body
    PUBLISH     flags = repeated << 3 | quality of service << 1 | retained
                body = length of the topic (2 bytes), topic, [number (2 bytes), above QoS 0],
                       length of the properties (as above), properties, payload

None of the properties matters to a node: how long a message lives is signed inside, and aliases of topics come only to
those who allow them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shoal_protocol.limits import MQTT_PACKET_BYTES_MAX

PUBLISH: Final = 3
LENGTH_BYTES_MAX: Final = 4


class BrokenStreamError(Exception):
    """What came is not MQTT, or not what we subscribed to: what follows it cannot be told apart any more."""


@dataclass(slots=True)
class Message:
    """One message as a broker delivered it. Its topic need not be UTF-8."""

    topic: bytes
    payload: bytes
    repeated: bool
    """Kept by the broker, or a second try."""
    number: int
    """To be acknowledged by; 0: need not be."""


class Packets:
    """Splits the stream. ``others`` are the whole packets that are no messages, in order; whoever uses them empties it.

    Never holds more than one packet's worth of what is not whole yet, and ``others``.
    """

    def __init__(self) -> None:
        self.others = bytearray()
        self._begun = bytearray()
        """A packet of which more is to come."""
        self._wanted = 0
        """So many bytes of it tell more than is known."""

    def split(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data``, which continues what came before, brings to their end."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._wanted:
                return
            data = bytes(self._begun)
            self._begun.clear()
        at, end = 0, len(data)
        while at < end:
            body, stop = _bounds(data, at)
            if stop > end:
                self._begun += data[at:]
                self._wanted = stop - at
                return
            if data[at] >> 4 == PUBLISH:
                yield _message(data, at, body, stop)
            else:
                self.others += data[at:stop]
            at = stop


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    """Where the body of the packet at ``at`` begins and ends; beyond ``data`` if its head is not whole."""
    body, length = _length(data, at + 1)
    if length > MQTT_PACKET_BYTES_MAX:
        raise BrokenStreamError(f"a packet of {length} bytes")
    return body, body + length


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Where the variable byte integer at ``at`` ends, beyond ``data`` if it is cut; and what it is."""
    value = shift = 0
    for index in range(at, min(at + LENGTH_BYTES_MAX, len(data))):
        digit = data[index]
        value |= (digit & 127) << shift
        if digit < 128:  # noqa: PLR2004 - the highest bit says that more follow
            return index + 1, value
        shift += 7
    if at + LENGTH_BYTES_MAX <= len(data):
        raise BrokenStreamError("a length without an end")
    return len(data) + 1, 0


def _message(data: bytes, at: int, body: int, stop: int) -> Message:
    """The PUBLISH at ``at``. A field that would reach beyond its end is found out by the last: none begins earlier."""
    flags = data[at]
    quality = flags >> 1 & 3
    topic = body + 2
    after = topic + int.from_bytes(data[body:topic])
    name, number = data[topic:after], 0
    if quality:
        number = int.from_bytes(data[after : after + 2])
        after += 2
    after, properties = _length(data, after)
    payload = after + properties
    if quality > 1 or payload > stop:
        raise BrokenStreamError(f"a message of quality {quality}, its payload {payload - stop} bytes beyond its end")
    return Message(name, data[payload:stop], bool(flags & 9), number)
