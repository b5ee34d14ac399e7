"""`shoal demo` as a user runs it: what it prints, how it ends, and that nothing of it is left."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import demo

pytestmark = pytest.mark.model

DEMO_S_MAX = 120
QUESTION = "What is the capital of France? Then tell me one interesting fact about it."


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal_agent", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEMO_S_MAX, check=False)


def test_the_demo_answers_and_says_how():
    ended = run("--json", "--nodes", "2", "--max-tokens", "12", "--prompt", QUESTION)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert "Paris" in told["text"]
    assert told["tokens"] == len(told["token_ids"]) > 3
    assert told["tokens_per_second"] > 0
    assert told["first_token_s"] > 0
    assert told["epoch"] == 0
    assert told["broker"].startswith("mqtt://127.0.0.1:")
    assert [stage["first_block"] for stage in told["plan"]] == [0, told["plan"][0]["last_block"] + 1]
    assert told["plan"][-1]["last_block"] == 31
    assert len({stage["node"] for stage in told["plan"]}) == 2


def test_the_demo_is_greedy_and_repeats_itself():
    first, second = (json.loads(run("--json", "--nodes", "1", "--max-tokens", "8").stdout) for _ in range(2))
    assert first["token_ids"] == second["token_ids"]


def test_for_people_the_answer_is_on_stdout_and_the_rest_on_stderr():
    ended = run("--nodes", "1", "--max-tokens", "12", "--prompt", QUESTION)
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout
    assert "tokens/s" in ended.stderr
    assert "tokens/s" not in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_kept_demo_ends_cleanly_twice_in_a_row(number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        kept = demo.start("--nodes", "2", "--port", str(port))
        try:
            assert kept.api == f"http://127.0.0.1:{port}"
            assert set(kept.printed) == {"api", "api_key", "epoch", "plan", "agents", "brokers", "state_dir"}
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
