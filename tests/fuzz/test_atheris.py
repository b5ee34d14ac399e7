"""The coverage-guided harness runs its course; see tests/fuzz/atheris_harness.py."""

import importlib.util
import subprocess
import sys

import pytest

from tests.support.house import ROOT

RUNS = 200_000
TIMEOUT_S = 1800

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris"),
]


def fuzz(folder, runs: int, *python: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *(python or ("-m", "tests.fuzz.atheris_harness"))]
    command += ["--runs", str(runs), "--corpus", str(folder / "corpus")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_no_input_that_atheris_finds_makes_a_node_raise(tmp_path):
    done = fuzz(tmp_path, RUNS)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert f"Done {RUNS} runs" in done.stderr


BRITTLE = """
from tests.fuzz import atheris_harness
from shoal_agent.core.gate import Gate
from shoal_protocol.messages import Accused

opened = Gate.open

def brittle(gate, *arrival):
    envelope = opened(gate, *arrival)
    if isinstance(envelope.message, Accused):
        raise KeyError("planted")
    return envelope

Gate.open = brittle
atheris_harness.main()
"""


def test_a_node_that_raises_is_found(tmp_path):
    done = fuzz(tmp_path, 5000, "-c", BRITTLE)
    assert done.returncode != 0
    assert "KeyError: 'planted'" in done.stderr + done.stdout
