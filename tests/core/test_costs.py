"""The arithmetic of costs, on figures that can be checked in the head. That the planner uses it: tests/property."""

import pytest

from shoal_agent.core.costs import Costs, Memory, idle_permille, price_alone, usable
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.problem import Candidate, Link, Links, Split, SplitProblem, Workload
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective, PlanStage

A, B, C = (NodeId(letter * 32) for letter in "abc")
BLOCK = BlockFacts(
    resident_bytes=100, kv_bytes_per_token=2, decode_us=300, prefill_us=12_800, boundary_bytes_per_token=1000
)


def problem(**rest):
    candidates = (Candidate(A, 1000, 10**6), Candidate(B, 2000, 10**6, busy_permille=500))
    load = Workload(10, sessions=3, prompt_tokens=100, answer_tokens=50)
    return SplitProblem((BLOCK,) * 4, 1000, candidates, load, Links(Link(rtt_us=200, bytes_per_s=10**6)), **rest)


def test_memory_is_weights_and_the_kv_of_every_session():
    memory = Memory(problem(shared_bytes=7))
    assert memory.kv(1, 3) == 2 * 2 * 10 * 3
    assert memory.needed(1, 3) == 7 + 200 + 120


@pytest.mark.parametrize(("busy", "idle"), [(-5, 1000), (0, 1000), (300, 700), (950, 50), (2000, 50)])
def test_a_busy_node_still_gets_a_turn(busy, idle):
    assert idle_permille(Candidate(A, 1, 1, busy)) == idle


@pytest.mark.parametrize(("speed", "memory", "able"), [(1, 1, True), (0, 1, False), (1, 0, False)])
def test_who_could_hold_anything(speed, memory, able):
    assert usable(Candidate(A, speed, memory)) is able


def test_a_stage_takes_its_blocks_time_on_its_node():
    costs = Costs(problem())
    block_ns = 1000 * (300 * 50 + 12_800 * 100 // 128)
    assert costs.stage(Candidate(A, 1000, 1), 0, 2) == 2 * block_ns
    assert costs.stage(Candidate(A, 2000, 1, busy_permille=500), 0, 2) == 2 * block_ns
    assert costs.stage(Candidate(A, 500, 1), 1, 2) == 2 * block_ns


def test_a_link_waits_for_every_answer_and_carries_every_position():
    carried_ns, waited_ns = 1000 * 150 * 1000, 51 * 100 * 1000
    assert Costs(problem()).hop(A, B, 1) == carried_ns + waited_ns
    assert Costs(problem(objective=Objective.THROUGHPUT)).hop(A, B, 1) == carried_ns
    assert Costs(problem()).hop(A, A, 1) == 0


def test_the_way_in_and_out_counts_from_the_ingress():
    assert Costs(problem()).enter(A) == 0
    costs = Costs(problem(ingress=A))
    assert costs.enter(B) == 8 * 150 * 1000 + 51 * 100 * 1000
    assert costs.leave(B) == 8 * 50 * 1000 + 50 * 100 * 1000


STAGES = (PlanStage(B, 0, 0), PlanStage(A, 1, 3))


@pytest.mark.parametrize(
    ("objective", "score_us"), [(Objective.LATENCY, 500 + 3102 + 1500), (Objective.THROUGHPUT, 3000)]
)
def test_the_price_of_given_stages(objective, score_us):
    split = price_alone(problem(objective=objective), STAGES)
    assert isinstance(split, Split)
    assert [(stage.node, stage.time_us) for stage in split.stages] == [(B, 500), (A, 1500)]
    assert [stage.memory_bytes for stage in split.stages] == [100 + 60, 300 + 180]
    assert split.stages[1].link_us == {Objective.LATENCY: 3102, Objective.THROUGHPUT: 3000}[objective]
    assert split.score_us == score_us


def test_stages_on_strangers_have_no_price():
    assert price_alone(problem(), (PlanStage(C, 0, 3),)) is None


def test_that_it_fits_is_not_asked():
    small = SplitProblem((BLOCK,) * 4, 1000, (Candidate(A, 1000, 1),), Workload(10))
    assert price_alone(small, (PlanStage(A, 0, 3),)) is not None
