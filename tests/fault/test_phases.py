"""A host is killed in each phase of a new plan, under streams: it loads, it is ready before others, the old one drains.

Five agents. One is asked, three serve, and a newcomer with an empty store and a narrow line to the others takes the
place of one of the three, because an operator says so. It needs a second or two to be sent its blocks, so there is time
to strike in that moment. Whatever the blow, those who read see what they would see anyway, and the cluster settles.
"""

import asyncio
from itertools import count

import pytest
import pytest_asyncio

from tests.fault.test_resplit import order
from tests.support.processes import POLL_S
from tests.support.repair import kill, tell
from tests.support.survival import SHORT, minnow_store, resumed, surviving

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTS = (1, 2, 3)
NEWCOMER = 4
BYTES_PER_S = 1_500_000
"""A stage of the model takes the newcomer one to two seconds."""
CLIENTS = 2
EDGE = 30
"""So many tokens from its beginning and from its end a stream is in the middle."""
STRUCK_S_MAX = 20.0
BACK = count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def survival(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phases")
    settings = {"own_stores": (NEWCOMER,), "hosts": HOSTS, "prepare": narrow}
    async with surviving(minnow_store(folder), folder, agents=5, **settings) as made:
        await made.learn(SHORT)
        yield made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def three_of_old(survival):
    """The plan of the three. A newcomer that was killed while it loaded still has next to nothing."""
    old = [survival.cluster.agents[index] for index in HOSTS]
    if {*await survival.hosts()} != {*old}:
        await order(survival, f"back-{next(BACK)}", old)
        await survival.settled()
    yield
    await survival.mend()


def narrow(agents):
    with agents[NEWCOMER].lab.config.open("a") as config:
        config.write(f"\n[content]\nbytes_per_s_max = {BYTES_PER_S}\n")


def phases_of(view):
    """How far the hosts of each epoch are, as the one that is asked sees it."""
    return {
        int(each["epoch"]): {stage["node"]: stage["phase"] for stage in each["stages"]}
        for each in view.state["deployments"]
    }


async def ask_on(survival, clients, stop):
    """One stream after the other."""
    while not stop.is_set():
        clients.append(survival.ask(survival.cluster.agents[0]))
        await clients[-1].over()


async def begin_readers(survival, clients, stop):
    """They take turns: whenever it is, one of them is in the middle of its text."""
    readers = []
    for number in range(CLIENTS):
        readers.append(asyncio.create_task(ask_on(survival, clients, stop)))
        await asyncio.sleep(0)  # it asks
        await clients[number].stream.reached(SHORT.tokens // CLIENTS)
    return readers


def in_the_middle(client):
    return EDGE <= len(client.stream.tokens) <= SHORT.tokens - EDGE


async def struck(survival, what, moment, victim_of):
    """Order the newcomer in, strike as soon as ``moment``; the streams that were under way then."""
    cluster, witness = survival.cluster, survival.cluster.agents[0]
    before, hosts = (await cluster.view(witness)).epoch, await survival.hosts()
    newcomer = cluster.agents[NEWCOMER]
    clients, stop = [], asyncio.Event()
    readers = await begin_readers(survival, clients, stop)
    ordering = asyncio.create_task(order(survival, what, [*hosts[1:], newcomer]))
    try:
        async with asyncio.timeout(STRUCK_S_MAX):
            while True:
                view = await cluster.view(witness)
                phases = phases_of(view)
                come = view.epoch > before and moment(phases[view.epoch], phases[before], newcomer.node, hosts)
                if come and any(map(in_the_middle, clients)):
                    break
                await asyncio.sleep(POLL_S / 5)
        victim = victim_of(newcomer, hosts)
        kill(victim)()
        open_ = [client for client in clients if not client.task.done()]
        tell(f"{what}: {victim.name} killed, new {[*phases[view.epoch].values()]}, old {[*phases[before].values()]}")
        await cluster.until(lambda view: victim.node not in view.alive and view.active, [witness], STRUCK_S_MAX)
    finally:
        stop.set()
        ordering.cancel()
        await asyncio.gather(ordering, *readers, return_exceptions=True)
    for client in clients:
        await survival.whole(client, what if client in open_ else "")
    assert open_, "there were readers when it happened"
    return open_


async def test_a_host_is_killed_while_it_loads(survival):
    """The new plan never serves; the old one goes on, and another one is agreed on."""
    await struck(
        survival,
        "killed while LOADING",
        lambda new, _, newcomer, __: new.get(newcomer) == "LOADING",
        lambda newcomer, _: newcomer,
    )


async def test_a_host_is_killed_that_is_ready_before_the_plan_serves(survival):
    """It serves the old plan too: its standby there takes over, and then somebody in the new one."""
    clients = await struck(
        survival,
        "killed between READY and ACTIVE",
        lambda new, _, newcomer, hosts: (new.get(newcomer), new.get(hosts[1].node)) == ("LOADING", "READY"),
        lambda _, hosts: hosts[1],
    )
    assert any(resumed(client) for client in clients), "it was on the route"


async def test_a_host_is_killed_while_the_old_plan_drains(survival):
    """The one that was replaced: sessions are on their way from it, or still there."""
    clients = await struck(
        survival,
        "killed while the old plan drains",
        lambda new, old, _, hosts: {*new.values()} == {"ACTIVE"} and old[hosts[0].node] == "ACTIVE",
        lambda _, hosts: hosts[0],
    )
    assert any(resumed(client) for client in clients), "it was on the route"
