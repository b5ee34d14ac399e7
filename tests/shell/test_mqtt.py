"""The control plane with real brokers that die, freeze, refuse and come back."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived
from shoal_agent.shell import mqtt
from shoal_agent.shell.broker import BrokerKind, RunningBroker, embedded_broker
from shoal_agent.shell.mqtt_address import BrokerAddress
from shoal_agent.shell.sockets import listen, port_of
from shoal_protocol.limits import BROADCASTS_WAITING_MAX, ENVELOPE_BYTES_MAX
from tests.support.control import (
    Clients,
    Soonest,
    address_of,
    break_connection,
    frozen,
    member,
    note_clients,
    odd_broker,
    passing,
    retained,
    tls_in,
)

ACCEPTED = b"\x20\x03\x00\x00\x00"
NOT_AUTHORIZED = b"\x20\x03\x00\x87\x00"
TAKEN_OVER = b"\xe0\x05\x8e\x03\x1f\x00\x00"
"""DISCONNECT with reason code 142 and an empty reason string, without which paho does not read the code."""
ANNA, BERT = "a" * 32, "b" * 32


@pytest.fixture
async def broker(tmp_path) -> AsyncIterator[RunningBroker]:
    async with embedded_broker(tmp_path / "broker") as made:
        yield made


@pytest.fixture
async def brokers(tmp_path) -> AsyncIterator[list[RunningBroker]]:
    async with embedded_broker(tmp_path / "1") as one, embedded_broker(tmp_path / "2") as other:
        yield [one, other]


@pytest.fixture
async def clients(monkeypatch) -> Clients:
    return note_clients(monkeypatch)


def addresses(brokers: list[RunningBroker]) -> list[BrokerAddress]:
    return [address_of(broker) for broker in brokers]


# --- saying and hearing -----------------------------------------------------------------------------------------------


async def test_what_one_says_the_other_hears_from_every_broker(brokers):
    async with member("a", addresses(brokers)) as a, member("b", addresses(brokers)) as b:
        await a.until_count(BrokerConnected, 2)
        await b.until_count(BrokerConnected, 2)
        a.plane.publish(retained("t/state", b"record"))
        a.plane.publish(passing("t/beat", b"beat"))
        heard = set(await b.until_count(EnvelopeReceived, 4))
        urls = {broker.url for broker in brokers}
        assert {e.broker for e in b.of(BrokerConnected)} == urls
        assert heard == {
            EnvelopeReceived(url, topic, wire)
            for url in urls
            for topic, wire in (("t/state", b"record"), ("t/beat", b"beat"))
        }
        if brokers[0].kind is BrokerKind.MOSQUITTO:  # the other does not know how
            assert not a.wires(), "nobody needs to hear itself"


@pytest.mark.parametrize("kind", ["retained", "passing"])
async def test_only_retained_messages_are_kept_and_they_expire(broker, kind):
    async with member("a", [address_of(broker)]) as a:
        await a.until_count(BrokerConnected)
        a.plane.publish({"retained": retained, "passing": passing}[kind]("t/x", b"said"))
        assert await a.plane.drain(5.0)
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as late:
        await late.subscribe("t/#", qos=1)
        await late.publish("t/end", b"", qos=1)
        message = await anext(late.messages)
        if kind == "passing":
            assert str(message.topic) == "t/end"
        else:
            assert (str(message.topic), message.payload) == ("t/x", b"said")
            assert 50 <= message.properties.MessageExpiryInterval <= 60


async def test_all_that_tls_decrypts_at_once_is_heard_though_the_socket_has_no_more(tmp_path):
    """A record holds more messages than one read takes, and more than one turn's reads."""
    payloads = [b"%06d" % number * 200 for number in range(200)]
    bodies = [b"\x00\x03t/x\x00" + payload for payload in payloads]
    told = b"".join(b"\x30" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body for body in bodies)
    async with odd_broker(ACCEPTED, farewell=told, tls=tls_in(tmp_path)) as address, member("a", [address]) as a:
        await a.until_count(EnvelopeReceived, len(payloads))
        assert a.wires() == payloads


