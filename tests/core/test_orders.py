"""Orders that are tried beyond eight candidates, on clusters small enough to know the answer."""

from random import Random

from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.figures import Figures
from shoal_agent.core.orders import promising, strongest
from shoal_agent.core.problem import Candidate, Link, Links, SplitProblem, Workload
from shoal_agent.core.search import cheapest
from shoal_protocol.messages import Objective

GMAC = 10**9


def drawn(random, count):
    nodes = [f"{index:02}" for index in range(count)]
    speeds = (Link(random.randint(50, 900), random.choice((10**6, 10**7, 10**8))) for _ in iter(int, 1))
    return SplitProblem(
        tuple(BlockFacts(10, 0, random.randint(100, 900), 0, 2304) for _ in range(12)),
        GMAC,
        tuple(Candidate(node, random.randint(1, 9) * GMAC, random.randint(20, 70)) for node in nodes),
        Workload(1, 1, 0, 1),
        Links(Link(500, 10**7), {(u, v): next(speeds) for u in nodes for v in nodes if u != v}),
        random.choice(list(Objective)),
    )


def test_strength_is_speed_times_useful_memory():
    weak, idle, busy = Candidate("c", 1, 100), Candidate("b", 3, 100), Candidate("a", 4, 100, busy_permille=900)
    huge = Candidate("d", 2, 10**9)
    assert strongest([weak, busy, huge, idle], 120) == [idle, huge, weak, busy]


def test_the_nodes_of_the_best_order_are_mostly_those_of_the_best_split():
    random, ratios = Random("orders"), []
    for _ in range(15):
        problem = drawn(random, 6)
        ranked = strongest(problem.candidates, 120)
        chosen = promising(problem, ranked)
        exact = cheapest(problem, Figures(problem, list(problem.candidates)))
        if exact is None:
            continue
        again = cheapest(problem, Figures(problem, sorted(chosen, key=lambda c: c.node)))
        assert again is not None
        ratios.append(again.score_ns / exact.score_ns)
    assert len(ratios) > 9
    assert sum(ratios) / len(ratios) < 1.08


def test_the_order_of_candidates_does_not_matter():
    problem = drawn(Random("same"), 12)
    one, other = (promising(problem, strongest(each, 120)) for each in (problem.candidates, problem.candidates[::-1]))
    assert one
    assert one == other


def test_nobody_is_proposed_where_nothing_fits():
    problem = drawn(Random("none"), 4)
    assert promising(problem, [Candidate("a", GMAC, 15)]) == []
