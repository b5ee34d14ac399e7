"""``shoal roster``: who belongs to a cluster. Everything here happens on the operator's machine, in one folder.

::

    root-1.key ...       the keys that sign the roster; take them offline when the fleet is complete
    operator.key         announces deployments
    broker-ca.key .crt   vouches for brokers and for those who connect to them; proves nothing inside a message
    roster.bin           the signed roster: every agent needs a copy
    cluster.toml         the [cluster] section for every configuration

Every change is a new version, one higher than the last, signed by the same roots: agents accept nothing else.
"""

import re
import secrets
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.config import ClusterSection
from shoal_agent.config_values import HASH, NAME
from shoal_agent.errors import ConfigError, DeniedError
from shoal_agent.shell.certificates import Credentials, Purpose, issue, make_ca
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.enrolment import read_enrolment
from shoal_agent.shell.files import write_private, write_public
from shoal_agent.shell.identity import open_roster, open_sealer
from shoal_protocol.errors import BadSignature, MalformedMessage, ProtocolError
from shoal_protocol.ids import CLUSTER_ID_BYTES, ClusterId, node_id_of, parse_node_id
from shoal_protocol.limits import ROOT_KEYS_MAX
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import SEED_BYTES, Ed25519Sealer

DAY_S: Final = 24 * 3600
LIFE_DAYS: Final = 365
"""An expiry is freeze protection: whoever withholds newer rosters is noticed after a year at the latest."""
HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}")
"""A name or an address; it becomes a file's name, too."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Argument(help="The cluster's folder on the operator's machine.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How long the new roster is accepted.")]


@app.command()
def init(
    folder: Folder,
    *,
    roots: Annotated[int, typer.Option(min=1, max=ROOT_KEYS_MAX, help="Root keys to make.")] = 1,
    threshold: Annotated[int, typer.Option(min=1, help="How many of them must sign.")] = 1,
    days: Days = LIFE_DAYS,
    as_json: AsJson = False,
) -> None:
    """Found a cluster: root keys, operator key, broker authority, and a roster of one.

    Example: shoal roster init cluster --roots 3 --threshold 2
    """
    if threshold > roots:
        raise ConfigError(f"{threshold} signatures can never come from {roots} root keys", f"--roots {threshold}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", "name a new folder; a cluster's keys are never overwritten")
    seeds = [secrets.token_bytes(SEED_BYTES) for _ in range(roots)]
    sealers = [Ed25519Sealer(seed) for seed in seeds]
    operator_seed = secrets.token_bytes(SEED_BYTES)
    operator = Ed25519Sealer(operator_seed).public_key
    cluster = ClusterId(secrets.token_hex(CLUSTER_ID_BYTES))
    members = (Member(node_id_of(operator), operator, (Role.OPERATOR,), "default", b""),)
    keys = tuple(sealer.public_key for sealer in sealers)
    wire = sign_roster(Roster(cluster, 1, unix_s() + days * DAY_S, keys, threshold, members), sealers)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number, seed in enumerate(seeds, 1):
        write_private(folder / f"root-{number}.key", seed)
    write_private(folder / "operator.key", operator_seed)
    make_ca(f"shoal brokers {cluster[:8]}").write(folder / "broker-ca.crt", folder / "broker-ca.key")
    hexes = [key.hex() for key in keys]
    listed = ", ".join(f'"{key}"' for key in hexes)
    section = f'[cluster]\nroster_file = "roster.bin"\nroot_keys = [{listed}]\nroot_threshold = {threshold}\n'
    write_public(folder / "cluster.toml", section.encode())
    write_public(folder / "roster.bin", wire)
    told = {"cluster": cluster, "root_keys": hexes, "root_threshold": threshold, "operator": node_id_of(operator)}
    _report(
        told,
        f"cluster   {cluster}\noperator  {told['operator']}\nnext: shoal roster admit {folder} enrol.json",
        as_json,
    )


@app.command()
def admit(
    folder: Folder,
    enrolments: Annotated[list[Path], typer.Argument(help="enrol.json files that `shoal keygen` wrote.")],
    *,
    zone: Annotated[str, typer.Option(help="The trust zone the nodes stand in.")] = "default",
    role: Annotated[str, typer.Option(help="agent, witness, operator or observer.")] = "agent",
    days: Days = LIFE_DAYS,
    as_json: AsJson = False,
) -> None:
    """Add nodes, and sign the next version of the roster.

    Compare the fingerprints printed here with those that `shoal keygen` printed on the devices.

    Example: shoal roster admit cluster kitchen/enrol.json garage/enrol.json --zone home
    """
    if not NAME.fullmatch(zone):
        raise ConfigError(f"{zone!r} is no zone: a-z 0-9 . _ -, at most 64", "--zone home")
    if role.upper() not in Role.__members__:
        raise ConfigError(f"there is no role {role!r}", "--role agent, witness, operator or observer")
    added, fingerprints = [], {}
    for file in enrolments:
        try:
            enrolment = read_enrolment(file.read_text(encoding="utf-8"))
        except (MalformedMessage, BadSignature, OSError, UnicodeDecodeError) as fault:
            raise ConfigError(f"{file}: {fault}", "copy enrol.json from the node again") from fault
        certificate = enrolment.certificate if role == "agent" else b""
        added.append(Member(enrolment.node, enrolment.public_key, (Role[role.upper()],), zone, certificate))
        fingerprints[enrolment.node] = enrolment.fingerprint
    new = {member.node for member in added}

    def change(roster: Roster) -> Roster:
        kept = tuple(member for member in roster.members if member.node not in new)
        return replace(roster, members=(*kept, *added))

    after = _next_version(folder, change, days)
    lines = "\n".join(f"{node}  {fingerprint}" for node, fingerprint in fingerprints.items())
    told = {"version": after.version, "admitted": fingerprints}
    _report(told, f"{lines}\nroster {after.version} signed; copy {folder / 'roster.bin'} to every node", as_json)


@app.command()
def remove(
    folder: Folder,
    nodes: Annotated[list[str], typer.Argument(help="Ids of the nodes.")],
    *,
    days: Days = LIFE_DAYS,
    as_json: AsJson = False,
) -> None:
    """Revoke nodes: sign the next version of the roster without them.

    Example: shoal roster remove cluster abcdefghijklmnopqrstuvwxyz234567
    """

    def change(roster: Roster) -> Roster:
        absent = set(nodes) - {member.node for member in roster.members}
        if absent:
            raise ConfigError(f"not in the roster: {', '.join(sorted(absent))}", f"shoal roster show {folder}")
        return replace(roster, members=tuple(member for member in roster.members if member.node not in nodes))

    after = _next_version(folder, change, days)
    told = {"version": after.version, "removed": sorted(nodes)}
    _report(told, f"roster {after.version} signed; copy {folder / 'roster.bin'} to every node", as_json)


@app.command()
def renew(folder: Folder, *, days: Days = LIFE_DAYS, as_json: AsJson = False) -> None:
    """Sign the next version of the roster with a later expiry and nothing else changed.

    Example: shoal roster renew cluster --days 90
    """
    after = _next_version(folder, lambda roster: roster, days)
    _report(_describe(after), f"roster {after.version} signed; copy {folder / 'roster.bin'} to every node", as_json)


@app.command()
def show(folder: Folder, *, as_json: AsJson = False) -> None:
    """Show the members of the roster in a cluster's folder.

    Example: shoal roster show cluster
    """
    _show(_open(folder, unix_s()), as_json)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A roster.bin.")],
    root_keys: Annotated[list[str], typer.Option("--root-key", help="A root key that is trusted, in hexadecimal.")],
    *,
    threshold: Annotated[int, typer.Option(min=1, help="How many of them must have signed.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Verify a roster as an agent would, and show its members.

    Example: shoal roster verify roster.bin --root-key 3b6a27bc...
    """
    if any(not HASH.fullmatch(key) for key in root_keys):
        raise ConfigError("a root key is 64 hexadecimal characters, lower case", "cluster.toml holds them")
    if threshold > len(set(root_keys)):
        raise ConfigError(f"{threshold} signatures can never come from {len(set(root_keys))} root keys")
    section = ClusterSection.model_construct(roster_file=file, root_keys=tuple(root_keys), root_threshold=threshold)
    _show(open_roster(section), as_json)


