from dataclasses import dataclass, field
from random import Random

import pytest

from shoal_agent.core.events import PeerConnected, PeerLost
from shoal_agent.core.facts import LinkFault
from shoal_agent.sim.agenda import Agenda
from shoal_agent.sim.links import Links
from shoal_agent.sim.weather import Weather
from shoal_protocol.headers import CloseReason, CloseSession, Token
from shoal_protocol.ids import DeploymentId, Epoch, NodeId, SessionId
from shoal_protocol.limits import LINK_CONNECT_S_MAX, LINK_SILENCE_S_MAX

ONE, TWO = NodeId("1" * 32), NodeId("2" * 32)


@dataclass
class Peer:
    alive: bool = True
    paused: bool = False
    lost: list = field(default_factory=list)
    connected: list = field(default_factory=list)
    got: list = field(default_factory=list)

    def post(self, event):
        if isinstance(event, PeerConnected):
            self.connected.append(event.peer)
        else:
            self.lost.append(event)

    def frame(self, peer, header, data):
        self.got.append((peer, header, data))


def frame(number=0):
    return CloseSession(SessionId(bytes([number]) * 16), CloseReason.FINISHED)


class Scene:
    """Two peers and the link between them."""

    def __init__(self):
        self.agenda, self.weather = Agenda(), Weather()
        self.links = Links(self.agenda, self.weather, Random(1))
        self.one, self.two = Peer(), Peer()
        self.links.attach(ONE, self.one)
        self.links.attach(TWO, self.two)

    def run(self, seconds):
        self.agenda.run_to(self.agenda.now + seconds)

    def send(self, *numbers, seconds=1.0):
        for number in numbers:
            self.links.send(ONE, TWO, frame(number), None)
        self.run(seconds)

    def numbers(self):
        return [header.session[0] for _, header, _ in self.two.got]


@pytest.fixture
def scene():
    return Scene()


def test_frames_arrive_in_order_and_as_they_were(scene):
    scene.send(*range(20))
    assert scene.numbers() == list(range(20))
    assert scene.two.got[0] == (ONE, frame(0), None)
    assert scene.links.carried == 20
    assert scene.links.carried_bytes > 20 * 16


def test_a_lost_frame_is_a_lost_connection(scene):
    scene.send(0, seconds=0.0)
    scene.weather.frame_loss = 1.0
    scene.send(1, seconds=0.0)
    scene.weather.frame_loss = 0.0
    scene.send(2)
    assert scene.numbers() == [2]
    assert scene.one.lost == [PeerLost(TWO, "reset", LinkFault.BROKEN)]
    assert scene.two.lost == [PeerLost(ONE, "reset", LinkFault.BROKEN)]


def test_nobody_there_refuses_at_once(scene):
    scene.two.alive = False
    scene.links.detach(TWO, silent=False)
    scene.send(0)
    assert scene.one.lost == [PeerLost(TWO, "refused", LinkFault.REFUSED)]


def test_a_crash_resets_and_so_does_the_next_life(scene):
    scene.send(0)
    scene.links.detach(TWO, silent=False)
    scene.run(0.1)
    assert scene.one.lost == [PeerLost(TWO, "reset", LinkFault.BROKEN)]
    scene.links.attach(TWO, scene.two)
    scene.send(1)
    assert scene.numbers() == [0, 1]


def test_who_loses_power_is_missed_after_a_silence(scene):
    scene.send(0)
    scene.two.alive = False
    scene.links.detach(TWO, silent=True)
    scene.run(LINK_SILENCE_S_MAX - 0.1)
    assert scene.one.lost == []
    scene.run(0.2)
    assert scene.one.lost == [PeerLost(TWO, "no answer", LinkFault.SILENT)]


def test_a_short_partition_only_delays(scene):
    scene.send(0)
    scene.links.block(ONE, TWO)
    scene.send(1, 2)
    assert scene.numbers() == [0]
    scene.links.unblock(ONE, TWO)
    scene.run(1.0)
    assert scene.numbers() == [0, 1, 2]
    assert scene.one.lost == []


def test_a_long_partition_breaks_even_an_idle_link_and_what_waited_is_gone(scene):
    scene.send(0)
    scene.links.block(ONE, TWO)
    scene.send(1, seconds=LINK_SILENCE_S_MAX + 0.1)
    assert scene.one.lost == [PeerLost(TWO, "no answer", LinkFault.SILENT)]
    assert scene.two.lost == [PeerLost(ONE, "no answer", LinkFault.SILENT)]
    scene.links.unblock(ONE, TWO)
    scene.send(2)
    assert scene.numbers() == [0, 2]


def test_a_one_way_partition_lets_the_other_way_pass_until_it_is_noticed(scene):
    scene.send(0)
    scene.links.block(TWO, ONE)
    scene.send(1)
    assert scene.numbers() == [0, 1]
    scene.run(LINK_SILENCE_S_MAX)
    assert scene.one.lost == [PeerLost(TWO, "no answer", LinkFault.SILENT)]


def test_no_connection_is_made_through_a_partition(scene):
    scene.links.block(ONE, TWO)
    scene.send(0, seconds=LINK_CONNECT_S_MAX - 0.1)
    assert scene.one.lost == []
    scene.run(0.2)
    assert scene.one.lost == [PeerLost(TWO, "no answer", LinkFault.SILENT)]


def test_a_paused_peer_is_given_up(scene):
    scene.send(0)
    scene.two.paused = True
    scene.links.watch(TWO)
    scene.run(LINK_SILENCE_S_MAX + 0.1)
    assert scene.one.lost == [PeerLost(TWO, "no answer", LinkFault.SILENT)]


def test_a_reset_does_not_pass_a_partition(scene):
    """Nor does a refusal: who is cut off learns nothing of a death but silence."""
    scene.send(0)
    scene.links.block(TWO, ONE)
    scene.two.alive = False
    scene.links.detach(TWO, silent=False)
    scene.run(LINK_SILENCE_S_MAX - 0.1)
    assert scene.one.lost == []
    scene.run(0.2)
    assert scene.one.lost == [PeerLost(TWO, "no answer", LinkFault.SILENT)]
    scene.send(1, seconds=LINK_CONNECT_S_MAX + 0.1)
    assert scene.one.lost[1:] == [PeerLost(TWO, "no answer", LinkFault.SILENT)]


def test_both_ends_hear_of_a_new_connection(scene):
    scene.send(0, 1)
    assert scene.one.connected == [TWO]
    assert scene.two.connected == [ONE]
    scene.links.detach(TWO, silent=False)
    scene.run(0.1)
    scene.links.attach(TWO, scene.two)
    scene.send(2)
    assert scene.one.connected == [TWO, TWO]


def test_a_clog_delays_everything(scene):
    scene.weather.clog_s = 2.0
    scene.send(0)
    assert scene.numbers() == []
    scene.run(2.0)
    assert scene.numbers() == [0]


def test_a_repeated_frame_and_a_wrong_epoch(scene):
    scene.weather.repeat_frame = 1.0
    scene.send(0)
    assert scene.numbers() == [0, 0]
    scene.weather.repeat_frame, scene.weather.wrong_epoch = 0.0, 1.0
    scene.links.send(ONE, TWO, Token(DeploymentId("toy"), Epoch(0), SessionId(bytes(16)), 3, 7, False, 0.0, ()), None)
    scene.run(1.0)
    assert scene.two.got[-1][1].epoch == 1
