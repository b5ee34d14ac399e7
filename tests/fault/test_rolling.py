"""Every agent is restarted, one after the other, while clients ask all the while: no answer is missing, none is wrong.

A client asks one agent after the other. Whoever is stopping, has only just come back or has no room says so (429),
whoever is not there does not listen: the client asks the next one at once. An answer that was begun must be whole.
Clients are printed with `pytest -rP`.
"""

import asyncio
import json
import signal
from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from tests.support.repair import tell
from tests.support.streams import Stream
from tests.support.survival import Question, Survival, minnow_store, surviving

ANSWER = Question((5, 6, 7), 80)
CLIENTS = 3
LEAVE_S_MAX = 20.0
"""An agent leaves within ``leave_s_max``, 10 s, or this machine is very busy."""
TURNS_MAX = 40
"""How often a client is sent elsewhere before it gives up."""
ELSEWHERE_S = 0.1
REFUSALS = ((429, "node_stopping"), (429, "overloaded"), (429, "node_starting"))


@dataclass
class Asker:
    """A client that asks until it is answered, again and again."""

    survival: Survival
    turn: int
    answers: list[Stream] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    over: bool = False

    async def ask_on(self) -> None:
        while not self.over:
            await self.ask()

    async def ask(self) -> None:
        for _ in range(TURNS_MAX):
            self.turn += 1
            agent = self.survival.cluster.agents[self.turn % len(self.survival.cluster.agents)]
            client = self.survival.ask(agent, ANSWER)
            await client.over()
            stream = client.stream
            if stream.status == 0:
                assert "ConnectError" in stream.error, f"{agent.name} listened and then did not answer: {stream.error}"
                self.refused["nobody listens"] += 1
            elif stream.status != httpx.codes.OK:
                assert stream.retry_after_s is not None, f"{agent.name}: {stream.status} {stream.error}"
                why = json.loads(stream.error)["error"]["code"]
                assert (stream.status, why) in REFUSALS, f"{agent.name}: {stream.status} {stream.error}"
                self.refused[f"{stream.status} {why}"] += 1
            else:
                await self.survival.whole(client)
                self.answers.append(stream)
                return
            await asyncio.sleep(ELSEWHERE_S)
        raise AssertionError(f"nobody took it: {self.refused}")


async def leave(survival, agent):
    """SIGTERM, and wait until it has ended by itself, with a goodbye."""
    agent.signal(signal.SIGTERM)
    async with asyncio.timeout(LEAVE_S_MAX):
        assert await agent.process.process.wait() == 0
    await agent.stop()


async def roll(survival, rounds):
    askers = [Asker(survival, number) for number in range(CLIENTS)]
    tasks = [asyncio.create_task(asker.ask_on()) for asker in askers]
    try:
        for agent in survival.cluster.agents * rounds:
            await leave(survival, agent)
            await survival.cluster.start(agent)
            await survival.settled()
    finally:
        for asker in askers:
            asker.over = True
        await asyncio.gather(*tasks)
    return askers


async def rolls(folder, rounds, **sizes):
    async with surviving(minnow_store(folder), folder, **sizes) as survival:
        await survival.learn(ANSWER)
        before = (await survival.cluster.view(survival.cluster.agents[0])).epoch
        askers = await roll(survival, rounds)
        after = (await survival.cluster.view(survival.cluster.agents[0])).epoch
    answers = [answer for asker in askers for answer in asker.answers]
    refused = sum((asker.refused for asker in askers), Counter())
    gap_ms = 1000 * max(answer.gap_s() for answer in answers)
    tell(f"{len(answers)} answers, {dict(refused)}, longest gap {gap_ms:.0f} ms, epochs {before} to {after}")
    assert after > before
    assert len(answers) > CLIENTS * len(survival.cluster.agents) * rounds
    return answers


async def test_every_agent_is_restarted_and_no_answer_is_missing(tmp_path):
    await rolls(tmp_path, 1, agents=3, stages=2)


@pytest.mark.long
async def test_every_agent_is_restarted_five_times_and_no_answer_is_missing(tmp_path):
    await rolls(tmp_path, 5, agents=4, stages=3)
