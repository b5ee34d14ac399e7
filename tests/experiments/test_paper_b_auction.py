import random

from shoal_agent.core.problem import Infeasible, Split, stages_of
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.auction import Auction, auction

LEVELS = (100, 300, 500, 700)


def seen(rng, nodes=cluster.EDGE):
    return cluster.Conditions(nodes, tuple(rng.choice(LEVELS) for _ in range(7)), (1000,) * 7, cluster.demand_of(4000))


def test_what_is_sold_covers_the_model_where_it_may_and_is_never_better_than_the_exact_split():
    planner = cluster.Planner(cluster.sizes_of("int8"))
    house = Auction(planner)
    rng = random.Random(4)
    worse = 0
    for _ in range(10):
        asked = seen(rng)
        sold, best = house.split(asked), planner.split(asked)
        assert isinstance(sold, Split)
        assert isinstance(best, Split)
        stages = stages_of(sold)
        assert [b for s in stages for b in range(s.first_block, s.last_block + 1)] == [*range(cluster.BLOCKS)]
        for stage in stages:
            private = any(cluster.needs_trust(b) for b in range(stage.first_block, stage.last_block + 1))
            assert not private or cluster.NODES.index(stage.node) in cluster.TRUSTED
        assert sold.score_us >= 0.9 * best.score_us, "the exact one is exact but for its own line"
        worse += sold.score_us > best.score_us
    assert worse > 0
    assert house.split(asked) is sold


def test_without_a_bidder_there_is_no_split():
    house = Auction(cluster.Planner(cluster.sizes_of("int8")))
    few = seen(random.Random(0), nodes=(0, 2))
    assert isinstance(house.split(few), Infeasible)
    assert auction(house.problem(few)) == []
    assert isinstance(house.moved(few, ()), Infeasible)
