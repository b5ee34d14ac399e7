"""Half an hour of work with a fault every 20 seconds: no token is lost or wrong, and nothing is left behind.

Five agents; the first is the gateway that clients ask, it hosts nothing and is not struck; the second is never
restarted, so that two processes live through it all. Clients arrive at random, so many that machines are busy for 60 %
of what they did undisturbed. Somebody is killed, frozen, restarted, cut off or slowed down, or a broker dies. A request
that is refused with a word when to come back (429, 503) is a refusal, and asked again; anything else must be whole.

At the end, when all is quiet: no KV, session, copy, request or tensor is held, memory has not grown, and there are as
many tasks, sockets and files as there were at the beginning. ``SHOAL_SOAK_S`` sets another length.
"""

import asyncio
import os
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from statistics import median

import httpx
import psutil
import pytest

from tests.fault.test_rolling import leave
from tests.support.repair import MEMORY_BYTES, freeze, tell
from tests.support.survival import Question, Survival, minnow_store, runs, surviving
from tests.support.wall import Weather

pytestmark = pytest.mark.long

SOAK_S = float(os.environ.get("SHOAL_SOAK_S", "1800"))
FAULT_EVERY_S = 20.0
LOAD = 0.6
ABREAST = 3
"""Streams at once when the capacity is measured."""
WARM_UP_SHARE = 0.2
"""Of the time; what a process keeps for good it has by then."""
GROWTH_MAX = 1.05
FAULT_S = 6.0
"""How long a link stays cut or slow, a process frozen, a broker away."""
QUIET_S_MAX = 60.0
AGAIN_S = 0.5
QUESTIONS = [Question((5, 6, 7), 120), Question((9, 8, 7, 6), 40), Question(tuple(range(20, 220)), 60)]
HELD = ("kv_bytes", "sessions", "shadows", "tensors", "requests")


@dataclass
class Soak:
    """One run."""

    survival: Survival
    rng: Random = field(default_factory=lambda: Random(6))
    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=dict)

    @property
    def gateway(self):
        return self.survival.cluster.agents[0]

    @property
    def elder(self):
        return self.survival.cluster.agents[1]

    async def ask(self) -> None:
        """One request, until it is answered."""
        question = self.rng.choice(QUESTIONS)
        while True:
            client = self.survival.ask(self.gateway, question)
            await client.over()
            stream = client.stream
            if stream.status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
                assert stream.retry_after_s is not None
                self.done[f"refused {stream.status}"] += 1
                await asyncio.sleep(AGAIN_S)
                continue
            break
        try:
            await self.survival.whole(client)
        except AssertionError as fault:
            self.wrong.append(str(fault))
        self.done["answers"] += 1
        self.gaps.append(stream.gap_s())

    async def capacity_per_s(self) -> float:
        """Answers a second when so many streams run as one after the other would not fill."""
        count, begun = 4 * ABREAST, asyncio.get_running_loop().time()
        gate = asyncio.Semaphore(ABREAST)

        async def one() -> None:
            async with gate:
                await self.ask()

        await asyncio.gather(*(one() for _ in range(count)))
        return count / (asyncio.get_running_loop().time() - begun)

    async def arrive(self, per_s: float, until: float) -> None:
        """Clients come at random, whatever became of those before them."""
        tasks, clock = set(), asyncio.get_running_loop().time
        while clock() < until:
            await asyncio.sleep(self.rng.expovariate(per_s))
            tasks.add(asyncio.create_task(self.ask()))
            tasks = {task for task in tasks if not task.done() or task.result()}
        await asyncio.gather(*tasks)

    async def strike(self, until: float) -> None:
        """A fault every so often; what it broke is mended before the next."""
        clock = asyncio.get_running_loop().time
        due = clock() + FAULT_EVERY_S
        while due < until:
            await asyncio.sleep(max(0.0, due - clock()))
            due += FAULT_EVERY_S
            name = self.rng.choice(list(FAULTS))
            self.faults[name] += 1
            await FAULTS[name](self)
            self.survival.cluster.wall.fall()
            await self.survival.mend()

    async def watch(self, until: float) -> None:
        """Note how much memory the two old ones have."""
        while asyncio.get_running_loop().time() < until:
            for agent in (self.gateway, self.elder):
                self.memory.setdefault(agent.name, []).append(psutil.Process(agent.pid).memory_info().rss)
            await asyncio.sleep(FAULT_EVERY_S / 4)

    def anybody(self, *others):
        """Somebody who may be struck."""
        return self.rng.choice([agent for agent in self.survival.agents if agent not in (self.gateway, *others)])


async def killed(soak):
    await soak.anybody(soak.elder).kill()  # returns when it is gone: whoever only was told to die still looks alive


