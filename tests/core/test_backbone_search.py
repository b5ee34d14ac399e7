from itertools import product

import pytest

from shoal_agent.core.backbone import Weights
from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.backbone_cost import Figures, cost_of
from shoal_agent.core.backbone_search import search
from tests.support.backbones import machine, problem, random_problem, service


def placements(asked):
    """Every placement that does not fill a machine by itself."""
    figures = Figures(asked)
    useful = [max(need, cover) for need, cover in zip(figures.need, figures.cover, strict=True)]
    rows = [
        [row for row in product(*(range(min(most, useful[m]) + 1) for most in figures.most[m])) if any(row)]
        for m in range(len(asked.services))
    ]
    return product(*rows)


def test_what_is_found_keeps_every_rule_and_costs_what_it_says():
    found = 0
    for seed in range(12):
        asked = random_problem(seed)
        answer = search(asked)
        if answer is not None:
            found += 1
            assert verify(asked, answer.counts, answer.cost.total) == []
    assert found > 8


def test_the_same_question_has_the_same_answer():
    assert search(random_problem(7)) == search(random_problem(7))


def test_nothing_is_found_where_nothing_is():
    assert search(problem([machine("a"), machine("b", 3)], [service("s", 4)])) is None


def test_what_stands_is_not_moved_without_need():
    hosts = [machine(name) for name in "abcd"]
    stands = ((0, 0, 1, 1), (0, 1, 1, 0))
    asked = problem(
        hosts,
        [service("s", weight_bytes=10**9), service("t", weight_bytes=10**9)],
        current=stands,
        weights=Weights(moved_mb=1),
    )
    answer = search(asked)
    assert answer is not None
    assert answer.counts == stands
    assert answer.cost.moving == 0


def test_a_hint_is_followed_where_nothing_else_tells_machines_apart():
    asked = problem([machine(name) for name in "abcd"], [service("s")])
    answer = search(asked, {(0, 2): 1000, (0, 3): 1000})
    assert answer is not None
    assert answer.cost.total == 20


@pytest.mark.parametrize("seed", range(12))
def test_small_clusters_are_solved_nearly_as_well_as_by_force(seed):
    asked = random_problem(seed, (3, 4), (1, 2))
    answer = search(asked)
    possible = [counts for counts in placements(asked) if not verify(asked, counts, None)]
    if not possible:
        assert answer is None
        return
    figures = Figures(asked)
    best = min(cost_of(figures, counts).total for counts in possible)
    assert answer is not None
    assert best >= 0.9 * answer.cost.total
