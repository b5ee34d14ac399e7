from random import Random

import pytest

from shoal_agent.experiments.laws.dispatchers import Alone, Anywhere, Central, Ours, Shortest
from shoal_agent.experiments.laws.network import Control, Digest, Network
from shoal_agent.experiments.laws.setting import circle, draw


@pytest.fixture
def network():
    """Eight nodes, nobody has work; node 0 has neighbours 1, 7 and 4."""
    world = circle(8, 10)
    return Network(world, Control(), draw(world, 0))


def load(network, **waiting):
    for name, work in waiting.items():
        network.stations[int(name[1:])][0].queue.waiting = float(work)


def test_where_nothing_waits_a_task_stays(network):
    for one in (Ours(Random(0)), Ours(Random(0), 0), Central(), Central(2), Alone()):
        assert one.choose(network, 0, 0) == 0


def test_ours_asks_before_it_sends(network):
    load(network, n0=50, n1=50, n4=50)
    # The digests of all say that they are empty, but two of them are not any more.
    chosen = {Ours(Random(seed)).choose(network, 0, 0) for seed in range(20)}
    assert chosen <= {0, 7}
    assert network.tally.probes == 40


def test_without_probes_digests_are_believed(network):
    load(network, n0=50, n1=50, n4=50, n7=50)
    assert Ours(Random(0), probes=False).choose(network, 0, 0) != 0


def test_own_work_in_flight_is_added_until_a_newer_digest(network):
    load(network, n0=3)
    blind, careful = (Ours(Random(0), 5, probes=False, corrected=corrected) for corrected in (False, True))
    assert len({blind.choose(network, 0, 0) for _ in range(9)}) == 1
    spread = [careful.choose(network, 0, 0) for _ in range(15)]
    assert {*spread} == {0, 1, 4, 7}


def test_a_newer_digest_ends_what_was_in_flight(network):
    load(network, n0=3)
    ours = Ours(Random(0), 1, probes=False)
    first = [ours.choose(network, 0, 0) for _ in range(9)]
    network.now = 5
    assert [ours.choose(network, 0, 0) for _ in range(9)] == first


def test_the_centre_sees_everybody(network):
    load(network, **{f"n{node}": 50 for node in range(8) if node != 3})
    assert Central().choose(network, 0, 0) == 3


def test_a_late_centre_counts_what_it_sent(network):
    load(network, n0=50)
    network._past[-1] = [[Digest(50.0 if node == 0 else 0.0, 0.0, 1)] for node in range(8)]
    centre = Central(2)
    assert len({centre.choose(network, 0, 0) for _ in range(7)}) == 7


def test_nobody_decides_for_a_centre_that_is_away(network):
    network.control = Control(away=((0, 5),))
    load(network, n0=50)
    assert Central().choose(network, 0, 0) == 0
    network.now = 5
    assert Central().choose(network, 0, 0) != 0


def test_rules_of_thumb(network):
    load(network, n0=5)
    assert Shortest(Random(0)).choose(network, 0, 0) == 1
    assert {Shortest(Random(seed), drawn=2).choose(network, 0, 0) for seed in range(30)} == {1, 4, 7}
    assert {Anywhere(Random(seed)).choose(network, 0, 0) for seed in range(30)} == {0, 1, 4, 7}
    assert Alone().choose(network, 0, 0) == 0
