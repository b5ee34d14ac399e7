"""Links are cut, torn and slow under streams, and brokers restart; whoever reads the streams sees what it would anyway.

Four real agents over two mosquittos; every connection goes through a relay of the test, which may swallow what passes,
in both directions or in one, tell one end only that the connection broke, or make TCP of a link that loses packets.
"""

import asyncio

import pytest
import pytest_asyncio

from tests.support.repair import kill, tell
from tests.support.survival import SHORT, Question, minnow_store, resumed, surviving
from tests.support.wall import Weather

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITTEN = 30
"""Tokens that are there when it happens."""
FEW = Question(SHORT.prompt, 60)
"""Where a token takes long."""
GAP_S_MAX = 12.0
"""Nobody is told of a link that swallows everything: it is found by silence."""
BROKER_GAP_S_MAX = 1.0
"""No token waits for a broker."""
DIRECT_S_MAX = 90.0
"""A link that was cut for long went through the brokers, and is dialled again after a minute at the latest."""
HOPS = 4
"""A token passes the ingress and three hosts."""
NAP_S = 0.02


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def survival(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuts")
    async with surviving(minnow_store(folder), folder, agents=4, walled=True) as made:
        await made.learn(SHORT, FEW)
        yield made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def mended(survival):
    yield
    survival.cluster.wall.fall()
    await survival.mend()
    await survival.cluster.until(lambda view: not view.detours, survival.agents, DIRECT_S_MAX)


async def writing(survival, ingress, question=SHORT):
    client = survival.ask(ingress, question)
    await client.stream.reached(WRITTEN)
    assert client.stream.finish is None, client.stream.error
    return client


async def outsider(survival, hosts):
    return next(agent for agent in survival.agents if agent not in hosts)


CUTS = {
    "both ways": lambda wall, one, other: wall.part([one.name], [other.name]),
    "forth": lambda wall, one, other: wall.mute(one.name, other.name),
    "back": lambda wall, one, other: wall.mute(other.name, one.name),
    "torn, the first is told": lambda wall, one, other: wall.tear(one.name, other.name),
    "torn, the second is told": lambda wall, one, other: wall.tear(other.name, one.name),
}


QUICK = ("both ways", "torn, the second is told")


@pytest.mark.parametrize("how", [how if how in QUICK else pytest.param(how, marks=pytest.mark.long) for how in CUTS])
async def test_a_link_between_two_hosts_is_cut(survival, how):
    hosts = await survival.hosts()
    client = await writing(survival, await outsider(survival, hosts))
    CUTS[how](survival.cluster.wall, hosts[0], hosts[1])
    seen = await survival.whole(client, f"hosts 0 and 1, {how}")
    assert seen.gap_s() < GAP_S_MAX


@pytest.mark.long
@pytest.mark.parametrize("how", ["both ways", "torn, the second is told"])
async def test_a_link_between_the_ingress_and_a_host_is_cut(survival, how):
    hosts = await survival.hosts()
    ingress = await outsider(survival, hosts)
    client = await writing(survival, ingress)
    CUTS[how](survival.cluster.wall, ingress, hosts[-1])
    seen = await survival.whole(client, f"ingress and last host, {how}")
    assert seen.gap_s() < GAP_S_MAX


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param(Weather(delay_s=0.2), id="200 ms late", marks=pytest.mark.long),
        pytest.param(Weather(loss=0.3), id="30 % lost"),
    ],
)
async def test_a_link_between_two_hosts_is_slow(survival, weather):
    hosts = await survival.hosts()
    client = await writing(survival, await outsider(survival, hosts), FEW)
    survival.cluster.wall.darken(hosts[0].name, hosts[1].name, weather)
    seen = await survival.whole(client, str(weather))
    tell(f"{(seen.times[-1] - seen.times[WRITTEN]) / (len(seen.times) - WRITTEN):.3f} s per token")


async def oversleep(worst):
    """How late a process of this machine may wake, because others are busy on it."""
    clock = asyncio.get_running_loop().time
    while True:
        begun = clock()
        await asyncio.sleep(NAP_S)
        worst[0] = max(worst[0], clock() - begun - NAP_S)


async def test_brokers_restart_under_a_stream(survival):
    """On a machine whose cores are all busy a step may take so long that the session goes on at a standby: no loss."""
    brokers = survival.cluster.brokers
    client = await writing(survival, survival.agents[0])
    late_s = [0.0]
    watching = asyncio.create_task(oversleep(late_s))
    for number, broker in enumerate(brokers):
        await broker.kill()
        await client.stream.reached((number + 2) * WRITTEN)
        await broker.start()
    seen = await survival.whole(client, "both brokers restarted, one after the other")
    watching.cancel()
    assert seen.gap_s(WRITTEN) < BROKER_GAP_S_MAX + HOPS * late_s[0]


@pytest.mark.long
async def test_a_host_is_killed_while_no_broker_is_there(survival):
    hosts, brokers = await survival.hosts(), survival.cluster.brokers
    client = await writing(survival, await outsider(survival, hosts))
    await asyncio.gather(*(broker.kill() for broker in brokers))
    kill(hosts[1])()
    try:
        await survival.whole(client, "killed while no broker was there")
    finally:
        for broker in brokers:
            await broker.start()
    assert resumed(client)
