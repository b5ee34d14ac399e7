"""`shoal plan`: clusters of paper, and one that is heard over a real broker."""

import sys

import pytest

from shoal_agent.errors import ExitCode
from tests.support.broker import needs_mosquitto
from tests.support.commands import running_shoal, shoal
from tests.support.fleet import configure, found
from tests.support.hosts import cluster as hosts_of

CLUSTER = """
ingress = "desk"
[[nodes]]
name = "desk"
speed_macs_per_s = 5_000_000_000
memory = "1 GiB"
zone = "home"
[[nodes]]
name = "rack"
speed_macs_per_s = 20_000_000_000
memory = "1 GiB"
zone = "cloud"
price_per_hour = 0.9
[[nodes]]
name = "cheap"
speed_macs_per_s = 10_000_000_000
memory = "1 GiB"
zone = "cloud"
price_per_hour = 0.1
[[links]]
between = ["desk", "rack"]
rtt_us = 10
"""


@pytest.fixture
def plan(tmp_path, tiny_store):
    file = tmp_path / "cluster.toml"

    def call(*arguments, text=CLUSTER, model="tiny"):
        file.write_text(text)
        return shoal("plan", "--model", model, "--cluster", file, "--store", tiny_store.root, *arguments)

    return call


def hosts(stages):
    return [stage["node"] for stage in stages]


def test_a_split_is_planned_without_a_cluster(plan, tiny_store):
    # The way to the rack costs more than what a tiny model takes at home.
    ended = plan("--json")
    assert ended.code == 0, ended.err
    last = len(tiny_store.load("tiny").blocks) - 1
    (stage,) = ended.json["split"]["stages"]
    assert (stage["first_block"], stage["last_block"]) == (0, last)
    told = plan("--stages", 3)
    assert told.code == 0
    assert [line.split()[:2] for line in told.out.splitlines()[1:]] == [["stage", str(index)] for index in range(3)]


def test_who_expects_a_crowd_plans_for_it(plan):
    calm = plan("--json")
    assert calm.json["demand"] == {"prompt_tokens_per_s": 0.0, "answer_tokens_per_s": 0.0}
    crowded = plan("--rate", 200, "--json")
    assert crowded.json["demand"] == {"prompt_tokens_per_s": 25_600.0, "answer_tokens_per_s": 25_600.0}
    assert crowded.json["split"]["score_us"] > calm.json["split"]["score_us"]
    assert "asked 25600.0 tokens/s in, 25600.0 out" in plan("--rate", 200).out
    assert "tokens/s" not in plan().out
    front = plan("--rate", 200, "--pareto", "--json").json
    assert front["demand"] == crowded.json["demand"]
    assert front["front"][0]["latency_us"] <= crowded.json["split"]["score_us"]


def test_both_ends_stay_at_home(plan, tiny_store):
    ends = ("--private", 1, "--stages", 3, "--json")
    folded = plan("--u-shape", *ends).json["split"]["stages"]
    assert hosts(folded)[0] == hosts(folded)[-1] == "desk"
    refused = plan(*ends)
    assert refused.code == ExitCode.NO_PLAN
    assert "--u-shape" in refused.json["error"]["hint"]


def test_the_front_trades_time_money_and_privacy(plan):
    front = plan("--pareto", "--ingress", "desk", "--json").json["front"]
    points = [(one["latency_us"], one["money_per_million_tokens"], one["blocks_outside"]) for one in front]
    assert points == sorted(points)
    private = [one for one in front if one["blocks_outside"] == 0]
    assert [hosts(one["stages"]) for one in private] == [["desk"]]
    for one in points:
        assert not any(all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in points)
    told = plan("--pareto")
    assert "ms/token" in told.out
    assert "desk 0-" in told.out


def test_a_front_is_drawn(plan, tmp_path):
    pytest.importorskip("matplotlib")
    ended = plan("--pareto", "--plot", tmp_path / "charts")
    assert ended.code == 0, ended.err
    assert "<svg" in (tmp_path / "charts" / "pareto.svg").read_text()


def test_a_chart_without_matplotlib_names_what_is_missing(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = plan("--pareto", "--plot", tmp_path)
    assert ended.code == ExitCode.UNAVAILABLE
    assert "shoal[plots]" in ended.err


@pytest.mark.parametrize(
    ("arguments", "text", "told", "hint"),
    [
        (("--ingress", "attic"), CLUSTER, "there is no node attic", "nodes: desk, rack, cheap"),
        (("--price", "attic=1"), CLUSTER, "there is no node attic", "nodes: desk, rack, cheap"),
        (("--price", "desk=-1"), CLUSTER, "--price desk=-1 is no price", "--price desk=0.12"),
        (("--price", "desk=nan"), CLUSTER, "--price desk=nan is no price", "--price desk=0.12"),
        (("--price", "desk"), CLUSTER, "--price desk is no price", "--price desk=0.12"),
        (("--rate", "nan"), CLUSTER, "--rate nan is no rate", "sessions a second, from 0 to"),
        (("--rate", "-1"), CLUSTER, "--rate -1.0 is no rate", "sessions a second, from 0 to"),
        (("--trusted", "moon"), CLUSTER, "nobody is in zone moon", "cloud, home"),
        (("--private", "99"), CLUSTER, "the model has 6 blocks", "--private 6"),
        ((), CLUSTER.replace("0.9", "nan"), "nodes[1].price_per_hour", "mend the lines named"),
        ((), CLUSTER.replace("0.9", "-0.9"), "nodes[1].price_per_hour", "mend the lines named"),
        ((), CLUSTER.replace('"1 GiB"', '"0"'), "nodes[0].memory", "mend the lines named"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_do(plan, arguments, text, told, hint):
    ended = plan(*arguments, "--pareto", text=text)
    assert ended.code == ExitCode.CONFIG, ended.err
    assert told in ended.err
    assert hint in ended.err


def test_what_fits_nowhere_is_told_with_numbers(plan):
    ended = plan("--pareto", text=CLUSTER.replace('"1 GiB"', "1000"))
    assert ended.code == ExitCode.NO_PLAN
    assert "3 nodes offer 3000" in ended.err
    assert "holds at most 0 of 6 blocks in a row" in ended.err


def test_what_is_lacking_is_named(plan):
    assert shoal("plan", "--model", "tiny").code == ExitCode.CONFIG
    ended = plan(model="absent")
    assert ended.code == ExitCode.CONFIG
    assert "shoal model import absent" in ended.err


@needs_mosquitto
async def test_a_cluster_that_runs_is_planned_for_and_told_nothing(tmp_path, tiny_store):
    fleet = found(tmp_path, 3)
    configure(fleet, ["mqtts://127.0.0.1:1"], tiny_store.root)
    async with hosts_of(fleet, tmp_path, tiny_store) as there:
        first = there[0].node
        line = ("plan", "--model", "tiny", "--config", fleet.operator_config, "--pareto", "--json")
        code, out, err = await running_shoal(*line, "--ingress", first, "--price", f"{first}=0.5")
        assert code == 0, err
        assert first in out
        assert "3 of 3 nodes can host it" in err
        assert all(host.plans == [] for host in there)
        code, _, err = await running_shoal(*line, "--ingress", "nobody")
        assert code == ExitCode.CONFIG
        assert "names 0 members" in err
