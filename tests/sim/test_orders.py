from shoal_agent.core.plan import faults_of, voters_for
from shoal_agent.sim.orders import able_as, genesis, recovery
from shoal_agent.sim.settings import CLUSTER, HOME, TOY, Settings, found
from shoal_agent.sim.toy import MODEL
from shoal_protocol.codec import decode_plan
from shoal_protocol.ids import node_id_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.votes import open_recovery

SETTINGS = Settings(1, 5, 3)
KEYS = [Ed25519Sealer(bytes([number]) * 32) for number in range(1, 6)]
NAMES = [node_id_of(key.public_key) for key in KEYS]
OPERATOR = Ed25519Sealer(bytes([9]) * 32)
ROSTER = found(SETTINGS, KEYS, OPERATOR)
ABLE = [able_as(SETTINGS, name, HOME) for name in NAMES]


def test_the_first_plan_splits_evenly_and_names_its_voters():
    plan = decode_plan(genesis(SETTINGS, NAMES[:3], NAMES, ABLE).plan)
    assert (plan.deployment, plan.epoch, plan.model, plan.terms.faulty) == (TOY, 0, MODEL, 0)
    assert [stage.node for stage in plan.stages] == NAMES[:3]
    assert plan.stages[-1].last_block == SETTINGS.blocks - 1
    assert plan.voters == voters_for(TOY, NAMES[:3], NAMES, 0)
    assert len(plan.voters) == 3
    assert faults_of(plan, ROSTER) == []


def test_who_is_able_to_host_stands_by():
    def standbys(hosts, able):
        plan = decode_plan(genesis(SETTINGS, NAMES[:hosts], NAMES, ABLE[:able]).plan)
        return [[NAMES.index(node) for node in stage.standbys] for stage in plan.stages]

    assert sorted(standbys(2, 4)) == [[2], [3]]
    assert standbys(2, 2) == [[1], [0]]
    assert standbys(1, 1) == [[]]


def test_where_its_ends_are_guarded_the_first_host_has_both_and_only_who_is_at_home_stands_by():
    settings = Settings(1, 5, 3, guarded=True)
    roster = found(settings, KEYS, OPERATOR)
    zones = [roster.member(name).zone for name in NAMES]
    assert zones == ["home", "home", "away", "away", "away"]
    able = [able_as(settings, name, zone) for name, zone in zip(NAMES, zones, strict=True)]
    plan = decode_plan(genesis(settings, [NAMES[0], NAMES[2], NAMES[3]], NAMES, able).plan)
    assert [NAMES.index(stage.node) for stage in plan.stages] == [0, 2, 3, 0]
    assert [stage.standbys for stage in plan.stages[::3]] == [(NAMES[1],)] * 2
    assert faults_of(plan, roster) == []
    assert plan.voters == voters_for(TOY, [NAMES[0], NAMES[2], NAMES[3]], NAMES, 0)


def test_a_recovery_replaces_the_lost_by_the_living():
    known = genesis(SETTINGS, NAMES[:3], NAMES, ABLE)
    order = recovery(SETTINGS, decode_plan(known.plan), NAMES[3:], OPERATOR)
    plan = open_recovery(order, known.plan, ROSTER, CLUSTER)
    assert plan.epoch == EPOCH_LEAP
    assert [stage.node for stage in plan.stages] == NAMES[3:]
    assert set(plan.voters) <= set(NAMES[3:])
