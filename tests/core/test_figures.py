"""The terms of the searches are those of ``costs``."""

from random import Random

from shoal_agent.core.costs import Costs, Memory
from shoal_agent.core.figures import FASTEST, Figures, reaches
from shoal_agent.core.problem import Candidate, SplitProblem, Workload
from tests.property.test_split import BlockFacts, drawn


def test_every_term_is_what_costs_say():
    random = Random("figures")
    for _ in range(30):
        problem = drawn(random, 4, 5)
        nodes = [c for c in problem.candidates if c.speed_macs_per_s]
        figures, costs = Figures(problem, nodes), Costs(problem)
        for n, node in enumerate(nodes):
            ends = range(len(problem.blocks) + 1)
            assert [figures.path[n][end] - figures.path[n][1] for end in ends[1:]] == [
                costs.stage(node, 1, end) for end in ends[1:]
            ]
            assert figures.enter[n] == costs.enter(node.node)
            assert figures.busy[n] <= figures.path[n]
            for u, sender in enumerate(nodes):
                for start in ends[:-1]:
                    hops = [costs.hop(sender.node, node.node, start, width) for width in figures.widths]
                    assert [figures.crossing(u, n, w)[start] for w in range(len(hops))] == hops
                    if hops:
                        assert figures.crossing(u, n, FASTEST)[start] == min(hops)
                        assert hops[figures.fastest_width(u, n, start)] == min(hops)


def test_a_reach_ends_where_memory_or_trust_does():
    block = BlockFacts(10, 0, 1, 1, 1)
    zones = ((), (), ("home",), (), (), ())
    problem = SplitProblem((block,) * 6, 1, (), Workload(1), zones=zones, shared_bytes=5)
    assert reaches(problem, Memory(problem), Candidate("a", 1, 25, zone="cloud")) == [2, 2, 2, 5, 6, 6]
    assert reaches(problem, Memory(problem), Candidate("a", 1, 25, zone="home")) == [2, 3, 4, 5, 6, 6]
    assert reaches(problem, Memory(problem), Candidate("a", 1, 5, zone="home")) == [0, 1, 2, 3, 4, 5]


def test_weights_weigh_time_and_work():
    problem = drawn(Random("weights"), 4, 5)
    nodes = [Candidate("a", 100, 50), Candidate("b", 900, 70)]
    figures = Figures(problem, nodes)
    weighted = figures.weighted(3, 2, [7] * len(nodes))
    assert weighted.path[0][-1] == 3 * figures.path[0][-1] + 14 * figures.busy[0][-1]
    assert weighted.leave == [3 * leave for leave in figures.leave]
    assert weighted.crossing(0, 1, FASTEST) == [3 * hop for hop in figures.crossing(0, 1, FASTEST)]
