from dataclasses import replace

import numpy as np
import pytest

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.regimes import Hold
from shoal_agent.experiments.paper_a.trace import Arrival, Trace
from shoal_agent.experiments.paper_a.world import Stage, World, gives
from tests.support.paper_a import played, setting, world


class ToGateway:
    """Everything light to one instance at the gateway, everything core to the first host."""

    def decide(self, one):
        for stage in one.waiting:
            gateway, number = stage.task.gateway, stage.service.number
            if stage.service.core:
                one.send_core(stage, min(one.cores[number]))
                continue
            if not one.pool(gateway, number).instances:
                one.boot(gateway, stage.service)
            one.send_light(stage, gateway)


def single(rate=1.0, hold=Hold.COMPUTING):
    """A world with one task, and instances that all run at ``rate``."""
    base = setting()
    sizes = (60, len(base.scenario.nodes), 32)
    rates = {number: np.full(sizes, rate) for number in tables.LIGHTS}
    trace = Trace(((Arrival(0, 0.0, 0.0),), *[()] * 59), rates)
    return World(base.scenario, trace, base.placement, hold)


def test_a_task_walks_through_its_pipeline_in_order():
    one = single()
    one.run(ToGateway())
    (task,) = one.tasks
    assert list(task.ended) == list(task.pipeline.parents) or set(task.ended) == set(task.pipeline.parents)
    for service, parents in task.pipeline.parents.items():
        assert all(task.ended[parent][1] < task.ended[service][1] for parent in parents)
    assert task.done_ms == max(when for _, when in task.ended.values())


def test_a_light_stage_takes_its_work_over_its_rate():
    one = single(rate=0.5)
    one.run(ToGateway())
    (task,) = one.tasks
    first = next(number for number, parents in task.pipeline.parents.items() if not parents)
    assert task.ended[first][1] == pytest.approx(one.scenario.services[first].work_mb / 0.5)


def test_cost_is_core_instances_boots_and_instance_slots():
    one = single()
    one.run(ToGateway())
    cores = sum(setting().placement.values())
    fixed = cores * (tables.CORE_BOOT + tables.CORE_RUN * 60)
    assert one.cost == pytest.approx(fixed + tables.LIGHT_BOOT * one.boots + tables.LIGHT_RUN * one.instance_slots)
    assert one.boots == len([number for number in one.tasks[0].ended if number in tables.LIGHTS])


def test_when_a_core_instance_is_given_away():
    """One that is free now, in half a slot, in a slot and a half."""
    given = {hold: [gives(hold, free_in) for free_in in (0.0, 0.5, 1.5)] for hold in Hold}
    assert given == {
        Hold.COMPUTING: [True, True, True],
        Hold.INPUT: [True, True, False],
        Hold.SLOTS: [True, False, False],
    }


@pytest.mark.parametrize(
    ("hold", "free", "begins"), [(Hold.COMPUTING, 0.5, 2.5), (Hold.INPUT, 0.5, 3.0), (Hold.SLOTS, 0.0, 2.5)]
)
def test_a_held_instance_waits_for_its_input_from_when_it_is_free(hold, free, begins):
    one = single(hold=hold)
    one._arrived(Arrival(0, 0.0, 0.0))
    one.there_ms = lambda *_: 2.5
    number = next(m for m in one.tasks[0].pipeline.parents if m in tables.CORES)
    node = min(one.cores[number])
    one.cores[number][node] = [free]
    stage = Stage(one.tasks[0], one.scenario.services[number], 0.0)
    assert one.begin_ms(stage, node) == begins
    one.send_core(stage, node)
    assert one.cores[number][node] == [begins + stage.service.run_ms]


def test_a_held_instance_is_chosen_only_when_it_is_free():
    one = single(hold=Hold.INPUT)
    one._arrived(Arrival(0, 0.0, 0.0))
    number = tables.CORES[0]
    node = min(one.cores[number])
    one.cores[number][node] = [1.5]
    with pytest.raises(AssertionError, match="when it is free"):
        one.send_core(Stage(one.tasks[0], one.scenario.services[number], 0.0), node)


def test_what_was_there_in_a_slot_is_remembered_with_what_ended_in_it():
    one, service = single(rate=100.0), world().scenario.services[tables.LIGHTS[0]]
    one.boot(7, service)
    for number in range(3):
        one._arrived(Arrival(0, 0.0, 0.0))
        one.pool(7, service.number).queue.append(Stage(one.tasks[number], service, 0.0, 7, 0.0, service.work_mb))
    one._ended = lambda *_: None
    pool = one.pool(7, service.number)
    one._serve(7, service.number, pool)
    assert not pool.queue
    assert (pool.seen, pool.seen_urgency) == (3, 3.0)
    one._serve(7, service.number, pool)
    assert (pool.seen, pool.seen_urgency) == (0, 0.0)


def test_a_shared_queue_serves_the_earliest_deadline_first():
    one = single()
    one.slot = 0
    service = one.scenario.services[tables.LIGHTS[0]]
    base = setting().scenario.pipelines[0]
    pool = one.pool(7, service.number)
    one.boot(7, service)
    for number, deadline in enumerate((30.0, 10.0, 20.0)):
        one._arrived(Arrival(0, 0.0, 0.0))
        task = one.tasks[-1]
        task.pipeline = replace(base, deadline_ms=deadline)
        task.gateway = 7
        stage = Stage(task, service, 0.0, 7, 0.0, service.work_mb)
        pool.queue.append(stage)
        assert task.number == number
    order = []
    one._ended = lambda stage, when: order.append(stage.task.number)
    for slot in range(20):
        one.slot = slot
        one._serve(7, service.number, pool)
    assert order == [1, 2, 0]


def test_machines_are_never_overfull_and_every_task_counts():
    one = played("ours")
    assert len(one.tasks) == sum(len(slot) for slot in one.trace.arrivals)
    for used, room in zip(one.used, one.scenario.rooms, strict=True):
        assert all(u <= r + 1e-6 for u, r in zip(used, room, strict=True))


def test_what_does_not_fit_or_is_at_work_is_refused():
    one = world()
    service = replace(one.scenario.services[1], needs=(1e9, 0.0, 0.0, 0.0))
    assert not one.fits(7, service)
    with pytest.raises(AssertionError):
        one.boot(7, service)
