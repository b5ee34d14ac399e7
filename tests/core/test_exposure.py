"""How much time every block that stays at home costs; fronts against brute force: test_pareto.py."""

from shoal_agent.core.exposure import profile
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.figures import Figures
from shoal_agent.core.problem import Candidate, Link, Links, SplitProblem, Workload
from shoal_agent.core.search import Run

GMAC = 10**9
BLOCK = BlockFacts(10, 0, decode_us=1000, prefill_us=0, boundary_bytes_per_token=0)


def found(*nodes, outside, source=None, **rest):
    links = Links(Link(rtt_us=200, bytes_per_s=10**9))
    problem = SplitProblem((BLOCK,) * 4, GMAC, nodes, Workload(1, 1, 0, 1), links, **rest)
    return list(profile(problem, Figures(problem, list(nodes)), outside, source))


def test_every_number_of_blocks_outside_has_its_best():
    home, cloud = Candidate("a", GMAC, 100), Candidate("b", 2 * GMAC, 100)
    best = found(home, cloud, outside=(False, True))
    assert [each.blocks for each in best] == [0, 1, 2, 3, 4]
    assert [each.score for each in best] == [4_000_000, 3_700_000, 3_200_000, 2_700_000, 2_000_000]
    assert best[1].runs in {(Run(0, 0, 3), Run(1, 3, 4)), (Run(1, 0, 1), Run(0, 1, 4))}


def test_both_ends_at_home_are_one_way_among_others():
    home, cloud = Candidate("a", GMAC, 30), Candidate("b", 2 * GMAC, 100)
    folded = [e for e in found(home, cloud, outside=(False, True), source=0, u_shape=True) if len(e.runs) == 3]
    assert [each.blocks for each in folded] == [1, 2], "three blocks are all that home can hold"
    assert all(each.runs[0].node == each.runs[-1].node == 0 for each in folded)