async def test_an_oversized_broadcast_is_our_own_mistake(broker):
    async with member("a", [address_of(broker)]) as a:
        await a.until_count(BrokerConnected)
        with pytest.raises(AssertionError):
            a.plane.publish(retained("t/x", bytes(ENVELOPE_BYTES_MAX + 1)))
        a.plane.publish(retained("t/x", bytes(ENVELOPE_BYTES_MAX)))
        assert await a.plane.drain(5.0)


async def test_acknowledged_messages_are_not_delayed(broker, clients):
    """With Nagle's algorithm on, each would wait 40 ms for the other side's delayed acknowledgement."""
    async with member("a", [address_of(broker)]) as a:
        await a.until_count(BrokerConnected)
        assert clients[0]._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        began = time.monotonic()
        for number in range(50):
            a.plane.publish(retained(f"t/{number}", b"x" * 1000))
        assert await a.plane.drain(10.0)
        assert (time.monotonic() - began) / 50 < 0.02


async def test_a_burst_larger_than_the_mailbox_loses_the_oldest_and_counts_them(broker):
    async with member("a", [address_of(broker)]) as a, member("b", [address_of(broker)]) as b:
        await a.until_count(BrokerConnected)
        await b.until_count(BrokerConnected)
        for number in range(BROADCASTS_WAITING_MAX + 10):
            a.plane.publish(passing("t/beat", b"%d" % number))
        last = b"%d" % (BROADCASTS_WAITING_MAX + 9)
        await b.until(lambda: last in b.wires())
        assert a.counted == [("broadcasts_dropped", "slow broker")] * 10
        assert b.wires() == [b"%d" % number for number in range(10, BROADCASTS_WAITING_MAX + 10)]


# --- brokers that fail ------------------------------------------------------------------------------------------------


async def test_a_broker_that_is_not_there_is_told_once(clients):
    with listen("127.0.0.1", 0) as unused:
        port = port_of(unused)
    nobody = BrokerAddress("mqtt://nobody", "127.0.0.1", port, None)
    async with member("a", [nobody], rng=Soonest()) as a:
        (lost,) = await a.until_count(BrokerLost)
        assert lost.broker == "mqtt://nobody"
        await clients.until(5)
        assert a.events == [lost]


async def test_a_broker_that_restarts_is_met_by_a_fresh_client(tmp_path, clients):
    connections = []

    def will(_broker: str, connection: int) -> tuple[str, bytes]:
        connections.append(connection)
        return "t/death", b"dead"

    async with contextlib.AsyncExitStack() as brokers:
        first = await brokers.enter_async_context(embedded_broker(tmp_path))
        async with member("a", [address_of(first)], will=will, rng=Soonest()) as a:
            await a.until_count(BrokerConnected)
            await brokers.aclose()
            await a.until_count(BrokerLost)
            a.plane.publish(passing("t/beat", b"of a moment that is over"))
            a.plane.publish(retained("t/state", b"kept meanwhile"))
            assert len(a.plane._links[0]._mailbox) == 1
            second = await brokers.enter_async_context(embedded_broker(tmp_path, port=first.port))
            async with member("b", [address_of(second)]) as b:
                await a.until_count(BrokerConnected, 2)
                await b.until_count(EnvelopeReceived)
                assert b.wires() == [b"kept meanwhile"]
            reasons = [event.reason for event in a.of(BrokerLost)]
            assert len(set(reasons)) == len(reasons), "told again only because of another reason"
    assert connections == list(range(1, len(connections) + 1))
    assert len(connections) >= 2
    assert len({id(client) for client in clients}) == len(clients)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_loss_of_one_broker_loses_no_message(brokers, how, monkeypatch):
    monkeypatch.setattr(mqtt, "BROKER_PROBE_S", 0.3)
    fine, bad = brokers
    count = 100
    async with member("a", addresses(brokers)) as a, member("b", addresses(brokers)) as b:
        await a.until_count(BrokerConnected, 2)
        await b.until_count(BrokerConnected, 2)
        with contextlib.ExitStack() as stack:
            for number in range(count):
                if number == count // 2 and how == "killed":
                    os.kill(bad.pid, signal.SIGKILL)
                elif number == count // 2:
                    stack.enter_context(frozen(bad))
                a.plane.publish(passing("t/beat", b"%d" % number))
                await asyncio.sleep(0.002)
            await b.until(lambda: len(b.wires(fine.url)) == count)
            assert b.wires(fine.url) == [b"%d" % number for number in range(count)]
            for one in (a, b):
                assert {e.broker for e in await one.until_count(BrokerLost)} == {bad.url}


