"""What plans say a stage takes, against what a process that opened it really keeps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shoal_agent.core.facts import StageSpan
from shoal_agent.core.plan import resident_bytes
from shoal_agent.shell.model_facts import facts_of
from shoal_protocol.ids import DeploymentId, Epoch

NAME = "smollm2-135m-instruct"
SPANS = {"whole": (0, 31), "ten layers": (11, 20), "embedding": (0, 0), "head": (31, 31), "layer": (11, 11)}

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def kept(smollm2_store) -> dict[str, int]:
    """Resident bytes by span, each in a process of its own."""

    def measure(first: int, last: int) -> int:
        command = [sys.executable, "-m", "tests.support.resident", smollm2_store.root, NAME, str(first), str(last)]
        root = Path(__file__).parents[2]
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(found.stdout)["resident_bytes"]

    return {span: measure(*blocks) for span, blocks in SPANS.items()}


@pytest.mark.parametrize("span", ["whole", "ten layers", "embedding", "head"])
def test_a_plan_counts_what_a_stage_keeps(smollm2_store, kept, span):
    facts = facts_of(smollm2_store.load(NAME))
    predicted = resident_bytes(facts, StageSpan(DeploymentId(NAME), Epoch(0), facts.model, *SPANS[span]))
    assert predicted == pytest.approx(kept[span], rel=0.25)


def test_layers_hold_one_copy_of_what_they_share(smollm2_store, kept):
    facts = facts_of(smollm2_store.load(NAME))
    one_more = (kept["ten layers"] - kept["layer"]) / 9
    assert one_more == pytest.approx(facts.blocks[11].resident_bytes, abs=facts.shared_bytes / 2)
