"""The planner against brute force: every order of every set of nodes, every way to cut."""

from itertools import combinations, pairwise, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_agent.core.crowding import price
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import (
    Candidate,
    Infeasible,
    Link,
    Links,
    Split,
    SplitProblem,
    Workload,
    stages_of,
)
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective

NODES = tuple(NodeId(letter * 32) for letter in "abcd")

blocks = st.builds(
    BlockFacts,
    resident_bytes=st.integers(0, 100),
    kv_bytes_per_token=st.integers(0, 3),
    decode_us=st.integers(0, 50),
    prefill_us=st.integers(0, 500),
    boundary_bytes_per_token=st.integers(0, 4000),
)
links = st.builds(Link, rtt_us=st.integers(0, 200), bytes_per_s=st.sampled_from([10**5, 10**7, 10**9]))


@st.composite
def problems(draw):
    nodes = draw(st.lists(st.sampled_from(NODES), unique=True, max_size=4))
    stages_min = draw(st.integers(1, 3))
    pairs = st.tuples(st.sampled_from(NODES), st.sampled_from(NODES))
    return SplitProblem(
        blocks=tuple(draw(st.lists(blocks, min_size=1, max_size=5))),
        reference_macs_per_s=draw(st.integers(1, 1000)),
        candidates=tuple(
            Candidate(node, draw(st.integers(0, 1000)), draw(st.integers(0, 400)), draw(st.integers(-10, 1100)))
            for node in nodes
        ),
        workload=Workload(
            draw(st.integers(1, 40)), draw(st.integers(1, 3)), draw(st.integers(0, 300)), draw(st.integers(1, 300))
        ),
        links=Links(draw(links), draw(st.dictionaries(pairs, links, max_size=6))),
        objective=draw(st.sampled_from(Objective)),
        stages_min=stages_min,
        stages_max=draw(st.integers(stages_min, 4)),
        ingress=draw(st.none() | st.sampled_from(NODES)),
        shared_bytes=draw(st.integers(0, 100)),
    )


def ceil_div(numerator, denominator):
    return -(-numerator // denominator)


def crossing_ns(problem, sender, receiver, frames, size_bytes):
    if None in {sender, receiver} or sender == receiver:
        return 0
    link = problem.links.measured.get((sender, receiver), problem.links.default)
    waiting_ns = frames * link.rtt_us * 500 if problem.objective is Objective.LATENCY else 0
    return ceil_div(size_bytes * 10**9, link.bytes_per_s) + waiting_ns


def legs_ns(problem, hosts, cuts):
    """Every leg of one split, link, stage, link, ...; None if a stage does not fit its node."""
    load = problem.workload
    tokens = load.prompt_tokens + load.answer_tokens
    legs, sender, size = [], problem.ingress, 8
    for host, (start, end) in zip(hosts, pairwise(cuts), strict=True):
        part = problem.blocks[start:end]
        kv = sum(b.kv_bytes_per_token for b in part) * load.context_tokens_max * load.sessions
        if problem.shared_bytes + sum(b.resident_bytes for b in part) + kv > host.memory_bytes:
            return None
        legs.append(crossing_ns(problem, sender, host.node, load.answer_tokens + 1, size * tokens))
        work_us = sum(b.decode_us * load.answer_tokens + b.prefill_us * load.prompt_tokens // 128 for b in part)
        idle_permille = 1000 - min(max(host.busy_permille, 0), 950)
        speed = host.speed_macs_per_s * idle_permille
        legs.append(ceil_div(work_us * 1000 * problem.reference_macs_per_s * 1000, speed))
        sender, size = host.node, part[-1].boundary_bytes_per_token
    legs.append(crossing_ns(problem, sender, problem.ingress, load.answer_tokens, 8 * load.answer_tokens))
    return legs


def brute_force_us(problem, using=None):
    """The best score there is (of splits that use the node ``using``), or None."""
    usable = [c for c in problem.candidates if c.speed_macs_per_s and c.memory_bytes]
    join = sum if problem.objective is Objective.LATENCY else max
    best = None
    for stages in range(problem.stages_min, min(problem.stages_max, len(problem.blocks)) + 1):
        for hosts in permutations(usable, stages):
            if using is not None and all(host.node != using for host in hosts):
                continue
            for inner in combinations(range(1, len(problem.blocks)), stages - 1):
                legs = legs_ns(problem, hosts, (0, *inner, len(problem.blocks)))
                if legs is not None and (best is None or join(legs) < best):
                    best = join(legs)
    return None if best is None else best // (1000 * problem.workload.answer_tokens)


@settings(max_examples=400, deadline=None)
@given(problems())
def test_the_split_is_as_good_as_the_best_of_all(problem):
    answer = split_model(problem)
    best_us = brute_force_us(problem)
    if best_us is None:
        assert isinstance(answer, Infeasible)
        assert len(answer.nodes) == len(problem.candidates)
        return
    assert isinstance(answer, Split)
    assert answer.score_us == best_us
    assert [(rival.node, rival.score_us) for rival in answer.rivals] == [
        (candidate.node, brute_force_us(problem, candidate.node))
        for candidate in sorted(problem.candidates, key=lambda c: c.node)
        if candidate.speed_macs_per_s
        and candidate.memory_bytes
        and candidate.node not in {stage.node for stage in answer.stages}
    ]


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_price_of_the_answer_is_its_score(problem):
    answer = split_model(problem)
    if isinstance(answer, Split):
        priced = price(problem, stages_of(answer))
        assert priced == Split(answer.stages, answer.score_us)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_split_keeps_every_promise(problem):
    answer = split_model(problem)
    if isinstance(answer, Infeasible):
        return
    offered = {c.node: c.memory_bytes for c in problem.candidates}
    hosts = [stage.node for stage in answer.stages]
    cuts = [stage.first_block for stage in answer.stages] + [len(problem.blocks)]
    assert cuts[0] == 0
    assert [stage.last_block + 1 for stage in answer.stages] == cuts[1:]
    assert all(stage.first_block <= stage.last_block for stage in answer.stages)
    assert len(set(hosts)) == len(hosts)
    assert problem.stages_min <= len(hosts) <= problem.stages_max
    assert all(stage.memory_bytes <= offered[stage.node] for stage in answer.stages)


@settings(max_examples=100, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_were_heard_does_not_matter(problem, random):
    shuffled = list(problem.candidates)
    random.shuffle(shuffled)
    again = SplitProblem(
        problem.blocks,
        problem.reference_macs_per_s,
        tuple(shuffled),
        problem.workload,
        problem.links,
        problem.objective,
        problem.stages_min,
        problem.stages_max,
        problem.ingress,
        problem.shared_bytes,
    )
    assert split_model(again) == split_model(problem)
