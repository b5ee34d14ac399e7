"""Who we are and whom we trust, from files: a node key and a roster.

Both are read once, at start, and whatever is wrong with them is said in the operator's words.
"""

from pathlib import Path

from shoal_agent.config import ClusterSection
from shoal_agent.errors import ConfigError, DeniedError
from shoal_agent.shell.clock import unix_s
from shoal_protocol.errors import BadSignature, ProtocolError, StaleMessage
from shoal_protocol.ids import node_id_of
from shoal_protocol.limits import ROSTER_BYTES_MAX
from shoal_protocol.roster import Member, Role, TrustedRoster
from shoal_protocol.sealing import SEED_BYTES, Ed25519Sealer, Sealer


def open_sealer(key_file: Path) -> Ed25519Sealer:
    """What signs with the key in ``key_file``; ConfigError if it holds none."""
    seed = _read(key_file, SEED_BYTES)
    if len(seed) != SEED_BYTES:
        raise ConfigError(f"{key_file} is no node key: {SEED_BYTES} bytes are needed", "make one: shoal keygen")
    return Ed25519Sealer(seed)


def open_roster(section: ClusterSection) -> TrustedRoster:
    """The roster in the file of ``section`` if its root keys signed it; ConfigError or DeniedError."""
    file = section.roster_file
    wire = _read(file, ROSTER_BYTES_MAX)
    root_keys = [bytes.fromhex(key) for key in section.root_keys]
    try:
        return TrustedRoster.open(wire, root_keys, section.root_threshold, unix_s())
    except StaleMessage as fault:
        raise DeniedError(f"{file}: {fault}", "the operator signs a new one: shoal roster renew") from fault
    except BadSignature as fault:
        hint = "compare cluster.root_keys with what `shoal roster show` prints"
        raise DeniedError(f"{file} is not signed by the roots of this configuration: {fault}", hint) from fault
    except ProtocolError as fault:
        raise ConfigError(f"{file} is no roster: {fault}", "copy roster.bin again") from fault


def member_in(roster: TrustedRoster, sealer: Sealer, role: Role) -> Member:
    """Who ``sealer`` signs for; DeniedError unless the roster gives it ``role``."""
    node = node_id_of(sealer.public_key)
    member = roster.member(node)
    if member is None:
        hint = "the operator admits it: shoal roster admit; then copy the new roster.bin here"
        raise DeniedError(f"{node} is not in roster {roster.version}", hint)
    if role not in member.roles:
        roles = ", ".join(each.name.lower() for each in member.roles)
        raise DeniedError(f"{node} is {roles} in roster {roster.version}, not {role.name.lower()}")
    return member


def _read(file: Path, bytes_max: int) -> bytes:
    """The bytes of ``file``, one more than ``bytes_max`` at most."""
    try:
        with file.open("rb") as stream:
            return stream.read(bytes_max + 1)
    except OSError as fault:
        raise ConfigError(f"{file}: {fault.strerror or fault}") from fault
