"""What an agent takes when it has nothing to do, and how long it takes to come back.

* memory: of an agent that was started, heard its neighbours and holds no model, in its first life (which measures the
  machine's speed) and in its second;
* idle CPU: of three agents with an active plan and no traffic;
* cold start: from the start of the process to ``/readyz`` 200, of an agent that knew a plan when it was stopped;
* the demo's second run: from the start of the command to the first character of the answer.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from shoal_agent.shell.broker import embedded_broker
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.cluster import local_cluster
from shoal_agent.shell.lab import Lab, LabSettings, Running, make_lab, start_agent, stop_agents
from tests.bench import client
from tests.bench.variants import Model
from tests.support.house import ROOT
from tests.support.ports import fixed_port

READY_S_MAX: Final = 60.0
DEMO_S_MAX: Final = 180.0
LOOK_S: Final = 0.01
SETTLE_S: Final = 3.0
"""A few heartbeats: whatever a start leaves behind is done by then."""


async def resources(model: Model, folder: Path, *, idle_s: float, restarts: int, demo: bool) -> dict[str, Any]:
    """All of them, one after the other."""
    found = {
        "memory": await memory(model, folder / "memory"),
        "idle": await idle(model, folder / "idle", idle_s),
        "cold_start": await cold_start(model, folder / "cold", restarts),
    }
    if demo:
        found["demo_first_token_s"] = round(await demo_first_token(), 2)
    return found


async def memory(model: Model, folder: Path) -> dict[str, Any]:
    """Resident bytes of an agent without a plan: its whole set, and the part that is its alone."""
    port = fixed_port()
    async with embedded_broker(folder / "broker") as broker:
        settings = LabSettings(folder / "lab", 1, model.store, (broker.url,), api_port=port)
        lab = make_lab(settings, unix_s())
        found = {}
        for life in ("first_life", "second_life"):
            async with _agent(lab) as agent:
                await _until(port, "/healthz", 200)
                await asyncio.sleep(SETTLE_S)
                used = psutil.Process(agent.pid).memory_full_info()
                found[life] = {"rss_bytes": used.rss, "uss_bytes": used.uss}
    return found


async def idle(model: Model, folder: Path, span_s: float) -> dict[str, Any]:
    """Percent of one core that each of three agents uses while nothing is asked, and their memory with a stage each."""
    async with local_cluster(LabSettings(folder, 3, model.store, ()), model.name, 3) as cluster:
        await asyncio.sleep(SETTLE_S)
        processes = [psutil.Process(agent.pid) for agent in cluster.agents]
        before = [_cpu_s(process) for process in processes]
        begun = time.monotonic()
        await asyncio.sleep(span_s)
        elapsed = time.monotonic() - begun
        percent = [
            round(100 * (_cpu_s(process) - used) / elapsed, 2) for process, used in zip(processes, before, strict=True)
        ]
        return {
            "seconds": round(elapsed, 1),
            "cpu_percent": percent,
            "rss_bytes": [process.memory_info().rss for process in processes],
        }


async def cold_start(model: Model, folder: Path, restarts: int) -> dict[str, Any]:
    """Seconds from the start of a process to readiness, its plan and blocks included; one agent, the whole model."""
    port = fixed_port()
    took: list[float] = []
    async with local_cluster(LabSettings(folder, 1, model.store, (), api_port=port), model.name, 1) as cluster:
        await _until(port, "/readyz", 200)
        await stop_agents(cluster.agents)
        for _ in range(restarts):
            begun = time.perf_counter()
            async with _agent(cluster.lab):
                await _until(port, "/readyz", 200)
                took.append(round(time.perf_counter() - begun, 3))
    return {"ready_s": took, "median_s": median(took)}


async def demo_first_token() -> float:
    """Seconds from the start of ``shoal demo`` to the first character of its answer; the model is there already."""
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shoal_agent", "demo", "--no-chaos"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ,
    )
    assert process.stdout is not None
    async with asyncio.timeout(DEMO_S_MAX):
        assert await process.stdout.read(1), "the demo said nothing"
        first = time.perf_counter() - begun
        await process.stdout.read()
        assert await process.wait() == 0
    return first


@asynccontextmanager
async def _agent(lab: Lab) -> AsyncIterator[Running]:
    """The first agent of ``lab``, running."""
    running = await start_agent(lab.nodes[0])
    try:
        yield running
    finally:
        await stop_agents([running])


async def _until(port: int, path: str, wanted: int) -> None:
    async with asyncio.timeout(READY_S_MAX):
        # An agent tells nobody that it is ready; whoever wants to know asks.
        while await asyncio.to_thread(client.status, f"http://127.0.0.1:{port}", path) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system
