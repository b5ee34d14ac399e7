from itertools import product
from random import Random

import pytest

from shoal_agent.core.backbone import BackboneProblem, CoreService, Machine, Weights
from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.backbone_cost import Figures, cost_of
from shoal_agent.core.backbone_search import search
from shoal_protocol.ids import NodeId
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


def planted(seed):
    """A cluster that has hardly more room than one placement takes, which is there by construction."""
    rng = Random(seed)
    rows, chain, machines = [], [], range(rng.randint(4, 6))
    for number in range(rng.randint(3, 5)):
        hosts = rng.sample(machines, rng.randint(2, 3))
        row = tuple(rng.randint(1, 2) if v in hosts else 0 for v in machines)
        needs = rng.randint(1, 8), rng.randint(1, 4)
        load = {"rate_milli": 1000 * (sum(row) - max(row)), "time_us": 10**6, "headroom_permille": 1000}
        chain.append(CoreService(f"s{number}", needs, **load, price=10, hosts_max=len(hosts)))
        rows.append(row)
    taken = [
        [sum(row[v] * asked.needs[k] for row, asked in zip(rows, chain, strict=True)) for k in (0, 1)] for v in machines
    ]
    hosts = [
        Machine(NodeId(f"n{v}"), tuple(n + rng.randint(0, 1) for n in taken[v]), price=rng.randint(50, 400))
        for v in machines
    ]
    return BackboneProblem(("cpu", "memory"), tuple(hosts), tuple(chain)), tuple(rows)


@pytest.mark.parametrize("first", [0, 10, 20])
def test_where_there_is_hardly_room_a_placement_is_found_all_the_same(first):
    """Without ejection chains it is missed in one of sixteen such clusters."""
    for seed in range(first, first + 10):
        asked, rows = planted(seed)
        assert verify(asked, rows, None) == []
        assert search(asked) is not None, seed


@pytest.mark.long
def test_a_thousand_planted_placements():
    """All but eleven are found, in two minutes: without room to spare ejection chains do not solve every puzzle."""
    missed = [seed for seed in range(1000) if search(planted(seed)[0]) is None]
    assert len(missed) <= 15, missed
