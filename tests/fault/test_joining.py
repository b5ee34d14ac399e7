"""Nodes come, and the plan follows: who helps is used, who does not is told why (who goes: ``test_repair``).

Real agents over two mosquittos; the operator deploys once, at the beginning, and never again.
"""

import pytest

from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.operator import DeployWish
from shoal_protocol.messages import Objective
from tests.support.fleet import command
from tests.support.processes import SPEED_MACS_PER_S, processes
from tests.support.repair import (
    MEMORY_BYTES,
    MODEL,
    SETTLED_S_MAX,
    begin,
    hosts_of,
    settled,
    tell,
)

USED_S_MAX = 150.0
"""A gain must last a minute, a minute after the last change; then it is agreed on and staged."""


def room_for(facts, layers):
    """Memory for so many layers with the KV of their sessions, and for both ends of the model."""
    kv_tokens = facts.context_tokens_max * DeployWish(MODEL).sessions
    layer = max(block.resident_bytes + block.kv_bytes_per_token * kv_tokens for block in facts.blocks)
    return facts.shared_bytes + layers * layer + facts.blocks[0].resident_bytes + facts.blocks[-1].resident_bytes


async def test_a_sixth_agent_takes_the_blocks_that_nobody_else_has_room_for(tiny_store, tmp_path):
    """Room for four layers on three hosts, none beside: a death cannot be repaired, until another device comes."""
    facts = facts_of(tiny_store.load(MODEL))
    room = [room_for(facts, 2), room_for(facts, 1), room_for(facts, 1), 1, 1, MEMORY_BYTES]
    settings = LabSettings(tmp_path / "lab", 6, tiny_store.root, (), memory_bytes=MEMORY_BYTES, kv_bytes=MEMORY_BYTES)
    async with processes(settings, memory_bytes=room) as cluster:
        five, sixth = cluster.agents[:5], cluster.agents[5]
        await begin(cluster, five, DeployWish(MODEL, stages=3))
        expected, before = await cluster.ask(five[0]), (await cluster.view(five[3])).epoch
        victim = (await hosts_of(cluster, five[0]))[2]
        await victim.kill()
        survivors = [agent for agent in five if agent is not victim]
        await cluster.until(lambda view: victim.node not in view.alive, survivors, SETTLED_S_MAX)
        assert {view.epoch for view in await cluster.views(*survivors)} == {before}

        await cluster.start(sixth)
        took = await cluster.until(
            lambda view: view.epoch > before and sixth.node in view.hosts and view.active,
            [*survivors, sixth],
            SETTLED_S_MAX,
        )
        tell(f"the sixth agent served {took:.2f} s after its API answered")
        await cluster.until(lambda view: bool(view.held), [sixth], SETTLED_S_MAX)
        assert await cluster.ask(survivors[0]) == expected


@pytest.mark.long
async def test_a_faster_sixth_agent_is_used_and_nobody_is_asked(tiny_store, tmp_path):
    speeds = [SPEED_MACS_PER_S] * 5 + [SPEED_MACS_PER_S * 8]
    settings = LabSettings(tmp_path / "lab", 6, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(settings, speed_macs_per_s=speeds) as cluster:
        five, sixth = cluster.agents[:5], cluster.agents[5]
        await begin(cluster, five, DeployWish(MODEL, stages=3, objective=Objective.THROUGHPUT))
        expected = await cluster.ask(five[0])
        await cluster.start(sixth)
        took = await cluster.until(lambda view: sixth.node in view.hosts and view.active, cluster.agents, USED_S_MAX)
        tell(f"the faster agent served {took:.1f} s after its API answered")
        await settled(cluster, cluster.agents)
        assert await cluster.ask(five[0]) == expected


@pytest.mark.long
async def test_a_slow_sixth_agent_is_left_out_and_the_numbers_say_why(tiny_store, tmp_path):
    speeds = [SPEED_MACS_PER_S] * 5 + [SPEED_MACS_PER_S // 1000]
    settings = LabSettings(tmp_path / "lab", 6, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(settings, speed_macs_per_s=speeds) as cluster:
        five, sixth = cluster.agents[:5], cluster.agents[5]
        await begin(cluster, five, DeployWish(MODEL, stages=3))
        before = (await cluster.view(five[0])).epoch
        await cluster.start(sixth)
        await settled(cluster, cluster.agents)
        told = command("explain", "--api", five[0].api, "--key", cluster.lab.api_key)
        (reason,) = [each for each in told["now"]["candidates"] if each["node"] == sixth.node]
        assert (await cluster.view(five[0])).epoch == before
        assert not reason["in_plan"]
        assert reason["macs_per_s"] <= speeds[5]
        tell(f"left out: {reason['score_us_with']} us per token with it, {told['now']['score_us']} us without")
        assert reason["score_us_with"] > told["now"]["score_us"]
