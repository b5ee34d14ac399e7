"""A hundred kills of a random host in the middle of an answer of the real model: nothing lost, and the gaps are short.

Four agents, three stages with a standby each, greedy. ``SHOAL_KILLS`` sets another number. Printed with `pytest -rP`.
"""

import os
from random import Random
from statistics import quantiles

import pytest

from tests.support import demo
from tests.support.repair import kill, tell
from tests.support.survival import Question, resumed, surviving

pytestmark = [pytest.mark.long, pytest.mark.model]

KILLS = int(os.environ.get("SHOAL_KILLS", "100"))
TOKENS = 150
TOKENS_AT_LEAST = 100
QUESTIONS = [
    Question("The capital of France is a city on the river Seine, and its name is", TOKENS),
    Question(
        "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n", TOKENS
    ),
    Question("Write down, in order, the steps for making a cup of tea. First, boil the water. ", TOKENS),
    Question("In 1789, 1848 and 1989 people in Europe asked for other governments. " * 8, TOKENS),
]
GAP_P50_MS_MAX = 600
GAP_P95_MS_MAX = 1500


def spread(values):
    """Median and 95th percentile."""
    cuts = quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]


async def test_nothing_is_lost_when_a_random_host_is_killed_a_hundred_times(smollm2_store, tmp_path, record_property):
    rng, gaps, parts = Random(4), [], {"detect": [], "switch": [], "rebuild": []}
    async with surviving(smollm2_store, tmp_path, model=demo.MODEL) as survival:
        await survival.learn(*QUESTIONS)
        assert all(len(seen.tokens) >= TOKENS_AT_LEAST for seen in survival.undisturbed.values())
        for number in range(KILLS):
            question, hosts = rng.choice(QUESTIONS), await survival.hosts()
            victim = rng.choice(hosts)
            client = survival.ask(rng.choice([agent for agent in survival.agents if agent is not victim]), question)
            written = rng.randrange(5, len(survival.undisturbed[question].tokens) - 10)
            await client.stream.reached(written)
            kill(victim)()
            struck = len(client.stream.tokens)
            seen = await survival.whole(client, f"kill {number + 1}: stage {hosts.index(victim)} at token {struck}")
            lost = [each for each in resumed(client) if not each.moved]
            assert lost, "it was on the route"
            gaps.append(1000 * seen.gap_s(struck - 1))
            parts["detect"].append(sum(each.detect_ms for each in lost))
            parts["switch"].append(sum(each.switch_ms for each in lost))
            parts["rebuild"].append(sum(each.rebuild_ms for each in lost))
            await survival.mend()
    for name, values in {"gap": gaps, **parts}.items():
        p50, p95 = spread(values)
        tell(f"{name}: p50 {p50:.0f} ms, p95 {p95:.0f} ms, longest {max(values):.0f} ms, of {len(values)}")
        record_property(f"{name}_p50_ms", round(p50))
        record_property(f"{name}_p95_ms", round(p95))
    assert spread(gaps)[0] <= GAP_P50_MS_MAX
    assert spread(gaps)[1] <= GAP_P95_MS_MAX