async def frozen(soak):
    victim = soak.anybody()
    freeze(victim)()
    await asyncio.sleep(FAULT_S)
    victim.signal(signal.SIGCONT)


async def restarted(soak):
    await leave(soak.survival, soak.anybody(soak.elder))


async def cut_off(soak):
    one = soak.anybody()
    soak.survival.cluster.wall.part([one.name], [soak.anybody(one).name])
    await asyncio.sleep(FAULT_S)


async def slowed(soak):
    one = soak.anybody()
    soak.survival.cluster.wall.darken(one.name, soak.anybody(one).name, Weather(delay_s=0.1, loss=0.1))
    await asyncio.sleep(FAULT_S)


async def without_a_broker(soak):
    broker = soak.rng.choice(soak.survival.cluster.brokers)
    await broker.kill()
    await asyncio.sleep(FAULT_S)
    await broker.start()


FAULTS = {
    "killed": killed,
    "frozen": frozen,
    "restarted": restarted,
    "cut off": cut_off,
    "slowed": slowed,
    "without a broker": without_a_broker,
}


async def gauges(survival, agent):
    """What an agent holds now, and its tasks."""
    text = (await survival.cluster.client.get(f"{agent.api}/metrics")).text
    found = {name: re.search(rf"^shoal_{name} (\S+)$", text, re.MULTILINE) for name in (*HELD, "tasks")}
    return {name: int(float(match[1])) for name, match in found.items()}


async def at_rest(survival):
    """What every agent holds when nobody asks for anything; returns when that is nothing."""
    async with asyncio.timeout(QUIET_S_MAX):
        while True:
            now = {agent.name: await gauges(survival, agent) for agent in survival.agents}
            if not any(each[name] for each in now.values() for name in HELD):
                return now
            await asyncio.sleep(1.0)


def descriptors(agents):
    """Files and sockets of each process, without those that clients of its API keep open."""
    found = {}
    for agent in agents:
        process, port = psutil.Process(agent.pid), int(agent.api.rpartition(":")[2])
        clients = [each for each in process.net_connections("tcp") if each.laddr.port == port and each.raddr]
        found[agent.name] = process.num_fds() - len(clients)
    return found


async def soaked(survival, length_s):
    soak, clock = Soak(survival), asyncio.get_running_loop().time
    await survival.learn(*QUESTIONS)
    capacity = await soak.capacity_per_s()
    before, files = await at_rest(survival), descriptors(survival.agents)
    tell(f"capacity {capacity:.2f} answers/s, asked for {LOAD * capacity:.2f}")
    until = clock() + length_s
    await asyncio.gather(soak.arrive(LOAD * capacity, until), soak.strike(until), soak.watch(until))
    survival.cluster.wall.fall()
    await survival.mend()
    after, files_after = await at_rest(survival), descriptors(survival.agents)
    tell(f"{dict(soak.done)}; faults {dict(soak.faults)}")
    tell(f"longest gap of an answer: median {median(soak.gaps):.3f} s, longest {max(soak.gaps):.3f} s")
    for name in before:
        tasks = f"tasks {before[name]['tasks']} -> {after[name]['tasks']}"
        tell(f"{name}: {tasks}, files and sockets {files[name]} -> {files_after[name]}")
    return soak, before, after, files, files_after


def growth(samples):
    """How many times as much memory there is at the end as after the warm-up: medians of a fifth of the time each."""
    share = max(1, int(len(samples) * WARM_UP_SHARE))
    return median(samples[-share:]) / median(samples[share : 2 * share])


LINKS_MORE = 4
"""Links to peers come and go."""
TASKS_MORE = 4


async def test_nothing_is_lost_and_nothing_is_left(tmp_path, record_property):
    memory = [1] + [MEMORY_BYTES] * 4
    async with surviving(minnow_store(tmp_path), tmp_path, agents=5, walled=True, memory_bytes=memory) as survival:
        soak, before, after, files, files_after = await soaked(survival, SOAK_S)
        assert all(map(runs, survival.cluster.agents))
    for name, samples in soak.memory.items():
        tell(f"{name}: {samples[0] / 1e6:.0f} MB at first, {samples[-1] / 1e6:.0f} MB at last, x {growth(samples):.3f}")
        record_property(f"{name}_growth", round(growth(samples), 3))
    assert soak.wrong == []
    assert soak.done["answers"] > 0
    assert all(growth(samples) <= GROWTH_MAX for samples in soak.memory.values())
    for name in before:
        assert after[name]["tasks"] <= before[name]["tasks"] + TASKS_MORE, name
        assert files_after[name] <= files[name] + LINKS_MORE, name
