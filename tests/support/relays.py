"""Brokers in memory, which do to relayed messages whatever a test wants; and nodes that know no other way."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerRelayed
from shoal_agent.shell.link_ends import Pace
from shoal_agent.shell.relay import Relay
from shoal_protocol.headers import Activation, Ping
from shoal_protocol.ids import DeploymentId, Epoch, NodeId, SessionId
from shoal_protocol.tensors import Dtype
from shoal_protocol.topics import RelayTopic, parse
from tests.support.links import Person, Station, roster_of, station

DELAY_S: Final = 0.001
WAIT_S: Final = 15.0
PATIENT: Final = Pace(tick_s=0.05)
"""Looks at the clock often, and judges like any."""
Fate = Callable[["Letter"], tuple[float, ...]]
"""What becomes of a letter: it arrives once after each of these times."""


@dataclass(frozen=True)
class Letter:
    """A message on its way."""

    broker: str
    topic: str
    message: bytes

    @property
    def source(self) -> NodeId:
        place = parse(self.topic)
        assert isinstance(place, RelayTopic)
        return place.source

    @property
    def target(self) -> NodeId:
        place = parse(self.topic)
        assert isinstance(place, RelayTopic)
        return place.node


@dataclass
class PostOffice:
    """All brokers. ``fate`` decides about each letter; those that were posted are kept in ``letters``."""

    brokers: tuple[str, ...] = ("one", "two")
    fate: Fate = lambda _: (DELAY_S,)
    down: set[str] = field(default_factory=set)
    letters: list[Letter] = field(default_factory=list)
    boxes: dict[NodeId, Relay] = field(default_factory=dict)

    def post(self, letter: Letter) -> None:
        self.letters.append(letter)
        if letter.broker not in self.down:
            for after_s in self.fate(letter):
                asyncio.get_running_loop().call_later(after_s, self.deliver, letter)

    def deliver(self, letter: Letter) -> None:
        box = self.boxes.get(letter.target)
        if box is not None and letter.broker not in self.down:
            box.arrived(letter.broker, letter.topic, letter.message)


@dataclass
class Meter:
    """Counts as metrics do."""

    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, name: str, label: str, amount: int = 1) -> None:
        self.counted[name, label] += amount
        self.changed.set()

    async def until(self, name: str, label: str, amount: int = 1) -> None:
        """Return when so much was counted."""
        async with asyncio.timeout(10.0):
            while self.counted[name, label] < amount:
                self.changed.clear()
                await self.changed.wait()


class Postman:
    """One node's carrier."""

    def __init__(self, office: PostOffice) -> None:
        self.office = office
        self.hasty: list[bool] = []

    @property
    def up(self) -> tuple[str, ...]:
        return tuple(broker for broker in self.office.brokers if broker not in self.office.down)

    def carry(self, broker: str, topic: str, message: bytes) -> None:
        self.office.post(Letter(broker, topic, message))

    def hurry(self, *, on: bool) -> None:
        self.hasty.append(on)


@dataclass
class Remote:
    """A node that others reach through the post office only."""

    station: Station
    relay: Relay
    postman: Postman
    meter: Meter


@contextlib.asynccontextmanager
async def remote(
    office: PostOffice, one: Person, *others: Person, pace: Pace | None = None, life: int = 1
) -> AsyncIterator[Remote]:
    """``one``, who knows no address of ``others`` unless a test tells it."""
    postman, meter = Postman(office), Meter()
    relay = Relay(one.node, roster_of(one, *others), one.sealer, postman, meter.count)
    office.boxes[one.node] = relay
    async with station(one, *others, pace=pace, relays=relay, life=life) as made:
        yield Remote(made, relay, postman, meter)
    if office.boxes.get(one.node) is relay:
        del office.boxes[one.node]


# --- what they say to each other --------------------------------------------------------------------------------------


def activation(position: int, width: int) -> Activation:
    return Activation(
        DeploymentId("llm"), Epoch(0), SessionId(b"s" * 16), 1, position, 1, True, 1000, Dtype.F32, (1, 1, width)
    )


def send(here: Remote, peer: Person, position: int, width: int = 64) -> None:
    payload = np.full((1, 1, width), position, np.float32)
    here.station.plane.send(SendFrame(peer.node, activation(position, width), here.station.tensors.put(payload)))


def positions(here: Remote) -> list[int]:
    """Of the activations that came, each checked to be whole."""
    events = [event for event in here.station.of(FrameReceived) if isinstance(event.header, Activation)]
    for event in events:
        values = np.frombuffer(here.station.tensors.peek(event.payload), np.float32)
        assert values.shape == event.header.shape[2:]
        assert (values == event.header.position).all()
    return [event.header.position for event in events]


async def arrived(here: Remote, count: int, *, whole: bool = True) -> list[int]:
    """The positions, once there are ``count``."""
    async with asyncio.timeout(WAIT_S):
        while sum(isinstance(event.header, Activation) for event in here.station.of(FrameReceived)) < count:
            here.station.bell.clear()
            await here.station.bell.wait()
    return positions(here) if whole else []


@contextlib.asynccontextmanager
async def pair(office: PostOffice, people: list[Person], pace: Pace = PATIENT) -> AsyncIterator[tuple[Remote, Remote]]:
    """Anna, who has reached Bert through the post office, and Bert."""
    anna, bert, _ = people
    async with remote(office, anna, bert, pace=pace) as a, remote(office, bert, anna, pace=pace) as b:
        await reach(a, bert)
        yield a, b


async def reach(here: Remote, peer: Person) -> None:
    """Send until a circuit stands; without an address every direct attempt fails at once."""
    for nonce in range(2):
        here.station.plane.send(SendFrame(peer.node, Ping(nonce), None))
        await here.station.until(PeerLost, nonce + 1)
    assert await here.station.until(PeerRelayed) == [PeerRelayed(peer.node, relayed=True)]
    assert here.station.of(PeerConnected)
    here.station.events.clear()
