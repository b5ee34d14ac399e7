"""`shoal recover` as an operator runs it, with a broker that remembers a plan whose voters are gone."""

import json

import pytest

from shoal_agent.errors import ExitCode
from shoal_protocol.limits import EPOCH_LEAP
from tests.support.broker import needs_mosquitto
from tests.support.commands import running_shoal, shoal
from tests.support.fleet import configure, found
from tests.support.hosts import cluster


@pytest.fixture
def fleet(tmp_path, tiny_store):
    made = found(tmp_path, 3)
    configure(made, ["mqtts://127.0.0.1:1"], tiny_store.root)
    return made


@needs_mosquitto
async def test_the_order_is_made_signed_announced_and_told(fleet, tmp_path, tiny_store):
    async with cluster(fleet, tmp_path, tiny_store) as hosts:
        config, order = fleet.operator_config, tmp_path / "tiny.order"
        chosen = ",".join(host.node for host in hosts[:2])
        code, out, err = await running_shoal(
            "deploy", "tiny", "--config", config, "--nodes", chosen, "--context-tokens", 64, "--json"
        )
        assert code == 0, err
        arguments = ("recover", "tiny", "--config", config, "--order", order, "--nodes", hosts[2].node)
        code, out, err = await running_shoal(*arguments, "--dry-run")
        assert code == 0, err
        assert f"tiny: epoch {EPOCH_LEAP}, 1 of 1 signatures" in out
        assert not order.exists()
        code, out, err = await running_shoal(*arguments, "--json")
        assert code == 0, err
        told = json.loads(out)
        assert (told["epoch"], told["missing"], told["active"]) == (EPOCH_LEAP, 0, True)
        assert {stage["node"] for stage in told["stages"]} == {hosts[2].node}
        assert told["signed"] == [fleet.operator]
        assert hosts[2].plans[-1].epoch == EPOCH_LEAP
        code, out, err = await running_shoal("recover", "absent", "--config", config)
        assert code == ExitCode.FAILED
        assert "deployments that are: tiny" in err


def test_what_is_wrong_before_anybody_is_heard(fleet, tmp_path):
    config = fleet.operator_config
    assert shoal("recover", "tiny", "--config", tmp_path / "absent.toml").code == ExitCode.CONFIG
    assert shoal("recover", "No Name", "--config", config).code == ExitCode.CONFIG
    order = tmp_path / "broken.order"
    order.write_bytes(b"nonsense")
    ended = shoal("recover", "tiny", "--config", config, "--order", order, "--json")
    assert ended.code == ExitCode.CONFIG
    assert "is no order" in ended.json["error"]["message"]
