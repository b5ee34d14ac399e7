"""The planner on clusters small enough to solve in the head."""

import time
from dataclasses import replace
from itertools import permutations

import pytest

from shoal_agent.core.facts import BlockFacts, Width
from shoal_agent.core.outlook import carrying
from shoal_agent.core.planner import Genesis, plan_genesis, split_model
from shoal_agent.core.problem import (
    CANDIDATES_EXACT_MAX,
    LAN,
    Candidate,
    Infeasible,
    Link,
    Links,
    Rival,
    Split,
    SplitProblem,
    Workload,
)
from shoal_protocol.ids import DeploymentId, Digest, NodeId
from shoal_protocol.messages import Objective, PlanStage, Terms
from shoal_protocol.widths import ActivationWidth, row_bytes

MB = 1_000_000
GMAC = 1_000_000_000
A, B, C = (NodeId(letter * 32) for letter in "abc")
BLOCK = BlockFacts(
    resident_bytes=13 * MB, kv_bytes_per_token=1000, decode_us=300, prefill_us=8000, boundary_bytes_per_token=2304
)
HEAD = BlockFacts(
    resident_bytes=39 * MB, kv_bytes_per_token=0, decode_us=1500, prefill_us=1500, boundary_bytes_per_token=0
)
NO_LINK_COST = Links(Link(rtt_us=0, bytes_per_s=10**15))


def problem(candidates, *, blocks=(BLOCK,) * 4, links=NO_LINK_COST, context_tokens_max=1000, **rest):
    workload = Workload(context_tokens_max, sessions=1, prompt_tokens=0, answer_tokens=1)
    return SplitProblem(tuple(blocks), 10 * GMAC, tuple(candidates), workload, links, **rest)


def shape(split):
    assert isinstance(split, Split), split
    return [(stage.node, stage.first_block, stage.last_block) for stage in split.stages]


def node(index):
    return NodeId(chr(ord("a") + index) * 32)


@pytest.mark.parametrize(
    ("candidates", "rest", "expected"),
    [
        pytest.param([Candidate(A, 10 * GMAC, 900 * MB)], {}, [(A, 0, 3)], id="one node holds all"),
        pytest.param(
            [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 20 * GMAC, 900 * MB)],
            {},
            [(B, 0, 3)],
            id="the faster node holds all",
        ),
        pytest.param(
            [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 20 * GMAC, 900 * MB, busy_permille=600)],
            {},
            [(A, 0, 3)],
            id="a busy node is a slow node",
        ),
        pytest.param(
            [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 20 * GMAC, 900 * MB)],
            {"stages_min": 2},
            [(A, 0, 0), (B, 1, 3)],
            id="as little as may be on the slower node",
        ),
        pytest.param(
            [Candidate(A, 10 * GMAC, 29 * MB), Candidate(B, 10 * GMAC, 29 * MB)],
            {},
            [(A, 0, 1), (B, 2, 3)],
            id="memory forces the cut",
        ),
        pytest.param(
            [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 10 * GMAC, 900 * MB)],
            {"objective": Objective.THROUGHPUT},
            [(A, 0, 1), (B, 2, 3)],
            id="throughput shares the work",
        ),
        pytest.param(
            [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 10 * GMAC, 900 * MB)],
            {"objective": Objective.THROUGHPUT, "blocks": (*(BLOCK,) * 5, HEAD)},
            [(A, 0, 4), (B, 5, 5)],
            id="a head as heavy as five layers stands alone",
        ),
        pytest.param(
            [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 11 * GMAC, 900 * MB)],
            {"links": Links(Link(rtt_us=2000, bytes_per_s=10**9)), "ingress": A},
            [(A, 0, 3)],
            id="a slightly faster node is not worth the way there",
        ),
    ],
)
def test_small_clusters(candidates, rest, expected):
    assert shape(split_model(problem(candidates, **rest))) == expected


def test_what_blocks_share_is_kept_by_every_host_once():
    candidates = [Candidate(A, 10 * GMAC, 33 * MB), Candidate(B, 10 * GMAC, 33 * MB)]
    split = split_model(problem(candidates, shared_bytes=5 * MB))
    assert [stage.memory_bytes for stage in split.stages] == [2 * (13 * MB + MB) + 5 * MB] * 2
    assert isinstance(split_model(problem(candidates, shared_bytes=5 * MB + 1)), Infeasible)


def test_slow_links_are_avoided():
    slow, fast = Link(rtt_us=20_000, bytes_per_s=MB), Link(rtt_us=100, bytes_per_s=1000 * MB)
    links = Links(slow, {(A, C): fast, (C, A): fast})
    candidates = [Candidate(n, 10 * GMAC, 29 * MB) for n in (A, B, C)]
    assert {stage.node for stage in split_model(problem(candidates, links=links)).stages} == {A, C}


