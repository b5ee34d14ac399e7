"""Certificates and access: brokers that believe only whom they should, and are believed only when they should be."""

import asyncio
from pathlib import Path

import pytest

from shoal_agent.config import BrokerSection
from shoal_agent.config_values import Place
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived
from shoal_agent.errors import ConfigError
from shoal_agent.shell.certificates import Purpose, issue, make_ca
from shoal_agent.shell.mqtt_address import BrokerAddress, broker_address
from tests.support.broker import needs_mosquitto, running
from tests.support.control import Clients, Soonest, member, note_clients, retained

ANNA, BERT = "a" * 32, "b" * 32


@pytest.fixture
async def clients(monkeypatch) -> Clients:
    return note_clients(monkeypatch)


def found(folder: Path) -> Path:
    """An authority, a broker's certificate and two nodes', by the names an operator's folder gives them."""
    ca = make_ca("brokers of a test")
    ca.write(folder / "broker-ca.crt", folder / "broker-ca.key")
    broker = issue(ca, "127.0.0.1", ["127.0.0.1"], Purpose.SERVER)
    broker.write(folder / "127.0.0.1.crt", folder / "127.0.0.1.key")
    for name in (ANNA, BERT):
        issue(ca, name, [], Purpose.CLIENT).write(folder / f"{name}.crt", folder / f"{name}.key")
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Path:
    return found(tmp_path_factory.mktemp("cluster"))


def section(cluster: Path, port: int, name: str, **changes: Path) -> BrokerSection:
    values = {
        "url": f"mqtts://127.0.0.1:{port}",
        "ca_file": str(cluster / "broker-ca.crt"),
        "certificate_file": str(cluster / f"{name}.crt"),
        "key_file": str(cluster / f"{name}.key"),
        **{name: str(path) for name, path in changes.items()},
    }
    return BrokerSection.model_validate(values, context=Place(cluster, {}, check_files=False))


@needs_mosquitto
async def test_over_tls_a_node_says_its_own_and_a_refused_publication_is_counted(tmp_path, cluster):
    own, foreign = f"shoal/1/{'0' * 32}/n/0/{ANNA}/state", f"shoal/1/{'0' * 32}/n/0/{BERT}/state"
    async with running(tmp_path / "broker", cluster) as broker:
        a_address = broker_address(section(cluster, broker.port, ANNA))
        b_address = broker_address(section(cluster, broker.port, BERT))
        filters = [f"shoal/1/{'0' * 32}/n/+/+/state"]
        async with member(ANNA, [a_address], filters) as a, member(BERT, [b_address], filters) as b:
            await a.until_count(BrokerConnected)
            await b.until_count(BrokerConnected)
            a.plane.publish(retained(foreign, b"forged"))
            a.plane.publish(retained(own, b"honest"))
            assert await a.plane.drain(5.0)
            await b.until_count(EnvelopeReceived)
            assert b.wires() == [b"honest"]
            assert a.counted == [("broadcasts_refused", "Not authorized")]
            assert not a.of(BrokerLost), "a refused message is no broken link"


@needs_mosquitto
async def test_a_broker_of_another_authority_is_not_believed(tmp_path, cluster, clients):
    (tmp_path / "other").mkdir()
    other = found(tmp_path / "other")
    async with running(tmp_path / "broker", cluster) as broker:
        address = broker_address(section(cluster, broker.port, ANNA, ca_file=other / "broker-ca.crt"))
        async with member(ANNA, [address], rng=Soonest()) as a:
            (lost,) = await a.until_count(BrokerLost)
            assert "CERTIFICATE" in lost.reason
            await asyncio.sleep(0.1)
            assert len(clients) == 1


def test_a_plain_url_needs_no_certificates():
    plain = BrokerSection.model_validate({"url": "mqtt://127.0.0.1:1885"}, context=Place(Path("/"), {}, False))
    assert broker_address(plain) == BrokerAddress("mqtt://127.0.0.1:1885", "127.0.0.1", 1885, None)


def test_certificates_that_do_not_fit_are_a_configuration_error(cluster):
    wrong = section(cluster, 8883, ANNA, key_file=cluster / f"{BERT}.key")
    with pytest.raises(ConfigError, match="do not fit together"):
        broker_address(wrong)
    with pytest.raises(ConfigError, match="do not fit together"):
        broker_address(section(cluster, 8883, ANNA, ca_file=cluster / "none.crt"))
