"""A host is lost and nobody is called: the others notice, agree on another plan, and bring it to life within 5 s.

Five real agents over two mosquittos. The seconds are printed: `pytest -rP tests/fault/test_repair.py`.
"""

import signal

import pytest
import pytest_asyncio

from tests.support.repair import (
    REPAIRED_S_MAX,
    asking,
    first_proposer,
    freeze,
    hosts_of,
    kill,
    repaired,
    revive,
    served,
    settled,
    tell,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORGOTTEN_S_MAX = 20.0
"""Until one that was away for seconds knows the new plan and has let go of its blocks: the old epoch drains first."""

LONG_RUNS = range(10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tiny_store, tmp_path_factory):
    async with served(tiny_store.root, tmp_path_factory.mktemp("repair")) as made:
        yield made


async def some_survivor(cluster, victim):
    return next(agent for agent in cluster.agents if agent is not victim)


async def victim_of(cluster, role):
    """The host of stage ``role``, or whoever proposes first."""
    if role == "proposer":
        return await first_proposer(cluster, cluster.agents[0])
    return (await hosts_of(cluster, cluster.agents[0]))[role]


async def loses(cluster, role, blow, record_property):
    """Strike the host that plays ``role``; the others' tokens must be those of before. Returns the victim."""
    victim = await victim_of(cluster, role)
    survivor = await some_survivor(cluster, victim)
    expected = await cluster.ask(survivor)
    repair = await repaired(cluster, victim, blow(victim), REPAIRED_S_MAX)
    for name, seconds in vars(repair).items():
        record_property(name, seconds)
    tell(f"{blow.__name__} {role}: {repair}")
    assert await cluster.ask(survivor) == expected
    return victim


@pytest.mark.parametrize("role", [0, "proposer", -1])
async def test_a_killed_host_is_replaced(cluster, role, record_property):
    victim = await loses(cluster, role, kill, record_property)
    await revive(cluster, victim)


async def test_a_host_that_says_goodbye_is_replaced_and_no_request_notices(cluster, record_property):
    victim = await victim_of(cluster, 1)
    survivor = await some_survivor(cluster, victim)
    expected = await cluster.ask(survivor)
    async with asking(cluster, survivor) as seen:
        repair = await repaired(cluster, victim, lambda: victim.signal(signal.SIGTERM), REPAIRED_S_MAX)
        await victim.stop()
    assert seen.refusals == []
    assert all(answer == expected for answer in seen.answers)
    record_property("active_s", round(repair.active_s, 3))
    tell(f"SIGTERM: {repair}")
    assert await cluster.ask(survivor) == expected
    await revive(cluster, victim)


@pytest.mark.long
@pytest.mark.parametrize("run", LONG_RUNS)
async def test_ten_killed_hosts_are_replaced(cluster, run, record_property):
    victim = await loses(cluster, (0, 1, -1, "proposer")[run % 4], kill, record_property)
    await revive(cluster, victim)


async def learns_that_it_is_no_host(cluster, victim):
    victim.signal(signal.SIGCONT)
    newest = (await cluster.view(await some_survivor(cluster, victim))).epoch
    took = await cluster.until(
        lambda view: view.epoch >= newest and victim.node not in view.hosts and not view.held,
        [victim],
        FORGOTTEN_S_MAX,
    )
    tell(f"woken: knew epoch {newest} and held nothing after {took:.2f} s")
    await settled(cluster, cluster.agents)


async def test_a_frozen_host_is_replaced_and_learns_it_when_it_wakes(cluster, record_property):
    victim = await loses(cluster, 1, freeze, record_property)
    await learns_that_it_is_no_host(cluster, victim)


@pytest.mark.long
@pytest.mark.parametrize("run", LONG_RUNS)
async def test_ten_frozen_hosts_are_replaced(cluster, run, record_property):
    victim = await loses(cluster, (1, "proposer", 0, -1)[run % 4], freeze, record_property)
    await learns_that_it_is_no_host(cluster, victim)
