"""The files of a local cluster are what an operator would have written: every loader accepts them."""

import os
import stat

import pytest

from shoal_agent.config import load_config, load_operator_config
from shoal_agent.errors import FailedError
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.identity import member_in, open_roster, open_sealer
from shoal_agent.shell.lab import LabSettings, make_lab, refuse_dead, start_agent, stop_agents
from shoal_agent.shell.tls import data_tls
from shoal_protocol.roster import Role


@pytest.fixture
def lab(tmp_path):
    urls = ("mqtt://127.0.0.1:18830", "mqtt://127.0.0.1:18831")
    return make_lab(LabSettings(tmp_path / "lab", 3, tmp_path / "store", urls, memory_bytes=10**8), unix_s())


def test_every_agents_configuration_is_valid_and_its_own(lab):
    configs = [load_config(node.config, environment={}) for node in lab.nodes]
    assert len({config.node.state_dir for config in configs}) == 3
    assert [len(config.brokers) for config in configs] == [2, 2, 2]
    assert {config.engine.memory_bytes_max for config in configs} == {10**8}
    for node, config in zip(lab.nodes, configs, strict=True):
        roster = open_roster(config.cluster)
        assert member_in(roster, open_sealer(config.node.key_file), Role.AGENT).node == node.node
        data_tls(node.node, config.data.certificate_file, config.data.key_file, roster)


def test_the_operator_may_announce_and_the_agents_may_not(lab):
    config = load_operator_config(lab.operator_config, environment={})
    roster = open_roster(config.cluster)
    operator = member_in(roster, open_sealer(config.operator.key_file), Role.OPERATOR)
    assert Role.AGENT not in operator.roles
    assert roster.cluster == lab.cluster
    assert [Role.OPERATOR in roster.member(node.node).roles for node in lab.nodes] == [False] * 3


def test_secrets_are_their_owners_alone(lab):
    secret = [lab.settings.folder / "operator.key"]
    for node in lab.nodes:
        secret += [node.folder / "node.key", node.folder / "data.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_only_the_first_agent_gets_the_port_that_was_asked_for(tmp_path):
    settings = LabSettings(tmp_path / "lab", 2, tmp_path / "store", ("mqtt://127.0.0.1:18830",), api_port=18601)
    made = make_lab(settings, unix_s())
    assert [load_config(node.config, environment={}).api.port for node in made.nodes] == [18601, 0]


async def test_an_agent_that_ends_is_noticed_with_its_last_words(lab):
    (lab.settings.folder / "roster.bin").write_bytes(b"no roster")
    agent = await start_agent(lab.nodes[0], sorted(os.sched_getaffinity(0))[:1])
    try:
        assert await agent.process.wait() != 0
        with pytest.raises(FailedError, match="is no roster"):
            refuse_dead([agent])
    finally:
        await stop_agents([agent])
