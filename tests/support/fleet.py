"""A fleet as an operator makes one: the real commands, and a folder for each machine with its own keys and files.

Unlike ``shell.lab``, which ``shoal demo`` uses, nothing is shared here: each machine's folder holds what
deploy/README.md says to copy to it, and its configuration is deploy/agent.example.toml, filled in.
"""

import contextlib
import io
import json
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shoal_agent.cli.main import main
from shoal_protocol.ids import NodeId
from tests.support.house import ROOT
from tests.support.ports import fixed_port


def command(*arguments: str | Path) -> dict[str, Any]:
    """Run one ``shoal`` command with ``--json`` in this process; its object, or an assertion that shows the error."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([*map(str, arguments), "--json"])
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"shoal {' '.join(map(str, arguments))}: {err.getvalue()}")
    answer = json.loads(out.getvalue())
    assert isinstance(answer, dict)
    return answer


@dataclass(frozen=True)
class Machine:
    """One device: ``folder`` is its /etc/shoal, with the state directory inside."""

    node: NodeId
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def api(self) -> str:
        """Where its API will be, as its configuration says."""
        return f"http://127.0.0.1:{tomllib.loads(self.config.read_text())['api']['port']}"


@dataclass(frozen=True)
class Fleet:
    """An operator's folder and the machines it admitted. ``api_key`` opens the API of all of them."""

    cluster: Path
    operator: NodeId
    machines: tuple[Machine, ...]
    api_key: str

    @property
    def operator_config(self) -> Path:
        return self.cluster / "operator.toml"


def found(folder: Path, machines: int) -> Fleet:
    """Keys where they are used, a roster with everybody in it, and certificates for the brokers' door."""
    cluster = folder / "operator"
    operator = NodeId(command("roster", "init", cluster)["operator"])
    command("roster", "broker-cert", cluster, "--host", "127.0.0.1", "--host", "localhost")
    command("roster", "client-cert", cluster, operator)
    made = []
    for index in range(machines):
        home = folder / f"machine-{index + 1}"
        made.append(Machine(NodeId(command("keygen", "--out", home)["node"]), home))
        command("roster", "client-cert", cluster, made[-1].node)
    if made:
        command("roster", "admit", cluster, *(machine.folder / "enrol.json" for machine in made))
    key = command("api-key")
    for machine in made:
        for source, name in (
            (cluster / "roster.bin", "roster.bin"),
            (cluster / "broker-ca.crt", "broker-ca.crt"),
            (cluster / f"{machine.node}.crt", "broker-client.crt"),
            (cluster / f"{machine.node}.key", "broker-client.key"),
        ):
            shutil.copy(source, machine.folder / name)
        (machine.folder / "api-keys.txt").write_text(f"{key['hash']}\n")
    return Fleet(cluster, operator, tuple(made), key["key"])


def configure(fleet: Fleet, broker_urls: Sequence[str], store: Path) -> None:
    """Write every machine's agent.toml and the operator's file from the examples in deploy/."""
    section = (fleet.cluster / "cluster.toml").read_text()
    root_keys = re.findall(r"^root_keys = .*$", section, flags=re.MULTILINE)[0]
    for machine in fleet.machines:
        text = (ROOT / "deploy" / "agent.example.toml").read_text()
        # As systemd would: credentials are files in one directory, here the machine's own folder.
        text = text.replace('# key_file = "credential:node.key"', 'key_file = "node.key"').replace('"credential:', '"')
        changes = {
            "name": machine.folder.name,
            "state_dir": "state",
            "store_dir": str(store),
            "advertise_host": "127.0.0.1",
        }
        text = (
            fill(text, changes).replace("# port = 7600", "port = 0").replace("# port = 8600", f"port = {fixed_port()}")
        )
        text = text.replace("# threads = 0", "threads = 1")
        machine.config.write_text(_with_cluster(text, root_keys, broker_urls, "broker-client"))
    operator = fill((ROOT / "deploy" / "operator.example.toml").read_text(), {"store_dir": str(store)})
    fleet.operator_config.write_text(_with_cluster(operator, root_keys, broker_urls, fleet.operator))


def fill(text: str, changes: Mapping[str, str]) -> str:
    """``text`` with the first line ``name = "..."`` of each name given another value."""
    for name, value in changes.items():
        text, count = re.subn(rf'^{name} = ".*"$', f"{name} = {json.dumps(value)}", text, count=1, flags=re.MULTILINE)
        assert count == 1, f"{name} does not stand in the example"
    return text


def _with_cluster(text: str, root_keys: str, broker_urls: Sequence[str], client: str) -> str:
    """The cluster's root keys, and one [[brokers]] table per broker in place of the example's."""
    text, count = re.subn(r"^root_keys = .*$", root_keys, text, flags=re.MULTILINE)
    assert count == 1
    text = re.sub(r"^\[\[brokers\]\]\n(?:.+\n)+", "", text, flags=re.MULTILINE)
    tables = "".join(
        f'\n[[brokers]]\nurl = "{url}"\nca_file = "broker-ca.crt"\n'
        f'certificate_file = "{client}.crt"\nkey_file = "{client}.key"\n'
        for url in broker_urls
    )
    return text + tables
