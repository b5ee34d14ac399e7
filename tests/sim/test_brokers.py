from dataclasses import dataclass, field
from random import Random

import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived
from shoal_agent.sim.agenda import Agenda
from shoal_agent.sim.brokers import GIVEN_UP_S, Brokers
from shoal_agent.sim.weather import Weather
from shoal_protocol.ids import NodeId

ONE, TWO = NodeId("1" * 32), NodeId("2" * 32)


@dataclass
class Client:
    alive: bool = True
    events: list = field(default_factory=list)
    got: list = field(default_factory=list)

    filters: tuple = ("t", "will", "other", "t/+")

    def post(self, event):
        if isinstance(event, EnvelopeReceived):
            self.got.append((event.broker, event.topic, event.wire))
        else:
            self.events.append(event)

    def will(self, broker, connection):
        return Broadcast("will", b"%d" % connection, retain=False, at_least_once=True, expiry_s=0)


class Scene:
    """Two clients at two brokers."""

    def __init__(self):
        self.agenda, self.weather = Agenda(), Weather()
        self.brokers = Brokers(("a", "b"), self.agenda, self.weather, Random(1))
        self.one, self.two = Client(), Client()
        self.brokers.attach(ONE, self.one)
        self.brokers.attach(TWO, self.two)
        self.run(1.0)

    def run(self, seconds):
        self.agenda.run_to(self.agenda.now + seconds)

    def say(self, wire=b"hello", *, retain=False, topic="t"):
        self.brokers.publish(ONE, Broadcast(topic, wire, retain, True, 300))
        self.run(1.0)

    def got(self):
        return [(broker, wire) for broker, topic, wire in self.two.got if topic == "t"]


@pytest.fixture
def scene():
    return Scene()


def test_a_life_connects_to_every_broker(scene):
    assert scene.one.events == [BrokerConnected("a"), BrokerConnected("b")] or len(scene.one.events) == 2
    assert scene.brokers.names == ("a", "b")
    assert scene.brokers.connected("a", ONE)


def test_every_broker_delivers_to_everybody_else(scene):
    scene.say()
    assert sorted(scene.got()) == [("a", b"hello"), ("b", b"hello")]
    assert scene.one.got == []
    assert (scene.brokers.carried, scene.brokers.carried_bytes) == (2, 10)


def test_retained_messages_meet_whoever_connects_later(scene):
    scene.say(b"old", retain=True)
    scene.say(b"new", retain=True)
    late = Client()
    scene.brokers.attach(NodeId("3" * 32), late)
    scene.run(1.0)
    assert sorted(late.got) == [("a", "t", b"new"), ("b", "t", b"new")]


def test_a_stopped_broker_is_noticed_and_loses_nothing_retained(scene):
    scene.say(b"kept", retain=True)
    scene.two.got.clear()
    scene.brokers.stop("a")
    assert BrokerLost("a", "reset") in scene.two.events
    scene.say(b"meanwhile")
    assert scene.got() == [("b", b"meanwhile")]
    scene.brokers.start("a")
    scene.run(5.0)
    assert scene.two.events.count(BrokerConnected("a")) == 2
    assert ("a", b"kept") in scene.got()


def test_a_frozen_broker_delivers_late_what_it_took_in(scene):
    scene.brokers.freeze("a")
    scene.say()
    assert scene.got() == [("b", b"hello")]
    scene.brokers.thaw("a")
    scene.run(1.0)
    assert ("a", b"hello") in scene.got()
    assert BrokerLost("a", "no answer") not in scene.two.events


def test_a_broker_that_stays_frozen_is_given_up(scene):
    scene.brokers.freeze("a")
    scene.run(GIVEN_UP_S + 0.1)
    assert BrokerLost("a", "no answer") in scene.two.events
    scene.brokers.thaw("a")
    scene.run(5.0)
    assert scene.brokers.connected("a", TWO)


def test_a_partition_concerns_only_who_is_cut_off(scene):
    scene.brokers.cut("a", TWO)
    scene.say()
    assert scene.got() == [("b", b"hello")]
    scene.run(GIVEN_UP_S)
    assert BrokerLost("a", "no answer") in scene.two.events
    assert scene.brokers.connected("a", ONE)
    scene.brokers.mend("a", TWO)
    scene.run(5.0)
    assert scene.brokers.connected("a", TWO)


def test_who_dies_leaves_a_will(scene):
    scene.brokers.detach(ONE)
    scene.run(1.0)
    assert [topic for _, topic, _ in scene.two.got] == ["will", "will"]


def test_lost_and_doubled_messages(scene):
    scene.weather.message_loss = 1.0
    scene.say()
    assert scene.got() == []
    scene.weather.message_loss, scene.weather.duplicate = 0.0, 1.0
    scene.say()
    assert len(scene.got()) == 4


def test_late_messages_may_overtake(scene):
    scene.weather.reorder_s = 3.0
    for number in range(10):
        scene.brokers.publish(ONE, Broadcast("t", b"%d" % number, False, True, 300))
    scene.run(5.0)
    order = [wire for broker, wire in scene.got() if broker == "a"]
    assert sorted(order) == [b"%d" % number for number in range(10)]
    assert order != sorted(order)


def test_an_injected_message_reaches_everybody(scene):
    scene.brokers.inject("b", "t", b"forged")
    scene.run(1.0)
    assert scene.got() == [("b", b"forged")]
    assert len(scene.one.got) == 1
