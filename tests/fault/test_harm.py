"""A disk is full, a clock jumps, a store was tampered with: one machine's harm, and nobody who reads a stream sees it.

Real agents over two mosquittos, and the client's view of a stream that was under way, or that needs what was harmed.
"""

import asyncio
import os
import re
import resource
import shutil
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from shoal_models.package import Store
from tests.support import survival as support
from tests.support.repair import MEMORY_BYTES, kill, tell
from tests.support.survival import MODEL, SHORT, minnow_store, resumed, surviving

WRITTEN = 30
"""Tokens that are there when it happens."""
NOTICED_S = 10.0
"""Heartbeats come every second; two short answers may be over before the first."""
SKEWED = Path(support.__file__).parent / "skewed"
ON_S, BACK_S = 3600.0, -3600.0
JUMPS = [
    pytest.param({"host": ON_S, "ingress": BACK_S}, id="a host on, the ingress back"),
    pytest.param({"host": BACK_S, "ingress": ON_S}, id="a host back, the ingress on", marks=pytest.mark.long),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def survival(tmp_path_factory):
    """Five agents whose clocks can be set wrong. The test that fills a disk is the last to use them."""
    folder = tmp_path_factory.mktemp("harm")
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join([str(SKEWED), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        patch.setenv("PYTHONPATH", path)
        async with surviving(minnow_store(folder), folder, agents=5) as made:
            await made.learn(SHORT)
            yield made


async def writing(survival, ingress):
    client = survival.ask(ingress, SHORT)
    await client.stream.reached(WRITTEN)
    assert client.stream.finish is None, client.stream.error
    return client


@pytest.mark.parametrize("jumps", JUMPS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_clock_that_jumps_harms_no_stream(survival, jumps):
    hosts = await survival.hosts()
    outsider = next(agent for agent in survival.agents if agent not in hosts)
    for who, jump_s in jumps.items():
        before = await not_heard(survival)
        victim = outsider if who == "ingress" else hosts[1]
        client = await writing(survival, outsider)
        (victim.lab.folder / "skew").write_text(str(jump_s))
        await survival.whole(client, f"{who} jumps by {jump_s:g} s")
        await survival.whole(await writing(survival, outsider), "begun while the clock was wrong")
        async with asyncio.timeout(NOTICED_S):  # each heartbeat is refused while it lasts
            while await not_heard(survival) <= before:
                pass
        (victim.lab.folder / "skew").unlink()
    await survival.settled()


async def not_heard(survival):
    """Words that agents refused, all of them together."""
    told = [view.state["rejected"] for view in await survival.cluster.views(*survival.agents)]
    tell(f"words that were not heard: {told}")
    return sum(sum(each.values()) for each in told)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_host_whose_disk_is_full_harms_no_stream_when_another_one_dies(survival):
    """It cannot write its vote down, so it must not vote; what it serves needs no disk."""
    hosts = await survival.hosts()
    client = await writing(survival, next(agent for agent in survival.agents if agent not in hosts))
    psutil.Process(hosts[0].pid).rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    kill(hosts[1])()
    await survival.whole(client, "a full disk, and another host killed")
    assert resumed(client)


async def rejected(survival, agent):
    text = (await survival.cluster.client.get(f"{agent.api}/metrics")).text
    found = re.findall(r"^shoal_content_pieces_rejected_total\{.*\} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def poison(store, root):
    """A copy of ``store`` in which a byte of every shard is another one."""
    shutil.copytree(store.root, root)
    copy = Store(root)
    for block in copy.load(MODEL).blocks:
        for shard in block.shards:
            path = copy.blob_path(shard.id)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)


@pytest.mark.long
async def test_a_poisoned_store_harms_no_stream(tmp_path):
    """Two agents begin with nothing, one has what is right, and one, which has no room to host, has what is wrong."""
    store, memory = minnow_store(tmp_path), [MEMORY_BYTES, 1, MEMORY_BYTES, MEMORY_BYTES]

    def prepare(agents):
        poison(store, agents[1].lab.folder / "models")

    settings = {"own_stores": (1, 2, 3), "memory_bytes": memory, "prepare": prepare}
    async with surviving(store, tmp_path, **settings) as survival:
        await survival.learn(SHORT)
        hosts = await survival.hosts()
        found = [await rejected(survival, agent) for agent in survival.agents]
        tell(f"pieces refused: {found}")
        assert sum(found) > 0, "nobody was offered a wrong piece"
        victim = hosts[-1]
        client = await writing(survival, survival.cluster.agents[1])
        kill(victim)()
        await survival.whole(client, "killed beside a poisoned store")
        assert resumed(client)
