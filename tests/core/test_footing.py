"""Primaries and standbys on clusters small enough to place them in the head, and small ones against all there is."""

from dataclasses import replace
from itertools import permutations, product
from random import Random

import pytest

from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.backbone_search import search
from shoal_agent.core.bracing import BRACED_MAX, bracing
from shoal_agent.core.costs import Memory
from shoal_agent.core.crowding import price
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.footing import SLOWER_PERMILLE, footed, footing, slowest_us, unfooted
from shoal_agent.core.problem import Candidate, Link, Links, SplitProblem, Workload
from shoal_agent.highs import BY_NODES, place
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage

BLOCK = BlockFacts(10, 0, 300, 8000, 100)
A, B, C, D, E = NODES = tuple(NodeId(letter * 32) for letter in "abcde")
HOUR_MS = 3_600_000
SMALL_FIRST = (PlanStage(A, 0, 2), PlanStage(B, 3, 7))
"""30 bytes on A, 50 on B."""


def problem(*rooms, speeds=(), shared=0, **changes):
    speeds = speeds or (10**9,) * len(rooms)
    nodes = tuple(Candidate(*each) for each in zip(NODES, speeds, rooms, strict=False))
    return SplitProblem((BLOCK,) * 8, 10**9, nodes, Workload(1000), shared_bytes=shared, **changes)


TIGHT = problem(50, 50, 30, 30)
"""Who alone could back the large stage is the primary of the small one: only elsewhere is there room for both."""


def placed(asked, stages=SMALL_FIRST):
    found = place(asked, BY_NODES)
    assert found.counts is not None
    assert verify(asked, found.counts, found.cost.total) == []
    return footed(asked, stages, found.counts)


def names(stages):
    return [(stage.node, stage.standbys) for stage in stages]


def test_a_primary_moves_where_its_node_alone_could_back_another_stage():
    assert place(bracing(TIGHT, SMALL_FIRST, 1), BY_NODES).counts is None, "it cannot be done while primaries stay"
    found = placed(footing(TIGHT, SMALL_FIRST, 1, HOUR_MS))
    assert names(found) in ([(C, (D,)), (B, (A,))], [(D, (C,)), (B, (A,))])
    assert [(s.first_block, s.last_block) for s in found] == [(0, 2), (3, 7)], "the cuts stay"
    assert unfooted(TIGHT, SMALL_FIRST, found, 1, HOUR_MS) == []


def test_who_serves_stays_where_that_is_as_good():
    found = placed(footing(problem(80, 80), SMALL_FIRST, 1, HOUR_MS))
    assert names(found) == [(A, (B,)), (B, (A,))]


def test_the_primary_is_who_makes_the_pipeline_fastest():
    fast = problem(50, 50, 30, 30, speeds=(10**9, 10**9, 10**9, 2 * 10**9))
    assert names(placed(footing(fast, SMALL_FIRST, 1, HOUR_MS)))[0] == (D, (C,))
    near = Links(measured={(D, B): Link(100, 10**8)}, default=Link(20_000, 10**8))
    linked = replace(TIGHT, links=near)
    assert names(placed(footing(linked, SMALL_FIRST, 1, HOUR_MS)))[0] == (D, (C,))


def test_two_stages_change_places_only_where_both_fit_beside_each_other():
    """The old plan serves until the new one is ready."""
    slow = problem(80, 80, 80, speeds=(10**9, 10**8, 10**8))
    stages = (PlanStage(A, 0, 2), PlanStage(B, 3, 7))
    assert names(placed(footing(slow, stages, 1, HOUR_MS)))[1][0] == A, "the fast one takes the large stage"
    narrow = problem(79, 79, 80, speeds=(10**9, 10**8, 10**8))
    assert names(placed(footing(narrow, stages, 1, HOUR_MS)))[1][0] != A


def test_what_stages_share_is_on_a_node_once():
    assert placed(footing(problem(57, 57, 37, 37, shared=7), SMALL_FIRST, 1, HOUR_MS))
    assert place(footing(problem(57, 57, 37, 36, shared=7), SMALL_FIRST, 1, HOUR_MS), BY_NODES).counts is None


def test_guarded_blocks_are_where_they_may_be():
    zoned = [replace(each, zone="lab" if each.node == D else "home") for each in problem(90, 90, 90, 90).candidates]
    guarded = replace(TIGHT, candidates=tuple(zoned), zones=(("home",), *[()] * 7))
    (node, standbys), _ = names(placed(footing(guarded, SMALL_FIRST, 1, HOUR_MS)))
    assert D not in (node, *standbys)
    bad = (replace(SMALL_FIRST[0], node=D, standbys=(C,)), replace(SMALL_FIRST[1], standbys=(A,)))
    assert any(fault.startswith("barred") for fault in unfooted(guarded, SMALL_FIRST, bad, 1, HOUR_MS))


def test_nobody_is_a_primary_who_alone_would_be_too_slow():
    slow = problem(50, 50, 30, 30, speeds=(10**9, 10**9, 10**8, 10**8))
    assert place(footing(slow, SMALL_FIRST, 1, HOUR_MS), BY_NODES).counts is None
    assert slowest_us(1000) == 1000 + SLOWER_PERMILLE


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        (((A, (C,)), (B, (D,))), "memory_bytes: "),
        (((A, ()), (B, (A,))), "demand: standby 0 has 0 instances"),
        (((C, (C,)), (B, (A,))), "stage 0: "),
        (((B, (C,)), (B, (A,))), "memory_bytes: "),
        (((C, (E,)), (B, (A,))), "form: "),
    ],
)
def test_an_answer_that_breaks_a_rule_is_found_out(stages, fault):
    after = [replace(s, node=node, standbys=backs) for s, (node, backs) in zip(SMALL_FIRST, stages, strict=True)]
    assert any(each.startswith(fault) for each in unfooted(TIGHT, SMALL_FIRST, after, 1, HOUR_MS))


