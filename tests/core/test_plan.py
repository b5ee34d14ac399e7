from dataclasses import replace

import pytest

from shoal_agent.core.facts import StageSpan, Width
from shoal_agent.core.plan import (
    GENESIS_PARENT,
    Room,
    concerned_by,
    faults_for_host,
    faults_of,
    faults_of_successor,
    faults_of_widths,
    kv_bytes_per_token,
    own_stages,
    rendezvous_order,
    resident_bytes,
    servers_of,
    serves,
    slot_of,
    span_of,
    stages_on,
    standby_stages,
    voter_count,
    voters_for,
)
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId, node_id_of
from shoal_protocol.messages import Plan, PlanStage, Terms
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.widths import ActivationWidth
from tests.support.protocol import AGENT, OBSERVER, OPERATOR, STRANGER, WITNESS, node_of, trusted_roster
from tests.support.toy import MODEL, toy_facts

F32, F16, I8 = ActivationWidth.F32, ActivationWidth.F16, ActivationWidth.I8

ROSTER = trusted_roster()
HOST, OTHER = node_of(AGENT), node_of(WITNESS)
FACTS = toy_facts(blocks=8, context=512, kv=64)
PLAN = Plan(DeploymentId("toy"), Epoch(0), GENESIS_PARENT, MODEL, 512, (PlanStage(HOST, 0, 4), PlanStage(OTHER, 5, 7)))
NEEDED = 5 * 1000 + 5 * 64 * 512
"""Blocks 0-4 open, and the KV of one session of the longest kind."""


def test_stages_and_spans():
    assert [own_stages(PLAN, node) for node in (HOST, OTHER, node_of(STRANGER))] == [(0,), (1,), ()]
    assert span_of(PLAN, 1) == StageSpan(DeploymentId("toy"), Epoch(0), MODEL, 5, 7)


WIDTHS = (Width("f32"), Width("f16", 500, 0, 0, 100), Width("i8", 250, 4, 0, 400))
CERTIFIED = replace(FACTS, widths=WIDTHS)


def narrowed(loss: int, *widths: ActivationWidth) -> Plan:
    stages = [PlanStage(HOST, 0, 4), PlanStage(OTHER, 5, 6), PlanStage(node_of(STRANGER), 7, 7)]
    after = [replace(stage, width=width) for stage, width in zip(stages[1:], widths, strict=True)]
    return replace(PLAN, stages=(stages[0], *after), terms=Terms(loss_micronats=loss))


def test_a_stage_gives_what_the_next_one_takes():
    plan = narrowed(0, F16, I8)
    spans = [span_of(plan, stage) for stage in range(3)]
    assert [(span.takes, span.gives) for span in spans] == [(F32, F16), (F16, I8), (I8, F32)]


@pytest.mark.parametrize(
    ("loss", "widths", "faults"),
    [
        (0, (F32, F32), []),
        (500, (F16, I8), []),
        (499, (F16, I8), ["narrow activations cost 500 micronats, the terms allow 499"]),
        (0, (F32, F16), ["narrow activations cost 100 micronats, the terms allow 0"]),
        (999, (F16, ActivationWidth.I8X32), ["I8X32 into stage 2: no certificate of it here"]),
    ],
)
def test_narrow_activations_are_certified_and_within_the_budget(loss, widths, faults):
    plan = narrowed(loss, *widths)
    assert faults_of_widths(plan, CERTIFIED) == faults
    assert faults_for_host(plan, HOST, CERTIFIED, Room(10**9, 10**9)) == faults


def test_a_package_from_before_certificates_travels_as_it_is():
    assert faults_of_widths(narrowed(10**6, F32, F32), FACTS) == []
    assert faults_of_widths(narrowed(10**6, F32, F16), FACTS) == ["F16 into stage 2: no certificate of it here"]


def strangers(plan: Plan) -> list[str]:
    return [fault for fault in faults_of(plan, ROSTER) if "may not be in zone" in fault]


def test_guarded_blocks_stay_in_their_zones():
    """Whoever would hold one, as primary or standby; the roster's zones are what counts."""
    zones = {node: ROSTER.member(node).zone for node in (HOST, OTHER)}
    mine, other = (GuardedBlocks(0, 1, (zones[HOST],)),), (GuardedBlocks(0, 1, ("elsewhere",)),)
    assert strangers(replace(PLAN, terms=Terms(guarded=mine))) == []
    fault = f"blocks 0-4 may not be in zone {zones[HOST]}, where {HOST} is"
    assert strangers(replace(PLAN, terms=Terms(guarded=other))) == [fault]
    backed = replace(PLAN, stages=(PLAN.stages[0], replace(PLAN.stages[1], standbys=(HOST,))))
    terms = Terms(guarded=(GuardedBlocks(7, 7, ("elsewhere",)),))
    faults = strangers(replace(backed, terms=terms))
    assert [fault.partition(", where ")[2] for fault in faults] == [f"{OTHER} is", f"{HOST} is"]


