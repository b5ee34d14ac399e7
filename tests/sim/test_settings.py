from shoal_agent.sim.settings import AWAY, CLUSTER, HOME, Settings, found
from shoal_protocol.ids import node_id_of
from shoal_protocol.roster import Role
from shoal_protocol.sealing import Ed25519Sealer

KEYS = [Ed25519Sealer(bytes([number]) * 32) for number in range(1, 5)]
OPERATOR = Ed25519Sealer(bytes([9]) * 32)


def test_a_world_has_agents_and_an_operator_and_outsiders_after_its_hosts():
    roster = found(Settings(1, 4, 2, outsiders=1), KEYS, OPERATOR)
    assert roster.cluster == CLUSTER
    assert [member.node for member in roster.members] == [node_id_of(key.public_key) for key in [*KEYS, OPERATOR]]
    assert [member.zone for member in roster.members] == [HOME, HOME, AWAY, HOME, HOME]
    assert [member.roles for member in roster.members] == [(Role.AGENT,)] * 4 + [(Role.OPERATOR,)]


def test_a_seed_is_a_root():
    rosters = [found(Settings(seed, 4, 2), KEYS, OPERATOR) for seed in (1, 1, 2)]
    assert rosters[0].wire == rosters[1].wire != rosters[2].wire
