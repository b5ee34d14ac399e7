"""`shoal demo` as a user runs it: what it prints, how it ends, and that nothing of it is left."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shoal_agent.cli.demo import MODEL, Wishes, why_no_chaos
from shoal_agent.cli.demo_ask import Answer, Question
from shoal_agent.cli.demo_chaos import TOKENS_MIN
from tests.support import demo
from tests.support.ports import fixed_port

pytestmark = pytest.mark.model

DEMO_S_MAX = 120
QUESTION = "What is the capital of France, and what is it known for?"
WAYS = {"kv", "replay"}
"""Those that are exact."""
ANSWER = {
    "text",
    "token_ids",
    "tokens",
    "tokens_per_second",
    "first_token_s",
    "epoch",
    "plan",
    "broker",
    "total_s",
    "chaos",
    "chaos_skipped",
}
CHAOS = {
    "node",
    "first_block",
    "last_block",
    "after_tokens",
    "identical",
    "gap_s",
    "usual_s",
    "way",
    "detect_s",
    "switch_s",
    "rebuild_s",
    "moved",
    "epoch",
    "reason",
    "plan",
    "decided_s",
    "serving_s",
    "redundant_s",
    "why_not",
}
KEPT = {"api", "api_key", "agents", "brokers", "state_dir"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "shoal_agent", "demo", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=DEMO_S_MAX, check=False)


@pytest.fixture(scope="module")
def told():
    """What a demo with all there is to it tells a script."""
    ended = run("--json", "--nodes", "3", "--max-tokens", "30", "--prompt", QUESTION)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_demo_answers_and_says_how(told):
    assert set(told) == ANSWER
    assert "Paris" in told["text"]
    assert told["tokens"] == len(told["token_ids"]) == 30
    assert told["tokens_per_second"] > 0
    assert told["first_token_s"] > 0
    assert told["epoch"] == 0
    assert told["broker"].startswith("mqtt://127.0.0.1:")
    assert [stage["first_block"] for stage in told["plan"][1:]] == [s["last_block"] + 1 for s in told["plan"][:-1]]
    assert told["plan"][-1]["last_block"] == 31
    assert len({stage["node"] for stage in told["plan"]}) == 3


def test_it_loses_a_host_in_mid_sentence_and_says_what_came_of_it(told):
    chaos, nodes = told["chaos"], [stage["node"] for stage in told["plan"]]
    assert told["chaos_skipped"] is None
    assert set(chaos) == CHAOS
    assert chaos["node"] in nodes
    assert chaos["after_tokens"] == 10
    assert chaos["identical"] is True
    assert chaos["way"] in WAYS
    assert 0 < chaos["usual_s"] <= chaos["gap_s"]
    assert chaos["detect_s"] + chaos["switch_s"] + chaos["rebuild_s"] > 0
    assert chaos["epoch"] == 1
    assert chaos["node"][:8] in chaos["reason"]
    assert {stage["node"] for stage in chaos["plan"]} == set(nodes) - {chaos["node"]}
    assert 0 < chaos["decided_s"] <= chaos["serving_s"] <= chaos["redundant_s"]
    assert chaos["why_not"] is None


def test_one_agent_alone_says_the_same_and_is_not_killed(told):
    ended = run("--nodes", "1", "--max-tokens", "30", "--prompt", QUESTION)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == told["text"] + "\n"
    assert "nobody is killed: there is one agent only" in ended.stderr
    assert "✗" not in ended.stderr


@pytest.mark.long
def test_for_people_the_answer_is_on_stdout_once_and_the_rest_on_stderr():
    ended = run("--nodes", "2", "--max-tokens", "24", "--prompt", QUESTION)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Paris") == 1
    for part in ("tokens/s", "✗", "✓", "s in all"):
        assert part in ended.stderr
        assert part not in ended.stdout


@pytest.mark.parametrize(
    ("nodes", "chaos", "tokens", "why"),
    [
        (2, True, TOKENS_MIN, ""),
        (2, True, TOKENS_MIN - 1, "7 tokens has no middle"),
        (1, True, TOKENS_MIN, "one agent only"),
        (2, False, TOKENS_MIN, "--no-chaos"),
    ],
)
def test_why_nobody_is_killed(nodes, chaos, tokens, why):
    wishes = Wishes(Question(MODEL, "", 1, 0), nodes, chaos, keep=False, port=0, as_json=False, started=0.0)
    said = why_no_chaos(wishes, Answer(0.0, token_ids=[1] * tokens))
    assert why in said
    assert bool(said) == bool(why)


def test_a_demo_that_is_interrupted_in_the_middle_of_its_chaos_leaves_nothing(tmp_path):
    port = fixed_port()
    process = subprocess.Popen(
        command("--nodes", "3", "--port", str(port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    try:
        read_until(process, "✗")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3, "a broker and two agents live"
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=demo.STOP_S_MAX)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert b"Traceback" not in rest
    assert not [child for child in children if demo.alive(child.pid)]
    assert not list(tmp_path.iterdir())
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"


def read_until(process, mark):
    """What the demo wrote to stderr so far, which ends with ``mark``."""
    read = b""
    while mark.encode() not in read:
        assert select.select([process.stderr], [], [], DEMO_S_MAX)[0], read.decode()
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, read.decode()
        read += piece


@pytest.mark.long
def test_a_kept_demo_ends_cleanly_twice_in_a_row():
    port = fixed_port()
    for number in (signal.SIGTERM, signal.SIGHUP):
        kept = demo.start("--nodes", "2", "--port", str(port))
        try:
            assert kept.api == f"http://127.0.0.1:{port}"
            assert set(kept.printed) == ANSWER | KEPT
            assert kept.printed["chaos_skipped"] == "--no-chaos"
            assert Path(kept.printed["state_dir"]).is_dir()
            with kept.client() as client:
                assert client.get("/readyz").json()["ready"]
                assert {node["node"] for node in client.get("/shoal/v1/state").json()["nodes"]} == {
                    agent["node"] for agent in kept.printed["agents"]
                }
        finally:
            assert demo.stop(kept, number) == b""
        assert not Path(kept.printed["state_dir"]).exists()
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"


@pytest.mark.long
def test_what_is_kept_after_a_kill_is_whole():
    with demo.running("--chaos", "--nodes", "2", "--max-tokens", "12", "--prompt", QUESTION) as kept:
        killed = kept.printed["chaos"]["node"]
        apis = {agent["node"]: agent["api"] for agent in kept.printed["agents"]}
        assert len(apis) == 2
        assert all(demo.alive(pid) for pid in kept.pids)
        with kept.client(apis[killed]) as client:
            assert client.get("/shoal/v1/state").json()["node"] == killed
        assert kept.greedy([1, 2, 3], 4)


def test_a_port_in_use_is_said_and_nothing_is_left_running():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run("--nodes", "1", "--port", str(taken.getsockname()[1]))
    assert ended.returncode not in {0, 1}
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_agent_that_dies_ends_the_kept_demo_with_an_error():
    kept = demo.start("--nodes", "2")
    victim = kept.printed["agents"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    kept.process.communicate(timeout=demo.STOP_S_MAX)
    assert kept.process.returncode not in {0, 1}
    assert not [pid for pid in kept.pids if demo.alive(pid)]
