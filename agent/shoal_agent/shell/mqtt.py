"""The control plane: one link to every broker of the cluster, all at once.

Each link lives by itself: it connects, subscribes, writes what its mailbox holds, and tries again for ever, so that
the other broker never waits for it. Nothing here is a guarantee of delivery: messages are signed, repeated by those
who care, and recognised as copies by those who hear them twice.

What a node hears changes while it lives (``listen``). A link that is up subscribes and unsubscribes the difference; one
that comes up subscribes to everything, for only that brings the retained messages again, and takes back what the
broker's session still holds of earlier wishes.

What aiomqtt and paho do, and what is therefore done here:

- A Client is used for one attempt only: after an unexpected end it takes itself for connected.
- Messages are taken out before paho sees them, which is quicker (``mqtt_packets``), and posted at once. aiomqtt's own
  queue drops them, after they were acknowledged, when it is full; here there is no queue, and a busy node lets the
  socket fill instead.
- ``publish`` ignores what the broker answered: the callback is wrapped, and a refusal is counted.
- A frozen broker keeps its socket open. Every link asks for a sign of life every two seconds: it subscribes to a
  filter on which nobody publishes, which every broker must answer and no ACL keeps it from answering.
- Nagle's algorithm and delayed acknowledgements cost 88 ms per QoS 1 message: TCP_NODELAY.
- aiomqtt reads one message per turn of the loop; here all brokers are read in common sips (``lull``).
- A failed attempt leaves its socket open, and so does a failed TLS handshake: both are closed here.
- A broker's bare "session taken over" is not understood, so two agents of one name are slowed by the backoff alone.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived
from shoal_agent.shell.backoff import Backoff
from shoal_agent.shell.cancellation import cancel, finish
from shoal_agent.shell.lull import Lull, Source
from shoal_agent.shell.mailbox import Mailbox
from shoal_agent.shell.mqtt_address import BrokerAddress
from shoal_agent.shell.mqtt_client import Intake, enter, paho_of, properties_of
from shoal_agent.shell.mqtt_packets import Message
from shoal_agent.shell.ports import Post
from shoal_protocol.limits import (
    BROADCASTS_WAITING_MAX,
    BROKER_ANSWER_S_MAX,
    BROKER_PROBE_S,
    ENVELOPE_BYTES_MAX,
    MQTT_IN_FLIGHT_MAX,
    MQTT_KEEPALIVE_S,
    MQTT_PACKET_BYTES_MAX,
    MQTT_SESSION_S,
    RELAY_EXPIRY_S,
    RELAY_WAITING_MAX,
)

PROBE_FILTER: Final = "shoal/probe"
FAILURE: Final = 128
"""Reason codes from here on say that something was not done."""
REFUSALS: Final = frozenset({128 + 6, 128 + 7, 128 + 10, 128 + 12, 128 + 14})
"""Bad user name or password, not authorized, banned, bad authentication method, session taken over by our own name."""

Filters = Callable[[tuple[int, ...]], Sequence[str]]
"""From shares of the nodes to the filters that name all an agent hears that listens to them."""
Will = Callable[[str, int], tuple[str, bytes]]
"""Broker and number of the connection to the topic and wire of the last will, signed in advance."""
Counter = Callable[[str, str], None]
Take = Callable[[str, str, bytes], None]
"""Hears broker, topic and payload of a message that is no envelope."""


class RefusedError(Exception):
    """The broker answered, and the answer was no."""


class MqttControlPlane:
    """All brokers at once. ``client_id`` names this node to them; ``filters`` is what it wants to hear at first.

    ``filters_of`` is for who listens to shares of the nodes and may change them.
    """

    def __init__(
        self,
        client_id: str,
        brokers: Sequence[BrokerAddress],
        filters: Sequence[str],
        will: Will | None,
        post: Post,
        count: Counter,
        rng: Random,
        filters_of: Filters | None = None,
    ) -> None:
        self._filters_of = filters_of
        self._links = [_Link(client_id, broker, filters, will, post, count, rng) for broker in brokers]

    def listen(self, shards: tuple[int, ...]) -> None:
        """Hear exactly these shares of the nodes, on every broker."""
        assert self._filters_of is not None, "only agents listen to shares"
        filters = self._filters_of(shards)
        for link in self._links:
            link.listen(filters)

    def divert(self, prefix: str, take: Take) -> None:
        """From now on ``take`` hears what comes on topics that begin with ``prefix``; nobody hears what was kept."""
        for link in self._links:
            link.diverted = (prefix, take)

    @property
    def up(self) -> tuple[str, ...]:
        """Brokers whose links stand, in the order of the configuration."""
        return tuple(link.url for link in self._links if link.is_up)

    def carry(self, broker: str, topic: str, message: bytes) -> None:
        """Publish on ``broker`` alone, after all broadcasts."""
        for link in self._links:
            if link.url == broker:
                link.carry(Broadcast(topic, message, retain=False, at_least_once=False, expiry_s=RELAY_EXPIRY_S))

    def hurry(self, *, on: bool) -> None:
        """Whether what arrives is to be read at once, without lulls."""
        for link in self._links:
            link.hurry(on=on)

    def publish(self, effect: Broadcast) -> None:
        """Publish on every broker; what a broker that is away misses is only kept if it is retained."""
        assert len(effect.wire) <= ENVELOPE_BYTES_MAX, "sealed within its bound"
        for link in self._links:
            link.publish(effect)

    async def run(self) -> None:
        """Keep all links up until cancelled; then say goodbye, so that no last will is published."""
        lull = Lull()
        async with asyncio.TaskGroup() as group:
            for link in self._links:
                group.create_task(link.run(lull))

    async def drain(self, within_s: float) -> bool:
        """Whether everything that waits on links that are up was published within the time."""
        try:
            async with asyncio.timeout(within_s):
                for link in self._links:
                    await link.drain()
        except TimeoutError:
            return False
        return True


class _Link:
    """One broker."""

    def __init__(
        self,
        client_id: str,
        broker: BrokerAddress,
        filters: Sequence[str],
        will: Will | None,
        post: Post,
        count: Counter,
        rng: Random,
    ) -> None:
        self._client_id = client_id
        self._broker = broker
        self._filters = tuple(filters)
        self._held: dict[str, None] = {}
        """What the broker's session may hold: everything asked for in this life and not taken back."""
        self._retuned = asyncio.Event()
        self._will = will
        self._post = post
        self._count = count
        self._backoff = Backoff(rng)
        self._mailbox = Mailbox(BROADCASTS_WAITING_MAX, RELAY_WAITING_MAX)
        self.diverted: tuple[str, Take] | None = None
        self._hasty, self._calm = asyncio.Event(), asyncio.Event()
        self._connections = 0
        self._was_up = False
        self._up_at: float | None = None
        self._told: str | None = None

    @property
    def url(self) -> str:
        return self._broker.url

    @property
    def is_up(self) -> bool:
        return self._up_at is not None

    def carry(self, message: Broadcast) -> None:
        if self.is_up and not self._mailbox.put_aside(message):
            self._count("relay_refused", "slow broker")

    def hurry(self, *, on: bool) -> None:
        begun, over = (self._hasty, self._calm) if on else (self._calm, self._hasty)
        begun.set()
        over.clear()

    def publish(self, message: Broadcast) -> None:
        if self._up_at is None and not message.retain:
            return
        if self._mailbox.put(message):
            self._count("broadcasts_dropped", "slow broker")

    def listen(self, filters: Sequence[str]) -> None:
        self._filters = tuple(filters)
        self._retuned.set()

    async def drain(self) -> None:
        if self._up_at is not None:
            await self._mailbox.emptied()

    async def run(self, lull: Lull) -> None:
        loop = asyncio.get_running_loop()
        while True:
            refused = False
            try:
                await self._connect_and_serve(lull)
            except (aiomqtt.MqttError, RefusedError, OSError) as fault:
                refused = _is_refusal(fault)
                reason = _reason(fault)
            lasted_s = 0.0 if self._up_at is None else loop.time() - self._up_at
            self._down(reason)
            await asyncio.sleep(self._backoff.failed(lasted_s, refused=refused))

    def _down(self, reason: str) -> None:
        """Tell a loss once, and again only if its reason changes."""
        self._up_at = None
        self._mailbox.forget_passing()
        if reason != self._told:
            self._told = reason
            self._post(BrokerLost(self._broker.url, reason))

    # --- one connection ----------------------------------------------------------------------------------------------

    async def _connect_and_serve(self, lull: Lull) -> None:
        """Ends only by an exception: the link broke, the broker refused, or this node stops."""
        client = self._new_client()
        intake = Intake(client, self._heard)
        try:
            await enter(client)
            source = lull.join(intake.source, intake.read)
            try:
                await self._subscribe(client, source)
                await self._serve(client, source)
            finally:
                source.end()
                with contextlib.suppress(aiomqtt.MqttError):
                    await finish(client.__aexit__(None, None, None))
        finally:
            paho_of(client)._sock_close()  # noqa: SLF001 - aiomqtt leaves it open when an attempt fails

    def _new_client(self) -> aiomqtt.Client:
        properties = properties_of(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = MQTT_SESSION_S
        properties.ReceiveMaximum = MQTT_IN_FLIGHT_MAX
        properties.MaximumPacketSize = MQTT_PACKET_BYTES_MAX
        self._connections += 1
        will = None
        if self._will is not None:
            topic, wire = self._will(self._broker.url, self._connections)
            will = aiomqtt.Will(topic, wire, qos=1)
        client = aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            # Within one life of the process the broker may keep our session; what is older is of an earlier one.
            clean_start=not self._was_up,
            will=will,
            timeout=BROKER_ANSWER_S_MAX,
            keepalive=MQTT_KEEPALIVE_S,
            max_inflight_messages=MQTT_IN_FLIGHT_MAX,
            max_queued_outgoing_messages=MQTT_IN_FLIGHT_MAX,
            properties=properties,
            tls_context=self._broker.tls,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        paho = paho_of(client)
        paho.connect_timeout = BROKER_ANSWER_S_MAX
        paho.on_publish = self._wrap(paho.on_publish)
        return client

    def _heard(self, message: Message) -> None:
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError:
            self._count("messages_rejected", "topic")
            return
        if self.diverted is not None and topic.startswith(self.diverted[0]):
            if not message.repeated:
                self.diverted[1](self._broker.url, topic, message.payload)
            return
        self._post(EnvelopeReceived(self._broker.url, topic, message.payload, message.repeated))

    def _wrap(self, on_publish: Any) -> Callable[..., None]:  # noqa: ANN401 - paho's union of callback versions
        def noticed(client: PahoClient, userdata: object, mid: int, code: ReasonCode, properties: Properties) -> None:
            if code.value >= FAILURE:
                self._count("broadcasts_refused", str(code))
            on_publish(client, userdata, mid, code, properties)

        return noticed

    async def _subscribe(self, client: aiomqtt.Client, source: Source) -> None:
        with source.hurry():
            await self._tune(client, {})
        self._up_at = asyncio.get_running_loop().time()
        self._was_up = True
        self._told = None
        self._post(BrokerConnected(self._broker.url))

    async def _tune(self, client: aiomqtt.Client, heard: Mapping[str, None]) -> None:
        """Subscribe to what is wanted beyond ``heard``, and take back what is not wanted any more."""
        self._retuned.clear()
        added = [topic for topic in self._filters if topic not in heard]
        dropped = [topic for topic in self._held if topic not in self._filters]
        if added:
            self._held |= dict.fromkeys(added)
            wanted = [(topic, SubscribeOptions(qos=1, noLocal=True)) for topic in added]
            codes = await finish(client.subscribe(wanted))
            if len(codes) != len(added):
                raise RefusedError(f"{len(codes)} answers to {len(added)} subscriptions")
            for topic, code in zip(added, codes, strict=True):
                if _value(code) >= FAILURE:
                    raise RefusedError(f"subscription to {topic}: {code}")
        if dropped:
            await finish(client.unsubscribe(dropped))
            for topic in dropped:
                del self._held[topic]

    async def _retune(self, client: aiomqtt.Client) -> None:
        while True:
            await self._retuned.wait()
            await self._tune(client, self._held)

    async def _serve(self, client: aiomqtt.Client, source: Source) -> None:
        """Write, listen, probe and watch; the first of them to fail ends the link."""
        parts = (self._write(client, source), self._retune(client), self._probe(client), self._watch(client))
        work = [asyncio.create_task(part) for part in (*parts, self._hasten(source))]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel(*work)

    async def _write(self, client: aiomqtt.Client, source: Source) -> None:
        while True:
            message = await self._mailbox.first()
            properties = properties_of(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = message.expiry_s
            # The next one waits for the broker's acknowledgement, if there is to be one: it must not wait for a lull.
            with source.hurry() if message.at_least_once else contextlib.nullcontext():
                await client.publish(
                    message.topic, message.wire, int(message.at_least_once), message.retain, properties=properties
                )
            self._mailbox.sent(message)

    async def _hasten(self, source: Source) -> None:
        """Read without lulls while somebody waits for every message."""
        while True:
            await self._hasty.wait()
            with source.hurry():
                await self._calm.wait()

    async def _probe(self, client: aiomqtt.Client) -> None:
        while True:
            await asyncio.sleep(BROKER_PROBE_S)
            await client.subscribe(PROBE_FILTER, timeout=BROKER_PROBE_S)

    async def _watch(self, client: aiomqtt.Client) -> None:
        """Ends with MqttError when the connection does; its queue stays empty, messages take another way."""
        async for _ in client.messages:
            raise AssertionError("every message is taken by _heard")


def _value(code: object) -> int:
    """The number of what a broker answered; 0 for what is no answer."""
    if isinstance(code, ReasonCode):
        return int(code.value)
    return code if isinstance(code, int) else 0


def _is_refusal(fault: Exception) -> bool:
    """Whether trying again soon is of no use: we are not let in, or not under this name."""
    cause = fault.__cause__ or fault
    if _value(getattr(cause, "rc", None)) in REFUSALS:
        return True
    return isinstance(fault, RefusedError) or "CERTIFICATE" in str(fault)


def _reason(fault: Exception) -> str:
    cause = fault.__cause__ or fault
    return str(cause) or type(cause).__name__
