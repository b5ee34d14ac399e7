"""What deploy/ ships works: a real mosquitto from the template lets each node say only what is its own."""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiomqtt
import pytest

from shoal_agent.config import load_config, load_operator_config
from shoal_protocol.ids import ClusterId, DeploymentId, NodeId
from shoal_protocol.topics import (
    AgreementTopic,
    AntiEntropyTopic,
    CommandTopic,
    DeathTopic,
    DigestTopic,
    EvidenceTopic,
    HeartbeatTopic,
    PhaseTopic,
    PlanTopic,
    RelayTopic,
    ResultTopic,
    RosterTopic,
    StateTopic,
    SuspicionTopic,
    agent_filters,
    build,
    relay_filter,
)
from tests.support.broker import DEPLOY, Broker, needs_mosquitto, running
from tests.support.fleet import Fleet, command, configure, found
from tests.support.house import ROOT

ANNA, BERT = NodeId("a" * 32), NodeId("b" * 32)
CLUSTER: Final = ClusterId("0" * 32)
LLM: Final = DeploymentId("llm")
TREE: Final = f"shoal/1/{CLUSTER}"
CONNECT: Final = bytes.fromhex("100d00044d5154540402003c000174")
"""MQTT 3.1.1, clean session, keep-alive 60 s, client id "t"."""
CONNACK_ACCEPTED: Final = bytes.fromhex("20020000")
REFUSED: Final = b""
DELIVERY_S_MAX: Final = 10.0
SCRIPT_S_MAX: Final = 60


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Fleet:
    """An operator and the broker certificates of two nodes; the nodes themselves are not needed here."""
    fleet = found(tmp_path_factory.mktemp("fleet"), machines=0)
    for node in (ANNA, BERT):
        command("roster", "client-cert", fleet.cluster, node)
    return fleet


@pytest.fixture
async def broker(tmp_path, fleet) -> AsyncIterator[Broker]:
    async with running(tmp_path / "broker", fleet.cluster, operators=[fleet.operator]) as broker:
        yield broker


def shown(cluster: Path, name: str) -> tuple[Path, Path]:
    """Certificate and key of ``name``, as the authority in ``cluster`` issued them."""
    return cluster / f"{name}.crt", cluster / f"{name}.key"


def tls(ca: Path, credentials: tuple[Path, Path] | None) -> ssl.SSLContext:
    """A client's side of a handshake: it believes ``ca`` and shows ``credentials`` (certificate, key)."""
    context = ssl.create_default_context(cafile=str(ca))
    if credentials is not None:
        context.load_cert_chain(*credentials)
    return context


async def first_answer(broker: Broker, credentials: tuple[Path, Path] | None) -> bytes:
    """What the broker says to an MQTT 3.1.1 CONNECT.

    With TLS 1.3 a client learns only now that it is refused: by an alert, or by a reset that overtakes the alert.
    """
    async with asyncio.timeout(DELIVERY_S_MAX):
        context = tls(broker.cluster / "broker-ca.crt", credentials)
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port, ssl=context)
        try:
            writer.write(CONNECT)
            return await reader.read(64)
        except (ssl.SSLError, ConnectionError):
            return REFUSED
        finally:
            writer.transport.abort()


async def heard_until(listener: aiomqtt.Client, last: str) -> list[str]:
    """Topics delivered to ``listener`` up to and including ``last``."""
    topics = []
    async with asyncio.timeout(DELIVERY_S_MAX):
        async for message in listener.messages:
            topics.append(str(message.topic))
            if topics[-1] == last:
                return topics
    raise AssertionError("the stream of messages ended")


async def delivered(broker: Broker, sender: str, *topics: str) -> list[str]:
    """What BERT hears when ``sender`` publishes to ``topics`` and at last to a topic it certainly may use.

    One connection keeps the order, so what was not delivered before the last one never will be.
    """
    last = f"{TREE}/n/0/{sender}/state"
    async with broker.client(BERT) as listener, broker.client(sender) as speaker:
        await listener.subscribe(f"{TREE}/#", qos=1)
        for topic in (*topics, last):
            await speaker.publish(topic, b"said", qos=1)
        return (await heard_until(listener, last))[:-1]


