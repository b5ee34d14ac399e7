from types import SimpleNamespace
from typing import cast

from shoal_agent.core.story import Story
from shoal_agent.sim.machine import Seen
from shoal_agent.sim.narrator import NAMES, Narrator, name_of
from shoal_protocol.ids import Incarnation, Instant, node_id_of

NODES = [node_id_of(bytes([index]) * 32) for index in range(3)]


class Teller:
    """A machine of which only its story matters here."""

    def __init__(self, name):
        self.name, self.life = name, Incarnation(1)
        self.reborn()

    def reborn(self):
        self.told = Story()
        self.node = SimpleNamespace(story=lambda: self.told)

    def tell(self, narrator, at_s, subject, text):
        self.told.tell(Instant(at_s), subject, text)
        narrator.handled(cast("Seen", SimpleNamespace(at_s=at_s, machine=self)))


def cast_of_three():
    narrator = Narrator()
    narrator.introduce(NODES)
    return narrator, [Teller(node) for node in NODES]


def test_nodes_are_called_by_names_whole_or_cut():
    narrator, (anna, _, _) = cast_of_three()
    anna.tell(narrator, 1.0, NODES[1], f"asks {NODES[2][:8]}")
    assert narrator.lines == ["    1.0 s  anna: bert: asks cora"]


def test_digests_are_cut():
    narrator, (anna, _, _) = cast_of_three()
    anna.tell(narrator, 1.0, "toy/1", "plan 0123456789abcdef of 3 stages")
    assert narrator.lines == ["    1.0 s  anna: toy/1: plan 012345 of 3 stages"]


def test_what_several_say_within_a_second_is_told_once():
    narrator, (anna, bert, cora) = cast_of_three()
    for at_s, teller in ((1.0, anna), (1.2, bert), (1.9, cora)):
        teller.tell(narrator, at_s, "toy/1", "agreed")
    cora.tell(narrator, 3.0, "toy/1", "agreed")
    assert narrator.lines == ["    1.0 s  anna, bert and cora: toy/1: agreed", "    3.0 s  cora: toy/1: agreed"]


def test_what_strikes_from_outside_stands_between():
    narrator, (anna, bert, _) = cast_of_three()
    anna.tell(narrator, 1.0, "toy/1", "agreed")
    narrator.strike(1.1, f"{NODES[0]} is killed")
    bert.tell(narrator, 1.2, "toy/1", "agreed")
    assert narrator.lines[1:] == ["    1.1 s  * anna is killed", "    1.2 s  bert: toy/1: agreed"]


def test_a_new_life_begins_a_new_story():
    narrator, (anna, _, _) = cast_of_three()
    anna.tell(narrator, 1.0, "toy/0", "first")
    anna.reborn()
    anna.life = Incarnation(2)
    anna.tell(narrator, 5.0, "toy/0", "second")
    assert [line.split(": ")[-1] for line in narrator.lines] == ["first", "second"]


def test_that_nodes_find_each_other_is_no_news():
    narrator, (anna, _, _) = cast_of_three()
    anna.tell(narrator, 1.0, NODES[1], "unknown -> alive (heard)")
    assert narrator.lines == []


def test_names_run_out_into_numbers():
    assert name_of(0) == "anna"
    assert name_of(len(NAMES)) == f"node-{len(NAMES)}"
