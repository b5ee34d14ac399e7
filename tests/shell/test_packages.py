"""A package becomes known: services first, then its facts."""

import shutil

import pytest

from shoal_agent.core.events import ModelAvailable, ServicesAvailable
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.packages import Packages
from shoal_agent.shell.services.host import ServiceHost
from shoal_agent.shell.tensors import Tensors
from shoal_models.errors import CorruptShard
from shoal_models.package import Store


@pytest.fixture
async def events():
    return []


@pytest.fixture
async def services(events):
    made = ServiceHost(Tensors(), events.append)
    yield made
    await made.shut_down()


@pytest.mark.parametrize("now", [True, False])
async def test_its_facts_and_its_services_are_told(tiny_store, services, events, now):
    manifest = tiny_store.load("tiny")
    packages = Packages(tiny_store, services, events.append)
    if now:
        packages.announce_now(manifest)
    else:
        await packages.announce(manifest)
    kinds = ("chat-template", "detokenizer", "embedder", "sampler", "tokenizer")
    assert sorted(services.names) == [f"{kind}:{manifest.digest.hex()[:16]}" for kind in kinds]
    assert events == [ModelAvailable(facts_of(manifest)), ServicesAvailable(services.names)]


async def test_a_package_whose_texts_are_damaged_is_not_told(tiny_store, services, events, tmp_path):
    store = Store(tmp_path / "store")
    shutil.copytree(tiny_store.root, store.root)
    manifest = store.load("tiny")
    store.blob_path(manifest.tokenizer.id).write_bytes(b"{}")
    packages = Packages(store, services, events.append)
    with pytest.raises(CorruptShard, match="tokenizer"):
        await packages.announce(manifest)
    with pytest.raises(CorruptShard, match="tokenizer"):
        packages.announce_now(manifest)
    assert not events
    assert services.names == ()
