import pytest

from shoal_agent.core.problem import Split, SplitStage
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.control import DRAIN_S, Control
from shoal_agent.experiments.paper_b.serving import Leg
from shoal_protocol.messages import PlanStage

N = cluster.NODES
HEAD, TAIL = PlanStage(N[0], 0, 1), PlanStage(N[0], 23, 23)
OLD = (HEAD, PlanStage(N[3], 2, 22, (N[5],)), TAIL)
NEW = (HEAD, PlanStage(N[2], 2, 10), PlanStage(N[4], 11, 22), TAIL)
PROBLEM = cluster.Planner(cluster.sizes_of("int8")).problem(
    cluster.Conditions(cluster.EDGE, (0,) * 7, (1000,) * 7, cluster.demand_of(4000))
)


def split_of(stages):
    return Split(tuple(SplitStage(s.node, s.first_block, s.last_block, 0, 0, 0) for s in stages), 0)


def nodes(control, now):
    route = control.route(now)
    return None if route is None else [leg.node for leg in route.legs]


def changed(stages=NEW, now=10.0):
    control = Control(OLD, standbys=True)
    control.switch(PROBLEM, split_of(stages), stages, now, 1.0)
    return control


def test_the_old_plan_serves_until_the_new_one_is_ready():
    control = changed()
    took_s = 12 * cluster.BLOCK_BYTES / 32e6 + 12 * cluster.BLOCK_BYTES / 100e6
    assert nodes(control, 11.0 + took_s - 0.01) == [0, 3, 0]
    assert control.busy
    assert nodes(control, 11.0 + took_s) == [0, 2, 4, 0]
    assert not control.busy
    assert control.serves(0, 11.0 + took_s + DRAIN_S)
    assert not control.serves(0, 11.1 + took_s + DRAIN_S)
    assert control.serves(1, 999.0)


def test_blocks_that_a_disk_has_are_not_fetched_again():
    control = changed()
    control.settle(100.0)
    fetched = control.moved.fetched_bytes
    assert fetched == 21 * cluster.BLOCK_BYTES
    assert control.fetching(4, 12.0)
    assert not control.fetching(3, 12.0)
    control.switch(PROBLEM, split_of(OLD), OLD, 100.0, 1.0)
    assert nodes(control, 101.0 + 21 * cluster.BLOCK_BYTES / 100e6) == [0, 3, 0]
    assert control.moved.fetched_bytes == fetched


def test_a_standby_steps_in_and_steps_back():
    control = Control(OLD, standbys=True)
    control.found(3)
    assert [leg for leg in control.route(5.0).legs if leg.node == 5] == [Leg(5, 2, 22)]
    assert control.lost() == (OLD[1],)
    control.heard(3)
    assert nodes(control, 6.0) == [0, 3, 0]


def test_without_standbys_a_lost_host_is_the_end():
    control = Control(OLD, standbys=False)
    control.found(3)
    assert control.route(5.0) is None


def test_a_standby_of_a_new_plan_must_have_loaded_first():
    control = Control((HEAD, PlanStage(N[3], 2, 22), TAIL), standbys=True)
    control.switch(PROBLEM, split_of(OLD), OLD, 0.0, 1.0)
    control.settle(1.0)
    control.found(3)
    loaded_s = 1.0 + 21 * cluster.BLOCK_BYTES / 32e6 + 21 * cluster.BLOCK_BYTES / 100e6
    assert nodes(control, loaded_s - 0.1) is None
    assert nodes(control, loaded_s + 0.1) == [0, 5, 0]


def test_a_plan_that_loses_a_host_before_it_is_ready_is_given_up():
    control = changed()
    control.found(4)
    assert not control.busy
    assert nodes(control, 999.0) == [0, 3, 0]
    assert control.alive(cluster.EDGE) == (0, 1, 2, 3, 5)


def test_what_cannot_be_held_twice_breaks_first():
    full = (HEAD, PlanStage(N[4], 2, 15), PlanStage(N[3], 16, 22), TAIL)
    other = (HEAD, PlanStage(N[3], 2, 8), PlanStage(N[4], 9, 22), TAIL)
    control = Control(full, standbys=True)
    assert control.breaks(PROBLEM, split_of(other))
    control.switch(PROBLEM, split_of(other), other, 0.0, 1.0)
    assert nodes(control, 0.5) == [0, 4, 3, 0]
    assert nodes(control, 1.5) is None
    assert nodes(control, 99.0) == [0, 3, 4, 0]
    assert control.moved.broke == 1


@pytest.mark.parametrize(("dead", "count"), [(5, 1), (4, 0)])
def test_lost_standbys_are_counted(dead, count):
    control = Control(OLD, standbys=True)
    control.found(dead)
    assert control.standbys_lost() == count
    assert all(part.node != N[dead] for part in control.owned())
