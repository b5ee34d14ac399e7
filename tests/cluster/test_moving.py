"""The fast loop of four nodes on a virtual clock: a node's processor is taken away and given back, under steady calls.

What real agents make of it is in ``tests/fault/test_moving.py``.
"""

from dataclasses import dataclass, field

import pytest

from shoal_agent.core.bench import BOOT, RUN
from shoal_agent.core.effects import Broadcast, ErrandEnded, StopInstance
from shoal_agent.core.events import ErrandArrived
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.services import EncodeAnswer, EncodeRequest, pack, unpack
from tests.support.toy import NAMES
from tests.support.world import World

TOKENIZER = next(name for name in NAMES if name.startswith("tokenizer"))
TEXT = "a shoal has no leader. " * 1500
REQUEST = pack(EncodeRequest(TEXT, special=False))
QUICK_S, SLOW_S = 0.001, 0.02
"""Per KiB: 34 ms for the text, or two thirds of a second."""
EVERY_S = 0.2
DEADLINE_S = 3.0


@dataclass
class Clients:
    """They ask one node, steadily."""

    world: World
    asked: dict[int, float] = field(default_factory=dict)

    @property
    def cell(self):
        return self.world.cells[self.world.names[0]]

    def go_on(self, seconds: float) -> None:
        for _ in range(int(seconds / EVERY_S)):
            number = len(self.asked) + 1
            self.asked[number] = self.world.now
            self.cell.post(ErrandArrived(number, ((TOKENIZER, "encode"),), REQUEST, DEADLINE_S))
            self.world.run(EVERY_S)

    def story(self) -> list[str]:
        return [entry.text for entry in self.cell.node.story().about(TOKENIZER)]

    def told(self, word: str) -> bool:
        return any(word in text for text in self.story())

    def all_done(self) -> None:
        """Every one was answered once, in time, and rightly."""
        self.world.run(DEADLINE_S)
        ended = [effect for effect in self.cell.light if isinstance(effect, ErrandEnded)]
        assert sorted(each.errand for each in ended) == sorted(self.asked)
        assert [each.detail for each in ended if each.code is not None] == []
        tokens = tuple(TEXT.encode())
        assert all(unpack(EncodeAnswer, each.result).tokens == tokens for each in ended)


@pytest.fixture
def clients():
    world = World(4)
    world.start()
    world.run(2.0)
    for cell in world.cells.values():
        cell.kib_s = QUICK_S
    made = Clients(world)
    made.go_on(2.0)
    assert made.cell.counts["calls_sent", "tokenizer"] == 0, "it is quick here"
    return made


def test_calls_go_where_they_are_quick_and_come_back(clients):
    clients.cell.kib_s = SLOW_S
    clients.go_on(4.0)
    assert clients.told("moves away")
    assert clients.cell.counts["calls_sent", "tokenizer"] >= 10
    clients.cell.kib_s = QUICK_S
    clients.go_on(12.0)
    assert clients.told("moves back")
    clients.all_done()


def test_who_helped_may_be_lost_and_no_call_is(clients):
    clients.cell.kib_s = SLOW_S
    clients.go_on(3.0)
    for victim in clients.world.names[1:3]:
        clients.world.kill(victim)
        clients.go_on(1.0)
    clients.go_on(2.0)
    clients.all_done()


def test_the_last_instance_stops_where_all_calls_go_elsewhere(clients):
    clients.cell.kib_s = SLOW_S
    clients.go_on(BOOT / RUN * SLOT_S + 9.0)
    assert StopInstance(TOKENIZER, 0) in clients.cell.light
    clients.all_done()


def test_digests_are_told_under_load_and_never_at_rest(clients):
    world = clients.world
    topics = lambda: [e.topic for _, _, e in world.log if isinstance(e, Broadcast) and "/lt/" in e.topic]  # noqa: E731
    before = len(topics())
    world.run(10.0)
    assert len(topics()) <= before + 1
    clients.cell.kib_s = SLOW_S
    clients.go_on(2.0)
    assert len(topics()) > before + 3
    clients.all_done()
    after = len(topics())
    world.run(10.0)
    assert len(topics()) <= after + 1