@needs_mosquitto
async def test_a_node_says_what_is_its_own_and_what_proves_itself(broker):
    spoken = [
        StateTopic(CLUSTER, 12, ANNA),
        DeathTopic(CLUSTER, 0, ANNA),
        HeartbeatTopic(CLUSTER, 0),
        PhaseTopic(CLUSTER, LLM, ANNA),
        AgreementTopic(CLUSTER, LLM),
        PlanTopic(CLUSTER, LLM),
        SuspicionTopic(CLUSTER),
        EvidenceTopic(CLUSTER),
        AntiEntropyTopic(CLUSTER, BERT),
        RelayTopic(CLUSTER, BERT, ANNA),
    ]
    topics = [build(topic) for topic in spoken]
    assert await delivered(broker, ANNA, *topics) == topics


@needs_mosquitto
@pytest.mark.parametrize(
    "topic",
    [
        StateTopic(CLUSTER, 0, BERT),
        StateTopic(CLUSTER, 12, BERT),
        DeathTopic(CLUSTER, 0, BERT),
        PhaseTopic(CLUSTER, LLM, BERT),
        RosterTopic(CLUSTER),
        CommandTopic(CLUSTER, BERT),
        ResultTopic(CLUSTER, BERT),
        RelayTopic(CLUSTER, ANNA, BERT),
        RelayTopic(CLUSTER, BERT, BERT),
    ],
    ids=build,
)
async def test_a_node_says_nothing_in_the_name_of_others(broker, topic):
    assert await delivered(broker, ANNA, build(topic)) == []


@needs_mosquitto
async def test_an_operator_announces_plans_and_rosters(broker, fleet):
    topics = [build(PlanTopic(CLUSTER, LLM)), build(RosterTopic(CLUSTER))]
    assert await delivered(broker, fleet.operator, *topics) == topics


@needs_mosquitto
async def test_an_agent_hears_all_it_subscribes_to(broker, fleet):
    """The ACL grants every filter of an agent; a filter that is refused would be silent, not an error."""
    spoken = {
        ANNA: [
            StateTopic(CLUSTER, 7, ANNA),
            DeathTopic(CLUSTER, 7, ANNA),
            HeartbeatTopic(CLUSTER, 7),
            DigestTopic(CLUSTER, 7),
            PhaseTopic(CLUSTER, LLM, ANNA),
            AgreementTopic(CLUSTER, LLM),
            SuspicionTopic(CLUSTER),
            EvidenceTopic(CLUSTER),
            AntiEntropyTopic(CLUSTER, BERT),
            RelayTopic(CLUSTER, BERT, ANNA),
        ],
        fleet.operator: [PlanTopic(CLUSTER, LLM)],
    }
    filters = (*agent_filters(CLUSTER, BERT, (7,)), relay_filter(CLUSTER, BERT))
    assert len(filters) == sum(map(len, spoken.values()))
    async with broker.client(BERT) as listener:
        for pattern in filters:
            await listener.subscribe(pattern, qos=1)
        for speaker, topics in spoken.items():
            async with broker.client(speaker) as client:
                for topic in topics:
                    await client.publish(build(topic), b"said", qos=1)
                    assert (await heard_until(listener, build(topic)))[-1] == build(topic)


@needs_mosquitto
@pytest.mark.parametrize("private", [AntiEntropyTopic(CLUSTER, ANNA), RelayTopic(CLUSTER, ANNA, ANNA)], ids=build)
async def test_an_inbox_is_read_by_its_owner_alone(broker, private):
    """What two nodes tell each other costs a third nothing: it is not even delivered."""
    inbox, public = build(private), build(HeartbeatTopic(CLUSTER, 0))
    async with broker.client(BERT) as curious, broker.client(ANNA) as speaker:
        for pattern in (inbox, f"{TREE}/ae/+", f"{TREE}/r/+/+", f"{TREE}/#"):
            await curious.subscribe(pattern, qos=1)
        await speaker.publish(inbox, b"said", qos=1)
        await speaker.publish(public, b"said", qos=1)
        assert await heard_until(curious, public) == [public]


@needs_mosquitto
async def test_a_record_is_kept_for_who_comes_later(broker):
    topic = f"{TREE}/n/0/{ANNA}/state"
    async with broker.client(ANNA) as speaker:
        await speaker.publish(topic, b"kept", qos=1, retain=True)
    async with broker.client(BERT) as late:
        await late.subscribe(f"{TREE}/n/+/+/state", qos=1)
        assert await heard_until(late, topic) == [topic]


@needs_mosquitto
async def test_a_certificate_of_ours_is_admitted(broker):
    assert await first_answer(broker, shown(broker.cluster, ANNA)) == CONNACK_ACCEPTED


@needs_mosquitto
async def test_no_certificate_no_entry(broker):
    assert await first_answer(broker, None) == REFUSED