def test_a_long_prompt_weighs_prefill():
    light, heavy = (
        BlockFacts(MB, 0, decode_us=decode, prefill_us=prefill, boundary_bytes_per_token=10)
        for decode, prefill in ((100, 50_000), (5000, 100))
    )
    candidates = (Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 20 * GMAC, 900 * MB))
    chatty, reader = (
        SplitProblem((light, heavy), GMAC, candidates, Workload(9000, 1, prompt, 10), stages_min=2)
        for prompt in (1, 8000)
    )
    assert shape(split_model(chatty)) == [(A, 0, 0), (B, 1, 1)]
    assert shape(split_model(reader)) == [(B, 0, 0), (A, 1, 1)]


def test_the_terms_are_named():
    links = Links(Link(rtt_us=1000, bytes_per_s=2_304_000_000))
    candidates = [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 5 * GMAC, 28 * MB)]
    split = split_model(problem(candidates, links=links, stages_min=2, ingress=A))
    first, second = split.stages
    assert (first.node, first.first_block, first.last_block) == (A, 0, 2)
    assert (first.time_us, first.link_us, first.memory_bytes) == (900, 0, 39 * MB + 3 * MB)
    assert (second.time_us, second.link_us, second.memory_bytes) == (600, 1001, 13 * MB + MB)
    assert split.score_us == 900 + 1001 + 600 + 500


def test_what_does_not_fit_is_explained_with_numbers():
    answer = split_model(problem([Candidate(A, 10 * GMAC, 29 * MB), Candidate(B, 10 * GMAC, 5 * MB)]))
    assert isinstance(answer, Infeasible)
    assert "takes 56000000 bytes (4000000 of them KV for 1 x 1000 tokens), 2 nodes offer 34000000" in answer.reason
    assert answer.nodes == (
        f"{A}: offers 29000000 bytes at 10000000000 MAC/s, holds at most 2 of 4 blocks in a row",
        f"{B}: offers 5000000 bytes at 10000000000 MAC/s, holds at most 0 of 4 blocks in a row",
    )


@pytest.mark.parametrize("useless", [Candidate(B, 0, 900 * MB), Candidate(B, GMAC, 0)])
def test_a_node_without_speed_or_memory_counts_for_nothing(useless):
    answer = split_model(problem([Candidate(A, GMAC, 900 * MB), useless], stages_min=2))
    assert isinstance(answer, Infeasible)
    assert "1 usable nodes" in answer.reason


def test_nobody_is_infeasible():
    assert isinstance(split_model(problem([])), Infeasible)


def test_equal_scores_go_to_fewer_stages_and_lower_ids():
    free = BlockFacts(MB, 0, decode_us=0, prefill_us=0, boundary_bytes_per_token=0)
    candidates = [Candidate(n, GMAC, 900 * MB) for n in (C, B, A)]
    assert shape(split_model(problem(candidates, blocks=(free,) * 3))) == [(A, 0, 2)]


def test_beyond_the_exact_search_the_strongest_are_asked_first():
    many = [Candidate(node(i), (i + 1) * GMAC, 900 * MB) for i in range(CANDIDATES_EXACT_MAX + 4)]
    assert shape(split_model(problem(many))) == [(node(11), 0, 3)]


def test_beyond_the_exact_search_memory_is_the_second_guess():
    fast_but_small = [Candidate(node(i), 1000 * GMAC, 5 * MB) for i in range(CANDIDATES_EXACT_MAX)]
    slow_but_roomy = Candidate(node(CANDIDATES_EXACT_MAX), GMAC, 900 * MB)
    assert shape(split_model(problem([*fast_but_small, slow_but_roomy]))) == [(slow_but_roomy.node, 0, 3)]


def test_genesis_is_epoch_zero_of_the_split():
    model, terms = Digest(bytes(range(32))), Terms(zones=("home",))
    candidates = [Candidate(A, 10 * GMAC, 29 * MB), Candidate(B, 10 * GMAC, 29 * MB)]
    genesis = plan_genesis(problem(candidates), DeploymentId("smollm2"), model, terms, lambda hosts: (C, *hosts))
    assert isinstance(genesis, Genesis)
    plan = genesis.plan
    assert (plan.deployment, plan.epoch, plan.parent, plan.model) == ("smollm2", 0, bytes(32), model)
    assert plan.context_tokens_max == 1000
    assert plan.stages == (PlanStage(A, 0, 1), PlanStage(B, 2, 3))
    assert (plan.terms, plan.voters, plan.score_us) == (terms, (C, A, B), genesis.split.score_us)


