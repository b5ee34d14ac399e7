"""Standbys on clusters small enough to choose them in the head: a block takes 13 MB, and 1 MB of KV."""

from dataclasses import replace

import pytest

from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.problem import Candidate, SplitProblem, Workload
from shoal_agent.core.standbys import Lack, back_up
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

MB = 1_000_000
FAST, SLOW = 20_000_000_000, 10_000_000_000
A, B, C, D, E = (NodeId(letter * 32) for letter in "abcde")
BLOCK = BlockFacts(
    resident_bytes=13 * MB, kv_bytes_per_token=1000, decode_us=300, prefill_us=8000, boundary_bytes_per_token=2304
)
HALVES = (PlanStage(A, 0, 1), PlanStage(B, 2, 3))


def problem(*candidates, shared_bytes=0):
    return SplitProblem((BLOCK,) * 4, FAST, candidates, Workload(1000), shared_bytes=shared_bytes)


def roomy(*nodes, speed=SLOW):
    return [Candidate(node, speed, 900 * MB) for node in nodes]


def standbys(backing):
    return [stage.standbys for stage in backing.stages]


def test_a_node_without_a_stage_backs_before_one_that_has_its_own():
    backing = back_up(problem(*roomy(A, B, C, D)), HALVES, 1)
    assert standbys(backing) == [(C,), (D,)], "and each of them one stage"
    assert (backing.lacks, backing.text) == ((), "")
    assert [(stage.node, stage.first_block, stage.last_block) for stage in backing.stages] == [(A, 0, 1), (B, 2, 3)]


def test_a_standby_is_in_the_zone_of_its_blocks():
    asked = problem(*(replace(c, zone="in" if c.node == D else "out") for c in roomy(A, B, C, D)))
    backing = back_up(replace(asked, zones=(("in",), (), (), ())), HALVES, 1)
    assert standbys(backing) == [(D,), (C,)]


def test_who_alone_may_back_guarded_blocks_is_left_for_them():
    candidates = [Candidate(n, SLOW, 29 * MB, zone="in" if n in (A, D) else "out") for n in (A, B, C, D)]
    bent = (PlanStage(A, 0, 0), PlanStage(B, 1, 2), PlanStage(A, 3, 3))
    guarded = replace(problem(*candidates), zones=(("in",), (), (), ("in",)))
    assert standbys(back_up(guarded, bent, 1)) == [(D,), (C,), (D,)], "the middle is larger, and could go to D as well"


def test_both_ends_of_a_u_count_on_their_node():
    bent = (PlanStage(A, 0, 0), PlanStage(B, 1, 2), PlanStage(A, 3, 3))
    roomy_enough, too_small = 56 * MB, 56 * MB - 1
    for room, expected in ((roomy_enough, (A,)), (too_small, ())):
        backing = back_up(problem(Candidate(A, SLOW, room), Candidate(B, SLOW, 28 * MB)), bent, 1)
        assert standbys(backing)[1] == expected
        assert A not in (*standbys(backing)[0], *standbys(backing)[2]), "nobody backs itself"


def test_two_nodes_back_each_other():
    assert standbys(back_up(problem(*roomy(A, B)), HALVES, 1)) == [(B,), (A,)]


def test_the_faster_of_equals_comes_first_and_then_the_lower_id():
    slower, faster = Candidate(C, SLOW, 900 * MB), Candidate(D, FAST, 900 * MB)
    assert standbys(back_up(problem(*roomy(A, B), slower, faster), HALVES, 1)) == [(D,), (C,)]
    busy = Candidate(D, FAST, 900 * MB, busy_permille=600)
    assert standbys(back_up(problem(*roomy(A, B), slower, busy), HALVES, 1)) == [(C,), (D,)]


def test_the_order_in_which_nodes_were_heard_of_changes_nothing():
    nodes = roomy(A, B, C, D, E)
    assert back_up(problem(*nodes), HALVES, 2) == back_up(problem(*nodes[::-1]), HALVES, 2)


