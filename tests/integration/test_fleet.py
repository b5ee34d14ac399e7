"""The walk-through of deploy/README.md with real processes: a mosquitto from the template, three agents, one operator.

Three machines are three folders with separate keys, certificates, configurations and state; all they share is the
broker and a copy of the package. Nothing of the demo's own cluster code is used.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.broker import needs_mosquitto, running
from tests.support.fleet import Fleet, Machine, configure, found

MACHINES: Final = 3
READY_S_MAX: Final = 60.0
DEPLOY_S_MAX: Final = 90.0
ANSWER_S_MAX: Final = 60.0
STOP_S_MAX: Final = 20.0
POLL_S: Final = 0.1
"""An agent tells its service manager when it is ready; whoever has none asks /healthz."""

pytestmark = needs_mosquitto


CONFINED: Final = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
os.umask(0o077)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""As the unit runs it: no memory that is written and then executed (kernels before 6.3 ignore it), files private."""


async def start(machine: Machine) -> asyncio.subprocess.Process:
    with machine.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", CONFINED, "-m", "shoal_agent", "run", "--config", str(machine.config)),
            stdout=log,
            stderr=log,
        )


@asynccontextmanager
async def agent(machine: Machine) -> AsyncIterator[asyncio.subprocess.Process]:
    """One agent for the time of the block; it must have ended cleanly, by SIGTERM, after it."""
    process = await start(machine)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    assert process.returncode == 0, machine.log.read_text()[-2000:]


async def alive(machine: Machine, process: asyncio.subprocess.Process, client: httpx.AsyncClient) -> None:
    """Return when the agent's API answers; one that ended shows its log."""
    async with asyncio.timeout(READY_S_MAX):
        while process.returncode is None:
            try:
                if (await client.get(f"{machine.api}/healthz")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                await asyncio.sleep(POLL_S)
    pytest.fail(machine.log.read_text()[-2000:])


async def shoal(*arguments: str | Path) -> dict[str, Any]:
    """One command in a process of its own; its JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shoal_agent",
        *map(str, arguments),
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"SHOAL_API_KEY": ""},
    )
    try:
        async with asyncio.timeout(DEPLOY_S_MAX):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode() + out.decode()
    return json.loads(out)


async def ask(client: httpx.AsyncClient, machine: Machine) -> str:
    """A greedy answer of eight tokens from the API of ``machine``."""
    body = {"model": "tiny", "prompt": "a shoal moves", "max_tokens": 8, "temperature": 0}
    response = await client.post(f"{machine.api}/v1/completions", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    return str(response.json()["choices"][0]["text"])


@pytest.fixture
def fleet(tmp_path) -> Fleet:
    return found(tmp_path, MACHINES)


async def test_three_machines_serve_one_model_through_a_hardened_broker(fleet, tiny_store, tmp_path):
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running(tmp_path / "broker", fleet.cluster, [fleet.operator]))
        configure(fleet, [broker.url], tiny_store.root)
        client = await stack.enter_async_context(
            httpx.AsyncClient(timeout=ANSWER_S_MAX, headers={"Authorization": f"Bearer {fleet.api_key}"})
        )
        processes = [await stack.enter_async_context(agent(machine)) for machine in fleet.machines]
        await asyncio.gather(*(alive(*pair, client) for pair in zip(fleet.machines, processes, strict=True)))

        deployed = await shoal("deploy", "tiny", "--config", fleet.operator_config, "--stages", str(MACHINES))
        assert deployed["active"] is True
        assert {stage["node"] for stage in deployed["stages"]} == {machine.node for machine in fleet.machines}

        answers = [await ask(client, machine) for machine in fleet.machines]
        assert len(set(answers)) == 1, "every ingress gives the same greedy answer"
        assert answers[0]

        state = await shoal("status", "--api", fleet.machines[0].api, "--key", fleet.api_key)
        assert {node["node"] for node in state["nodes"]} == {machine.node for machine in fleet.machines}
        assert all(node["alive"] for node in state["nodes"])
        assert [each["up"] for each in state["brokers"]] == [True]
        assert state["rejected"] == {}
