"""The demo's broker, of both kinds, with nothing in between."""

import asyncio
import socket

import psutil
import pytest

from shoal_agent.errors import FailedError, UnavailableError
from shoal_agent.shell import broker as module
from shoal_agent.shell.broker import BrokerKind, available_kinds, embedded_broker
from shoal_agent.shell.sockets import PortInUseError, listen, port_of

kinds = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(kind not in available_kinds(), reason=f"no {kind} here"))
        for kind in BrokerKind
    ],
)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@kinds
async def test_it_listens_on_loopback_alone_and_is_gone_afterwards(kind, tmp_path):
    async with embedded_broker(tmp_path / "broker", kind) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        process = psutil.Process(broker.pid)
        listening = {
            (c.laddr.ip, c.laddr.port) for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN
        }
        assert listening == {("127.0.0.1", broker.port)}
        assert accepts(broker.port)
    assert not psutil.pid_exists(broker.pid)
    assert not accepts(broker.port)


@kinds
async def test_it_goes_when_its_block_fails_or_is_cancelled(kind, tmp_path):
    pids = []

    async def hold() -> None:
        async with embedded_broker(tmp_path, kind) as broker:
            pids.append(broker.pid)
            started.set()
            await asyncio.sleep(60)

    started = asyncio.Event()
    task = asyncio.create_task(hold())
    await asyncio.wait_for(started.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pids[0])


@kinds
async def test_two_live_side_by_side(kind, tmp_path):
    async with embedded_broker(tmp_path / "1", kind) as one, embedded_broker(tmp_path / "2", kind) as other:
        assert one.port != other.port
        assert one.pid != other.pid


async def test_one_that_ended_by_itself_is_no_error_at_the_end(tmp_path):
    async with embedded_broker(tmp_path) as broker:
        psutil.Process(broker.pid).kill()


@kinds
async def test_a_port_in_use_is_said_clearly(kind, tmp_path):
    with listen("127.0.0.1", 0) as taken, pytest.raises(PortInUseError):
        async with embedded_broker(tmp_path, kind, port_of(taken)):
            pass


@kinds
async def test_one_that_does_not_start_is_a_failure_in_its_own_words(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOSQUITTO_CONF", "no_such_setting true\n")
    monkeypatch.setattr(module, "RUMQTTD_TOML", "no toml")
    with pytest.raises(FailedError, match=r"did not start:\n.*\S"):
        async with embedded_broker(tmp_path, kind):
            pass


@kinds
async def test_the_same_port_can_be_had_again_at_once(kind, tmp_path):
    async with embedded_broker(tmp_path, kind) as first:
        pass
    async with embedded_broker(tmp_path, kind, first.port) as second:
        assert second.port == first.port


async def test_a_broker_that_is_not_there_is_said_clearly(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_kinds", lambda: ())
    with pytest.raises(UnavailableError, match="no MQTT broker"):
        async with embedded_broker(tmp_path):
            pass


async def test_mosquitto_is_preferred(tmp_path):
    assert available_kinds() == tuple(sorted(available_kinds(), key=list(BrokerKind).index))


async def test_its_files_stay_in_its_folder_and_are_private(tmp_path):
    folder = tmp_path / "broker"
    async with embedded_broker(folder) as broker:
        assert broker.log.parent == folder
        assert folder.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["broker"]