def test_a_node_is_the_primary_of_one_stage_at_most():
    roomy = problem(200, 200, 200)
    both = (replace(SMALL_FIRST[0], node=A, standbys=(B,)), replace(SMALL_FIRST[1], node=A, standbys=(B,)))
    assert any(fault.startswith("seat: ") for fault in unfooted(roomy, SMALL_FIRST, both, 1, HOUR_MS))


@pytest.mark.parametrize(
    ("asked", "stages", "standbys"),
    [
        (problem(200), (PlanStage(A, 0, 7),), 1),
        (TIGHT, SMALL_FIRST, 0),
        (TIGHT, (replace(SMALL_FIRST[0], node=E), SMALL_FIRST[1]), 1),
        (problem(200, 200), (PlanStage(A, 0, 2), PlanStage(B, 3, 5), PlanStage(A, 6, 7)), 1),
    ],
)
def test_where_there_is_nothing_to_choose_nothing_is_asked(asked, stages, standbys):
    assert footing(asked, stages, standbys, HOUR_MS) is None


def test_of_a_crowd_those_with_the_most_memory_are_looked_at_and_who_hosts():
    crowd = tuple(Candidate(NodeId(f"{index:032x}"), 10**9, 1000 + index) for index in range(40))
    stages = (PlanStage(crowd[0].node, 0, 7),)
    asked = footing(SplitProblem((BLOCK,) * 8, 10**9, crowd, Workload(1000)), stages, 1, HOUR_MS)
    looked_at = [crowd[0], *crowd[-(BRACED_MAX - 1) :]]
    assert [machine.node for machine in asked.machines] == [candidate.node for candidate in looked_at]


# --- against all there is ---------------------------------------------------------------------------------------------


def drawn(seed):
    """Unequal nodes, links and stages, tight."""
    rng = Random(seed)
    cut = rng.randint(2, 6)
    sizes = 10 * cut, 10 * (8 - cut)
    count = rng.randint(3, 5)
    rooms = [
        max(rng.choice(sizes), sizes[index] if index < 2 else 0) + rng.choice((0, 0, 10)) for index in range(count)
    ]
    pairs = [(a, b) for a in NODES[:count] for b in NODES[:count] if a != b]
    links = Links(measured={pair: Link(rng.randint(200, 20_000), 10**8) for pair in pairs})
    tight = problem(*rooms, speeds=[rng.randint(8, 20) * 10**8 for _ in rooms], links=links)
    return tight, (PlanStage(A, 0, cut - 1), PlanStage(B, cut, 7))


def everything(asked, stages):
    """The best score of all ways to place two primaries and a standby of each, by the rules alone."""
    memory, nodes = Memory(asked), {candidate.node: candidate for candidate in asked.candidates}
    needed = [memory.needed(stage.first_block, stage.last_block + 1) for stage in stages]
    allowed_us, best = slowest_us(price(asked, stages).score_us), None
    for primaries in permutations(nodes, len(stages)):
        moved = [s for s, old in enumerate(stages) if primaries[s] != old.node]
        beside = {old.node: needed[s] for s, old in enumerate(stages)}
        if any(needed[s] + beside.get(primaries[s], 0) > nodes[primaries[s]].memory_bytes for s in moved):
            continue
        score_us = price(asked, [replace(s, node=n) for s, n in zip(stages, primaries, strict=True)]).score_us
        for standbys in product(nodes, repeat=len(stages)):
            taken = dict.fromkeys(nodes, 0)
            for node, size in zip((*primaries, *standbys), needed * 2, strict=True):
                taken[node] += size
            fits = all(taken[node] <= nodes[node].memory_bytes for node in nodes)
            apart = all(one != other for one, other in zip(primaries, standbys, strict=True))
            if fits and apart and score_us <= allowed_us and (best is None or score_us < best):
                best = score_us
    return best


def test_small_ones_are_as_good_as_all_there_is():
    """Only where it is worth a thousandth or two (who stays, fast standbys), and never one that there is not."""
    known = {"none": 0, "found": 0, "moved": 0}
    for seed in range(60):
        asked, stages = drawn(seed)
        best = everything(asked, stages)
        question = footing(asked, stages, 1, HOUR_MS)
        counts = place(question, BY_NODES).counts
        if best is None:
            fits = counts is not None and price(asked, footed(question, stages, counts)).score_us
            assert not fits or fits > slowest_us(price(asked, stages).score_us), seed
            known["none"] += 1
            continue
        found = footed(question, stages, counts)
        score_us = price(asked, found).score_us
        assert unfooted(asked, stages, found, 1, HOUR_MS) == []
        assert best <= score_us <= best + 8 * slowest_us(price(asked, stages).score_us) // 1000, seed
        known["found"] += 1
        known["moved"] += [s.node for s in found] != [s.node for s in stages]
    assert min(known.values()) >= 10, known


def test_the_search_finds_a_way_too_when_there_is_no_solver():
    found = search(footing(TIGHT, SMALL_FIRST, 1, HOUR_MS))
    assert found is not None
    assert names(footed(footing(TIGHT, SMALL_FIRST, 1, HOUR_MS), SMALL_FIRST, found.counts))[1] == (B, (A,))
