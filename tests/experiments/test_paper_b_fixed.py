from dataclasses import replace

from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.fixed import ORACLE_TICK_S, Fixed, Oracle
from shoal_agent.experiments.paper_b.trace import MILD, Outage, draw
from shoal_protocol.messages import PlanStage

N = cluster.NODES
STAGES = (PlanStage(N[0], 0, 1), PlanStage(N[3], 2, 22, (N[5],)), PlanStage(N[0], 23, 23))


def nodes(method, now):
    route = method.route(now)
    return None if route is None else [leg.node for leg in route.legs]


def test_a_plan_for_good_stands_still_whatever_happens():
    fixed = Fixed(STAGES, standbys=False)
    fixed.tick(0.0)
    assert nodes(fixed, 0.0) == [0, 3, 0]
    fixed.found(3, 1.0)
    assert nodes(fixed, 1.0) is None
    fixed.heard(3, 60.0)
    assert nodes(fixed, 61.0) == [0, 3, 0]
    assert fixed.serves(0, 61.0)
    assert not fixed.fetching(3, 61.0)
    assert fixed.admits(61.0, 9)


def test_its_standbys_step_in():
    fixed = Fixed(STAGES, standbys=True)
    fixed.found(3, 1.0)
    assert nodes(fixed, 1.0) == [0, 5, 0]


def test_the_oracle_leaves_a_node_before_it_fails():
    base = draw(MILD, 0, 7, cluster.STEADY, 1.0, 60.0)
    calm = replace(base, outages=((),) * 7)
    planner = cluster.Planner(cluster.sizes_of("int8"))
    middle = next(node for node in nodes(Oracle(calm, planner), 0.0) if node not in cluster.TRUSTED)
    outages = tuple((Outage(20.0, 40.0, 1.0),) if node == middle else () for node in range(7))
    oracle = Oracle(replace(calm, outages=outages), planner)
    for step in range(41):
        now = step * ORACLE_TICK_S
        oracle.tick(now)
        assert middle not in nodes(oracle, now) or not 16.0 < now < 40.0
    assert oracle.serves(0, 40.0)
    assert not oracle.serves(99, 40.0)
    assert oracle.admits(40.0, 9)
    assert not oracle.fetching(middle, 40.0)
