"""Whatever is asked, and whatever liars say is asked: plans stay possible, and cost a figure."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_agent.core.costs import price_alone
from shoal_agent.core.crowding import price
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import NO_DEMAND, Candidate, Demand, Infeasible, SplitProblem, Workload, stages_of
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import TOKENS_PER_KS_MAX

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
