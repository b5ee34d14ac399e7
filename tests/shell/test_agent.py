"""One real agent process: how it begins, what it refuses to begin with, how it ends and comes back."""

import asyncio
import contextlib
import os
import signal
import socket

import httpx
import pytest

from shoal_agent.config import load_config
from shoal_agent.errors import ConfigError, ExitCode
from shoal_agent.shell.agent import run_agent
from shoal_agent.shell.broker import embedded_broker
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.cluster import local_cluster
from shoal_agent.shell.lab import LabSettings, make_lab, start_agent, stop_agents
from tests.support.ports import fixed_port

WAIT_S = 30.0
POLL_S = 0.05


@pytest.fixture
async def lab(tmp_path, tiny_store):
    async with embedded_broker(tmp_path / "broker") as broker:
        urls, port = (broker.url,), fixed_port()
        settings = LabSettings(tmp_path / "lab", 1, tiny_store.root, urls, api_port=port, memory_bytes=10**9)
        yield make_lab(settings, unix_s())


@contextlib.asynccontextmanager
async def agent(lab):
    running = await start_agent(lab.nodes[0])
    try:
        yield running
    finally:
        await stop_agents([running])


async def state_of(lab, running):
    """The agent's own state, once its broker is connected."""
    headers = {"Authorization": f"Bearer {lab.api_key}"}
    base = f"http://127.0.0.1:{lab.settings.api_port}"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client, asyncio.timeout(WAIT_S):
        while True:
            assert running.process.returncode is None, lab.nodes[0].log.read_text()
            with contextlib.suppress(httpx.TransportError):
                state = (await client.get("/shoal/v1/state")).json()
                if state["nodes"] and any(broker["up"] for broker in state["brokers"]):
                    return state
            await asyncio.sleep(POLL_S)


async def test_it_says_who_it_is_and_ends_cleanly_on_sigterm(lab):
    async with agent(lab) as running:
        state = await state_of(lab, running)
        assert state["node"] == lab.nodes[0].node
        (me,) = state["nodes"]
        assert me["phase"] == "READY"
        assert me["capacity"]["speed_macs_per_s"] > 10**8
        assert me["capacity"]["memory_bytes"] == 10**9
        assert len(me["services"]) == 5
    assert running.process.returncode == 0
    assert "Traceback" not in lab.nodes[0].log.read_text()


async def test_every_life_has_a_higher_incarnation_and_keeps_the_measured_speed(lab):
    lives = []
    for _ in range(2):
        async with agent(lab) as running:
            state = await state_of(lab, running)
            lives.append((state["incarnation"], state["nodes"][0]["capacity"]["speed_macs_per_s"]))
    assert [incarnation for incarnation, _ in lives] == [1, 2]
    assert lives[0][1] == lives[1][1]


async def test_two_agents_never_share_a_state_directory(lab):
    async with agent(lab) as first:
        await state_of(lab, first)
        second = await start_agent(lab.nodes[0])
        try:
            async with asyncio.timeout(WAIT_S):
                assert await second.process.wait() == ExitCode.CONFIG
        finally:
            await stop_agents([second])
        assert "another agent is using" in lab.nodes[0].log.read_text()


async def test_a_port_in_use_is_said_before_anything_is_promised(lab):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", lab.settings.api_port))
        taken.listen()
        running = await start_agent(lab.nodes[0])
        try:
            async with asyncio.timeout(WAIT_S):
                assert await running.process.wait() not in {0, ExitCode.BUG}
        finally:
            await stop_agents([running])
    assert "in use" in lab.nodes[0].log.read_text()


async def test_a_pipeline_that_is_none_is_told_before_anything_is_promised(tmp_path):
    made = make_lab(LabSettings(tmp_path / "lab", 1, tmp_path / "models", ("mqtt://127.0.0.1:1",)), unix_s())
    node = made.nodes[0]
    (node.folder / "pipelines").mkdir()
    (node.folder / "pipelines" / "bad.toml").write_text('name = "bad"\noutput = "nobody"\nsteps = []\nclass = "chat"')
    node.config.write_text(node.config.read_text() + '\n[pipelines]\nfolder = "pipelines"\n')
    with pytest.raises(ConfigError, match=r"bad\.toml has 2 faults") as caught:
        await run_agent(load_config(node.config, environment={}))
    assert "class: there is no request class 'chat' in the agent's configuration; known: none" in caught.value.message
    assert not (node.folder / "state").exists()


async def test_a_killed_host_comes_back_and_serves_the_plan_it_remembers(tmp_path, tiny_store):
    settings = LabSettings(tmp_path / "lab", 2, tiny_store.root, (), memory_bytes=10**9)
    async with local_cluster(settings, "tiny", stages=2) as cluster:
        victim = cluster.agents[1]
        os.kill(victim.pid, signal.SIGKILL)
        await victim.process.wait()
        again = await start_agent(victim.node)
        try:
            await answered(cluster)
        finally:
            await stop_agents([again])


async def answered(cluster):
    """A completion succeeds; until the lost host is back it is refused with a clear error, never hung."""
    body = {"model": "tiny", "prompt": "a shoal", "max_tokens": 5, "temperature": 0}
    headers = {"Authorization": f"Bearer {cluster.lab.api_key}"}
    async with httpx.AsyncClient(headers=headers, timeout=WAIT_S, trust_env=False) as client, asyncio.timeout(WAIT_S):
        while True:
            answer = await client.post(f"{cluster.api}/v1/completions", json=body)
            if answer.status_code == 200:
                assert answer.json()["usage"]["completion_tokens"] > 0
                return
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(POLL_S)
