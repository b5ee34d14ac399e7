"""Machines die and freeze under streams, and whoever reads the streams sees every token, once, in order, and no other.

Five real agents over two mosquittos serve a model in three stages with a standby each. What each gap consisted of is
printed: `pytest -rP tests/fault/test_kills.py`.
"""

import asyncio
import signal
from itertools import combinations

import pytest
import pytest_asyncio

from tests.support.repair import freeze, kill
from tests.support.survival import LONG, SHORT, all_of, minnow_store, resumed, surviving

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITTEN = 30
"""Tokens that are there when the blow falls."""
READ_S = 0.15
"""After the answer has begun; the prompt takes several times as long."""
AWAY_S = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def survival(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    async with surviving(minnow_store(folder), folder, agents=5) as made:
        await made.learn(SHORT, LONG)
        yield made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def mended(survival):
    yield
    await survival.mend()


async def writing(survival, ingress):
    """A stream in the middle of its text."""
    client = survival.ask(ingress, SHORT)
    await client.stream.reached(WRITTEN)
    assert client.stream.finish is None, client.stream.error
    return client


async def reading(survival, ingress):
    """A stream whose prompt is being read."""
    client = survival.ask(ingress, LONG)
    await client.stream.answered()
    await asyncio.sleep(READ_S)
    assert client.stream.status == 200, client.stream.error
    assert not client.stream.tokens, "too late"
    return client


async def in_both_phases(survival, hosts, stage):
    """A stream that a host other than that of ``stage`` was asked for, and one of an agent without a stage."""
    outsider = next(agent for agent in survival.agents if agent not in hosts)
    return await writing(survival, outsider), await reading(survival, hosts[stage - 1])


def helpless(hosts, standbys, dead):
    """Whether nobody is left for some stage, and too few of the voters, who are the hosts, to give it to others."""
    left = [{host, *backing} - {*dead} for host, backing in zip(hosts, standbys, strict=True)]
    return not all(left) and len({*hosts} - {*dead}) <= len(hosts) // 2


async def helped(survival, hosts, standbys, dead):
    """Where nothing can go on without the ``dead`` they come back: the layout a test meets is the planner's to say."""
    if helpless(hosts, standbys, dead):
        await asyncio.sleep(AWAY_S)
        await survival.mend()


async def go_on(survival, clients, what):
    for client, phase in zip(clients, ("decode", "prefill"), strict=True):
        await survival.whole(client, f"{what}, {phase}")
        assert resumed(client), "it was on the route"


async def test_a_standby_is_killed_and_nobody_notices(survival):
    hosts, standbys = await survival.hosts(), await survival.standbys()
    victim = next(agent for backing in standbys for agent in backing if agent not in hosts)
    client = await writing(survival, hosts[0])
    kill(victim)()
    await survival.whole(client, "standby killed")
    assert resumed(client) == []


async def test_a_host_and_its_standby_are_killed_and_another_epoch_goes_on(survival):
    """Nothing is left of one stage: its KV is computed again, where the next plan has it."""
    hosts, standbys = await survival.hosts(), await survival.standbys()
    # One whose standbys are no hosts, and so no voters, if there is one: then those who are left decide by themselves.
    stage = min(range(len(hosts)), key=lambda index: len({*standbys[index]} & {*hosts}))
    victims = [hosts[stage], *standbys[stage]]
    client = await writing(survival, next(agent for agent in survival.agents if agent not in victims))
    all_of(kill, victims)()
    await helped(survival, hosts, standbys, victims)
    await survival.whole(client, "a whole stage killed")
    assert resumed(client)


@pytest.mark.parametrize("stage", [0, 1, 2])
async def test_a_host_is_killed(survival, stage):
    hosts = await survival.hosts()
    clients = await in_both_phases(survival, hosts, stage)
    kill(hosts[stage])()
    await go_on(survival, clients, f"stage {stage} killed")


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)])
async def test_a_host_freezes_and_wakes_under_the_same_streams(survival, stage):
    """Whoever wakes goes on where it was stopped: with words under an old attempt, which nobody takes."""
    hosts = await survival.hosts()
    clients = await in_both_phases(survival, hosts, stage)
    freeze(hosts[stage])()
    try:
        await clients[0].stream.reached(2 * WRITTEN + 20)
        await clients[1].stream.reached(2)
    finally:
        hosts[stage].signal(signal.SIGCONT)
    await go_on(survival, clients, f"stage {stage} frozen")


async def test_two_hosts_are_killed_at_once(survival):
    """Of those that can be spared; where each host stands by for another one, in a ring, no two of them can."""
    hosts, standbys = await survival.hosts(), await survival.standbys()
    victims = min(combinations(hosts, 2), key=lambda pair: helpless(hosts, standbys, pair))
    client = await writing(survival, next(agent for agent in survival.agents if agent not in victims))
    all_of(kill, victims)()
    await helped(survival, hosts, standbys, victims)
    await survival.whole(client, "two hosts killed at once")
    assert resumed(client)


async def test_a_host_is_killed_and_then_whoever_took_over(survival):
    hosts, standbys = await survival.hosts(), await survival.standbys()
    standby = standbys[1][0]
    ingress = next(agent for agent in survival.agents if agent not in (*hosts, standby))
    client = await writing(survival, ingress)
    kill(hosts[1])()
    await client.stream.reached(2 * WRITTEN + 20)
    kill(standby)()
    await helped(survival, hosts, standbys, (hosts[1], standby))
    await survival.whole(client, "killed, and then whoever took over")
    assert sum(not each.moved for each in resumed(client)) == 2


async def test_a_stream_waits_for_whoever_comes_back(survival):
    """Two of three voters and all of one stage are gone: nothing can be decided before they are back."""
    hosts, standbys = await survival.hosts(), await survival.standbys()
    victims = list(dict.fromkeys([hosts[1], hosts[2], *standbys[1]]))
    client = await writing(survival, next(agent for agent in survival.agents if agent not in victims))
    all_of(kill, victims)()
    await asyncio.sleep(AWAY_S)
    await survival.mend()
    await survival.whole(client, "waited for whoever came back")
