import pytest

from shoal_agent.core.costs import price
from shoal_agent.core.crowding import crowded_price, split_crowded, under_load
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Candidate, Infeasible, Link, Links, Split, SplitProblem, Workload, stages_of
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

FAST, NEXT = NodeId("fast"), NodeId("next")


def problem_of(*candidates):
    """Eight blocks of 10 ms a session at the reference speed, one token in and out."""
    blocks = (BlockFacts(1_000, 0, 10_000, 0, 1_000),) * 8
    return SplitProblem(blocks, 1_000, candidates, Workload(1, 1, 0, 1), Links(Link(200, 100_000_000)))


TWO = problem_of(Candidate(FAST, 1_100, 10_000), Candidate(NEXT, 1_000, 10_000))


def test_a_host_waits_for_its_own_stages_and_others_for_what_they_might_take_over():
    loaded = under_load(TWO, [PlanStage(FAST, 0, 7)], 5_000)
    waiting = {c.node: c.waiting_permille for c in loaded.candidates}
    assert waiting[FAST] == pytest.approx(5 * 80 / 1.1, abs=1)
    assert waiting[NEXT] == pytest.approx(5 * 80, abs=1)


def test_what_others_take_is_added_and_the_sum_is_bounded():
    busy = problem_of(Candidate(FAST, 1_000, 10_000, waiting_permille=300))
    assert under_load(busy, [PlanStage(FAST, 0, 7)], 5_000).candidates[0].waiting_permille == 700
    assert under_load(busy, [PlanStage(FAST, 0, 7)], 500_000).candidates[0].waiting_permille == 900


def test_a_node_that_may_not_hold_any_stage_is_not_loaded():
    small = problem_of(Candidate(FAST, 1_100, 10_000), Candidate(NEXT, 1_000, 10))
    assert under_load(small, [PlanStage(FAST, 0, 7)], 5_000).candidates[1].waiting_permille == 0


def test_the_price_grows_as_the_line_does():
    alone = price(TWO, [PlanStage(FAST, 0, 7)])
    crowded = crowded_price(TWO, [PlanStage(FAST, 0, 7)], 6_875)
    assert alone is not None
    assert crowded is not None
    assert crowded.score_us == pytest.approx(2 * alone.score_us, rel=0.01)
    assert crowded_price(TWO, [PlanStage(NodeId("gone"), 0, 7)], 1) is None


def test_without_requests_the_answer_is_the_planners():
    split = split_crowded(TWO, 0, split_model)
    assert isinstance(split, Split)
    assert stages_of(split) == (PlanStage(FAST, 0, 7),)


def test_under_load_the_answer_is_never_worse_than_the_planners():
    planned = split_model(TWO)
    assert isinstance(planned, Split)
    for rate in range(0, 12_000, 1_000):
        split = split_crowded(TWO, rate, split_model)
        usual = crowded_price(TWO, stages_of(planned), rate)
        assert isinstance(split, Split)
        assert usual is not None
        assert split.score_us <= usual.score_us


def test_a_second_answer_is_taken_if_it_is_better_under_its_own_load():
    asked = []

    def solve(problem):
        asked.append(problem)
        stages = [PlanStage(FAST, 0, 7)] if len(asked) == 1 else [PlanStage(FAST, 0, 3), PlanStage(NEXT, 4, 7)]
        return price(problem, stages)

    split = split_crowded(TWO, 10_000, solve)
    assert isinstance(split, Split)
    assert [stage.node for stage in split.stages] == [FAST, NEXT]
    assert split.score_us == crowded_price(TWO, stages_of(split), 10_000).score_us


def test_no_answer_stays_none():
    none = Infeasible("no room", ())
    assert split_crowded(TWO, 1_000, lambda _: none) is none
