from dataclasses import replace

import pytest

from shoal_agent.core.facts import Standing
from shoal_agent.core.outlook import (
    RATE_MAX,
    RATE_MIN,
    RTT_US_MIN,
    Outlooks,
    rounded_down,
    rounded_link,
    slowness_permille,
    summed,
    waiting_permille,
)
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import LAN, NO_DEMAND, RELAY, Demand, Link, Split
from shoal_protocol.ids import DeploymentId, Incarnation, Instant, NodeId
from shoal_protocol.limits import BYTES_PER_S_MAX, TOKENS_PER_KS_MAX
from shoal_protocol.measured import LinkMeasured
from shoal_protocol.messages import NodePhase, PlanStage, Terms
from shoal_protocol.trust import GuardedBlocks
from tests.support.opinion import MEMORY, NOW, SPEED, Opinion

HELD = PlanStage("", 0, 3)


def look(me, barred=None, now=NOW):
    return Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, barred or {}, now)


def candidate(me, index):
    return next(c for c in look(me).problem.candidates if c.node == me.names[index])


def test_every_agent_that_is_there_is_a_candidate():
    me = Opinion()
    outlook = look(me)
    assert [c.node for c in outlook.problem.candidates] == me.names[:5]
    assert outlook.left_out == ()
    assert outlook.witnesses == tuple(me.names), "a witness votes, and hosts nothing"
    assert outlook.problem.workload.context_tokens_max == 512
    assert [(part.node, part.first_block) for part in outlook.owned] == [(me.names[0], 0), (me.names[1], 4)]
    assert all(outlook.stored.values())


def test_blocks_that_the_model_has_not_got_are_nobodys():
    me = Opinion()
    me.record(me.names[2], hosted=PlanStage("", 6, len(me.facts.blocks)))
    assert me.names[2] not in [part.node for part in look(me).owned]
    me.record(me.names[2], hosted=PlanStage("", 6, len(me.facts.blocks) - 1))
    assert me.names[2] in [part.node for part in look(me).owned]


def test_what_is_asked_is_what_all_ingresses_that_are_there_tell():
    me = Opinion()
    assert look(me).problem.demand == NO_DEMAND
    me.record(me.names[0], hosted=HELD, asked=(4_096, 512))
    me.record(me.names[4], asked=(1_024, 0))
    me.record(me.names[5], asked=(0, 256))
    assert look(me).problem.demand == Demand(5_120, 768), "a witness is an ingress, too, and a stranger to the zone"
    me.record(me.names[4], asked=(1_024, 0), standing=Standing.DEAD)
    assert look(me).problem.demand == Demand(4_096, 768)


def test_other_deployments_are_not_added_and_trembling_is_not_seen():
    me = Opinion()
    state = me.record(me.names[2], asked=(100_000, 10_000))
    before = summed([state], me.head.plan.deployment)
    assert summed([state], DeploymentId("other")) == NO_DEMAND
    near = me.record(me.names[2], asked=(100_300, 10_010))
    assert summed([near], me.head.plan.deployment) == before


def test_a_liars_word_is_bounded():
    me = Opinion()
    state = me.record(me.names[2], asked=(TOKENS_PER_KS_MAX, TOKENS_PER_KS_MAX))
    most = Demand(TOKENS_PER_KS_MAX, TOKENS_PER_KS_MAX)
    assert summed([replace(state, demands=state.demands * 50)] * 9, me.head.plan.deployment) == most


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"standing": Standing.DEAD}, "is gone or leaving"),
        ({"standing": Standing.LEFT}, "is gone or leaving"),
        ({"phase": NodePhase.DRAINING}, "is gone or leaving"),
        ({"standing": Standing.SUSPECT}, "is silent"),
        ({"locked": True}, "is locked by its operator"),
    ],
)
def test_who_is_left_out_and_why(change, why):
    me = Opinion()
    me.record(me.names[2], **change)
    outlook = look(me)
    assert outlook.left_out == ((me.names[2], why),)
    assert outlook.why_not(me.names[2]) == why
    assert outlook.why_not(me.names[3]) is None
    assert (me.names[2] in outlook.witnesses) is ("locked" in change)


def test_a_locked_host_stays_a_host():
    me = Opinion()
    me.record(me.names[1], hosted=HELD, locked=True)
    assert look(me).left_out == ()


def test_guarded_blocks_meet_candidates_with_their_zones():
    me = Opinion(terms=Terms(stages_min=2, guarded=(GuardedBlocks(0, 1, ("home",)),)))
    problem = look(me).problem
    assert problem.zones == (("home",), ("home",), *[()] * 6)
    assert [each.zone for each in problem.candidates] == ["home"] * 4 + ["lab"]


