"""Standbys on clusters small enough to place them in the head: blocks of 10 bytes, stages of 6, 5 and 5 of them."""

from dataclasses import replace

from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.backbone_search import search
from shoal_agent.core.bracing import BRACED_MAX, braced, bracing
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.problem import Candidate, SplitProblem, Workload
from shoal_agent.core.standbys import back_up
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

BLOCK = BlockFacts(10, 0, 300, 8000, 100)
A, B, C, D, E = (NodeId(letter * 32) for letter in "abcde")
STAGES = (PlanStage(A, 0, 5), PlanStage(B, 6, 10), PlanStage(C, 11, 15))


def problem(*rooms, shared=0):
    """``rooms`` of A, B, C, ...: what each offers; the last two are the spare ones, the first of them faster."""
    speeds = (10**9, 10**9, 10**9, 2 * 10**9, 10**9)
    nodes = [Candidate(node, speed, room) for node, speed, room in zip((A, B, C, D, E), speeds, rooms, strict=True)]
    return SplitProblem((BLOCK,) * 16, 10**9, tuple(nodes), Workload(1000), shared_bytes=shared)


def placed(asked, stages=STAGES):
    found = search(asked)
    assert found is not None
    assert verify(asked, found.counts, found.cost.total) == []
    return [stage.standbys for stage in braced(asked, stages, found.counts)]


def test_together_they_find_room_where_one_after_the_other_does_not():
    tight = problem(60, 50, 50, 100, 60)
    assert len(back_up(tight, STAGES, 1).lacks) == 1
    assert placed(bracing(tight, STAGES, 1)) == [(E,), (D,), (D,)]


def test_what_stages_share_is_on_a_node_once():
    assert placed(bracing(problem(67, 57, 57, 107, 67, shared=7), STAGES, 1)) == [(E,), (D,), (D,)]
    assert search(bracing(problem(67, 57, 57, 106, 67, shared=7), STAGES, 1)) is None


def test_both_ends_of_a_u_take_their_share_of_a_node():
    bent = (PlanStage(A, 0, 2), PlanStage(B, 3, 12), PlanStage(A, 13, 15))
    for room, count in ((160, 1), (159, 0)):
        asked = bracing(replace(problem(room, 100, 10, 30, 30)), bent, 1)
        found = search(asked)
        assert (found is not None) == count, "the ten blocks of the middle fit beside both ends of A, or nowhere"


def test_nobody_backs_itself_and_hosts_only_where_nobody_else_can():
    wide = problem(200, 200, 200, 200, 200)
    found = placed(bracing(wide, STAGES, 1))
    assert all(standbys[0] in (D, E) for standbys in found)
    two = (PlanStage(A, 0, 7), PlanStage(B, 8, 15))
    only = SplitProblem(wide.blocks, 10**9, wide.candidates[:2], Workload(1000))
    assert placed(bracing(only, two, 1), two) == [(B,), (A,)]


def test_guarded_blocks_are_backed_where_they_may_be():
    wide = problem(200, 200, 200, 200, 200)
    zoned = [replace(each, zone="lab" if each.node == D else "home") for each in wide.candidates]
    guarded = replace(wide, candidates=tuple(zoned), zones=(("home",), *[()] * 15))
    assert placed(bracing(wide, STAGES, 1))[0] == (D,)
    assert placed(bracing(guarded, STAGES, 1))[0] == (E,)


def test_who_stood_by_before_goes_on_doing_so():
    before = (PlanStage(A, 0, 5, (E,)), PlanStage(B, 6, 10, (C,)), PlanStage(C, 11, 15))
    found = placed(bracing(problem(200, 200, 200, 200, 200), before, 1), before)
    assert found[:2] == [(E,), (C,)]


def test_two_are_on_two_nodes_the_better_one_first():
    found = placed(bracing(problem(200, 200, 200, 200, 200), STAGES, 2))
    assert found == [(D, E)] * 3


def test_where_there_are_too_few_nodes_nothing_is_asked():
    one = SplitProblem((BLOCK,) * 16, 10**9, problem(200, 200, 200, 200, 200).candidates[:1], Workload(1000))
    assert bracing(one, STAGES[:1], 1) is None
    assert bracing(problem(200, 200, 200, 200, 200), STAGES, 0) is None


def test_of_a_crowd_those_with_the_most_memory_are_looked_at():
    crowd = tuple(Candidate(NodeId(f"{index:032x}"), 10**9, 1000 + index) for index in range(40))
    stages = (PlanStage(crowd[0].node, 0, 15),)
    asked = bracing(SplitProblem((BLOCK,) * 16, 10**9, crowd, Workload(1000)), stages, 1)
    assert [machine.node for machine in asked.machines] == [candidate.node for candidate in crowd[-BRACED_MAX:]]


def test_both_ends_of_a_model_on_one_node_take_their_room_twice():
    ends = (PlanStage(A, 0, 1), PlanStage(B, 2, 13), PlanStage(A, 14, 15))
    asked = bracing(problem(60, 120, 50, 50, 150), ends, 1)
    assert {machine.node: machine.capacity for machine in asked.machines}[A] == (20,)
