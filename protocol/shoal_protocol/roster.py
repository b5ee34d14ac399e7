"""The roster: who belongs to the cluster, with which key, in which role. The only source of authority.

A roster is signed by root keys that live offline, ``root_threshold`` of ``root_keys``. The rules are those of TUF:

- the first roster must be signed by a threshold of the keys **pinned** in the node's configuration, and by a
  threshold of its own root keys;
- after that, only version N + 1 replaces version N, signed by a threshold of N's root keys **and** of its own: so
  root keys can be rotated, and a lost minority of them changes nothing;
- a key counts once, however many signatures it gave; an unknown key or a broken signature neither counts nor harms;
- an expired roster is not accepted: whoever withholds newer ones (a freeze) is noticed at the latest then.

``TrustedRoster`` has no constructor that takes a roster: it can only come from bytes that passed all of this, and the
body is not even decoded before a threshold of keys we already trusted has signed it.

Wire: ``[body, [[root key, signature], ...]]``, signed over PAE("application/vnd.shoal.roster.v1+msgpack", body).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self, cast

from shoal_protocol.errors import (
    BadSignature,
    LocalProtocolError,
    MalformedMessage,
    OversizedMessage,
    StaleMessage,
    WrongCluster,
)
from shoal_protocol.fields import decode, encode, record
from shoal_protocol.ids import ClusterId, NodeId, node_id_of
from shoal_protocol.limits import ROOT_KEYS_MAX, ROSTER_BYTES_MAX, SENDERS_MAX
from shoal_protocol.sealing import Sealer, pae, verify

ROSTER_TYPE: Final = "application/vnd.shoal.roster.v1+msgpack"


class Role(IntEnum):
    """What a member may do."""

    AGENT = 1
    """Hosts blocks and serves requests."""
    WITNESS = 2
    """Votes, hosts nothing."""
    OPERATOR = 3
    """Announces genesis plans."""
    OBSERVER = 4
    """Listens."""


@dataclass(frozen=True, slots=True)
class Member:
    """One key and what it stands for.

    ``node`` is the id of ``public_key`` (Ed25519, 32 bytes); ``certificate`` the DER of its data-plane certificate,
    empty where there is no data plane (operators); ``zone`` the trust zone its operator put it into.
    """

    node: NodeId
    public_key: bytes
    roles: tuple[Role, ...]
    zone: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Roster:
    """The body that root keys sign."""

    cluster: ClusterId
    version: int
    expires_unix_s: int
    root_keys: tuple[bytes, ...]
    root_threshold: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class RootSignature:
    """One root key's word on a roster body."""

    public_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """What travels and is stored: the exact signed bytes, and who signed them."""

    roster: bytes
    signatures: tuple[RootSignature, ...]


_ROSTER: Final = record(Roster, signed=True)
_SIGNED: Final = record(SignedRoster, signed=True)


def sign_roster(roster: Roster, sealers: Iterable[Sealer]) -> bytes:
    """``roster`` signed by every one of ``sealers``, as it travels; LocalProtocolError if it is not well formed.

    Whether the signatures reach a threshold is for whoever opens it: roots may sign one after the other.
    """
    try:
        _check_roster(roster)
    except MalformedMessage as error:
        raise LocalProtocolError(f"unfit to sign: {error}") from error
    body = encode(_ROSTER, roster)
    message = pae(ROSTER_TYPE, body)
    signatures = tuple(RootSignature(sealer.public_key, sealer.sign(message)) for sealer in sealers)
    return encode(_SIGNED, SignedRoster(body, signatures))