async def test_a_frozen_broker_is_noticed_and_met_again_when_it_thaws(broker, monkeypatch):
    monkeypatch.setattr(mqtt, "BROKER_PROBE_S", 0.3)
    monkeypatch.setattr(mqtt, "BROKER_ANSWER_S_MAX", 0.5)
    async with member("a", [address_of(broker)], rng=Soonest()) as a:
        await a.until_count(BrokerConnected)
        with frozen(broker):
            began = time.monotonic()
            for number in range(60):  # more than the kernel takes
                a.plane.publish(passing("t/beat", bytes(200_000 + number)))
            a.plane.publish(retained("t/state", b"record"))
            await a.until_count(BrokerLost)
            assert time.monotonic() - began < 3.0, "keep-alive alone would take nine seconds"
            assert len(a.plane._links[0]._mailbox) == 1, "what was meant for a moment is forgotten"
        await a.until_count(BrokerConnected, 2)


async def test_a_broker_that_dies_before_it_answers_a_subscription_is_lost_and_nothing_else(monkeypatch):
    """The loop tells of exceptions that nobody asked for, and the agent takes them for mistakes of its own."""
    monkeypatch.setattr(mqtt, "BROKER_ANSWER_S_MAX", 0.5)
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with odd_broker(ACCEPTED, None) as address, member("a", [address], rng=Soonest()) as a:
        await a.until_count(BrokerLost)
    gc.collect()
    assert complaints == []


async def test_a_slow_broker_delays_nobody_else(brokers):
    fine, slow = brokers
    async with member("a", addresses(brokers)) as a, member("b", [address_of(fine)]) as b:
        await a.until_count(BrokerConnected, 2)
        await b.until_count(BrokerConnected)
        with frozen(slow):
            began = time.monotonic()
            for number in range(20):
                a.plane.publish(retained(f"t/{number}", bytes(100_000)))
            await b.until_count(EnvelopeReceived, 20)
            assert time.monotonic() - began < 2.0
            assert len(a.plane._links[1]._mailbox) == 20


async def test_a_session_survives_a_broken_connection(broker, clients):
    async with member("a", [address_of(broker)]) as a:
        await a.until_count(BrokerConnected)
        break_connection(clients[0])
        await a.until_count(BrokerLost)
        async with aiomqtt.Client("127.0.0.1", broker.port) as other:
            await other.publish("t/x", b"said while it was away", qos=1)
        await a.until_count(EnvelopeReceived)
        assert [client._clean_start for client in clients if client.identifier == "a"] == [True, False]


def shares(shards: tuple[int, ...]) -> tuple[str, ...]:
    return ("all/+", *(f"hb/{shard}" for shard in shards))


async def test_a_node_hears_exactly_the_shares_it_listens_to_on_every_broker(brokers):
    addresses = [address_of(each) for each in brokers]
    async with (
        member(ANNA, addresses, shares((0,)), filters_of=shares) as anna,
        member(BERT, addresses, ("none",)) as bert,
    ):
        await anna.until_count(BrokerConnected, 2)
        await bert.until_count(BrokerConnected, 2)

        def say(word: bytes) -> None:
            for topic in ("hb/0", "hb/1", "hb/2", "all/x"):
                bert.plane.publish(passing(topic, topic.encode() + b" " + word))

        def heard(word: bytes) -> list[bytes]:
            return sorted(wire for wire in anna.wires() if wire.endswith(word))

        say(b"first")
        await anna.until(lambda: len(heard(b"first")) == 4)
        assert heard(b"first") == [b"all/x first"] * 2 + [b"hb/0 first"] * 2
        for topic in ("hb/2", "hb/3"):
            bert.plane.publish(retained(topic, topic.encode() + b" kept"))
        await bert.plane.drain(5)
        anna.plane.listen((2,))
        anna.plane.listen((1, 2))
        await anna.until(lambda: heard(b"kept") == [b"hb/2 kept"] * 2)
        anna.plane.listen((1, 2, 3))
        await anna.until(lambda: len(heard(b"kept")) == 4)
        # A link changes its filters one wish after the other, so it has taken back hb/0 by now.
        say(b"second")
        await anna.until(lambda: len(heard(b"second")) == 6)
        assert heard(b"second") == [b"all/x second"] * 2 + [b"hb/1 second"] * 2 + [b"hb/2 second"] * 2


