"""Agents whose store is empty become hosts through their peers: real processes, a real broker, real links."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from shoal_agent.config import load_operator_config
from shoal_agent.shell.broker import embedded_broker
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.lab import Lab, LabSettings, make_lab, start_agent, stop_agents
from shoal_agent.shell.operator import DeployResult, DeployWish, deploy
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.messages import PlanStage
from tests.support.depots import NAME, wide_store
from tests.support.unsplit import Unsplit

NODES: Final = 3
PROMPT: Final = [7, 100, 31, 250, 18, 9]
TOKENS: Final = 12
WAIT_S: Final = 60.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    return wide_store(tmp_path_factory.mktemp("wide"))


def own_store(lab: Lab, index: int) -> Store:
    """Give one node of ``lab`` an empty store of its own."""
    node = lab.nodes[index]
    text, count = re.subn(r"^store_dir = .*$", 'store_dir = "models"', node.config.read_text(), flags=re.MULTILINE)
    assert count == 1
    node.config.write_text(text)
    return Store(node.folder / "models")


def weights(manifest: Manifest, stage: PlanStage) -> set[str]:
    """The weights of the blocks of ``stage``."""
    blocks = manifest.blocks[stage.first_block : stage.last_block + 1]
    return {ref.digest for block in blocks for ref in block.blobs}


@asynccontextmanager
async def cluster(folder: Path, store: Store, others: int) -> AsyncIterator[tuple[Lab, list[Store], DeployResult]]:
    """``NODES`` agents that serve in as many stages; the last ``others`` of them began with empty stores."""
    async with embedded_broker(folder / "broker") as broker:
        settings = LabSettings(folder / "lab", NODES, store.root, (broker.url,), memory_bytes=10**9)
        lab = make_lab(settings, unix_s())
        stores = [own_store(lab, index) for index in range(NODES - others, NODES)]
        agents = []
        try:
            for node in lab.nodes:
                started = await start_agent(node)
                agents.append(started)
            wish = DeployWish(NAME, stages=NODES, nodes=tuple(node.node for node in lab.nodes))
            config = load_operator_config(lab.operator_config, environment={})
            yield lab, stores, await deploy(config, wish, print)
        finally:
            await asyncio.shield(stop_agents(agents))


async def test_an_agent_with_an_empty_store_hosts_what_its_peers_have(whole, tmp_path):
    expected = Unsplit(whole, NAME).greedy(PROMPT, TOKENS, stop_at_eos=False)
    store = Store(tmp_path / "store")
    shutil.copytree(whole.root, store.root)
    async with cluster(tmp_path, store, others=2) as (lab, stores, result):
        assert result.active
        manifest = whole.load(NAME)
        for node, own in zip(lab.nodes[-2:], stores, strict=True):
            assert own.names() == ()
            assert own.fetched() == (manifest.digest,)
            hosted = {
                ref for stage in result.plan.stages if stage.node == node.node for ref in weights(manifest, stage)
            }
            spare = {
                ref for stage in result.plan.stages if node.node in stage.standbys for ref in weights(manifest, stage)
            }
            texts = {ref.digest for ref in manifest.texts}
            found = {path.name for path in own.blobs.iterdir() if not path.suffix}
            assert hosted | texts <= found <= hosted | spare | texts

        body = {"model": NAME, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
        headers = {"Authorization": f"Bearer {lab.api_key}"}
        apis = {heard.node: heard.state.api for heard in result.heard}
        async with httpx.AsyncClient(headers=headers, timeout=WAIT_S, trust_env=False) as client:
            for api in apis.values():
                answer = await client.post(f"{api}/v1/completions", json=body)
                assert answer.status_code == httpx.codes.OK, answer.text
                tokens = answer.json()["choices"][0]["token_ids"]
                assert tokens == expected[: len(tokens)]
                assert len(tokens) > 1
            source = (await client.get(f"{apis[lab.nodes[0].node]}/metrics")).text
        assert re.search(r'^shoal_content_bytes_total\{direction="out"\} [1-9]', source, flags=re.MULTILINE)
