from dataclasses import replace

import pytest

from shoal_agent.core.costs import price_alone
from shoal_agent.core.crowding import price, split_crowded, under_load
from shoal_agent.core.decision import HOLD_S
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import (
    NO_DEMAND,
    Candidate,
    Demand,
    Infeasible,
    Link,
    Links,
    Split,
    SplitProblem,
    Workload,
    stages_of,
)
from shoal_agent.core.steering import EVALUATE_S
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Cause, Objective, PlanStage
from tests.support.mind import Mind, wished
from tests.support.opinion import Opinion

FAST, NEXT = NodeId("fast"), NodeId("next")
WHOLE = [PlanStage(FAST, 0, 7)]


def problem_of(*candidates, rate=0):
    """Eight blocks of 10 ms a session at the reference speed, one token in and out; ``rate`` sessions in 1,000 s."""
    blocks = (BlockFacts(1_000, 0, 10_000, 0, 1_000),) * 8
    links = Links(Link(200, 100_000_000))
    return SplitProblem(blocks, 1_000, candidates, Workload(1, 1, 1, 1), links, demand=Demand(rate, rate))


def two(rate=0):
    return problem_of(Candidate(FAST, 1_100, 10_000), Candidate(NEXT, 1_000, 10_000), rate=rate)


def test_a_host_waits_for_its_own_stages_and_others_for_what_they_might_take_over():
    loaded = under_load(two(5_000), WHOLE)
    waiting = {c.node: c.waiting_permille for c in loaded.candidates}
    assert waiting[FAST] == pytest.approx(5 * 80 / 1.1, abs=1)
    assert waiting[NEXT] == pytest.approx(5 * 80, abs=1)
    assert loaded.demand == NO_DEMAND, "told once is enough"


def test_two_runs_of_one_host_are_one_line():
    loaded = under_load(two(5_000), [PlanStage(NEXT, 0, 1), PlanStage(FAST, 2, 5), PlanStage(NEXT, 6, 7)])
    waiting = {c.node: c.waiting_permille for c in loaded.candidates}
    assert waiting[NEXT] == pytest.approx(5 * 40, abs=1)


def test_what_is_asked_may_be_of_another_length_than_what_is_compared():
    """Long prompts and short answers load a node by what they are, not as if they were the typical session."""
    blocks = (BlockFacts(1_000, 0, 10_000, 1_280, 1_000),) * 8
    problem = replace(two(), blocks=blocks, demand=Demand(prompt_tokens_per_ks=2_000_000))
    (waiting, _) = (c.waiting_permille for c in under_load(problem, WHOLE).candidates)
    assert waiting == pytest.approx(2_000 * 8 * 0.01 / 1.1, abs=1)


def test_what_others_take_is_added_and_the_sum_is_bounded():
    busy = problem_of(Candidate(FAST, 1_000, 10_000, waiting_permille=300), rate=5_000)
    assert under_load(busy, WHOLE).candidates[0].waiting_permille == 700
    assert under_load(replace(busy, demand=Demand(0, 10**9)), WHOLE).candidates[0].waiting_permille == 900


def test_a_node_that_may_not_hold_any_stage_is_not_loaded():
    small = problem_of(Candidate(FAST, 1_100, 10_000), Candidate(NEXT, 1_000, 10), rate=5_000)
    assert under_load(small, WHOLE).candidates[1].waiting_permille == 0


def test_the_price_grows_as_the_line_does():
    alone, crowded = price(two(), WHOLE), price(two(6_875), WHOLE)
    assert alone == price_alone(two(), WHOLE)
    assert crowded.score_us == pytest.approx(2 * alone.score_us, rel=0.01)
    assert price(two(1), [PlanStage(NodeId("gone"), 0, 7)]) is None


def test_a_line_does_not_change_how_much_a_stage_can_do():
    aim = replace(two(6_875), objective=Objective.THROUGHPUT)
    assert price(aim, WHOLE) == price_alone(aim, WHOLE)


def test_without_requests_the_answer_is_the_planners_to_the_last_bit():
    split = split_model(two())
    assert stages_of(split) == tuple(WHOLE)
    assert split_crowded(two(), split_model) == split
    assert [rival.node for rival in split.rivals] == [NEXT]


def test_under_load_the_answer_is_never_worse_than_the_planners():
    planned = split_model(two())
    for rate in range(0, 12_000, 1_000):
        split = split_model(two(rate))
        assert split.score_us <= price(two(rate), stages_of(planned)).score_us
        assert split.score_us == price(two(rate), stages_of(split)).score_us


def test_a_crowd_splits_what_one_node_serves_best_when_it_is_quiet():
    assert len(split_model(two()).stages) == 1
    assert len(split_model(two(9_000)).stages) == 2


def test_what_few_cannot_keep_up_with_is_shared_among_as_many_as_it_takes():
    """Two nodes are swamped as one is: only with four the line is shorter than can be told."""
    nodes = tuple(Candidate(NodeId(f"n{number}"), 1_000, 10_000) for number in range(6))
    split = split_model(problem_of(*nodes, rate=35_000))
    assert len(split.stages) >= 4
    assert split.score_us < 2 * 80_000 / 0.2


@pytest.mark.parametrize("rate", [1_000, 9_000])
def test_who_is_left_out_is_told_a_figure_of_the_same_crowd(rate):
    three = replace(two(rate), candidates=(*two().candidates, Candidate(NodeId("slow"), 100, 10_000)))
    split = split_model(three)
    assert split.rivals
    assert all(rival.score_us >= split.score_us for rival in split.rivals)


def test_a_second_answer_is_taken_if_it_is_better_under_its_own_load():
    asked = []

    def solve(problem):
        asked.append(problem)
        stages = WHOLE if len(asked) == 1 else [PlanStage(FAST, 0, 3), PlanStage(NEXT, 4, 7)]
        return price_alone(problem, stages)

    split = split_crowded(two(10_000), solve)
    assert isinstance(split, Split)
    assert [stage.node for stage in split.stages] == [FAST, NEXT]
    assert split.score_us == price(two(10_000), stages_of(split)).score_us
    assert all(each.demand == NO_DEMAND for each in asked)


def test_a_quiet_deployment_and_the_search_for_throughput_ask_once():
    for problem in (two(100), replace(two(9_000), objective=Objective.THROUGHPUT)):
        asked = []
        split_crowded(problem, lambda each, asked=asked: asked.append(each) or split_model(each))
        assert len(asked) == 1


def test_no_answer_stays_none():
    none = Infeasible("no room", ())
    assert split_crowded(two(1_000), lambda _: none) is none


def test_a_crowd_is_a_reason_to_share_the_model_among_more():
    """Two stages serve a session that is alone as well as four do; many sessions at once they do not."""
    mind = Mind(Opinion())
    assert mind.think_for(HOLD_S + 4) == []
    mind.me.record(mind.me.names[4], asked=(800_000, 800_000))
    mind.me.record(mind.me.names[5], asked=(800_000, 800_000))
    plan = wished(mind.think_for(HOLD_S + 3 * EVALUATE_S))
    assert plan.cause is Cause.GAIN
    assert len(plan.stages) > 2
    assert "% better, moving" in plan.reason
    assert plan.reason.endswith("asked 1572.9 tokens/s in, 1572.9 out"), "what two ingresses tell, in steps"
    assert mind.steering.judge(plan, mind.now) == (True, "")
