"""``shoal keygen`` and ``shoal api-key``: every secret is made where it is used and leaves that place never.

``keygen`` writes into one folder what an agent's configuration names (``node.key``, ``data.key``, ``data.crt``) and the
one file that may travel, ``enrol.json``, which an operator admits with ``shoal roster admit``.
"""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.errors import ConfigError
from shoal_agent.shell.api.auth import hash_key, new_key
from shoal_agent.shell.certificates import make_node_certificate
from shoal_agent.shell.enrolment import read_enrolment, write_enrolment
from shoal_agent.shell.files import write_private, write_public
from shoal_protocol.ids import node_id_of
from shoal_protocol.sealing import SEED_BYTES, Ed25519Sealer


def keygen(
    out: Annotated[Path, typer.Option("--out", help="A folder; made if it is not there. Keys are never overwritten.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make the keys of a new node, and its enrolment.

    Compare the fingerprint with the operator by telephone or in person before the node is admitted.

    Example: shoal keygen --out /etc/shoal
    """
    files = {name: out / name for name in ("node.key", "data.key", "data.crt", "enrol.json")}
    present = [str(path) for path in files.values() if path.exists()]
    if present:
        raise ConfigError(f"there already: {', '.join(present)}", "name another folder; a new key is a new node")
    seed = secrets.token_bytes(SEED_BYTES)
    sealer = Ed25519Sealer(seed)
    node = node_id_of(sealer.public_key)
    certificate = make_node_certificate(node)
    enrolment = write_enrolment(sealer, certificate.certificate_der)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_private(files["node.key"], seed)
        certificate.write(files["data.crt"], files["data.key"])
        write_public(files["enrol.json"], enrolment.encode())
    except OSError as fault:
        raise ConfigError(f"cannot write into {out}: {fault.strerror or fault}", "name another folder") from fault
    fingerprint = read_enrolment(enrolment).fingerprint
    if as_json:
        print_json({"node": node, "fingerprint": fingerprint, "files": {k: str(v) for k, v in files.items()}})
        return
    print(f"node         {node}\nfingerprint  {fingerprint}\nenrolment    {files['enrol.json']}")
    print("next: give enrol.json to the operator, who runs: shoal roster admit CLUSTER_FOLDER enrol.json")


def api_key(*, as_json: AsJson = False) -> None:
    """Make a key for the API, and the hash the agents keep of it.

    The key is shown once and kept nowhere: give it to the application. The hash goes into api.key_hashes, or into
    the file of api.key_hash_file.

    Example: shoal api-key --json
    """
    key = new_key()
    if as_json:
        print_json({"key": key, "hash": hash_key(key)})
        return
    print(f"key   {key}\nhash  {hash_key(key)}")
