"""Real agents and what no correct peer sends: each is refused and counted, and the agent answers the next question.

Two stages of a tiny model on four agents; the test uses the key of one that hosts nothing: a stolen device.
"""

import asyncio
import os
import re
import shutil
import ssl

import aiomqtt
import httpx
import pytest
import pytest_asyncio

from shoal_agent.config import load_config
from shoal_agent.errors import FailedError
from shoal_agent.shell.certificates import make_node_certificate
from shoal_agent.shell.clock import wall_ms
from shoal_agent.shell.cluster import local_cluster
from shoal_agent.shell.identity import open_roster, open_sealer
from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from shoal_agent.shell.tls import data_tls
from shoal_models.package import Store
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import seal
from shoal_protocol.frames import encode_frame
from shoal_protocol.headers import Probe
from shoal_protocol.ids import Incarnation, Sequence, node_id_of
from shoal_protocol.messages import Endpoint, Heartbeat, PlanAnnounced
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.topics import topic_for
from tests.support.links import call
from tests.support.processes import processes

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTED_S_MAX = 10.0
POLL_S = 0.05


class Target:
    """The first agent of a cluster, seen from outside."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.node = cluster.lab.nodes[0]
        headers = {"Authorization": f"Bearer {cluster.lab.api_key}"}
        self.client = httpx.AsyncClient(base_url=cluster.api, headers=headers, timeout=30, trust_env=False)

    async def endpoint(self):
        state = (await self.client.get("/shoal/v1/state")).json()
        (mine,) = [node for node in state["nodes"] if node["node"] == self.node.node]
        return Endpoint(mine["data"]["host"], mine["data"]["port"])

    async def counted(self, family, reason):
        text = (await self.client.get("/metrics")).text
        found = re.search(rf'^shoal_{family}_total{{reason="{reason}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def counts_more(self, family, reason, before):
        """Returns when the counter is above ``before``."""
        async with asyncio.timeout(COUNTED_S_MAX):
            while await self.counted(family, reason) <= before:  # noqa: ASYNC110 - a counter of another process
                await asyncio.sleep(POLL_S)

    async def answers(self):
        body = {"model": "tiny", "prompt": "a shoal moves", "max_tokens": 4, "temperature": 0}
        answer = await self.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tiny_store, tmp_path_factory):
    settings = LabSettings(tmp_path_factory.mktemp("hostile") / "lab", 4, tiny_store.root, (), memory_bytes=10**9)
    async with local_cluster(settings, "tiny", stages=2) as cluster:
        made = Target(cluster)
        async with made.client:
            yield made
            assert [agent.process.returncode for agent in cluster.agents] == [None] * 4, "an agent died"


@pytest.fixture
def insider(target):
    """TLS and key of a member that holds no stage."""
    stages = {stage.node for stage in target.cluster.plan.stages} | {target.node.node}
    node = next(each for each in target.cluster.lab.nodes if each.node not in stages)
    config = load_config(node.config, environment={})
    roster = open_roster(config.cluster)
    tls = data_tls(node.node, config.data.certificate_file, config.data.key_file, roster)
    return node.node, tls, open_sealer(config.node.key_file)


async def test_a_certificate_outside_the_roster_does_not_get_in(target, tmp_path):
    before = await target.counted("peers_misbehaved", "certificate")
    stranger = make_node_certificate(node_id_of(Ed25519Sealer(os.urandom(32)).public_key))
    stranger.write(tmp_path / "crt", tmp_path / "key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    try:
        async with call(await target.endpoint(), context) as peer:
            await peer.gone()
    except (ConnectionError, ssl.SSLError):
        pass
    await target.counts_more("peers_misbehaved", "certificate", before)
    await target.answers()


@pytest.mark.parametrize("damage", ["header", "size"])
async def test_a_frame_that_is_none_ends_the_link_and_nothing_else(target, insider, damage):
    node, tls, _ = insider
    reason = {"header": "malformed", "size": "oversized"}[damage]
    before = await target.counted("peers_misbehaved", reason)
    head, _ = encode_frame(Probe(7), None)
    if damage == "header":
        raw = head[:-1] + bytes([head[-1] ^ 0xFF])
    else:
        # The prefix is magic, version, kind, header bytes, payload bytes: claim a payload of 3 GiB.
        raw = head[:8] + (3 << 30).to_bytes(4, "big") + head[12:]
    async with call(await target.endpoint(), tls.client) as peer:
        peer.hello(node)
        peer.writer.write(raw)
        await peer.gone()
    await target.counts_more("peers_misbehaved", reason, before)
    await target.answers()


async def publish(target, topic, wire):
    async with aiomqtt.Client("127.0.0.1", target.cluster.broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish(topic, wire, qos=1)


def heartbeat(target, sealer, sender, sequence):
    cluster = target.cluster.lab.cluster
    message = Heartbeat(1, 1)
    wire = seal(sealer, cluster, sender, Incarnation(99), Sequence(sequence), 60_000, wall_ms(), message)
    return topic_for(cluster, sender, message), wire


async def test_a_forged_broadcast_is_refused(target, insider):
    node, _, sealer = insider
    before = await target.counted("messages_rejected", "signature")
    topic, wire = heartbeat(target, sealer, node, 1)
    # The signature is what comes last.
    await publish(target, topic, wire[:-1] + bytes([wire[-1] ^ 1]))
    await target.counts_more("messages_rejected", "signature", before)
    await target.answers()


async def test_a_broadcast_of_nobody_is_refused(target):
    stranger = Ed25519Sealer(os.urandom(32))
    before = await target.counted("messages_rejected", "sender")
    await publish(target, *heartbeat(target, stranger, node_id_of(stranger.public_key), 1))
    await target.counts_more("messages_rejected", "sender", before)


async def test_a_replayed_broadcast_is_refused(target, insider):
    node, _, sealer = insider
    topic, wire = heartbeat(target, sealer, node, 5)
    before = await target.counted("messages_rejected", "replay")
    await publish(target, topic, wire)
    await publish(target, topic, wire)
    await target.counts_more("messages_rejected", "replay", before)
    await target.answers()


async def test_bytes_that_are_no_envelope_are_refused(target, insider):
    node, _, _ = insider
    before = await target.counted("messages_rejected", "malformed")
    await publish(target, topic_for(target.cluster.lab.cluster, node, Heartbeat(1, 1)), os.urandom(300))
    await target.counts_more("messages_rejected", "malformed", before)


async def test_a_plan_that_no_operator_signed_changes_nothing(target, insider):
    node, _, sealer = insider
    before = await target.counted("messages_rejected", "sender")
    message = PlanAnnounced(encode_plan(target.cluster.plan))
    cluster = target.cluster.lab.cluster
    wire = seal(sealer, cluster, node, Incarnation(100), Sequence(1), 60_000, wall_ms(), message)
    await publish(target, topic_for(cluster, node, message), wire)
    await target.counts_more("messages_rejected", "sender", before)
    state = (await target.client.get("/shoal/v1/state")).json()
    assert [deployment["phase"] for deployment in state["deployments"]] == ["SERVING"]
    await target.answers()


@pytest.mark.parametrize("damage", ["flipped", pytest.param("truncated", marks=pytest.mark.long)])
async def test_a_damaged_shard_is_named_and_not_served(tiny_store, tmp_path, damage):
    store = Store(tmp_path / "store")
    shutil.copytree(tiny_store.root, store.root)
    manifest = store.load("tiny")
    shard = store.blob_path(manifest.blocks[1].shards[0].id)
    data = bytearray(shard.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    else:
        del data[-10:]
    shard.write_bytes(data)
    settings = LabSettings(tmp_path / "lab", 1, store.root, (), memory_bytes=10**9)
    async with processes(settings, brokers=1) as cluster:
        (agent,) = cluster.agents
        with agent.lab.config.open("a") as config:
            # Importing all of the catalogue, to see that none is this one, takes long.
            config.write("\n[content]\ncatalog = false\n")
        await cluster.start(agent)
        with pytest.raises(FailedError, match=manifest.blocks[1].name):
            await cluster.deploy(DeployWish("tiny", stages=1, nodes=(agent.node,)))
    assert "Traceback" not in agent.lab.log.read_text()