def test_zones_of_the_terms_bind():
    me = Opinion(terms=Terms(stages_min=2, zones=("home",)))
    assert look(me).left_out == ((me.names[4], "is in zone lab, allowed are home"),)


def test_who_failed_lately_is_left_out():
    me = Opinion()
    assert look(me, {me.names[3]: "failed epoch 4: disk full"}).left_out == (
        (me.names[3], "failed epoch 4: disk full"),
    )


def test_who_is_not_watched_counts_while_it_is_heard():
    me = Opinion()
    me.record(me.names[2], standing=Standing.UNKNOWN)
    assert look(me).left_out == ()
    assert look(me, now=Instant(NOW + 60)).left_out == ((me.names[2], "was not heard lately"),)
    assert look(me).why_not("z" * 32) == "was never heard of"


@pytest.mark.parametrize(
    ("state", "permille"),
    [
        pytest.param({}, 1000, id="as predicted"),
        pytest.param({"foreign": 500}, 2000, id="others take half"),
        pytest.param({"foreign": 1000}, 20_000, id="others take all: a twentieth is left"),
        pytest.param({"foreign": 510}, 2000, id="in steps"),
        pytest.param({"foreign": 500, "pace": 1200, "hosted": HELD}, 1200, id="a host knows better"),
        pytest.param({"foreign": 500, "pace": 0, "hosted": HELD}, 2000, id="unless it has not measured"),
        pytest.param({"foreign": 500, "pace": 1500}, 2000, id="of others the worse is believed"),
        pytest.param({"foreign": 100, "pace": 1500}, 1500, id="and what they measured once"),
        pytest.param({"pace": 700, "hosted": HELD}, 700, id="faster than predicted"),
    ],
)
def test_how_slow_a_node_is(state, permille):
    me = Opinion()
    said = me.record(me.names[2], **state)
    assert slowness_permille(said, runs=bool(said.hosted)) == permille
    assert candidate(me, 2).speed_macs_per_s == SPEED * 1000 // permille


def test_a_relieved_node_does_not_look_as_good_as_its_profile():
    """Blocks would come back as soon as they are gone."""
    me = Opinion()
    slow_host = me.record(me.names[1], hosted=HELD, pace=2000)
    relieved = me.record(me.names[1], pace=2000)
    assert slowness_permille(relieved, runs=False) == slowness_permille(slow_host, runs=True)


def test_work_for_other_deployments_is_a_line_to_stand_in():
    me = Opinion()
    held = me.record(me.names[2], hosted=HELD, foreign=100)
    at_work = replace(held, load=replace(held.load, cpu_permille=620))
    other, own = DeploymentId("other"), held.hosted[0].deployment
    assert waiting_permille(at_work, other) == waiting_permille(at_work, None) == 500, "in steps"
    assert waiting_permille(at_work, own) == 0, "its measured pace knows"
    assert waiting_permille(replace(at_work, hosted=()), other) == 0, "it works for nobody"
    assert waiting_permille(held, other) == 0, "rounding is no work"
    me.adopt(replace(me.head.plan, deployment=other))
    me.tables.membership.merge(me.names[2], Incarnation(1), replace(at_work, version=9), NOW)
    problem = Outlooks(me.here, me.tables, me.roster).of(replace(me.head.plan, deployment=other), me.facts, {}, NOW)
    waits = {c.node: c.waiting_permille for c in problem.problem.candidates}
    assert waits[me.names[2]] == 500


def test_memory_of_a_stranger_must_be_free_now():
    me = Opinion()
    me.record(me.names[2], free=1_000_000)
    me.record(me.names[1], hosted=HELD, free=1_000_000)
    assert candidate(me, 2).memory_bytes == rounded_down(1_000_000)
    assert candidate(me, 1).memory_bytes == MEMORY


def test_memory_that_other_deployments_take_is_not_offered():
    me = Opinion()
    me.adopt(replace(me.head.plan, deployment=DeploymentId("other")))
    assert candidate(me, 0).memory_bytes == MEMORY - 4 * 1000 - 4 * 64 * 512


def link(rtt_us: int, *, relayed: bool = False) -> Link:
    return rounded_link(LinkMeasured(NodeId("a" * 32), rtt_us, relayed))


