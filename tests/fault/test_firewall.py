"""Two hosts that cannot connect to each other: the boundary between their stages crosses the brokers, sealed.

Real agents over two mosquittos. The wall lets packets vanish; an address at which nobody listens is refused. Nobody is
dead, so nobody is replaced. The seconds are printed: `pytest -rP`.
"""

import asyncio
import re
import time

import pytest

from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from tests.support.processes import Agent, Processes, View, processes
from tests.support.repair import MEMORY_BYTES, MODEL, SETTLED_S_MAX, asking, begin, tell

WISH = DeployWish(MODEL, stages=2, standbys=0)
"""Nobody can stand in: what is answered has crossed from one to the other."""
FOUND_S_MAX = 20.0
"""Connections that were swallowed are found by silence, then a knock takes a moment."""
DIRECT_S_MAX = 40.0
"""The direct way is tried after 5, 10, 20 s."""
BLIND = "127.9.9.9"
"""Loopback, where nobody listens."""
TOKENS = 16


def relayed(count: int):
    """Whether so many of its peers are reached through brokers."""
    return lambda view: sum(node["link"]["relayed"] for node in view.state["nodes"]) == count


async def metric(cluster: Processes, agent: Agent, name: str) -> float:
    """The sum of a counter over its labels."""
    text = (await cluster.client.get(f"{agent.api}/metrics")).text
    return sum(float(value) for value in re.findall(rf"^shoal_{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


async def unchanged(cluster: Processes, epoch: int) -> list[View]:
    """Nobody is taken for dead, and the plan is what it was."""
    views = await cluster.views(*cluster.agents)
    assert [view.epoch for view in views] == [epoch] * len(views)
    assert all(len(view.alive) == len(views) for view in views)
    return views


@pytest.mark.long
async def test_a_wall_between_two_hosts_is_gone_round_and_left_when_it_falls(tiny_store, tmp_path):
    settings = LabSettings(tmp_path / "lab", 2, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(settings, walled=True) as cluster:
        one, other = agents = cluster.agents
        await begin(cluster, agents, WISH)
        expected = await cluster.ask(one, TOKENS)
        epoch = (await cluster.view(one)).epoch

        cluster.wall.part([one.name], [other.name])
        took = await cluster.until(relayed(1), agents, FOUND_S_MAX)
        tell(f"reached through brokers {took:.1f} s after the wall went up")
        begun = time.perf_counter()
        assert await cluster.ask(one, TOKENS) == expected
        assert await cluster.ask(other, TOKENS) == expected
        tell(f"two answers of {TOKENS} tokens through brokers: {time.perf_counter() - begun:.2f} s")
        await unchanged(cluster, epoch)
        assert await metric(cluster, one, "relay_bytes_total") > 2 * TOKENS * 100
        assert await metric(cluster, one, "relays_open") == 1

        cluster.wall.fall()
        async with asking(cluster, one) as seen:
            took = await cluster.until(relayed(0), agents, DIRECT_S_MAX)
        tell(f"direct again {took:.1f} s after it fell, {len(seen.answers)} answers meanwhile")
        assert seen.refusals == []
        assert len({tuple(answer) for answer in seen.answers}) == 1
        assert await cluster.ask(one, TOKENS) == expected
        await unchanged(cluster, epoch)


def advertise(agent: Agent, host: str) -> None:
    """From its next life on ``agent`` says that it is at ``host``."""
    text = re.sub(r"^advertise_host = .*\n", "", agent.lab.config.read_text(), flags=re.MULTILINE)
    agent.lab.config.write_text(text.replace("[data]\n", f'[data]\nadvertise_host = "{host}"\n'))


async def test_hosts_that_were_never_reachable_serve_and_a_broker_may_die_meanwhile(tiny_store, tmp_path):
    settings = LabSettings(tmp_path / "lab", 2, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(settings) as cluster:
        one, other = agents = cluster.agents
        for agent in agents:
            advertise(agent, BLIND)
        await begin(cluster, agents, WISH)
        took = await cluster.until(relayed(1), agents, SETTLED_S_MAX)
        tell(f"reached through brokers {took:.1f} s after the plan was active")
        answer = await cluster.ask(one, TOKENS)
        epoch = (await cluster.view(one)).epoch
        async with asking(cluster, other) as seen:
            for broker in cluster.brokers:
                await broker.kill()
                await asyncio.sleep(1.0)  # some answers with one broker
                await broker.start()
                await cluster.until(lambda view: view.brokers_up == len(cluster.brokers), agents, SETTLED_S_MAX)
        assert seen.refusals == []
        assert len(seen.answers) > 3
        assert await cluster.ask(other, TOKENS) == answer
        await unchanged(cluster, epoch)

        await asyncio.gather(*(agent.stop() for agent in agents))
        for agent in agents:
            advertise(agent, "127.0.0.1")
        await cluster.start(*agents)
        await cluster.until(lambda view: view.active and len(view.alive) == len(agents), agents, SETTLED_S_MAX)
        await cluster.until(relayed(0), agents, SETTLED_S_MAX)  # at first they only knew where the others had been
        assert await cluster.ask(one, TOKENS) == answer, "which way the activations went makes no difference"


@pytest.mark.long
async def test_who_does_not_want_to_be_relayed_is_called_in_vain(tiny_store, tmp_path):
    settings = LabSettings(tmp_path / "lab", 2, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(settings, brokers=1) as cluster:
        one, other = agents = cluster.agents
        for agent in agents:
            advertise(agent, BLIND)
        other.lab.config.write_text(other.lab.config.read_text().replace("[data]\n", "[data]\nrelay = false\n"))
        await begin(cluster, agents, WISH)
        await asyncio.sleep(5.0)  # several knocks
        assert await metric(cluster, one, "relay_bytes_total") > 0
        assert await metric(cluster, other, "relay_bytes_total") == 0
        views = await cluster.views(*agents)
        assert all(map(relayed(0), views))
        assert [view.epoch for view in views] == [0, 0], "nobody is taken for dead because nobody gets through"
