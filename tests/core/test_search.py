"""The window minimum against all starts, and the programme on one case; tests/property compares whole answers."""

from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.figures import UNREACHED, Figures
from shoal_agent.core.search import Run, arrivals, cheapest, join_of, lay, source_of
from shoal_protocol.messages import Objective
from tests.property.test_split import brute_force_us, drawn


@pytest.mark.parametrize("objective", Objective)
def test_the_window_finds_the_best_start_for_every_end(objective):
    random, join = Random(7), join_of(objective)
    for _ in range(300):
        count = random.randint(1, 8)
        path, reach, end = [0], [], 0
        for start in range(count):
            path.append(path[-1] + random.randint(0, 9))
            end = random.randint(max(end, start), count)
            reach.append(end)
        came = [random.choice((UNREACHED, random.randint(0, 40))) for _ in range(count)]
        best = [UNREACHED] * (count + 1)
        for start, arrived in enumerate(came):
            for end in range(start + 1, reach[start] + 1):
                best[end] = min(best[end], join(arrived, path[end] - path[start]))
        assert [min(cost, UNREACHED) for cost in lay(came, path, reach, objective)] == best


@pytest.mark.parametrize(("objective", "best"), [(Objective.LATENCY, [4, 6]), (Objective.THROUGHPUT, [3, 5])])
def test_the_cheapest_arrival_counts(objective, best):
    assert arrivals([([9, 1, 0], [1, 5]), ([3, UNREACHED, 0], [1, 1])], objective) == best


def test_what_the_fast_search_answers_is_never_worse_than_what_is_allowed():
    random = Random("relaxed")
    for _ in range(100):
        problem = drawn(random, 4, 4)
        if problem.ingress is None:
            problem = replace(problem, u_shape=False)  # that is not this search's
        figures = Figures(problem, sorted((c for c in problem.candidates if c.speed_macs_per_s), key=lambda c: c.node))
        found, best_us = cheapest(problem, figures), brute_force_us(problem)
        if best_us is not None:
            assert found is not None
            assert found.score_ns // (1000 * problem.workload.answer_tokens) <= best_us
            assert [run.start for run in found.runs] == [0, *(run.end for run in found.runs[:-1])]
            assert found.runs[0] == Run(found.runs[0].node, 0, found.runs[0].end)


def test_only_the_ingress_may_hold_both_ends():
    random = Random("source")
    for _ in range(20):
        problem = drawn(random, 4, 4)
        figures = Figures(problem, [c for c in problem.candidates if c.speed_macs_per_s])
        source = source_of(problem, figures)
        if source is not None:
            assert problem.u_shape
            assert figures.nodes[source].node == problem.ingress
