"""Whatever is asked, whatever links are measured to carry, and whatever liars say of both: plans cost a figure."""

from dataclasses import replace
from itertools import combinations, pairwise, permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_agent.core.costs import price_alone
from shoal_agent.core.crowding import price
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.figures import UNREACHED
from shoal_agent.core.outlook import RATE_MAX, RATE_MIN, carrying
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import (
    LAN,
    NO_DEMAND,
    Candidate,
    Demand,
    Infeasible,
    Link,
    Links,
    SplitProblem,
    Workload,
    stages_of,
)
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import BYTES_PER_S_MAX, TOKENS_PER_KS_MAX
from shoal_protocol.messages import PlanStage

RATES = st.integers(0, TOKENS_PER_KS_MAX)


@st.composite
def problems(draw):
    nodes = draw(st.integers(1, 4))
    blocks = tuple(BlockFacts(100, 0, draw(st.integers(0, 50_000)), draw(st.integers(0, 50_000)), 500) for _ in "abcde")
    memory = [draw(st.sampled_from([200, 300, 500])) for _ in range(nodes)]
    candidates = tuple(
        Candidate(NodeId(f"n{n}"), draw(st.integers(1, 2_000)), memory[n], draw(st.integers(0, 1000)), 0)
        for n in range(nodes)
    )
    return SplitProblem(blocks, 1_000, candidates, Workload(1, 1, 16, 4), demand=Demand(draw(RATES), draw(RATES)))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_demand_makes_a_plan_impossible_cheaper_or_endless(problem):
    calm = replace(problem, demand=NO_DEMAND)
    alone, crowded = split_model(calm), split_model(problem)
    assert type(alone) is type(crowded), "memory decides what is possible, not a crowd"
    if isinstance(crowded, Infeasible):
        return
    assert alone.score_us <= crowded.score_us <= 10 * (alone.score_us + 1)
    assert crowded.score_us == price(problem, stages_of(crowded)).score_us
    assert crowded.score_us <= price(problem, stages_of(alone)).score_us
    assert price(calm, stages_of(alone)) == price_alone(calm, stages_of(alone))


@settings(max_examples=60, deadline=None)
@given(problems(), st.lists(st.integers(0, BYTES_PER_S_MAX), min_size=12, max_size=12))
def test_no_link_makes_a_plan_impossible_or_endless(problem, rates):
    names = [candidate.node for candidate in problem.candidates]
    pairs = [(one, other) for one in names for other in names if one != other]
    links = carrying(dict.fromkeys(pairs, LAN), dict(zip(pairs, rates, strict=False)))
    assert all(RATE_MIN <= link.bytes_per_s <= RATE_MAX for link in links.values())
    usual, measured = (split_model(replace(problem, links=Links(measured=known))) for known in ({}, links))
    assert type(usual) is type(measured)
    assert isinstance(measured, Infeasible) or measured.score_us < UNREACHED


def cluster(rng):
    """Six blocks over four nodes, as busy as 0.2 to 1.2 of what the model takes of a middling node."""
    blocks = tuple(
        BlockFacts(100, 0, rng.randint(2_000, 20_000), 0, rng.choice([100, 5_000, 20_000])) for _ in range(6)
    )
    nodes = tuple(
        Candidate(NodeId(f"n{n}"), rng.choice([300, 600, 1_000, 1_500]), rng.choice([250, 400, 650])) for n in range(4)
    )
    asked = Demand(0, round(rng.uniform(0.2, 1.2) * 10**9 / sum(block.decode_us for block in blocks)))
    links = Links(Link(rng.choice([200, 5_000]), 10_000_000))
    return SplitProblem(blocks, 1_000, nodes, Workload(1, 1, 1, 1), links, demand=asked)


def best_us(problem):
    """By trying all rows of nodes and all cuts; None if nothing fits."""
    ends, found = len(problem.blocks), []
    for count in range(1, len(problem.candidates) + 1):
        for row in permutations(problem.candidates, count):
            for inner in combinations(range(1, ends), count - 1):
                cuts = list(pairwise((0, *inner, ends)))
                if all(100 * (end - start) <= node.memory_bytes for node, (start, end) in zip(row, cuts, strict=True)):
                    stages = [PlanStage(node.node, a, b - 1) for node, (a, b) in zip(row, cuts, strict=True)]
                    found.append(price(problem, stages).score_us)
    return min(found, default=None)


@pytest.mark.long
def test_the_guesses_find_nearly_the_best_there_is():
    rng, ratios = Random(3), []
    for _ in range(150):
        problem = cluster(rng)
        best = best_us(problem)
        if best is not None:
            ratios.append(split_model(problem).score_us / best)
    assert len(ratios) > 100
    assert sum(ratios) / len(ratios) < 1.03
    assert max(ratios) < 1.3