def test_genesis_names_standbys_and_says_where_it_cannot():
    candidates = [Candidate(A, 10 * GMAC, 29 * MB), Candidate(B, 10 * GMAC, 29 * MB), Candidate(C, GMAC, 57 * MB)]
    for terms, standbys, reason in (
        (Terms(standbys=0), (), ""),
        (Terms(), (C,), ""),
        (Terms(standbys=2), (C,), "blocks 0-1 have only 1 standby: they need 28.0 MB, other nodes have at most 1.0 MB"),
    ):
        asked = problem(candidates, stages_min=2, stages_max=2)
        genesis = plan_genesis(asked, DeploymentId("smollm2"), Digest(bytes(32)), terms, lambda hosts: hosts)
        assert isinstance(genesis, Genesis)
        assert [stage.standbys for stage in genesis.plan.stages] == [standbys, standbys]
        assert genesis.plan.reason.startswith(reason)
        assert bool(genesis.plan.reason) is bool(reason)


def test_genesis_of_the_impossible_is_refused():
    answer = plan_genesis(problem([]), DeploymentId("smollm2"), Digest(bytes(32)), Terms(), lambda hosts: hosts)
    assert isinstance(answer, Infeasible)


def test_whoever_is_left_out_learns_what_the_best_split_with_it_would_cost():
    candidates = [Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 20 * GMAC, 900 * MB), Candidate(C, GMAC, 10 * MB)]
    split = split_model(problem(candidates))
    # Four blocks of 300 us on B take 600 us; with A at its side one of them takes 300 us there and three 450 us here.
    assert (shape(split), split.score_us) == ([(B, 0, 3)], 600)
    assert split.rivals == (Rival(A, 750), Rival(C, None))


def everything_on(objective):
    """32 blocks over 8 nodes, with every feature there is: widths, zones, waiting, busy nodes, an ingress, the U."""
    nodes = [node(index) for index in range(CANDIDATES_EXACT_MAX)]
    candidates = [
        Candidate(n, (i % 5 + 5) * GMAC, 250 * MB, 100 * (i % 2), 200 * (i % 3), ("home", "cloud")[i % 2])
        for i, n in enumerate(nodes)
    ]
    measured = {(u, v): Link(100 * i + 300, (i % 7 + 1) * 10 * MB) for i, (u, v) in enumerate(permutations(nodes, 2))}
    return problem(
        candidates,
        blocks=(BLOCK,) * 32,
        links=Links(Link(500, 100 * MB), measured),
        objective=objective,
        stages_min=3,
        ingress=nodes[0],
        widths=(Width("f32"), Width("f16", 500, 0, 300, 3), Width("i8", 250, 4, 900, 40)),
        loss_max=300,
        zones=(("home",), *((),) * 30, ("home",)),
        u_shape=True,
    )


@pytest.mark.parametrize("objective", Objective)
def test_thirty_two_blocks_over_eight_nodes_are_planned_at_once(objective):
    asked, took_s = everything_on(objective), []
    for _ in range(5):
        begun = time.process_time()
        split_model(asked)
        took_s.append(time.process_time() - begun)
    assert min(took_s) <= 0.15


@pytest.mark.parametrize(
    "changed",
    [{}, {"widths": (), "loss_max": None}, {"widths": (), "loss_max": None, "zones": (), "nodes_min": 3}],
    ids=["all", "no widths", "no guard"],
)
def test_so_are_they_as_agents_ask_where_anybody_may_hold_both_ends(changed):
    asked, took_s = replace(everything_on(Objective.LATENCY), ingress=None, **changed), []
    for _ in range(5):
        begun = time.process_time()
        split_model(asked)
        took_s.append(time.process_time() - begun)
    assert min(took_s) <= 0.15


def test_the_ingress_may_hold_both_ends():
    home, cloud = Candidate(A, GMAC, 45 * MB, zone="home"), Candidate(B, 9 * GMAC, 900 * MB, zone="cloud")
    private = {"zones": (("home",), (), (), ("home",)), "ingress": A}
    assert isinstance(split_model(problem([home, cloud], **private)), Infeasible)
    bent = [(A, 0, 0), (B, 1, 2), (A, 3, 3)]
    assert shape(split_model(problem([home, cloud], u_shape=True, **private))) == bent
    private["ingress"] = None
    assert shape(split_model(problem([home, cloud], u_shape=True, **private))) == bent, "then whoever may"
    assert isinstance(split_model(problem([home, cloud], u_shape=True, nodes_min=3, **private)), Infeasible)


def test_a_processor_that_does_both_ends_does_no_more_than_one():
    home, cloud = Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 10 * GMAC, 15 * MB)
    asked = problem([home, cloud], objective=Objective.THROUGHPUT, u_shape=True, stages_min=3)
    split = split_model(asked)
    assert shape(split)[0][0] == shape(split)[2][0] == A
    own_us = sum(stage.time_us for stage in split.stages if stage.node == A)
    assert own_us == 900
    assert split.score_us == own_us


