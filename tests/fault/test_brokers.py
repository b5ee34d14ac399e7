"""Brokers die, freeze and lose sight of each other; the agents go on, and nobody is called.

Five real agents, each connected to both of two mosquittos. The seconds are printed: `pytest -rP`.
"""

import asyncio
import signal

import httpx
import pytest
import pytest_asyncio

from tests.support.repair import (
    REPAIRED_S_MAX,
    SETTLED_S_MAX,
    asking,
    hosts_of,
    kill,
    repaired,
    served,
    settled,
    tell,
)

WATCHED_S = REPAIRED_S_MAX
"""Undisturbed for so long: a host would be found dead, and another plan agreed on and brought to life."""
BROKER_LOST_S_MAX = 10.0
"""An agent asks a broker for a sign of life every two seconds, and waits two for it."""
PARTED_S_MAX = 30.0
"""A partition is found by silence, and by nobody in particular: it takes what suspicion takes, twice."""


async def goes_on(cluster, disturb, brokers_up):
    """Requests are answered with the same tokens and no epoch changes, while and after ``disturb`` happened."""
    agents, ingress = cluster.agents, cluster.agents[0]
    expected, before = await cluster.ask(ingress), await cluster.views(*agents)
    async with asking(cluster, ingress) as seen:
        await disturb()
        await cluster.until(lambda view: view.brokers_up == brokers_up, agents, BROKER_LOST_S_MAX)
        await asyncio.sleep(WATCHED_S)
    assert seen.refusals == []
    assert len(seen.answers) > 5
    assert all(answer == expected for answer in seen.answers)
    after = await cluster.views(*agents)
    assert [view.epoch for view in after] == [view.epoch for view in before]
    nodes = {agent.node for agent in agents}
    assert all(view.alive == nodes for view in after), "a broker's death is nobody else's"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tiny_store, tmp_path_factory):
    async with served(tiny_store.root, tmp_path_factory.mktemp("brokers")) as made:
        yield made


@pytest.mark.asyncio(loop_scope="module")
async def test_one_broker_after_the_other_is_frozen_and_killed_and_nothing_happens(cluster):
    first, second = cluster.brokers

    async def freeze():
        first.signal(signal.SIGSTOP)

    await goes_on(cluster, freeze, brokers_up=1)
    first.signal(signal.SIGCONT)
    await cluster.until(lambda view: view.brokers_up == 2, cluster.agents, SETTLED_S_MAX)
    await goes_on(cluster, second.kill, brokers_up=1)


@pytest.mark.asyncio(loop_scope="module")
async def test_without_any_broker_a_dead_host_is_still_replaced(cluster, record_property):
    """Whether the one that the test before killed is back makes no difference: both are killed, and both come back."""
    expected = await cluster.ask(cluster.agents[0])
    await asyncio.gather(*(broker.kill() for broker in cluster.brokers))
    await cluster.until(lambda view: view.brokers_up == 0, cluster.agents, BROKER_LOST_S_MAX)
    await asyncio.sleep(WATCHED_S)
    nodes = {agent.node for agent in cluster.agents}
    assert [view.alive == nodes for view in await cluster.views(*cluster.agents)] == [True] * 5
    victim = (await hosts_of(cluster, cluster.agents[0]))[1]
    repair = await repaired(cluster, victim, kill(victim), REPAIRED_S_MAX)
    record_property("active_s", round(repair.active_s, 3))
    tell(f"no broker: {repair}")
    survivor = next(agent for agent in cluster.agents if agent is not victim)
    assert await cluster.ask(survivor) == expected

    # When brokers come back, so does everything: the newest plan, and whoever died.
    for broker in cluster.brokers:
        await broker.start()
    await victim.stop()
    await cluster.start(victim)
    await cluster.until(lambda view: view.brokers_up == 2, cluster.agents, SETTLED_S_MAX)
    await settled(cluster, cluster.agents)


async def sides_of(cluster, hosts_in_majority):
    """Three agents with a broker, two with the other; so many of the three hosts are among the three."""
    hosts = await hosts_of(cluster, cluster.agents[0])
    spares = [agent for agent in cluster.agents if agent not in hosts]
    majority = hosts[:hosts_in_majority] + spares[: 3 - hosts_in_majority]
    minority = [agent for agent in cluster.agents if agent not in majority]
    return majority, minority


def part(cluster, majority, minority):
    names = [[agent.name for agent in side] for side in (majority, minority)]
    cluster.wall.part([*names[0], cluster.brokers[0].name], [*names[1], cluster.brokers[1].name])


@pytest.mark.long
async def test_a_minority_without_a_whole_pipeline_waits_and_catches_up(tiny_store, tmp_path, record_property):
    """Two hosts and a spare here; one host and a spare there. Here a new plan; there the old one stays, unserved."""
    async with served(tiny_store.root, tmp_path, walled=True) as cluster:
        expected = await cluster.ask(cluster.agents[0])
        majority, minority = await sides_of(cluster, hosts_in_majority=2)
        before = (await cluster.view(majority[0])).epoch
        part(cluster, majority, minority)
        here = {agent.node for agent in majority}
        took = await cluster.until(
            lambda view: view.epoch > before and view.active and here.issuperset(view.hosts), majority, PARTED_S_MAX
        )
        record_property("replanned_s", round(took, 3))
        tell(f"parted: the majority had another plan after {took:.2f} s")
        assert await cluster.ask(majority[0]) == expected
        await asyncio.sleep(WATCHED_S)
        assert [view.epoch for view in await cluster.views(*minority)] == [before] * 2, "no quorum, no epoch"

        cluster.wall.fall()
        newest = (await cluster.view(majority[0])).epoch
        took = await cluster.until(lambda view: view.epoch >= newest and view.active, minority, SETTLED_S_MAX)
        tell(f"healed: the minority knew the newest plan after {took:.2f} s")
        await settled(cluster, cluster.agents)
        assert [await cluster.ask(agent) for agent in cluster.agents] == [expected] * 5
        views = await cluster.views(*cluster.agents)
        assert len({view.newest["plan"] for view in views}) == 1


@pytest.mark.long
async def test_whoever_is_cut_off_from_the_hosts_keeps_the_epoch_and_they_serve_on(tiny_store, tmp_path):
    """All three hosts on one side: nothing is to be repaired there, and the others can change nothing."""
    async with served(tiny_store.root, tmp_path, walled=True) as cluster:
        expected = await cluster.ask(cluster.agents[0])
        hosts, cut_off = await sides_of(cluster, hosts_in_majority=3)
        before = (await cluster.view(hosts[0])).epoch
        part(cluster, hosts, cut_off)
        outside = {agent.node for agent in cut_off}
        async with asking(cluster, hosts[0]) as seen:
            await cluster.until(lambda view: not outside & view.alive, hosts, PARTED_S_MAX)
            await asyncio.sleep(WATCHED_S)
        assert seen.refusals == []
        assert all(answer == expected for answer in seen.answers)
        assert {view.epoch for view in await cluster.views(*cluster.agents)} == {before}

        cluster.wall.fall()
        await settled(cluster, cluster.agents)
        assert (await cluster.request(cut_off[0])).status_code == httpx.codes.OK
        assert (await cluster.view(cut_off[0])).epoch == before