def test_standbys_have_stages_too():
    third, fourth = node_of(OBSERVER), node_of(STRANGER)
    stages = (PlanStage(HOST, 0, 4, (OTHER, third)), PlanStage(OTHER, 5, 7, (third, HOST)))
    plan = replace(PLAN, stages=stages, voters=(OTHER, fourth))
    assert [standby_stages(plan, node) for node in (HOST, OTHER, third, fourth)] == [(1,), (0,), (1, 0), ()]
    assert [stages_on(plan, node) for node in (HOST, OTHER, third, fourth)] == [(0, 1), (1, 0), (1, 0), ()]
    assert [serves(plan, stage, node) for stage in (0, 1) for node in (HOST, third, fourth)] == [True, True, False] * 2
    assert servers_of(plan) == (HOST, OTHER, third)
    assert concerned_by(plan) == (HOST, OTHER, third, fourth)


def test_a_slot_is_of_one_stage_of_one_epoch():
    assert [slot_of(Epoch(0), 5), slot_of(Epoch(1), 5), slot_of(Epoch(2), 0)] == [5, 69, 128]


def test_sizes_count_both_ends():
    span = span_of(PLAN, 0)
    assert resident_bytes(FACTS, span) == 5000
    assert resident_bytes(replace(FACTS, shared_bytes=7), span) == 5007
    assert kv_bytes_per_token(FACTS, span) == 320


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((AGENT,), None),
        ((AGENT, AGENT), "a node holds two stages, and not just the first and the last"),
        ((AGENT, STRANGER), f"{node_of(STRANGER)} is not in the roster"),
        ((AGENT, OPERATOR), f"{node_of(OPERATOR)} is no agent"),
        ((AGENT, WITNESS), f"{node_of(WITNESS)} is no agent"),
        ((OBSERVER,), f"{node_of(OBSERVER)} is no agent"),
    ],
)
def test_what_is_wrong_whoever_looks(nodes, words):
    stages = tuple(PlanStage(node_id_of(key.public_key), index, index) for index, key in enumerate(nodes))
    assert faults_of(replace(PLAN, stages=stages), ROSTER) == ([] if words is None else [words])


@pytest.mark.parametrize(
    ("standbys", "words"),
    [
        ((AGENT,), None),
        ((STRANGER,), f"{node_of(STRANGER)} is not in the roster"),
        ((WITNESS,), f"{node_of(WITNESS)} is no agent"),
        ((AGENT, AGENT), "a stage has more standbys than 1"),
    ],
)
def test_what_is_wrong_with_a_standby_whoever_looks(standbys, words):
    stage = PlanStage(node_of(AGENT), 0, 7, tuple(node_of(key) for key in standbys))
    assert faults_of(replace(PLAN, stages=(stage,)), ROSTER) == ([] if words is None else [words])


def test_a_genesis_plan_has_no_parent():
    orphan = replace(PLAN, stages=PLAN.stages[:1])
    assert faults_of(replace(orphan, parent=Digest(b"p" * 32)), ROSTER) == ["a genesis plan has no parent"]
    assert faults_of(replace(orphan, epoch=Epoch(1), parent=Digest(b"p" * 32)), ROSTER) == []


@pytest.mark.parametrize(("key", "votes"), [(AGENT, True), (WITNESS, True), (OPERATOR, False), (STRANGER, False)])
def test_only_agents_and_witnesses_vote(key, votes):
    faults = faults_of(replace(PLAN, stages=PLAN.stages[:1], voters=(node_of(key),)), ROSTER)
    assert faults == ([] if votes else [f"{node_of(key)} cannot vote"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"epoch": Epoch(2)}, "it does not follow epoch 0"),
        ({"parent": GENESIS_PARENT}, "it does not follow epoch 0"),
        ({"terms": Terms(sessions=9)}, "another terms than epoch 0"),
        ({"model": Digest(b"x" * 32)}, "another model than epoch 0"),
        ({"context_tokens_max": 1}, "another context_tokens_max than epoch 0"),
        ({"deployment": DeploymentId("other")}, "another deployment than epoch 0"),
        ({"voters": ()}, "nobody could ever change it"),
    ],
)
def test_what_no_quorum_could_make_the_next_plan(change, fault):
    parent = Digest(b"p" * 32)
    after = replace(PLAN, **{"epoch": Epoch(1), "parent": parent, "voters": (HOST,), **change})
    assert faults_of_successor(after, PLAN, parent) == ([] if fault is None else [fault])


