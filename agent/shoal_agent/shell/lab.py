"""A cluster on one machine: real agents, real keys, real TLS, loopback only.

Everything an operator does for three machines is done here for N processes in one folder: node keys and
certificates, a root-signed roster, an operator key, one configuration per agent. The folder holds secrets that are
worth nothing elsewhere (every key is made for this folder and dies with it). Agents are started as children in
their own sessions, so that a Ctrl-C reaches whoever owns the lab and not the agents one by one; they are stopped by
pid, politely first.

Used by ``shoal demo``, by the integration tests and by the benchmarks: one way to make a local cluster.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from shoal_agent.errors import FailedError
from shoal_agent.shell.api.auth import hash_key, new_key
from shoal_agent.shell.certificates import make_node_certificate
from shoal_agent.shell.files import write_private
from shoal_protocol.ids import ClusterId, NodeId, node_id_of
from shoal_protocol.roster import Member, Role, Roster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer

STOP_TIMEOUT_S: Final = 10.0
"""An agent says goodbye in well under a second; one that does not within this is killed."""
ROSTER_LIFE_S: Final = 30 * 24 * 3600
"""A lab's roster is not renewed; nobody keeps a lab longer than a month."""
KEY_BYTES: Final = 32
ZONE: Final = "lab"
"""Where all nodes of a lab stand, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class LabNode:
    """One agent of the lab, not necessarily running. ``folder`` holds its keys, configuration, state and log."""

    node: NodeId
    folder: Path

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "agent.toml"

    @property
    def log(self) -> Path:
        """What it wrote to stderr."""
        return self.folder / "agent.log"


@dataclass(frozen=True, slots=True)
class LabSettings:
    """What can be chosen for a lab; everything else follows."""

    folder: Path
    nodes: int
    store: Path
    broker_urls: tuple[str, ...]
    api_port: int = 0
    """Port of the first agent's API; the others, and 0, take free ones."""
    threads: int = 1
    memory_bytes: int | None = None
    kv_bytes: int | None = None
    log_level: str = "info"
    zones: tuple[str, ...] = ()
    """The trust zone of each node; ZONE where none is named."""


@dataclass(frozen=True, slots=True)
class Lab:
    """The files of a cluster."""

    settings: LabSettings
    cluster: ClusterId
    api_key: str
    nodes: tuple[LabNode, ...]

    @property
    def operator_config(self) -> Path:
        """What `shoal deploy --config` takes."""
        return self.settings.folder / "operator.toml"


@dataclass(slots=True)
class Running:
    """One agent process."""

    node: LabNode
    process: asyncio.subprocess.Process
    log: IO[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


def make_lab(settings: LabSettings, now_unix_s: int) -> Lab:
    """Write the keys, the roster and the configurations of a new cluster into ``settings.folder``."""
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    root = Ed25519Sealer(secrets.token_bytes(KEY_BYTES))
    operator_seed = secrets.token_bytes(KEY_BYTES)
    operator = Ed25519Sealer(operator_seed)
    cluster = ClusterId(secrets.token_bytes(16).hex())
    members = [Member(node_id_of(operator.public_key), operator.public_key, (Role.OPERATOR,), ZONE, b"")]
    nodes = []
    for index in range(settings.nodes):
        zone = settings.zones[index] if index < len(settings.zones) else ZONE
        member, node = _make_node(folder / f"node-{index + 1}", zone)
        members.append(member)
        nodes.append(node)
    roster = Roster(cluster, 1, now_unix_s + ROSTER_LIFE_S, (root.public_key,), 1, tuple(members))
    (folder / "roster.bin").write_bytes(sign_roster(roster, [root]))
    lab = Lab(settings, cluster, new_key(), tuple(nodes))
    for index, node in enumerate(nodes):
        node.config.write_text(_agent_toml(lab, root.public_key, settings.api_port if index == 0 else 0))
    write_private(folder / "operator.key", operator_seed)
    lab.operator_config.write_text(_operator_toml(lab, root.public_key))
    return lab


def _make_node(folder: Path, zone: str) -> tuple[Member, LabNode]:
    folder.mkdir(mode=0o700)
    seed = secrets.token_bytes(KEY_BYTES)
    public = Ed25519Sealer(seed).public_key
    node = node_id_of(public)
    certificate = make_node_certificate(node)
    write_private(folder / "node.key", seed)
    write_private(folder / "data.key", certificate.key_pem)
    (folder / "data.crt").write_bytes(certificate.certificate_pem)
    return Member(node, public, (Role.AGENT,), zone, certificate.certificate_der), LabNode(node, folder)


def _common_toml(lab: Lab, root_key: bytes) -> str:
    brokers = "".join(f"\n[[brokers]]\nurl = {json.dumps(url)}\n" for url in lab.settings.broker_urls)
    return f"""
[cluster]
roster_file = {json.dumps(str(lab.settings.folder / "roster.bin"))}
root_keys = ["{root_key.hex()}"]
{brokers}
[models]
store_dir = {json.dumps(str(lab.settings.store))}
"""


def _agent_toml(lab: Lab, root_key: bytes, api_port: int) -> str:
    settings = lab.settings
    bounds = ""
    if settings.memory_bytes is not None:
        bounds += f"memory_bytes_max = {settings.memory_bytes}\n"
    if settings.kv_bytes is not None:
        bounds += f"kv_bytes_max = {settings.kv_bytes}\n"
    return f"""{_common_toml(lab, root_key)}
[node]
state_dir = "state"
key_file = "node.key"

[data]
host = "127.0.0.1"
port = 0
certificate_file = "data.crt"
key_file = "data.key"

[api]
host = "127.0.0.1"
port = {api_port}
key_hashes = ["{hash_key(lab.api_key)}"]

[engine]
threads = {settings.threads}
{bounds}
[log]
level = "{settings.log_level}"
"""


def _operator_toml(lab: Lab, root_key: bytes) -> str:
    return f"""{_common_toml(lab, root_key)}
[operator]
state_dir = "operator-state"
key_file = "operator.key"
"""


async def start_agent(node: LabNode, cores: Sequence[int] = ()) -> Running:
    """Start one agent, on ``cores`` only if any are given."""
    log = node.log.open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shoal_agent",
        "run",
        "--config",
        str(node.config),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    return Running(node, process, log)


async def stop_agents(running: Sequence[Running]) -> None:
    """Stop the agents that are still there: politely, then not."""
    for agent in running:
        if agent.process.returncode is None:
            agent.process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await asyncio.gather(*(agent.process.wait() for agent in running))
    except TimeoutError:
        for agent in running:
            if agent.process.returncode is None:
                agent.process.kill()
                await agent.process.wait()
    finally:
        for agent in running:
            agent.log.close()


def refuse_dead(running: Sequence[Running]) -> None:
    """Raise Failed if an agent ended by itself, with the last lines of its log."""
    for agent in running:
        code = agent.process.returncode
        if code is not None:
            tail = agent.node.log.read_text(errors="replace").splitlines()[-8:]
            raise FailedError(
                f"agent {agent.node.node[:8]} ended with code {code}:\n" + "\n".join(tail), f"read {agent.node.log}"
            )
