"""The least that can follow is never more than what follows."""

from random import Random

from shoal_agent.core.figures import UNREACHED, Figures
from shoal_agent.core.remainder import rest_of
from shoal_agent.core.search import cheapest, join_of, source_of
from tests.property.test_split import drawn


def test_it_is_a_bound_of_every_way_and_a_tight_one():
    random, exact, compared = Random("rest"), 0, 0
    for _ in range(200):
        problem = drawn(random, 4, 5)
        figures = Figures(problem, sorted((c for c in problem.candidates if c.speed_macs_per_s), key=lambda c: c.node))
        join, found = join_of(problem.objective), cheapest(problem, figures)
        if found is None or len(found.runs) == 1:
            continue
        folded = found.runs[0].node == found.runs[-1].node
        rest = rest_of(figures, join, source_of(problem, figures) if folded else None)
        follows = figures.leave[found.runs[-1].node]
        for index in range(len(found.runs) - 1, int(folded), -1):
            run, before = found.runs[index], found.runs[index - 1]
            follows = join(follows, figures.path[run.node][run.end] - figures.path[run.node][run.start])
            follows = join(follows, figures.link[before.node][run.node][run.start])
            assert rest[before.node][before.end] <= follows < UNREACHED
            exact, compared = exact + (rest[before.node][before.end] == follows), compared + 1
    assert compared > 50
    assert exact > compared / 2