@app.command("broker-cert")
def broker_cert(
    folder: Folder,
    *,
    host: Annotated[list[str], typer.Option(help="A name or address by which agents call the broker.")],
    as_json: AsJson = False,
) -> None:
    """Issue a certificate to a broker: HOST.crt and HOST.key in the cluster's folder.

    Example: shoal roster broker-cert cluster --host broker-a.example.net --host 192.168.1.5
    """
    strange = [name for name in host if not HOST.fullmatch(name)]
    if strange:
        raise ConfigError(f"no host name or address: {', '.join(strange)}", "--host broker-a.example.net")
    _issue(folder, host[0], host, Purpose.SERVER, as_json)


@app.command("client-cert")
def client_cert(
    folder: Folder,
    node: Annotated[str, typer.Argument(help="The id of a node or an operator; becomes its user name on the broker.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Issue a certificate with which a node or an operator connects to the brokers.

    Example: shoal roster client-cert cluster abcdefghijklmnopqrstuvwxyz234567
    """
    try:
        name = parse_node_id(node)
    except MalformedMessage as fault:
        raise ConfigError(str(fault), f"shoal roster show {folder}") from fault
    _issue(folder, name, [], Purpose.CLIENT, as_json)


def _pins(folder: Path) -> tuple[list[bytes], int]:
    """The root keys that cluster.toml pins, and how many must sign."""
    try:
        section = tomllib.loads((folder / "cluster.toml").read_text(encoding="utf-8"))["cluster"]
        return [bytes.fromhex(key) for key in section["root_keys"]], int(section["root_threshold"])
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ConfigError(f"{folder} is no cluster's folder: {fault}", f"shoal roster init {folder}") from fault


def _open(folder: Path, now_unix_s: int) -> TrustedRoster:
    """The roster of ``folder``, verified as of ``now_unix_s``."""
    keys, threshold = _pins(folder)
    try:
        return TrustedRoster.open((folder / "roster.bin").read_bytes(), keys, threshold, now_unix_s)
    except OSError as fault:
        raise ConfigError(f"{folder / 'roster.bin'}: {fault.strerror or fault}") from fault
    except ProtocolError as fault:
        raise DeniedError(f"{folder / 'roster.bin'}: {fault}", f"shoal roster renew {folder}") from fault


def _next_version(folder: Path, change: Callable[[Roster], Roster], days: int) -> TrustedRoster:
    """Sign what ``change`` makes of the roster with every root key that is here; an expired one may be renewed."""
    before = _open(folder, now_unix_s=0)
    roster = replace(change(before.roster), version=before.version + 1, expires_unix_s=unix_s() + days * DAY_S)
    files = sorted(folder.glob("root-*.key"))
    try:
        wire = sign_roster(roster, [open_sealer(file) for file in files])
        after = before.update(wire, unix_s())
    except BadSignature as fault:
        hint = "bring the root keys back into the folder, only for the time of signing"
        raise DeniedError(f"{len(files)} root keys are in {folder}: {fault}", hint) from fault
    except ProtocolError as fault:
        raise ConfigError(f"no roster can be made of this: {fault}") from fault
    write_public(folder / "roster.bin", wire)
    return after


def _issue(folder: Path, name: str, addresses: list[str], purpose: Purpose, as_json: bool) -> None:
    """Sign a certificate with the folder's authority, and write it there."""
    files = {"certificate": folder / f"{name}.crt", "key": folder / f"{name}.key"}
    if files["key"].exists():
        raise ConfigError(f"{files['key']} is there already", "move it away to make a new one")
    try:
        authority = Credentials((folder / "broker-ca.key").read_bytes(), (folder / "broker-ca.crt").read_bytes())
    except OSError as fault:
        raise ConfigError(f"{folder} has no broker authority: {fault}", f"shoal roster init {folder}") from fault
    issue(authority, name, addresses, purpose).write(files["certificate"], files["key"])
    told = {kind: str(path) for kind, path in files.items()} | {"ca": str(folder / "broker-ca.crt")}
    _report(told, "\n".join(f"{kind:<12} {path}" for kind, path in told.items()), as_json)


def _describe(roster: TrustedRoster) -> dict[str, Any]:
    return {
        "cluster": roster.cluster,
        "version": roster.version,
        "expires_unix_s": roster.expires_unix_s,
        "root_keys": [key.hex() for key in roster.roster.root_keys],
        "root_threshold": roster.roster.root_threshold,
        "members": [
            {"node": member.node, "roles": [role.name.lower() for role in member.roles], "zone": member.zone}
            for member in roster.members
        ],
    }


def _show(roster: TrustedRoster, as_json: bool) -> None:
    told = _describe(roster)
    days = (roster.expires_unix_s - unix_s()) // DAY_S
    lines = [f"cluster {told['cluster']}, version {told['version']}, expires in {days} days"]
    lines.append(f"signed by {told['root_threshold']} of: {', '.join(told['root_keys'])}")
    lines += [f"{each['node']}  {', '.join(each['roles'])}  zone {each['zone']}" for each in told["members"]]
    _report(told, "\n".join(lines), as_json)


def _report(told: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        print(text)