def test_the_largest_stage_chooses_first_and_every_stage_before_any_a_second():
    stages = (PlanStage(A, 0, 0), PlanStage(B, 1, 3))
    large, small = Candidate(C, SLOW, 42 * MB), Candidate(D, FAST, 14 * MB)
    alone = [Candidate(A, SLOW, 14 * MB), Candidate(B, SLOW, 42 * MB)]
    assert standbys(back_up(problem(*alone, large, small), stages, 1)) == [(D,), (C,)]
    assert standbys(back_up(problem(*alone, large), stages, 1)) == [(), (C,)]
    assert standbys(back_up(problem(*roomy(A, B, C)), HALVES, 2)) == [(C, B), (C, A)]


def test_a_node_backs_as_many_stages_as_its_memory_holds_and_what_they_share_is_there_once():
    spare = Candidate(C, SLOW, 2 * 28 * MB + 5 * MB)
    full = [Candidate(A, SLOW, 33 * MB), Candidate(B, SLOW, 33 * MB)]
    assert standbys(back_up(problem(*full, spare, shared_bytes=5 * MB), HALVES, 1)) == [(C,), (C,)]
    less = Candidate(C, SLOW, 2 * 28 * MB + 5 * MB - 1)
    assert standbys(back_up(problem(*full, less, shared_bytes=5 * MB), HALVES, 1)) == [(C,), ()]


def test_a_standby_of_the_plan_before_stays_where_its_blocks_are():
    before = (PlanStage(A, 0, 1, (D,)), PlanStage(B, 2, 3, (C,)))
    assert standbys(back_up(problem(*roomy(A, B, C), *roomy(D, speed=FAST)), HALVES, 1, before)) == [(D,), (C,)]
    assert standbys(back_up(problem(*roomy(A, B, C)), HALVES, 1, before)) == [(C,), (C,)], "D is gone, C stays"


def test_one_that_became_the_primary_or_has_no_room_any_more_does_not_stay():
    before = (PlanStage(A, 0, 1, (B,)), PlanStage(B, 2, 3, (A,)))
    promoted = (PlanStage(B, 0, 1), PlanStage(C, 2, 3))
    tight = Candidate(A, FAST, 27 * MB)
    assert standbys(back_up(problem(tight, *roomy(B, C, D)), promoted, 1, before)) == [(D,), (D,)]


def test_other_cuts_owe_nothing_to_the_standbys_before():
    before = (PlanStage(A, 0, 2, (D,)), PlanStage(B, 3, 3, (D,)))
    assert standbys(back_up(problem(*roomy(A, B, C, D)), HALVES, 1, before)) == [(C,), (D,)]


def test_fewer_are_asked_for_than_before():
    before = (PlanStage(A, 0, 1, (C, D)), PlanStage(B, 2, 3, (D, C)))
    assert standbys(back_up(problem(*roomy(A, B, C, D)), HALVES, 1, before)) == [(C,), (D,)]
    assert standbys(back_up(problem(*roomy(A, B, C, D)), HALVES, 0, before)) == [(), ()]


@pytest.mark.parametrize(
    ("candidates", "wanted", "text"),
    [
        (roomy(A), 1, "blocks 0-3 have no standby: there is no other node"),
        (roomy(A, B), 2, "blocks 0-3 have only 1 standby: there are no more nodes"),
        (
            [*roomy(A), Candidate(B, SLOW, 55 * MB), Candidate(C, SLOW, 0)],
            1,
            "blocks 0-3 have no standby: they need 56.0 MB, other nodes have at most 55.0 MB left",
        ),
    ],
)
def test_what_is_lacking_is_told_with_the_numbers(candidates, wanted, text):
    backing = back_up(problem(*candidates), (PlanStage(A, 0, 3),), wanted)
    assert backing.text == text
    assert [lack.stage for lack in backing.lacks] == [0]


def test_several_stages_that_lack_the_same_are_one_clause():
    full = [Candidate(A, SLOW, 28 * MB), Candidate(B, SLOW, 29 * MB)]
    backing = back_up(problem(*full), HALVES, 1)
    why = [
        "they need 28.0 MB, other nodes have at most 1.0 MB left",
        "they need 28.0 MB, other nodes have at most 0.0 MB left",
    ]
    assert backing.lacks == (Lack(0, 0, 1, 0, why[0]), Lack(1, 2, 3, 0, why[1]))
    assert backing.text == f"blocks 0-1 have no standby: {why[0]}, and so for 1 more stage"
    assert ";" not in backing.text, "a clause among others"