class TrustedRoster:
    """A roster that was verified; made by :meth:`open` and :meth:`update`, immutable."""

    __slots__ = ("_agent_count", "_members", "_roster", "_wire")

    def __init__(self, wire: bytes, root_keys: Sequence[bytes], root_threshold: int, now_unix_s: int) -> None:
        """Verifies; see :meth:`open` for what is asked of the arguments and what is raised."""
        signed = _open_wire(wire)
        _require_threshold(signed, root_keys, root_threshold)
        roster = cast("Roster", decode(_ROSTER, signed.roster, items_max=SENDERS_MAX))
        _check_roster(roster)
        _require_threshold(signed, roster.root_keys, roster.root_threshold)
        if now_unix_s >= roster.expires_unix_s:
            raise StaleMessage(f"roster {roster.version} expired {now_unix_s - roster.expires_unix_s} s ago")
        self._wire = wire
        self._roster = roster
        self._members = {member.node: member for member in roster.members}
        self._agent_count = sum(Role.AGENT in member.roles for member in roster.members)

    @classmethod
    def open(cls, wire: bytes, pinned_root_keys: Sequence[bytes], pinned_threshold: int, now_unix_s: int) -> Self:
        """The roster in ``wire`` if ``pinned_threshold`` of the pinned keys signed it, and a threshold of its own.

        BadSignature, StaleMessage (expired), OversizedMessage or MalformedMessage otherwise.
        """
        return cls(wire, pinned_root_keys, pinned_threshold, now_unix_s)

    def update(self, wire: bytes, now_unix_s: int) -> Self:
        """The next roster, trusted because this one is; this one stays as it is.

        Raises as :meth:`open` does, and WrongCluster, and StaleMessage unless it is exactly the next version.
        """
        after = type(self)(wire, self._roster.root_keys, self._roster.root_threshold, now_unix_s)
        if after.cluster != self.cluster:
            raise WrongCluster(f"roster of cluster {after.cluster}")
        if after.version != self.version + 1:
            raise StaleMessage(f"roster {after.version} does not follow {self.version}")
        return after

    @property
    def wire(self) -> bytes:
        """The signed bytes, to be kept and passed on as they are."""
        return self._wire

    @property
    def roster(self) -> Roster:
        """The verified body: what the next version is made from."""
        return self._roster

    @property
    def cluster(self) -> ClusterId:
        """Whose roster this is."""
        return self._roster.cluster

    @property
    def version(self) -> int:
        """Grows by one with every change."""
        return self._roster.version

    @property
    def expires_unix_s(self) -> int:
        """When it is no longer accepted, in seconds of Unix time."""
        return self._roster.expires_unix_s

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody, in the roster's order."""
        return self._roster.members

    @property
    def agent_count(self) -> int:
        """How many members are agents; the number of shards follows from it."""
        return self._agent_count

    def member(self, node: NodeId) -> Member | None:
        """Who ``node`` is, or None if nobody we know."""
        return self._members.get(node)


def _open_wire(wire: bytes) -> SignedRoster:
    if len(wire) > ROSTER_BYTES_MAX:
        raise OversizedMessage(f"roster of {len(wire)} bytes, at most {ROSTER_BYTES_MAX}")
    return cast("SignedRoster", decode(_SIGNED, wire))


def _require_threshold(signed: SignedRoster, root_keys: Sequence[bytes], threshold: int) -> None:
    """BadSignature unless ``threshold`` different ones of ``root_keys`` signed the body."""
    if not 1 <= threshold <= len(set(root_keys)):
        raise LocalProtocolError(f"a threshold of {threshold} with {len(set(root_keys))} root keys")
    message = pae(ROSTER_TYPE, signed.roster)
    valid: set[bytes] = set()
    for entry in signed.signatures:
        if entry.public_key in root_keys and _is_valid(entry, message):
            valid.add(entry.public_key)
    if len(valid) < threshold:
        raise BadSignature(f"{len(valid)} of the root keys signed, {threshold} must")


def _is_valid(entry: RootSignature, message: bytes) -> bool:
    """A broken signature does not count; it must not keep the others from counting."""
    try:
        verify(entry.public_key, message, entry.signature)
    except BadSignature:
        return False
    return True


def _check_roster(roster: Roster) -> None:
    """What types cannot say; MalformedMessage."""
    if not 1 <= len(roster.root_keys) <= ROOT_KEYS_MAX or len(set(roster.root_keys)) != len(roster.root_keys):
        raise MalformedMessage(f"{len(roster.root_keys)} root keys: 1..{ROOT_KEYS_MAX}, all different")
    if not 1 <= roster.root_threshold <= len(roster.root_keys):
        raise MalformedMessage(f"threshold {roster.root_threshold} of {len(roster.root_keys)} root keys")
    nodes = {member.node for member in roster.members}
    if len(nodes) != len(roster.members):
        raise MalformedMessage("a node is listed twice")
    certificates = [member.certificate for member in roster.members if member.certificate]
    if len(set(certificates)) != len(certificates):
        raise MalformedMessage("two members share a data-plane certificate")
    for member in roster.members:
        if member.node != node_id_of(member.public_key):
            raise MalformedMessage(f"{member.node} is not the id of its key")
        if not member.roles or list(member.roles) != sorted(set(member.roles)):
            raise MalformedMessage(f"{member.node}: roles must be given, ascending and once each")
