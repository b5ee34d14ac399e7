import pytest

from shoal_agent.core.problem import Split, stages_of
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.trace import MILD, draw

IDLE = cluster.Conditions(cluster.EDGE, (0,) * 7, (1000,) * 7, cluster.demand_of(4000))


@pytest.fixture(scope="module")
def planner():
    return cluster.Planner(cluster.sizes_of("int8"))


def test_private_blocks_stay_where_there_is_trust(planner):
    stages = stages_of(planner.split(IDLE))
    assert [block for stage in stages for block in range(stage.first_block, stage.last_block + 1)] == [*range(24)]
    for stage in stages:
        private = any(cluster.needs_trust(block) for block in range(stage.first_block, stage.last_block + 1))
        assert not private or cluster.NODES.index(stage.node) in cluster.TRUSTED
    assert len(stages) >= 3


def test_a_question_is_asked_once(planner):
    assert planner.split(IDLE) is planner.split(cluster.Conditions(*(getattr(IDLE, n) for n in IDLE.__slots__)))
    stages = stages_of(planner.split(IDLE))
    assert planner.moved(IDLE, stages) is planner.moved(IDLE, stages)
    assert planner.price(IDLE, stages) is planner.price(IDLE, stages)


def test_the_same_cuts_elsewhere_are_no_better_than_other_cuts(planner):
    stages = stages_of(planner.split(IDLE))
    moved = planner.moved(IDLE, stages)
    assert isinstance(moved, Split)
    assert moved.score_us >= 0.99 * planner.split(IDLE).score_us


def test_a_line_makes_it_dearer_and_a_lost_host_priceless(planner):
    stages = stages_of(planner.split(IDLE))
    assert planner.price(IDLE, stages).score_us > planner.alone(IDLE, stages).score_us
    less = cluster.Conditions(tuple(n for n in cluster.EDGE if n != cluster.NODES.index(stages[1].node)), *rest())
    assert planner.price(less, stages) is None


def rest():
    return IDLE.busy, IDLE.link, IDLE.demand


def test_wide_activations_cost_more():
    wide, narrow = (cluster.Planner(cluster.sizes_of(width)) for width in ("fp32", "int8"))
    slow = cluster.Conditions(cluster.EDGE, (0,) * 7, (250,) * 7, cluster.demand_of(4000))
    assert wide.split(slow).score_us > narrow.split(slow).score_us


def test_what_is_and_what_is_usual():
    trace = draw(MILD, 0, 7, cluster.STEADY, 1.0, 600.0)
    now, usual = cluster.conditions(trace, 300.0, (0, 1), 4000), cluster.usual(trace, (0, 1))
    assert now.busy == tuple(round(1000 * steps.at(300.0)) for steps in trace.busy)
    assert 100 < min(usual.busy) <= max(usual.busy) < 700
    assert usual.demand == cluster.demand_of(round(1000 * len(trace.arrivals) / 600))


def test_the_cloud_is_far_and_the_ingress_on_a_weak_link():
    assert cluster.bandwidth(0, cluster.CLOUD) < cluster.bandwidth(0, 1) < cluster.bandwidth(1, 2)
    assert cluster.rtt_s(1, cluster.CLOUD) > cluster.rtt_s(1, 2)


def test_no_trusted_machine_holds_the_model():
    assert all(cluster.MEMORY_MB[n] * 1e6 < cluster.BLOCKS * cluster.BLOCK_BYTES for n in cluster.TRUSTED)