def test_whoever_alone_may_hold_both_ends_is_looked_at_among_however_many():
    strong = [Candidate(node(i), 12 * GMAC, 29 * MB, zone="cloud") for i in range(10)]
    home = Candidate("z" * 32, GMAC, 29 * MB, zone="home")
    guarded = {"zones": (("home",), (), (), ("home",)), "u_shape": True}
    split = split_model(problem([*strong, home], **guarded))
    assert [stage.node for stage in split.stages if stage.node == home.node] == [home.node] * 2


def test_the_width_of_every_cut_is_chosen_within_the_budget():
    slow = Links(Link(rtt_us=0, bytes_per_s=MB))
    halves = [Candidate(n, 10 * GMAC, 29 * MB) for n in (A, B)]
    for loss_max, name in ((None, "i8"), (39, "f16"), (2, "f32")):
        widths = (Width("f32"), Width("f16", 500, 0, 0, 3), Width("i8", 250, 4, 0, 40))
        split = split_model(problem(halves, links=slow, widths=widths, loss_max=loss_max))
        assert [stage.width for stage in split.stages] == ["", name]


@pytest.mark.parametrize(
    ("bytes_per_s", "width"),
    [(1000 * MB, "f32"), (LAN.bytes_per_s, "f16"), (20 * MB, "i8x32"), (MB, "i8x32")],
)
def test_a_slow_link_is_worth_a_narrow_width_and_a_fast_one_is_not(bytes_per_s, width):
    """SmolLM2's certificates (docs/control.md): converting takes 4 and 10 ns a byte; a byte takes 10 ns of a LAN."""
    values = 576
    certified = {ActivationWidth.F16: 3_900, ActivationWidth.I8X32: 10_400}
    narrow = [
        Width(w.name.lower(), 1000 * row_bytes(w, values) // (4 * values), 0, codec_ps, 1)
        for w, codec_ps in certified.items()
    ]
    halves = [Candidate(n, 10 * GMAC, 29 * MB) for n in (A, B)]
    link = Links(Link(500, bytes_per_s))
    split = split_model(problem(halves, links=link, widths=(Width("f32"), *narrow), loss_max=32))
    assert [stage.width for stage in split.stages] == ["", width]


def test_a_link_that_was_measured_slow_is_avoided():
    halves = [Candidate(n, 10 * GMAC, 29 * MB) for n in (A, B, C)]
    usual = {(one, other): Link(500, LAN.bytes_per_s) for one in (A, B, C) for other in (A, B, C) if one != other}
    slow = carrying(usual, {(A, B): 200_000, (B, C): 3 * MB})
    assert {stage.node for stage in split_model(problem(halves, links=Links(measured=usual))).stages} == {A, B}
    assert {stage.node for stage in split_model(problem(halves, links=Links(measured=slow))).stages} == {A, C}


def test_whoever_works_for_others_is_slower_and_only_for_a_while():
    idle, waited = Candidate(A, 10 * GMAC, 900 * MB), Candidate(B, 12 * GMAC, 900 * MB, waiting_permille=500)
    assert shape(split_model(problem([idle, waited]))) == [(A, 0, 3)]
    busy = problem([idle, waited], objective=Objective.THROUGHPUT, stages_max=1)
    assert shape(split_model(busy)) == [(B, 0, 3)], "who waits is not at work"


def test_a_block_that_nobody_may_hold_is_named():
    answer = split_model(problem([Candidate(A, GMAC, 900 * MB, zone="cloud")], zones=((), (), ("home",), ())))
    assert isinstance(answer, Infeasible)
    assert answer.reason == "block 2 may be in zone home only, where no usable node is"


def test_beyond_the_exact_search_orders_find_what_strength_does_not():
    # The eight strongest are far from each other; four weaker ones are close together, and two of them are enough.
    far, near = Link(rtt_us=50_000, bytes_per_s=MB), Link(rtt_us=100, bytes_per_s=1000 * MB)
    strong = [Candidate(node(i), 12 * GMAC, 29 * MB) for i in range(8)]
    weak = [Candidate(node(i), 10 * GMAC, 29 * MB) for i in range(8, 12)]
    close = {(u.node, v.node): near for u, v in permutations(weak, 2)}
    asked = problem([*strong, *weak], links=Links(far, close))
    split = split_model(asked)
    assert {stage.node for stage in split.stages} <= {candidate.node for candidate in weak}
    assert split.score_us < split_model(problem(strong, links=Links(far))).score_us
    assert split_model(replace(asked, candidates=asked.candidates[::-1])) == split
