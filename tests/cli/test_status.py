import copy

import pytest

from shoal_agent.cli.status import NODE_CHARS
from shoal_agent.errors import ExitCode
from tests.support.api_server import KEY, ApiServer, serving
from tests.support.commands import shoal

ALICE, BOB = "alice" + "a" * 27, "bobby" + "b" * 27


def node(name, blocks, **changes):
    hosted = [{"deployment": "tiny", "epoch": 4, "first_block": blocks[0], "last_block": blocks[1]}] if blocks else []
    return {
        "node": name,
        "incarnation": 1,
        "version": 9,
        "phase": "READY",
        "alive": True,
        "silent_s": 0.2,
        "api": "http://127.0.0.1:8600",
        "data": {"host": "127.0.0.1", "port": 7600},
        "capacity": {
            "cores": 4,
            "memory_bytes": 2**31,
            "memory_total_bytes": 2**32,
            "disk_free_bytes": 2**33,
            "speed_macs_per_s": 12_300_000_000,
            "providers": ["CPUExecutionProvider"],
        },
        "load": {
            "cpu": 0.25,
            "memory_available_bytes": 2**30,
            "temperature_celsius": None,
            "sessions": 3,
            "kv_bytes": 0,
        },
        "hosted": hosted,
        "services": [],
        "software": "shoal 0.1.0",
    } | changes


def stage(name, first, last, phase="ACTIVE", detail=""):
    ready = phase in {"READY", "ACTIVE"}
    return {"node": name, "first_block": first, "last_block": last, "ready": ready, "phase": phase, "detail": detail}


STATE = {
    "node": ALICE,
    "cluster": "c" * 32,
    "incarnation": 1,
    "brokers": [{"broker": "mqtt://127.0.0.1:1883", "up": True}, {"broker": "mqtt://127.0.0.1:1884", "up": False}],
    "deployments": [
        {
            "deployment": "tiny",
            "epoch": 4,
            "plan": "d" * 64,
            "model": "e" * 64,
            "context_tokens_max": 512,
            "phase": "SERVING",
            "stages": [stage(ALICE, 0, 2), stage(BOB, 3, 5)],
        }
    ],
    "nodes": [node(ALICE, (0, 2)), node(BOB, (3, 5))],
    "rejected": {"signature": 2, "replay": 1},
    "requests": 0,
    "sessions": 0,
    "kv_bytes": 0,
}


@pytest.fixture
def server():
    with serving(ApiServer(state=copy.deepcopy(STATE))) as running:
        yield running


def test_for_people(server):
    ended = shoal("status", "--api", server.url, "--key", KEY)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    alice = next(line for line in lines if f"{ALICE[:NODE_CHARS]} *" in line)
    assert all(part in alice for part in ("ready", "tiny e4 0-2", "12.3 GMAC/s", "2.0 GiB", "25%, 3 sessions"))
    assert "tiny: epoch 4, serving" in ended.out
    assert any(BOB[:NODE_CHARS] in line and "3-5" in line and "active" in line for line in lines)
    assert "mqtt://127.0.0.1:1884 DOWN" in ended.out
    assert "rejected messages: replay 1, signature 2" in ended.out


def test_standbys_and_the_way_around_a_lost_host(server):
    standbys = [{"node": BOB, "open": True, "detail": ""}, {"node": "z" * 32, "open": False, "detail": ""}]
    deployment = server.state["deployments"][0]
    deployment["stages"][0]["standbys"] = standbys
    deployment["route"] = [BOB, BOB]
    out = shoal("status", "--api", server.url, "--key", KEY).out
    assert f"tiny: epoch 4, serving over {BOB[:NODE_CHARS]}, {BOB[:NODE_CHARS]}" in out
    rows = [line for line in out.splitlines() if "active" in line]
    assert f"{BOB[:NODE_CHARS]}, {'z' * NODE_CHARS} not yet" in rows[0]
    assert "none" in rows[1]
    deployment["route"] = [ALICE, BOB]
    assert " over " not in shoal("status", "--api", server.url, "--key", KEY).out


def test_how_far_the_others_are_and_who_is_reached_through_brokers(server):
    def row() -> str:
        out = shoal("status", "--api", server.url, "--key", KEY).out
        return next(line for line in out.splitlines() if BOB[:NODE_CHARS] in line)

    bob = server.state["nodes"][1]
    for link, shown in (
        ({"rtt_ms": 0.84, "relayed": False}, " 0.8 ms "),
        ({"rtt_ms": 4.1, "relayed": True}, "4.1 ms, relay"),
        ({"rtt_ms": None, "relayed": True}, "?, relay"),
        ({"rtt_ms": None, "relayed": False}, " - "),
    ):
        bob["link"] = link
        assert shown in row()
        assert ("relay" in row()) == link["relayed"]


def test_for_scripts_it_is_the_state_itself(server, monkeypatch):
    monkeypatch.setenv("SHOAL_API", server.url)
    monkeypatch.setenv("SHOAL_API_KEY", KEY)
    ended = shoal("status", "--json")
    assert ended.code == 0
    assert ended.json == STATE


def test_what_is_wrong_stands_out(server):
    server.state["nodes"][1]["alive"] = False
    server.state["deployments"][0] |= {"phase": "WAITING"}
    server.state["deployments"][0]["stages"][1] = stage(BOB, 3, 5, "FAILED", "block 4 is tampered with")
    server.state["deployments"][0]["stages"][0] = stage(ALICE, 0, 2, None)
    out = shoal("status", "--api", server.url, "--key", KEY).out
    assert "tiny: epoch 4, waiting" in out
    assert "failed: block 4 is tampered with" in out
    assert "silent" in next(line for line in out.splitlines() if BOB[:NODE_CHARS] in line)


def test_text_of_others_is_never_markup(server):
    server.state["deployments"][0]["stages"][1] = stage(BOB, 3, 5, "FAILED", "no [bold]such[/bold] [/x] \x1b[2J")
    server.state["nodes"][0] = node(ALICE, None, software="[red]x[/red]")
    out = shoal("status", "--api", server.url, "--key", KEY).out
    assert "no [bold]such[/bold] [/x] ?[2J" in out
    assert "[red]x[/red]" in out


def test_an_empty_cluster_says_what_to_do_next(server):
    server.state |= {"deployments": [], "rejected": {}}
    out = shoal("status", "--api", server.url, "--key", KEY).out
    assert "shoal deploy MODEL" in out
    assert "rejected" not in out


def test_a_state_of_another_version_is_no_crash(server):
    server.state = {"node": ALICE}
    ended = shoal("status", "--api", server.url, "--key", KEY)
    assert ended.code == ExitCode.FAILED
    assert "shoal status --json" in ended.err


def test_a_wrong_key(server):
    ended = shoal("status", "--api", server.url, "--key", "wrong", "--json")
    assert ended.code == ExitCode.DENIED
    assert "no such key" in ended.json["error"]["message"]
