import json

from shoal_agent.errors import ExitCode
from shoal_agent.sim import play as playing
from shoal_agent.sim.scenarios import SCENARIOS
from tests.support.commands import shoal


def test_one_object_for_scripts():
    ended = shoal("sim", "--scenario", "calm", "--seeds", "1..2", "--nodes", 3, "--json")
    assert ended.code == 0
    keys = {"scenarios", "seeds", "nodes", "violations", "undecided", "agreement_s", "messages_per_node_s"}
    keys |= {"bytes_per_node_s", "failures", "beyond"}
    assert set(ended.json) == keys
    assert (ended.json["scenarios"], ended.json["seeds"], ended.json["nodes"]) == (["calm"], 2, 3)
    assert ended.json["agreement_s"] == {"p50": None, "p99": None}


def test_lines_for_people():
    ended = shoal("sim", "--scenario", "calm", "--seeds", "1", "--nodes", 3)
    assert ended.code == 0
    assert ended.out.startswith("calm")
    assert "messages and" in ended.out
    assert ended.err == ""


def test_an_unknown_scenario_names_the_known_ones():
    ended = shoal("sim", "--scenario", "nope")
    assert ended.code == ExitCode.USAGE
    assert all(name in ended.err for name in SCENARIOS)


def test_a_violation_is_told_with_its_replay_and_ends_with_a_code(monkeypatch):
    monkeypatch.setitem(playing.LIVENESS, "drains", lambda world, judge: "never")
    monkeypatch.setattr(playing, "CALM_S_MAX", 1.0)
    ended = shoal("sim", "--scenario", "calm", "--seeds", "4..4", "--nodes", 3, "--json")
    assert ended.code == ExitCode.FAILED
    assert ended.json["violations"] == 1
    assert ended.json["failures"][0]["oracle"] == "drains"
    assert "replay: shoal sim --scenario calm --seeds 4..4 --nodes 3" in ended.err


def test_a_trace_tells_every_step_and_the_hash():
    ended = shoal("sim", "--scenario", "calm", "--seeds", "1", "--nodes", 3, "--trace", "--json")
    lines = ended.err.splitlines()
    assert any("EnvelopeReceived" in line for line in lines)
    assert any("-> RunStage" in line for line in lines)
    assert lines[-1].startswith("calm seed 1: trace ")
    assert json.loads(ended.out)["violations"] == 0


def test_processes_change_nothing_but_the_time():
    told = [
        shoal("sim", "--scenario", "calm", "--seeds", "1..3", "--nodes", "2,3", "--json", "--jobs", jobs).json
        for jobs in (1, 2)
    ]
    assert told[0] == told[1]
    assert told[0]["nodes"] == [2, 3]


def test_what_hearing_each_other_costs_is_printed_for_every_size():
    ended = shoal("sim", "--scenario", "scale", "--seeds", "1", "--nodes", "4,10")
    assert ended.code == 0
    assert [line.split()[:2] for line in ended.out.splitlines()[1:]] == [["4", "nodes:"], ["10", "nodes:"]]
