from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.swarm import END, FIRST, Span, Swarm, better, choose, length, served, way
from shoal_agent.experiments.paper_b.trace import MILD, draw


def swarm(seed=0):
    return Swarm(draw(MILD, seed, 7, cluster.STEADY, 1.0, 600.0))


def test_the_worst_served_run_is_chosen_and_of_equal_ones_the_first():
    throughputs = [9.0] * cluster.BLOCKS
    assert choose(throughputs, 3) == FIRST
    throughputs[10] = 1.0
    assert choose(throughputs, 3) == 8
    throughputs[11] = 2.0
    assert choose(throughputs, 2) == 10


def test_a_swarm_covers_the_model_and_the_client_keeps_its_ends():
    one = swarm()
    legs = one.route(0.0).legs
    assert [b for leg in legs for b in range(leg.first, leg.last + 1)] == [*range(cluster.BLOCKS)]
    assert (legs[0].node, legs[-1].node) == (cluster.INGRESS, cluster.INGRESS)
    assert (legs[0].last, legs[-1].first) == (FIRST - 1, END)
    assert all(length(node) * cluster.BLOCK_BYTES <= cluster.MEMORY_MB[node] * 1e6 for node in cluster.EDGE)


def test_the_way_leaves_out_who_failed_and_ends_where_nobody_is():
    one = swarm()
    for node in (5, 3, 2, 4, 1):
        one.found(node, 1.0)
        route = one.route(1.0)
        assert route is None or node not in [leg.node for leg in route.legs]
    assert one.route(1.0) is None
    one.heard(3, 60.0)
    assert one.route(60.0) is None, "its blocks load first"
    assert one.route(600.0) is not None
    assert one.fetching(3, 60.0) is (one.moved.fetched_bytes > 0)


def test_the_way_is_the_cheapest():
    spans = [Span(1, FIRST, END), Span(2, FIRST, 12), Span(3, 12, END)]
    assert [leg.node for leg in way(spans, (400.0, 400.0, 400.0)).legs[1:-1]] == [1], "a hop costs 18 ms"
    assert [leg.node for leg in way(spans, (100.0, 900.0, 900.0)).legs[1:-1]] == [2, 3]
    assert way(spans[1:2], (100.0,)) is None


def test_a_server_moves_only_for_enough_and_never_leaves_a_gap():
    even = {1: Span(1, FIRST, FIRST + length(1)), 3: Span(3, FIRST, END), 5: Span(5, FIRST, END)}
    rates = {1: 10.0, 3: 100.0, 5: 100.0}
    assert better(1, even, rates) is None
    rates[1] = 1000.0
    start = better(1, even, rates)
    assert start is None or start != FIRST
    alone = {1: Span(1, FIRST, FIRST + length(1)), 2: Span(2, END - length(2), END)}
    assert better(2, alone, {1: 9.0, 2: 9.0}) is None
    assert min(served(alone, {1: 9.0, 2: 9.0})[FIRST:END]) > 0


def test_servers_take_turns_and_what_they_do_is_the_same_every_time():
    ones = swarm(), swarm()
    for one in ones:
        for turn in range(12):
            one.tick(turn * one.tick_s)
    assert ones[0].route(300.0) == ones[1].route(300.0)
    assert ones[0].serves(0, 1.0)
    assert ones[0].admits(1.0, 1)
