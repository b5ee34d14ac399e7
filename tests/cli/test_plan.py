"""`shoal plan` on clusters of paper."""

import pytest

from shoal_agent.errors import ExitCode
from tests.support.commands import shoal

CLUSTER = """
ingress = "desk"
[[nodes]]
name = "desk"
speed_macs_per_s = 5_000_000_000
memory = "1 GiB"
[[nodes]]
name = "rack"
speed_macs_per_s = 20_000_000_000
memory = "1 GiB"
"""


@pytest.fixture
def cluster(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER)
    return file


def test_a_split_is_planned_without_a_cluster(cluster, tiny_store):
    ended = shoal("plan", "--model", "tiny", "--cluster", cluster, "--store", tiny_store.root, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["stages"][0]["node"] == "rack"


def test_what_is_lacking_is_named(cluster, tiny_store):
    assert shoal("plan", "--model", "tiny").code == ExitCode.CONFIG
    ended = shoal("plan", "--model", "absent", "--cluster", cluster, "--store", tiny_store.root)
    assert ended.code == ExitCode.CONFIG
    assert "shoal model import absent" in ended.err
