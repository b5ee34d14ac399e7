"""Oracles that never fire prove nothing: with one promise broken, the simulator turns red within a few seeds."""

import subprocess
import sys

import pytest

from tests.support.house import ROOT
from tests.support.mutants import MUTANTS, SEEDS_CI, SEEDS_MAX

RUN_S_MAX = 120


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_noticed(name):
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.mutants", name, str(MUTANTS[name].seed), str(SEEDS_CI)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=True,
    )
    oracle, _, seed = ran.stdout.partition(" ")
    assert oracle in MUTANTS[name].oracles
    assert int(seed) < SEEDS_MAX
