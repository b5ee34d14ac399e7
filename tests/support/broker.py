"""A real mosquitto, started from the template in deploy/ with the certificates of a cluster."""

import asyncio
import contextlib
import getpass
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiomqtt
import pytest

from tests.support.house import ROOT
from tests.support.ports import fixed_port

DEPLOY: Final = ROOT / "deploy"
MOSQUITTO: Final = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
START_S_MAX: Final = 20.0
CONNECT_S_MAX: Final = 10.0

needs_mosquitto: Final = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")


@dataclass(frozen=True)
class Broker:
    """A running broker and the operator's folder with the authority whose clients it admits."""

    port: int
    cluster: Path

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    def client(self, name: str) -> aiomqtt.Client:
        """A client that is not connected yet and shows the certificate of ``name``."""
        return aiomqtt.Client(
            "127.0.0.1",
            self.port,
            timeout=CONNECT_S_MAX,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_params=aiomqtt.TLSParameters(
                ca_certs=str(self.cluster / "broker-ca.crt"),
                certfile=str(self.cluster / f"{name}.crt"),
                keyfile=str(self.cluster / f"{name}.key"),
            ),
        )


def render(folder: Path, cluster: Path, port: int, operators: Sequence[str]) -> Path:
    """The template and the ACL as an operator would fill them in; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("ca.crt", "broker-ca.crt"), ("server.crt", "127.0.0.1.crt"), ("server.key", "127.0.0.1.key")):
        shutil.copy(cluster / source, folder / name)
    acl = (DEPLOY / "mosquitto.acl").read_text()
    for operator in operators:
        acl += f"user {operator}\ntopic write shoal/1/+/roster\n"
    (folder / "mosquitto.acl").write_text(acl)
    (folder / "mosquitto.acl").chmod(0o600)
    text = (DEPLOY / "mosquitto.conf.template").read_text()
    for mark, value in (("@DIR@", str(folder)), ("@ADDRESS@", "127.0.0.1"), ("@PORT@", str(port))):
        text = text.replace(mark, value)
    assert "@" not in text.replace(str(folder), ""), "a placeholder was left"
    # Debian's unit runs mosquitto as its own user; here it stays who runs the test.
    path = folder / "mosquitto.conf"
    path.write_text(f"{text}\nuser {getpass.getuser()}\n")
    return path


@contextlib.asynccontextmanager
async def running(folder: Path, cluster: Path, operators: Sequence[str] = ()) -> AsyncIterator[Broker]:
    """A broker for the time of the block; ``cluster`` holds its certificate for 127.0.0.1 (see ``fleet.found``)."""
    assert MOSQUITTO is not None, "guarded by needs_mosquitto"
    port = fixed_port()
    configuration = render(folder, cluster, port, operators)
    with (folder / "mosquitto.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(configuration), cwd=folder, stdout=log, stderr=log
        )
    try:
        await _listening(process, port)
        yield Broker(port, cluster)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(START_S_MAX):
            await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Return when the port accepts; a broker that ended has said why in mosquitto.log beside its configuration."""
    async with asyncio.timeout(START_S_MAX):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                # A process that starts has no event to wait for but its port.
                await asyncio.sleep(0.02)
                continue
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return
    pytest.fail(f"mosquitto ended with {process.returncode}")
