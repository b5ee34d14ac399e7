"""Real agents and the real model with narrow activations: what crosses, and an answer through a killed host."""

import pytest

from tests.support import demo
from tests.support.repair import kill, tell
from tests.support.survival import Question, resumed, surviving

pytestmark = [pytest.mark.long, pytest.mark.model]

LOSS_MICRONATS = 20_000
"""Two cuts of SmolLM2 in half precision, and some more."""
QUESTION = Question("The capital of France is a city on the river Seine, and its name is", 80)


async def test_an_answer_over_narrow_cuts_outlives_a_host(smollm2_store, tmp_path):
    async with surviving(smollm2_store, tmp_path, model=demo.MODEL, loss_micronats=LOSS_MICRONATS) as survival:
        await survival.learn(QUESTION)
        newest = (await survival.cluster.view(survival.agents[0])).newest
        widths = [stage["width"] for stage in newest["stages"]]
        tell(f"widths: {widths}")
        assert widths[0] == "f32"
        assert "f32" not in widths[1:]
        for stage in range(len(widths)):
            victim = (await survival.hosts())[stage]
            client = survival.ask(next(agent for agent in survival.agents if agent is not victim), QUESTION)
            await client.stream.reached(20)
            kill(victim)()
            await survival.whole(client, f"stage {stage} killed")
            assert [each for each in resumed(client) if not each.moved], "it was on the route"
            await survival.mend()
