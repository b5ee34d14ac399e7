from dataclasses import replace

from shoal_agent.core.backbone import Backbone
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Candidate, Link, Links, problem_of
from shoal_agent.sim.solutions import solution
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Terms
from tests.support.backbones import machine, problem, service
from tests.support.toy import toy_facts

A, B = (NodeId(letter * 32) for letter in "ab")
PROBLEM = problem_of(toy_facts(), Terms(stages_min=2), 512, tuple(Candidate(n, 10**9, 10**9) for n in (A, B)))


def test_a_solution_is_the_planners_and_is_found_once():
    assert solution(PROBLEM) == split_model(PROBLEM)
    assert solution(replace(PROBLEM)) is solution(PROBLEM)


def test_links_tell_problems_apart():
    slow = replace(PROBLEM, links=Links(measured={(A, B): Link(10**6, 1), (B, A): Link(10**6, 1)}))
    assert solution(slow) == split_model(slow)
    assert solution(slow) != solution(PROBLEM)


def test_places_for_standbys_are_found_once_too():
    asked = problem([machine("a"), machine("b")], [service("s")])
    assert solution(asked) == Backbone(((1, 1),))
    assert solution(replace(asked)) is solution(asked)
