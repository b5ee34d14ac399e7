"""A local cluster comes up whole or says why, and never leaves anything behind."""

import asyncio
import os
import signal
from dataclasses import replace

import httpx
import pytest

from shoal_agent.errors import FailedError, NoPlanError
from shoal_agent.shell.cluster import local_cluster
from shoal_agent.shell.lab import LabSettings
from tests.support.demo import alive

WAIT_S = 30.0


@pytest.fixture
def settings(tmp_path, tiny_store):
    return LabSettings(tmp_path / "lab", 2, tiny_store.root, (), memory_bytes=10**9)


async def test_it_serves_from_every_agent_and_leaves_nothing_behind(settings):
    async with local_cluster(settings, "tiny", stages=2, cores=[[0]]) as cluster:
        pids = [*(agent.pid for agent in cluster.agents), cluster.broker.pid]
        assert os.sched_getaffinity(cluster.agents[0].pid) == {0}
        assert len({stage.node for stage in cluster.plan.stages}) == 2
        body = {"model": "tiny", "prompt": "a shoal", "max_tokens": 5, "temperature": 0}
        headers = {"Authorization": f"Bearer {cluster.lab.api_key}"}
        async with httpx.AsyncClient(headers=headers, timeout=WAIT_S, trust_env=False) as client:
            answers = [(await client.post(f"{api}/v1/completions", json=body)).json() for api in cluster.apis.values()]
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


async def test_more_stages_than_nodes_is_no_plan_and_nothing_runs_on(settings, tmp_path):
    with pytest.raises(NoPlanError, match="3"):
        async with local_cluster(replace(settings, nodes=2), "tiny", stages=3):
            pytest.fail("there is no such cluster")


async def test_too_little_memory_is_said_with_the_numbers(settings):
    with pytest.raises(NoPlanError, match="offers 1000 bytes"):
        async with local_cluster(replace(settings, nodes=1, memory_bytes=1000), "tiny", stages=1):
            pytest.fail("there is no such cluster")


async def test_an_agent_that_dies_is_noticed_by_whoever_watches(settings):
    async with local_cluster(settings, "tiny", stages=2) as cluster:
        victim = cluster.agents[1]
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(FailedError, match=victim.node.node[:8]):
            async with asyncio.timeout(WAIT_S):
                await cluster.watch()


async def test_an_agent_that_was_killed_starts_again_as_itself_and_is_stopped_with_the_others(settings):
    async with local_cluster(settings, "tiny", stages=2) as cluster:
        killed = cluster.agents[1]
        cluster.kill(killed.node.node)
        async with asyncio.timeout(WAIT_S):
            assert await killed.process.wait() == -signal.SIGKILL
            await cluster.start_again(killed.node.node)
        again = cluster.agents[1]
        assert again.node == killed.node
        assert again.pid != killed.pid
        assert alive(again.pid)
        assert killed.log.closed
    assert not alive(again.pid)


async def test_cancelling_stops_everything(settings):
    up = asyncio.Event()
    pids = []

    async def live():
        async with local_cluster(settings, "tiny", stages=1) as cluster:
            pids.extend([*(agent.pid for agent in cluster.agents), cluster.broker.pid])
            up.set()
            await cluster.watch()

    task = asyncio.create_task(live())
    async with asyncio.timeout(WAIT_S):
        await up.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)