def test_every_fault_is_reported_at_once():
    stages = (PlanStage(node_of(STRANGER), 0, 0), PlanStage(node_of(OPERATOR), 1, 1), PlanStage(HOST, 2, 2))
    assert len(faults_of(replace(PLAN, parent=Digest(b"p" * 32), stages=stages), ROSTER)) == 3


def room(memory_bytes=10**9, kv_bytes_max=10**9, **rest):
    return Room(memory_bytes, kv_bytes_max, **rest)


def test_a_host_takes_what_fits_to_the_byte():
    assert faults_for_host(PLAN, HOST, FACTS, room(NEEDED)) == []
    (fault,) = faults_for_host(PLAN, HOST, FACTS, room(NEEDED - 1))
    assert fault == f"blocks 0-4 need {NEEDED} bytes, {NEEDED - 1} are offered"


def test_the_sessions_of_the_terms_are_kept_room_for():
    wanted = replace(PLAN, terms=Terms(sessions=3))
    needed, kv = NEEDED + 2 * 5 * 64 * 512, 3 * 5 * 64 * 512
    assert faults_for_host(wanted, HOST, FACTS, room(needed, kv)) == []
    assert faults_for_host(wanted, HOST, FACTS, room(needed, kv - 1)) == [
        f"blocks 0-4 need {kv} bytes of KV, {kv - 1} are kept for it"
    ]


def test_what_other_deployments_take_is_not_offered():
    assert faults_for_host(PLAN, HOST, FACTS, room(NEEDED + 7, taken_bytes=7)) == []
    (fault,) = faults_for_host(PLAN, HOST, FACTS, room(NEEDED + 7, taken_bytes=8))
    assert fault.endswith(f"{NEEDED - 1} are offered")


def test_blocks_of_the_epoch_before_stay_open_meanwhile_but_are_open_once():
    before = StageSpan(DeploymentId("toy"), Epoch(3), MODEL, 3, 6)
    assert faults_for_host(PLAN, HOST, FACTS, room(NEEDED + 2000, kept=(before,))) == []
    (fault,) = faults_for_host(PLAN, HOST, FACTS, room(NEEDED + 1999, kept=(before,)))
    assert fault == f"blocks 0-4 need {NEEDED + 2000} bytes beside 3-6 of epoch 3, {NEEDED + 1999} are offered"


@pytest.mark.parametrize("last_block", [6, 8])
def test_the_plan_covers_the_model_exactly(last_block):
    wrong = replace(PLAN, stages=(PlanStage(HOST, 0, last_block),))
    assert faults_for_host(wrong, HOST, FACTS, room()) == [f"the plan ends at block {last_block}, the model at 7"]


def test_a_plan_promises_no_more_context_than_the_model_has():
    assert faults_for_host(replace(PLAN, context_tokens_max=513), HOST, FACTS, room()) == [
        "context of 513 tokens, the model has 512"
    ]


@pytest.mark.parametrize(
    ("hosts", "available", "faulty", "count"),
    [
        (1, 1, 0, 1),
        (1, 2, 0, 1),
        (2, 2, 0, 1),
        (1, 3, 0, 3),
        (2, 9, 0, 3),
        (3, 4, 0, 3),
        (4, 4, 0, 3),
        (4, 5, 0, 5),
        (6, 7, 0, 7),
        (12, 20, 0, 7),
        (1, 9, 1, 4),
        (6, 9, 1, 4),
        (2, 3, 1, 3),
        (2, 20, 2, 7),
    ],
)
def test_how_many_vote(hosts, available, faulty, count):
    assert voter_count(hosts, available, faulty) == count


def test_hosts_vote_first_and_everybody_ranks_alike():
    agents = [NodeId(letter * 32) for letter in "abcdefgh"]
    voters = voters_for(DeploymentId("toy"), agents[6:8], agents, 0)
    assert len(voters) == 3
    assert set(agents[6:8]) <= set(voters)
    assert voters == voters_for(DeploymentId("toy"), agents[:5:-1], agents[::-1], 0)
    assert voters_for(DeploymentId("toy"), agents, [], 1) == tuple(rendezvous_order(b"toy", agents)[:4])
    many = {voters_for(DeploymentId(name), agents[:1], agents, 0)[1] for name in "abcdefghijkl"}
    assert len(many) > 3, "witnesses differ between deployments"


def test_a_witness_stays_while_it_may():
    agents = [NodeId(letter * 32) for letter in "abcdefgh"]
    before = voters_for(DeploymentId("toy"), agents[:2], agents, 0)
    without = [node for node in agents if node not in before]
    after = voters_for(DeploymentId("toy"), agents[:2], [*agents[:2], before[2], *without[:2]], 0)
    assert after == before
