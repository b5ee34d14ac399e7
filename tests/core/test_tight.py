"""Budgets that bite; that the answers are the best there are is held against brute force in tests/property."""

from shoal_agent.core.facts import BlockFacts, Width
from shoal_agent.core.figures import Figures
from shoal_agent.core.problem import Candidate, Link, Links, SplitProblem, Workload
from shoal_agent.core.search import Run, cheapest
from shoal_agent.core.tight import cheapest_within, has_room, is_true, tail_from

GMAC = 10**9
BLOCK = BlockFacts(10, 0, decode_us=1000, prefill_us=0, boundary_bytes_per_token=100_000)
HOME, NEAR = Candidate("a", GMAC, 35, zone="home"), Candidate("b", 4 * GMAC, 1000)


def problem(*candidates, **rest):
    links = Links(Link(rtt_us=10, bytes_per_s=10**8))
    return SplitProblem((BLOCK,) * 6, GMAC, candidates, Workload(1, 1, 0, 1), links, ingress="a", **rest)


def test_head_and_tail_share_what_the_source_has():
    # Two blocks each fit the ends alone, three together: the two passes that are halved find the better side.
    asked = problem(HOME, NEAR, u_shape=True, zones=(("home",), ("home",), (), (), ("home",), ("home",)))
    figures = Figures(asked, [HOME, NEAR])
    fast = cheapest(asked, figures)
    assert fast is not None
    assert not has_room(figures, fast.runs)
    assert cheapest_within(asked, figures, fast) is None
    asked = problem(HOME, NEAR, u_shape=True, zones=(("home",), (), (), (), ("home",), ("home",)))
    figures = Figures(asked, [HOME, NEAR])
    assert cheapest_within(asked, figures, cheapest(asked, figures)) == (Run(0, 0, 1), Run(1, 1, 4), Run(0, 4, 6))


def test_the_earliest_tail_leaves_room_for_the_head():
    figures = Figures(problem(HOME, NEAR), [HOME, NEAR])
    assert [tail_from(figures, 0, head) for head in (1, 2, 3)] == [4, 5, None]


def test_losses_add_up_over_cuts():
    widths = (Width("f32"), Width("i8", 250, 0, 0, 4))
    thirds = [Candidate(name, GMAC, 20) for name in "bcd"]
    asked = problem(*thirds, widths=widths, loss_max=7)
    figures = Figures(asked, thirds)
    fast = cheapest(asked, figures)
    assert fast is not None
    assert [run.width for run in fast.runs] == [0, 1, 1]
    assert not is_true(asked, figures, fast)
    kept = cheapest_within(asked, figures, fast)
    assert kept is not None
    assert sorted(run.width for run in kept) == [0, 0, 1]
    assert sum(widths[run.width].loss for run in kept) <= 7
