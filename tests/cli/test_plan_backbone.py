"""`shoal plan backbone` on clusters of paper."""

import pytest

from shoal_agent.errors import ExitCode
from tests.support.commands import shoal

CLUSTER = """
kinds = ["memory_mb"]
[[machines]]
name = "mec-1"
capacity = {memory_mb = 32_000}
trust = 2
price = 100
[[machines]]
name = "mec-2"
capacity = {memory_mb = 16_000}
trust = 2
price = 80
[[machines]]
name = "pi"
capacity = {memory_mb = 8_000}
price = 5
[[services]]
name = "encoder"
needs = {memory_mb = 1_000}
price = 2
[[services]]
name = "llm"
needs = {memory_mb = 14_000}
trust = 2
price = 10
[[edges]]
sender = "encoder"
receiver = "llm"
rate_milli = 3000
size_bytes = 300_000
"""


@pytest.fixture
def cluster(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER)
    return file


def test_services_are_placed_on_two_machines_each(cluster):
    ended = shoal("plan", "backbone", cluster, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["placement"]["llm"] == {"mec-1": 1, "mec-2": 1}
    assert len(ended.json["placement"]["encoder"]) == 2
    assert ended.json["proven"] is True
    cost = ended.json["cost"]
    assert cost["total"] == cost["run"] - cost["quality"] + cost["network"] + cost["hosts"] + cost["moving"]


def test_a_person_reads_where_they_stand_and_what_it_costs(cluster):
    ended = shoal("plan", "backbone", cluster)
    assert ended.code == 0, ended.err
    assert "llm      1 on mec-1, 1 on mec-2" in ended.out
    assert "price " in ended.out


def test_what_stands_in_the_way_is_told_with_what_would_help(cluster):
    cluster.write_text(CLUSTER.replace("capacity = {memory_mb = 16_000}", "capacity = {memory_mb = 11_000}"))
    ended = shoal("plan", "backbone", cluster, "--json")
    assert ended.code == ExitCode.NO_PLAN
    assert "memory_mb: llm needs 2 x 14000, the machines with trust >= 2 offer 32000, 11000" in ended.err
    assert ended.json["error"]["exit_code"] == ExitCode.NO_PLAN


def test_a_negative_price_is_refused_by_its_place(cluster):
    cluster.write_text(CLUSTER.replace("price = 80", "price = -80"))
    ended = shoal("plan", "backbone", cluster)
    assert ended.code == ExitCode.CONFIG
    assert "machines[1].price" in ended.err
