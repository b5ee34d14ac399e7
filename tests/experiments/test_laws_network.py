from collections import deque
from dataclasses import replace

import pytest

from shoal_agent.core.queues import ServiceQueue
from shoal_agent.experiments.laws.dispatchers import Alone
from shoal_agent.experiments.laws.network import Control, Network, Station
from shoal_agent.experiments.laws.setting import Service, Setting, Trace, circle, draw


def played(world, control=None, seed=0):
    network = Network(world, control or Control(), draw(world, seed))
    return network, network.run(Alone())


def fixed(arrivals, *, room=1, boot_slots=0, **changes) -> tuple[Setting, Trace]:
    """One node; every instance serves exactly a task per slot."""
    kind = Service(rate=1.0, boot=1.0, boot_slots=boot_slots)
    world = Setting(((1.0,),), (1.0,), ((),), len(arrivals), services=(kind,), room=room, **changes)
    served = [[[[float(k) for k in range(room + 1)]]] for _ in arrivals]
    return world, Trace([[[count]] for count in arrivals], served, "")


def test_every_task_ends_once():
    world = circle(8, 300)
    network, tally = played(world)
    arrived = sum(count[0] for slot in network._trace.arrivals for count in slot)
    assert tally.ended == arrived
    assert len(tally.delays) + sum(len(s.tasks) for node in network.stations for s in node) == arrived


def test_queues_hold_what_tasks_still_need():
    network, _ = played(circle(8, 300), Control(v=8.0))
    for node in network.stations:
        for station in node:
            assert station.queue.waiting == pytest.approx(sum(task[3] for task in station.tasks))


def test_costs_are_rent_and_starts():
    world, trace = fixed([3, 0, 0, 0])
    tally = Network(world, Control(v=0.1), trace).run(Alone())
    # Started in the first slot; three tasks in three slots; one idle slot would cost as much as a start.
    assert (tally.boots, tally.delays) == (1, [0, 1, 2])
    assert tally.cost == pytest.approx(1.0 + 3.0)


def test_a_start_takes_its_slots():
    world, trace = fixed([1, 0, 0, 0, 0], boot_slots=3)
    assert Network(world, Control(v=0.1), trace).run(Alone()).delays == [3]


def test_one_start_a_slot_unless_more_are_allowed():
    world, trace = fixed([12, 0, 0], room=3)
    counts = {starts: Network(world, Control(v=0.1, starts=starts), trace).run(Alone()).boots for starts in (1, 3)}
    assert counts == {1: 3, 3: 3}
    delays = Network(world, Control(v=0.1, starts=1), trace).run(Alone()).delays
    assert delays == [0, 1, 1, 2, 2, 2]


def test_what_waits_at_the_end_is_late():
    world, trace = fixed([5])
    tally = Network(world, Control(v=100.0), trace).run(Alone())
    assert (tally.ended, tally.late, tally.delays) == (5, 5, [])


def test_the_warm_up_does_not_count():
    world = replace(circle(8, 400), warm_slots=300)
    _, tally = played(world)
    assert len(tally.backlog) == 100


def test_nobody_waits_longer_than_w_allows():
    for seed in range(3):
        _, tally = played(replace(circle(8, 400), growth=0.5), Control(v=4.0), seed)
        assert tally.delay_bound_excess <= 0
        assert tally.stay_max > 0


def test_a_bound_that_is_broken_is_seen():
    network = Network(circle(1, 1), Control(), draw(circle(1, 1), 0))
    network.stations = [[Station(ServiceQueue(1.0, 0.5, 1.0), deque([[0.0, 0, 0, 1.0]]))]]
    network.now = 99
    network._close()
    assert network.tally.delay_bound_excess == 99


def test_while_the_centre_is_away_instances_stay():
    world = replace(circle(8, 200), warm_slots=100)
    network, tally = played(world, Control(observed_slots=2, away=((100, 200),)))
    assert tally.boots == 0
    assert not network.central(network.now)


def test_a_centre_foresees_what_it_sent_and_what_was_served():
    world, trace = fixed([4, 2, 0, 0])
    network = Network(world, Control(v=0.1, observed_slots=2), trace)
    network.run(Alone())
    assert network.tally.delays == [2, 3, 4, 5], "each has waited a round trip for its word"
    station = network.stations[0][0]
    told = network.past(0, 0, 2).waiting
    assert network._foreseen(0, 0).waiting == told + sum(station.placed) - 2 * station.serving


def test_the_past_is_as_it_was():
    network, _ = played(circle(8, 100))
    station = network.stations[0][0]
    assert network.past(0, 0, 1).waiting == station.queue.waiting
    assert network.past(0, 0, 10**6) == network._past[0][0][0]


def test_promises_are_measured_and_sized():
    world = replace(circle(8, 600), room=2, deadline_slots=5)
    network, tally = played(world, Control(v=0.5, promises=True))
    assert all(station.sized is not None for node in network.stations for station in node)
    assert 0 <= tally.late <= tally.ended
