"""Out of any stream of packets, cut anywhere, come the messages that paho would have found, and the rest unchanged."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.client import MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from shoal_agent.shell.mqtt_packets import BrokenStreamError, Message, Packets
from shoal_protocol.limits import MQTT_PACKET_BYTES_MAX

PINGRESP = b"\xd0\x00"
SUBACK = b"\x90\x04\x00\x07\x00\x01"
EXPIRING = b"\x05\x02\x00\x00\x00\x3c"
"""Properties: a message expiry interval of 60 s."""


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + VariableByteIntegers.encode(len(body)) + body


def publish(
    topic: bytes, payload: bytes, *, quality=0, number=0, retain=False, dup=False, properties: bytes = b"\x00"
) -> bytes:
    numbered = number.to_bytes(2) if quality else b""
    first = 0x30 | dup << 3 | quality << 1 | retain
    return packet(first, len(topic).to_bytes(2) + topic + numbered + properties + payload)


def split(packets: Packets, *pieces: bytes) -> list[Message]:
    return [message for piece in pieces for message in packets.split(piece)]


def as_paho_has_it(wire: bytes) -> Message:
    """What paho's own decoder finds in one PUBLISH."""
    _, digits = VariableByteIntegers.decode(wire[1:])
    found = _packet.decode_publish(wire[0], wire[1 + digits :], MQTTv5)
    return Message(found.topic, found.payload, found.retain or found.dup, found.mid)


def property_bytes() -> st.SearchStrategy[bytes]:
    def pack(expiry: int | None, pairs: list[tuple[str, str]]) -> bytes:
        properties = Properties(PacketTypes.PUBLISH)
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        if pairs:
            properties.UserProperty = pairs
        return properties.pack()

    text = st.text(st.characters(codec="ascii", categories=["L"]), max_size=100)
    return st.builds(pack, st.none() | st.integers(0, 2**32 - 1), st.lists(st.tuples(text, text), max_size=4))


messages = st.builds(
    publish,
    st.binary(min_size=1, max_size=200),
    st.binary(max_size=20_000) | st.binary(max_size=100),
    quality=st.integers(0, 1),
    number=st.integers(1, 65_535),
    retain=st.booleans(),
    dup=st.booleans(),
    properties=property_bytes(),
)
rest = st.builds(packet, st.sampled_from([0x20, 0x40, 0x90, 0xB0, 0xD0, 0xE0]), st.binary(max_size=300))


@given(st.lists(messages | rest, max_size=12), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_however_the_stream_is_cut_everything_comes_out_once_and_in_order(wires, seed):
    rng = random.Random(seed)
    stream, pieces, at = b"".join(wires), [], 0
    while at < len(stream):
        size = rng.choice((1, 2, 3, 5, 100, 4096))
        pieces.append(stream[at : at + size])
        at += size
    packets = Packets()
    assert split(packets, *pieces) == [as_paho_has_it(wire) for wire in wires if wire[0] >> 4 == 3]
    assert packets.others == b"".join(wire for wire in wires if wire[0] >> 4 != 3)


def test_a_message_is_found_among_others():
    packets = Packets()
    stream = PINGRESP + publish(b"hb/0", b"beat", properties=EXPIRING) + SUBACK
    assert split(packets, stream) == [Message(b"hb/0", b"beat", repeated=False, number=0)]
    assert packets.others == PINGRESP + SUBACK


def test_what_whoever_talks_with_the_broker_has_not_taken_yet_is_kept_for_it():
    packets = Packets()
    assert split(packets, PINGRESP, SUBACK[:3]) == []
    assert packets.others == PINGRESP
    del packets.others[:1]
    assert split(packets, SUBACK[3:]) == []
    assert packets.others == PINGRESP[1:] + SUBACK


@pytest.mark.parametrize(("retain", "dup", "repeated"), [(0, 0, False), (1, 0, True), (0, 1, True), (1, 1, True)])
def test_what_a_broker_kept_or_tries_again_is_repeated(retain, dup, repeated):
    (message,) = split(Packets(), publish(b"t", b"x", quality=1, number=9, retain=retain, dup=dup))
    assert message == Message(b"t", b"x", repeated, 9)


def test_the_largest_packet_that_was_allowed_comes_in_any_number_of_pieces():
    frame = len(publish(b"t", bytes(MQTT_PACKET_BYTES_MAX // 2))) - MQTT_PACKET_BYTES_MAX // 2 - 4
    wire = publish(b"t", bytes(MQTT_PACKET_BYTES_MAX - frame))
    pieces = [wire[at : at + 1000] for at in range(0, len(wire), 1000)]
    (message,) = split(Packets(), *pieces)
    assert len(message.payload) == MQTT_PACKET_BYTES_MAX - frame


BROKEN = {
    "a packet of 1048577 bytes": b"\x30" + VariableByteIntegers.encode(MQTT_PACKET_BYTES_MAX + 1),
    "a length without an end": b"\x30\xff\xff\xff\xff",
    "quality 2": publish(b"t", b"x", quality=2, number=1),
    "quality 3": publish(b"t", b"x", quality=3, number=1),
    "beyond its end": packet(0x30, b"\x00\x09t\x00x"),
}


@pytest.mark.parametrize(("why", "wire"), list(BROKEN.items()))
def test_what_cannot_be_told_apart_is_refused_after_all_before_it(why, wire):
    messages = Packets().split(publish(b"t", b"fine") + wire)
    assert next(messages) == Message(b"t", b"fine", repeated=False, number=0)
    with pytest.raises(BrokenStreamError, match=why):
        next(messages)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x01", b"\x00\x01t", b"\x00\x01t\x05", b"\x00\x01t\x80"])
@pytest.mark.parametrize("after", [b"", PINGRESP * 4])
def test_a_message_that_ends_too_early_is_refused_whatever_follows(body, after):
    with pytest.raises(BrokenStreamError):
        split(Packets(), packet(0x30, body) + after)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_noise_is_split_or_refused(noise):
    packets = Packets()
    try:
        split(packets, noise)
    except BrokenStreamError:
        return
    assert len(packets.others) <= len(noise)
