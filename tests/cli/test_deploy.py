"""`shoal deploy` as an operator runs it: a process, a real broker with certificates and ACL, hosts that answer."""

import json

import pytest

from shoal_agent.cli.deploy import micronats
from shoal_agent.config import load_operator_config
from shoal_agent.errors import ExitCode
from shoal_protocol.limits import LOSS_MICRONATS_MAX
from shoal_protocol.messages import DeploymentPhase
from tests.support.broker import needs_mosquitto
from tests.support.commands import running_shoal, shoal
from tests.support.fleet import configure, found
from tests.support.hosts import cluster


@pytest.fixture
def fleet(tmp_path, tiny_store):
    made = found(tmp_path, 3)
    configure(made, ["mqtts://127.0.0.1:1"], tiny_store.root)
    return made


async def deploy(fleet, *arguments):
    """The command in a process of its own: (exit code, stdout, stderr)."""
    return await running_shoal("deploy", "tiny", "--config", fleet.operator_config, *arguments)


@pytest.mark.parametrize(("nats", "wire"), [(0.0, 0), (0.29, 290_000), (1e-7, 0), (10.0, LOSS_MICRONATS_MAX)])
def test_a_loss_is_told_in_nats(nats, wire):
    assert micronats(nats) == wire


@needs_mosquitto
async def test_a_model_is_deployed_over_a_real_broker(fleet, tmp_path, tiny_store):
    async with cluster(fleet, tmp_path, tiny_store) as hosts:
        code, out, err = await deploy(fleet, "--stages", "3", "--context-tokens", "64", "--json")
        assert code == 0, err
        told = json.loads(out)
        assert told["active"] is True
        assert (told["deployment"], told["epoch"], told["context_tokens_max"]) == ("tiny", 0, 64)
        assert {stage["node"] for stage in told["stages"]} == {host.node for host in hosts} == set(told["nodes_heard"])
        assert told["stages"][0]["first_block"] == 0
        assert {stage["width"] for stage in told["stages"]} == {"f32"}, "no loss is allowed unless one is named"
        assert all(len(stage["standbys"]) == 1 and stage["node"] not in stage["standbys"] for stage in told["stages"])
        assert told["stages"][-1]["last_block"] == len(tiny_store.load("tiny").blocks) - 1
        assert all(host.plans[0].model.hex() == told["model"] for host in hosts)
        # The plan is retained: a second run finds it there and does not put another in its place.
        code, out, err = await deploy(fleet, "--stages", "2")
        assert code == ExitCode.FAILED, out + err
        assert "tiny is deployed already, epoch 0" in err


@needs_mosquitto
async def test_a_dry_run_shows_the_plan_to_people(fleet, tmp_path, tiny_store):
    async with cluster(fleet, tmp_path, tiny_store) as hosts:
        code, out, err = await deploy(fleet, "--stages", "2", "--dry-run", "--loss", "0.2")
        assert code == 0, err
        assert "tiny: epoch 0, planned, not announced" in out
        assert "stage 1  " in out
        (spare,) = {host.node for host in hosts} - {line.split()[2] for line in out.splitlines() if "stage" in line}
        assert out.count(f"standby {spare[:8]}") == 2, "it has no stage, and room for both"
        assert "3 of 3 nodes can host tiny" in err
        assert all(host.plans == [] for host in hosts)


@needs_mosquitto
async def test_a_host_that_cannot_is_quoted(fleet, tmp_path, tiny_store):
    def alter(hosts):
        hosts[1].phases = (DeploymentPhase.FAILED,)
        hosts[1].detail = "block 2: blob is missing"

    async with cluster(fleet, tmp_path, tiny_store, alter) as hosts:
        named = ",".join(host.node for host in hosts)
        code, out, err = await deploy(fleet, "--stages", "3", "--nodes", named, "--json")
        assert code == ExitCode.FAILED
        assert f"{hosts[1].node}: failed block 2: blob is missing" in json.loads(out)["error"]["message"]
        assert "block 2: blob is missing" in err


def test_what_is_wrong_before_anybody_is_heard(fleet, tmp_path):
    config = fleet.operator_config
    assert shoal("deploy", "tiny", "--config", tmp_path / "absent.toml").code == ExitCode.CONFIG
    ended = shoal("deploy", "absent", "--config", config)
    assert ended.code == ExitCode.CONFIG
    assert "no package 'absent'" in ended.err
    assert "shoal model import absent" in ended.err
    ended = shoal("deploy", "tiny", "--config", config, "--nodes", "zzz")
    assert ended.code == ExitCode.CONFIG
    assert "'zzz' names 0 members" in ended.err
    assert shoal("deploy", "tiny", "--config", config, "--stages", "0").code == ExitCode.USAGE


def test_only_an_operator_may_deploy(fleet):
    key = load_operator_config(fleet.operator_config, environment={}).operator.key_file
    key.write_bytes((fleet.machines[0].folder / "node.key").read_bytes())
    ended = shoal("deploy", "tiny", "--config", fleet.operator_config)
    assert ended.code == ExitCode.DENIED
    assert "is agent in roster 2, not operator" in ended.err


def test_without_a_broker_it_ends_with_what_was_tried(fleet, monkeypatch):
    monkeypatch.setattr("shoal_agent.shell.desk.CONNECT_S", 1.0)
    ended = shoal("deploy", "tiny", "--config", fleet.operator_config, "--json")
    assert ended.code == ExitCode.UNAVAILABLE
    assert "mqtts://127.0.0.1:1: " in ended.json["error"]["message"]
