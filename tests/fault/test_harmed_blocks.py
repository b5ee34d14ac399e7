"""Blobs of a package that were changed, cut or lost on disk: the host says which block, and serves all others."""

import shutil

import pytest

from shoal_agent.core.events import BlocksFailed, BlocksLoaded
from shoal_models.package import Store
from tests.support.engines import Host, spans

TINY = "tiny"


def flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path):
    path.unlink()


@pytest.mark.parametrize("harm", [flip, truncate, remove])
@pytest.mark.parametrize("part", ["shard", "graph"])
async def test_a_harmed_block_is_named_and_nothing_stays_open(tiny_store, tmp_path, harm, part):
    store = Store(shutil.copytree(tiny_store.root, tmp_path / "store"))
    block = store.load(TINY).blocks[3]
    harm(store.blob_path(block.graph.id if part == "graph" else block.shards[0].id))
    host = Host(store)
    answer = await host.load(spans(store, TINY, 1)[0])
    assert isinstance(answer, BlocksFailed)
    assert "layer.2" in answer.reason
    assert host.blocks.count == 0
    healthy = spans(store, TINY, 2)[0]
    assert isinstance(await host.load(healthy), BlocksLoaded)
    await host.close()