@needs_mosquitto
async def test_a_certificate_of_another_authority_is_refused(broker, tmp_path):
    stranger = found(tmp_path / "stranger", machines=0)
    command("roster", "client-cert", stranger.cluster, ANNA)
    assert await first_answer(broker, shown(stranger.cluster, ANNA)) == REFUSED


@needs_mosquitto
async def test_a_broker_of_another_authority_is_not_believed(broker, tmp_path):
    context = tls(found(tmp_path / "other", machines=0).cluster / "broker-ca.crt", None)
    async with asyncio.timeout(DELIVERY_S_MAX):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", broker.port, ssl=context)


@needs_mosquitto
async def test_old_tls_is_refused(broker):
    context = tls(broker.cluster / "broker-ca.crt", None)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with asyncio.timeout(DELIVERY_S_MAX):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", broker.port, ssl=context)


# --- the fleet of the walk-through -----------------------------------------------------------------------------------


def test_the_examples_filled_in_configure_three_separate_machines(tmp_path):
    """Every file a configuration names is there, private where it must be, and no two machines share one."""
    fleet = found(tmp_path, machines=3)
    configure(fleet, ["mqtts://127.0.0.1:8883", "mqtts://localhost:8884"], store=tmp_path / "store")
    configurations = [load_config(machine.config, environment={}) for machine in fleet.machines]
    load_operator_config(fleet.operator_config, environment={})
    for read in (
        lambda config: config.node.key_file.read_bytes(),
        lambda config: config.data.key_file.read_bytes(),
        lambda config: config.brokers[0].key_file.read_bytes(),
        lambda config: config.node.state_dir,
    ):
        assert len({read(config) for config in configurations}) == len(configurations)


# --- scripts ----------------------------------------------------------------------------------------------------------


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DEPLOY / name), *arguments], timeout=SCRIPT_S_MAX, capture_output=True, text=True, check=False
    )


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / "shoal-0.0.0-py3-none-any.whl"
    path.write_bytes(b"")
    return path


def test_a_dry_run_of_the_installer_names_every_file_and_makes_none(wheel, tmp_path):
    root = tmp_path / "root"
    ran = script("install.sh", "--dry-run", "--wheel", str(wheel), "--root", str(root))
    assert ran.returncode == 0, ran.stderr
    assert not root.exists()
    for installed in (
        "/opt/shoal/bin/python",
        "/usr/local/bin/shoal",
        "/etc/shoal/agent.toml",
        "/etc/systemd/system/shoal-agent.service",
        "/etc/systemd/system/shoal.slice",
        "/etc/sysusers.d/shoal.conf",
        "/etc/tmpfiles.d/shoal.conf",
    ):
        assert f"{root}{installed}" in ran.stdout, installed


def test_every_file_the_installer_takes_is_shipped(wheel):
    ran = script("install.sh", "--dry-run", "--wheel", str(wheel))
    taken = re.findall(rf"{re.escape(str(ROOT))}/\S+", ran.stdout)
    assert taken
    assert all(Path(path).is_file() for path in taken), taken


def test_the_uninstaller_keeps_identity_and_models_unless_told(tmp_path):
    kept = script("uninstall.sh", "--dry-run", "--prefix", str(tmp_path / "none"))
    purged = script("uninstall.sh", "--dry-run", "--purge", "--prefix", str(tmp_path / "none"))
    assert "rm -rf /etc/shoal" not in kept.stdout
    assert "rm -rf /etc/shoal /var/lib/shoal" in purged.stdout


def test_the_uninstaller_removes_nothing_that_is_not_ours(tmp_path):
    ran = script("uninstall.sh", "--dry-run", "--prefix", str(tmp_path))
    assert ran.returncode == 1
    assert "would run" not in ran.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_scripts_pass_shellcheck():
    scripts = [*DEPLOY.glob("*.sh"), ROOT / ".ci" / "run"]
    ran = subprocess.run(
        ["shellcheck", *map(str, scripts)], timeout=SCRIPT_S_MAX, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert all(os.access(path, os.X_OK) for path in scripts)


def test_the_example_configuration_and_the_unit_name_the_same_credentials():
    example = tomllib.loads((DEPLOY / "agent.example.toml").read_text())
    written = set(re.findall(r'"credential:([^"]+)"', (DEPLOY / "agent.example.toml").read_text()))
    unit = (ROOT / "systemd" / "shoal-agent.service").read_text()
    assert written - {"NAME"} == set(re.findall(r"^LoadCredential=([^:]+):", unit, flags=re.MULTILINE))
    assert example["node"]["state_dir"] == "/var/lib/shoal"
