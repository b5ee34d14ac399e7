from itertools import pairwise

from shoal_agent.core.gossip import DRIFT_SPACING_S
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.sight import Sight
from shoal_agent.experiments.paper_b.trace import MILD, draw

DEMAND = cluster.demand_of(4_000)


def test_fresh_sight_is_the_truth_and_other_sight_is_late_at_most_by_the_spacing():
    trace = draw(MILD, 0, 7, cluster.STEADY, 1.0, 600.0)
    fresh, told = Sight(trace, fresh=True), Sight(trace, fresh=False)
    for step in range(600):
        truth = cluster.conditions(trace, float(step), cluster.EDGE, 4_000)
        assert fresh.conditions(float(step), cluster.EDGE, DEMAND) == truth
    stale = [
        step
        for step in range(600)
        if told.conditions(float(step), cluster.EDGE, DEMAND) != fresh.conditions(float(step), cluster.EDGE, DEMAND)
    ]
    assert stale
    runs = [1]
    for before, after in pairwise(stale):
        runs.append(runs[-1] + 1 if after == before + 1 else 1)
    assert max(runs) <= 7 * DRIFT_SPACING_S
