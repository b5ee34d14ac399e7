import asyncio
import os
import socket

import pytest

from shoal_agent.shell.systemd import Systemd


@pytest.fixture(params=["path", "abstract"])
def supervisor(request, tmp_path):
    """What systemd opens, and how it names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@shoal-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        listener.settimeout(5)
        yield listener, name


def test_what_is_said_arrives_as_one_message(supervisor):
    listener, name = supervisor
    assert Systemd({"NOTIFY_SOCKET": name}).notify("READY=1", "STATUS=serving")
    assert listener.recv(1000) == b"READY=1\nSTATUS=serving"


def test_without_a_supervisor_nothing_is_said():
    systemd = Systemd({})
    assert systemd.watchdog_s is None
    assert not systemd.notify("READY=1")


def test_a_supervisor_that_went_away_does_not_stop_the_agent(tmp_path):
    assert not Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(environment, seconds):
    assert Systemd(environment).watchdog_s == seconds


async def test_the_watchdog_is_fed_while_the_loop_turns(supervisor):
    listener, name = supervisor
    listener.settimeout(0)
    beating = asyncio.create_task(Systemd({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"}).beat())
    loop = asyncio.get_running_loop()
    try:
        for _ in range(3):
            assert await asyncio.wait_for(loop.sock_recv(listener, 1000), 5) == b"WATCHDOG=1"
    finally:
        beating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beating


async def test_where_nobody_watches_there_is_no_beat():
    await asyncio.wait_for(Systemd({}).beat(), 5)