async def test_what_was_dropped_while_a_link_was_down_is_not_heard_again(broker, clients):
    async with (
        member(ANNA, [address_of(broker)], shares((0, 1)), rng=Soonest(7), filters_of=shares) as anna,
        member(BERT, [address_of(broker)], ("none",)) as bert,
    ):
        await anna.until_count(BrokerConnected)
        await bert.until_count(BrokerConnected)
        break_connection(clients[0])
        await anna.until_count(BrokerLost)
        anna.plane.listen((1, 3))
        await anna.until_count(BrokerConnected, 2)
        assert list(anna.plane._links[0]._held) == ["all/+", "hb/1", "hb/3"]
        for topic in ("hb/0", "hb/1", "hb/3"):
            bert.plane.publish(passing(topic, topic.encode()))
        await anna.until(lambda: len(anna.wires()) == 2)
        assert anna.wires() == [b"hb/1", b"hb/3"], "the session of the broker has forgotten hb/0"


async def test_a_broker_that_leaves_a_subscription_unanswered_is_left():
    async with odd_broker(ACCEPTED) as address, member(ANNA, [address], ("all/+",), filters_of=shares) as anna:
        await anna.until_count(BrokerConnected)
        anna.plane.listen((1, 2))
        (lost,) = await anna.until_count(BrokerLost)
        assert lost.reason == "1 answers to 2 subscriptions"


async def test_the_last_will_is_what_was_signed_in_advance(broker, clients):
    async with aiomqtt.Client("127.0.0.1", broker.port) as listener:
        await listener.subscribe("t/death", qos=1)

        def will(url: str, connection: int) -> tuple[str, bytes]:
            return "t/death", f"{url} {connection}".encode()

        async with member("a", [address_of(broker)], will=will) as a:
            await a.until_count(BrokerConnected)
            break_connection(clients[1])
            message = await asyncio.wait_for(anext(listener.messages), 10)
            assert (message.payload, message.retain) == (f"{broker.url} 1".encode(), False)
            await a.until_count(BrokerConnected, 2)
        await listener.publish("t/death", b"the end", qos=1)
        message = await asyncio.wait_for(anext(listener.messages), 10)
        assert message.payload == b"the end", "who says goodbye leaves no will"


# --- brokers that refuse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connack", "suback", "reason"), [(NOT_AUTHORIZED, 0, "Not authorized"), (ACCEPTED, 0x87, "t/#: Not authorized")]
)
async def test_a_refusal_is_told_and_not_met_with_haste(connack, suback, reason, clients):
    async with odd_broker(connack, suback) as address, member("a", [address], rng=Soonest()) as a:
        (lost,) = await a.until_count(BrokerLost)
        assert reason in lost.reason
        await asyncio.sleep(0.1)
        assert len(clients) == 1, "the next attempt is half a minute away"
        assert not a.of(BrokerConnected)


async def test_two_agents_of_one_name_do_not_fight(clients):
    async with odd_broker(ACCEPTED, farewell=TAKEN_OVER) as address, member("a", [address], rng=Soonest()) as a:
        (lost,) = await a.until_count(BrokerLost)
        assert "taken over" in lost.reason
        await asyncio.sleep(0.1)
        assert len(clients) == 1


async def test_a_broker_that_accepts_and_says_nothing_is_left(monkeypatch):
    monkeypatch.setattr(mqtt, "BROKER_ANSWER_S_MAX", 0.2)
    gc.collect()
    before = asyncio.all_tasks(), open_files()
    async with odd_broker(None) as address, member("a", [address], rng=Soonest()) as a:
        await a.until_count(BrokerLost)
        await asyncio.sleep(0.5)
        assert len(a.of(BrokerLost)) == 1
    gc.collect()
    assert (asyncio.all_tasks(), open_files()) == before


async def test_stopping_in_the_middle_of_an_attempt_leaves_nothing():
    gc.collect()
    before = asyncio.all_tasks(), open_files()
    async with odd_broker(None) as address, member("a", [address]):
        await asyncio.sleep(0.1)
    gc.collect()
    assert (asyncio.all_tasks(), open_files()) == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
