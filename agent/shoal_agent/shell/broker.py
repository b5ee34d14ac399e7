"""A broker of our own, for the demo and for tests: on loopback, on a free port, gone when its block ends.

It is mosquitto where there is one (an operator's fleet has it anyway), else rumqttd out of the ``iotcore`` wheel, which
needs nothing installed. Neither asks who connects: everything listens on 127.0.0.1, which only this machine reaches,
and what is said there is signed. The limits are those of the template for real brokers in ``deploy/``.

rumqttd differs from mosquitto where it does not matter here: it keeps no session for a client that is away, and lets
a client hear itself. Its port of the same protocol version (MQTT 5) can only be had through a configuration file.
"""

import asyncio
import importlib.util
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from shoal_agent.errors import FailedError, UnavailableError
from shoal_agent.shell.sockets import listen, port_of
from shoal_protocol.limits import MQTT_IN_FLIGHT_MAX, MQTT_PACKET_BYTES_MAX

HOST: Final = "127.0.0.1"
START_S_MAX: Final = 10.0
"""A broker starts in some 50 ms; the wheel's, which is a Python process first, in half a second."""
STOP_S_MAX: Final = 5.0
START_ATTEMPTS_MAX: Final = 3
"""A free port may be taken between the moment we saw it and the moment the broker asks for it."""
LOOK_AGAIN_S: Final = 0.02
"""A process that starts has no event to wait for but its port."""
MOSQUITTO_PLACES: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
"""Where packages put mosquitto, which is not on everybody's PATH."""

MOSQUITTO_CONF: Final = """\
per_listener_settings false
listener {port} {host}
allow_anonymous true
persistence false
max_packet_size {packet_bytes}
max_inflight_messages {in_flight}
max_queued_messages 2000
max_queued_bytes 67108864
max_connections 2000
set_tcp_nodelay true
sys_interval 0
"""
RUMQTTD_TOML: Final = """\
id = 0

[router]
id = 0
max_connections = 2000
max_outgoing_packet_count = 200
max_segment_size = 10485760
max_segment_count = 4

[v5.1]
name = "v5-1"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = {packet_bytes}
max_inflight_count = {in_flight}
dynamic_filters = true
"""


class BrokerKind(StrEnum):
    """Which program."""

    MOSQUITTO = "mosquitto"
    IOTCORE = "iotcore"


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that accepts connections. ``log`` is what it printed."""

    kind: BrokerKind
    port: int
    pid: int
    log: Path

    @property
    def url(self) -> str:
        """As a configuration names it."""
        return f"mqtt://{HOST}:{self.port}"


def available_kinds() -> tuple[BrokerKind, ...]:
    """The brokers this machine has, the preferred one first."""
    found = []
    if _mosquitto() is not None:
        found.append(BrokerKind.MOSQUITTO)
    if importlib.util.find_spec("iotcore") is not None:
        found.append(BrokerKind.IOTCORE)
    return tuple(found)


@asynccontextmanager
async def embedded_broker(folder: Path, kind: BrokerKind | None = None, port: int = 0) -> AsyncIterator[RunningBroker]:
    """A broker for the time of the block, its files in ``folder``. ``kind`` None: the best one there is.

    UnavailableError if there is none, PortInUseError if ``port`` is taken, FailedError if it does not start.
    """
    kinds = available_kinds()
    if not kinds or (kind is not None and kind not in kinds):
        missing = kind.value if kind is not None else "MQTT broker"
        raise UnavailableError(f"no {missing} on this machine", "apt-get install mosquitto, or pip install iotcore")
    process, broker = await _start(folder, kind or kinds[0], port)
    try:
        yield broker
    finally:
        await _stop(process)


async def _start(folder: Path, kind: BrokerKind, port: int) -> tuple[asyncio.subprocess.Process, RunningBroker]:
    log = folder / "broker.log"
    for _ in range(1 if port else START_ATTEMPTS_MAX):
        chosen = _free_port(port)
        command = _command(folder, kind, chosen)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C is for whoever owns the broker, who will stop it in order.
                start_new_session=True,
            )
        try:
            if await _accepts(process, chosen):
                return process, RunningBroker(kind, chosen, process.pid, log)
        except BaseException:
            await _stop(process)
            raise
    tail = log.read_text(errors="replace").splitlines()[-5:]
    raise FailedError(f"the broker ({kind}) did not start:\n" + "\n".join(tail), f"read {log}")


def _free_port(port: int) -> int:
    """``port`` or any, that nobody listens on: what answers there later is then the broker, and nobody else."""
    with listen(HOST, port) as listener:
        return port_of(listener)


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=MOSQUITTO_PLACES)


def _command(folder: Path, kind: BrokerKind, port: int) -> Sequence[str]:
    """Write the broker's configuration; the command that runs it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    template = MOSQUITTO_CONF if kind is BrokerKind.MOSQUITTO else RUMQTTD_TOML
    text = template.format(host=HOST, port=port, packet_bytes=MQTT_PACKET_BYTES_MAX, in_flight=MQTT_IN_FLIGHT_MAX)
    if kind is BrokerKind.IOTCORE:
        path = folder / "rumqttd.toml"
        path.write_text(text)
        return [sys.executable, "-I", "-m", "iotcore", "--config", str(path), "--log-level", "WARNING"]
    if os.geteuid() == 0:
        # It would change to a user of its own, who may not look into this folder.
        text += "user root\n"
    path = folder / "mosquitto.conf"
    path.write_text(text)
    mosquitto = _mosquitto()
    assert mosquitto is not None, "looked for before"
    return [mosquitto, "-c", str(path)]


async def _accepts(process: asyncio.subprocess.Process, port: int) -> bool:
    """True once the port accepts, False if the process ended; FailedError if neither comes."""
    try:
        async with asyncio.timeout(START_S_MAX):
            while process.returncode is None:
                if await _can_connect(port):
                    return process.returncode is None
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await process.wait()
    except TimeoutError as fault:
        raise FailedError(
            f"the broker did not listen within {START_S_MAX:.0f} s", "is the machine overloaded?"
        ) from fault
    return False


async def _can_connect(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Stop this process and no other; politely first."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S_MAX):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
