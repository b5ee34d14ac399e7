from dataclasses import replace

from shoal_agent.core.crowding import price
from shoal_agent.core.facts import Width
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import LAN, LOSS_STEPS, Candidate, Link, Links, Split, Workload, problem_of, stages_of
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective, PlanStage, Terms
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.widths import ActivationWidth
from tests.support.toy import toy_facts

A, B = (NodeId(letter * 32) for letter in "ab")
CANDIDATES = (Candidate(A, 10**9, 10**6), Candidate(B, 10**9, 10**6))


def test_terms_and_facts_make_a_problem():
    facts = replace(toy_facts(8, context=512), shared_bytes=7)
    terms = Terms(Objective.THROUGHPUT, 2, 5, sessions=3, prompt_tokens=100, answer_tokens=50)
    problem = problem_of(facts, terms, 300, CANDIDATES)
    assert (problem.blocks, problem.reference_macs_per_s, problem.shared_bytes) == (facts.blocks, 10**9, 7)
    assert problem.workload == Workload(300, 3, 100, 50)
    assert (problem.objective, problem.stages_min, problem.stages_max) == (Objective.THROUGHPUT, 2, 5)


NARROW = (Width("f32"), Width("f16", 500, 0, 0, 101), Width("i8", 250, 4, 0, 400))


def test_without_a_budget_of_quality_there_is_nothing_to_choose():
    certified = replace(toy_facts(8), widths=NARROW)
    assert problem_of(certified, Terms(), 512, CANDIDATES) == problem_of(toy_facts(8), Terms(), 512, CANDIDATES)


def test_losses_are_counted_in_parts_of_the_budget_and_rounded_up():
    problem = problem_of(replace(toy_facts(8), widths=NARROW), Terms(loss_micronats=3200), 512, CANDIDATES)
    assert problem.loss_max == LOSS_STEPS == 32
    assert [width.loss for width in problem.widths] == [0, 2, 4]
    assert [replace(width, loss=0) for width in problem.widths] == [replace(width, loss=0) for width in NARROW]


def test_a_narrow_cut_is_planned_where_links_are_slow_and_priced_as_it_was_planned():
    facts = replace(toy_facts(8), widths=NARROW)
    facts = replace(facts, blocks=tuple(replace(block, boundary_bytes_per_token=4096) for block in facts.blocks))
    slow = Links(Link(500, 10**6))
    chosen = {}
    for loss in (0, 100, 101, 400):
        problem = problem_of(facts, Terms(stages_min=2, loss_micronats=loss), 512, CANDIDATES, slow)
        split = split_model(problem)
        assert price(problem, stages_of(split)).score_us == split.score_us
        chosen[loss] = [stage.width for stage in stages_of(split)]
    full = ActivationWidth.F32
    assert chosen[0] == chosen[100] == [full, full]
    assert chosen[101] == [full, ActivationWidth.F16]
    assert chosen[400] == [full, ActivationWidth.I8]


def test_guarded_blocks_are_planned_in_their_zones():
    terms = Terms(stages_min=2, guarded=(GuardedBlocks(0, 0, ("home",)), GuardedBlocks(7, 7, ("home", "lab"))))
    at_home, away = (replace(each, zone=zone) for each, zone in zip(CANDIDATES, ("home", "lab"), strict=True))
    problem = problem_of(toy_facts(8), terms, 512, (at_home, away))
    assert problem.zones == (("home",), *[()] * 6, ("home", "lab"))
    assert [stage.node for stage in split_model(problem).stages] == [A, B]
    swapped = (replace(at_home, zone="lab"), replace(away, zone="home"))
    assert [stage.node for stage in split_model(replace(problem, candidates=swapped)).stages] == [B, A]


def test_equal_questions_are_equal():
    one, other = (
        problem_of(toy_facts(), Terms(), 512, CANDIDATES, Links(measured={(A, B): Link(10, 20)})) for _ in range(2)
    )
    assert one == other
    assert one != problem_of(toy_facts(), Terms(), 512, CANDIDATES, Links(measured={(A, B): Link(11, 20)}))


def test_an_unmeasured_pair_is_a_local_network():
    links = Links(measured={(A, B): Link(10, 20)})
    assert links.between(A, B) == Link(10, 20)
    assert links.between(B, A) == LAN


def test_an_unmeasured_pair_is_no_better_than_what_is_usual_at_its_ends():
    """Else the planner would move to links because nobody has looked at them."""
    links = Links(usual={A: Link(300, 20), B: Link(9000, 10)})
    assert links.between(A, B) == links.between(B, A) == Link(9000, 10)
    assert links.between(A, NodeId("c" * 32)) == Link(300, 20)
    assert Links(measured={(A, B): Link(7, 7)}, usual=links.usual).between(A, B) == Link(7, 7)


def test_a_split_becomes_stages():
    split = split_model(problem_of(toy_facts(8), Terms(stages_min=2), 512, CANDIDATES))
    assert isinstance(split, Split)
    assert stages_of(split) == (PlanStage(A, 0, 0), PlanStage(B, 1, 7))