def test_links_are_as_measured_both_ways_and_local_otherwise():
    me = Opinion()
    a, b, c = me.names[1:4]
    me.record(a, links={b: 8000})
    links = look(me).problem.links
    assert links.between(a, b) == links.between(b, a) == link(8000)
    assert links.between(me.names[0], c) == link(8000), "so it is everywhere, as far as anybody knows"
    assert links.between(a, c) == link(8000), "at one end this is usual"
    me.record(b, links={a: 4000})
    links = look(me).problem.links
    assert (links.between(a, b).rtt_us, links.between(b, a).rtt_us) == (8000 >> 9 << 9, 4000 >> 8 << 8)


def test_without_any_measurement_links_are_local():
    me = Opinion()
    assert look(me).problem.links.between(*me.names[:2]) == LAN


def test_what_is_usual_at_a_node_is_the_median_of_its_links():
    me = Opinion()
    a, b, c, d = me.names[:4]
    me.record(b, links={a: 1000, c: 8000, d: 64_000})
    usual = look(me).problem.links.usual
    assert [usual[node] for node in (a, b, c)] == [link(1000), link(8000), link(8000)]
    assert look(me).problem.links.between(a, c) == link(8000)


def test_a_relayed_link_carries_less_and_so_does_what_is_guessed_from_it():
    me = Opinion()
    a, b, c, d = me.names[:4]
    me.record(b, links={a: 1000, c: 1000, d: 1000}, relayed={a, c})
    links = look(me).problem.links
    assert links.between(a, b) == links.between(b, a) == link(1000, relayed=True)
    assert links.between(b, d) == link(1000)
    assert links.between(a, b).bytes_per_s == RELAY.bytes_per_s < LAN.bytes_per_s
    assert links.usual[b] == link(1000, relayed=True), "of most of its links"
    assert links.between(a, d) == link(1000, relayed=True), "the worse of both ends"
    assert links.usual[d] == link(1000)


@pytest.mark.parametrize(("size", "rounded"), [(0, 0), (15, 15), (16, 16), (17, 16), (1000, 960), (1023, 960)])
def test_sizes_are_rounded_to_an_eighth(size, rounded):
    assert rounded_down(size) == rounded


def test_what_jitters_leaves_the_problem_as_it_was():
    me = Opinion()
    me.record(me.names[1], hosted=HELD, pace=1010, links={me.names[0]: 1000})
    me.record(me.names[2], free=102 * 10**6, foreign=330)
    before = look(me).problem
    me.record(me.names[1], hosted=HELD, pace=1020, links={me.names[0]: 980})
    me.record(me.names[2], free=103 * 10**6, foreign=340)
    assert look(me).problem == before
    me.record(me.names[2], free=102 * 10**6, foreign=400)
    assert look(me).problem != before


def test_neighbours_on_one_machine_are_equally_near():
    assert link(3).rtt_us == link(RTT_US_MIN).rtt_us == RTT_US_MIN


def test_who_owes_bytes_says_so():
    me = Opinion()
    assert look(me).owed_s == {}
    state = me.record(me.names[2])
    owing = replace(state, version=state.version + 1, load=replace(state.load, moved_owed_s=90))
    me.tables.membership.merge(me.names[2], Incarnation(1), owing, NOW)
    assert look(me).owed_s == {me.names[2]: 90}


def test_a_link_carries_what_comes_over_it():
    me = Opinion()
    a, b, c, d = me.names[:4]
    me.record(b, links={a: 1000, c: 1000, d: 1000}, rates={a: 2_000_000, c: 900_000_000})
    links = look(me).problem.links
    assert links.between(a, b).bytes_per_s == rounded_down(2_000_000), "b hears a so fast"
    assert links.between(b, a).bytes_per_s == rounded_down(2_000_000), "and a says nothing of b"
    assert links.between(c, b).bytes_per_s == rounded_down(900_000_000)
    assert links.between(d, b) == link(1000), "of which nothing is known"
    me.record(a, links={b: 1000}, rates={b: 30_000_000})
    links = look(me).problem.links
    assert links.between(b, a).bytes_per_s == rounded_down(30_000_000), "each direction by who hears it"
    assert links.between(a, b).bytes_per_s == rounded_down(2_000_000)


def test_what_is_said_of_a_link_never_makes_it_endless():
    me = Opinion()
    a, b, c = me.names[:3]
    me.record(b, links={a: 1000, c: 1000}, rates={a: 1, c: BYTES_PER_S_MAX})
    links = look(me).problem.links
    assert links.between(a, b).bytes_per_s == RATE_MIN
    assert links.between(c, b).bytes_per_s == RATE_MAX
    assert isinstance(split_model(look(me).problem), Split)
