"""What every node says of itself, newest words only, sealed: the state that gossip brings to agreement with itself.

A record is an envelope of its owner, kept verbatim so that anybody can pass it on and nobody can alter it. It fills a
**slot** of its owner, (kind, deployment): its capacity record, its phase in one deployment. A record's place in its
owner's order is its **stamp** (incarnation, sequence). Two tables merge by

    a later life of an owner replaces an earlier one as a whole
    within one life, the higher sequence fills the slot
    of one owner, the RECORD_SLOTS_MAX highest sequences stay
    of two words with one stamp, the greater bytes stay, and both together prove that their owner lies

Each line is a maximum in a total order, so the merge is a join of a semilattice: associative, commutative,
idempotent. Whatever was lost, doubled or reordered on the way, tables that have heard the same words are equal
(Shapiro et al., Conflict-free replicated data types, 2011; van Renesse et al., Efficient reconciliation and flow
control for anti-entropy protocols, 2008, "scuttlebutt").

**The digest is a stamp for every slot**, not, as in scuttlebutt, the highest of each owner. There a node learns of an
owner only in sequence order, so the highest says it all; here brokers carry each record by itself, and a node that
lost a phase and heard the record after it would claim to have both, for ever. The price is one stamp, 30 bytes, for
each phase. A record that is missing from a digest may still be superseded by one that is in it; then it is sent in
vain once. What exceeds a message is cut anywhere and follows in the next round.

**The root** is BLAKE2b-128 of the sorted stamps of the own share of the nodes and of the chains' heads: equal roots
mean nothing to exchange. It is computed when it is asked for after a change, 50 stamps in 20 us.

**Departed** nodes: their records are offered for half of ``DEPARTED_S`` and remembered for all of it, so that when
the first node forgets them nobody offers them any more, and they do not come back by turns (Cassandra and chitchat do
the same).
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.limits import (
    DELTA_BYTES_MAX,
    DELTAS_MAX,
    LIST_ITEMS_MAX,
    RECORD_BYTES_MAX,
    RECORD_SLOTS_MAX,
    RECORDS_BYTES_MAX,
    ROOT_BYTES,
)
from shoal_protocol.messages import Head, NodeState, PhaseReported, Stamp
from shoal_protocol.replay import Slot, slot_of

RECORD_KINDS: Final = (NodeState, PhaseReported)
"""What a node says of itself and means until it says otherwise."""
DEPARTED_S: Final = 24 * 3600.0
"""A node that is gone for a day is not expected back; until then nobody may pass its old words off as new."""
PROOFS_MAX: Final = 64
"""Owners whose lies are kept: more than that and the roster's keys are everybody's."""


class Merge(Enum):
    """What became of a word that was heard."""

    NEWER = "newer"
    KNOWN = "known"
    OLDER = "older"
    FORKED = "forked"
    """The owner said something else under the same stamp: see ``proof``."""
    REFUSED = "refused"
    """Too large, or there is no room."""


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """One word of an owner; ordered by its place in the owner's order."""

    sequence: Sequence
    wire: bytes
    slot: Slot


@dataclass(slots=True)
class _Owner:
    """All that stands of one owner: its present life, its records in order."""

    incarnation: Incarnation
    shard: int
    records: list[Record]
    departed: Instant | None = None
    mute: bool = False
    """Long gone: remembered, but not offered any more."""


class Records:
    """The table. ``shard_of`` says in which share of the nodes an owner is, ``home`` is this node's own share."""

    def __init__(self, shard_of: Callable[[NodeId], int], home: int) -> None:
        self._shard_of = shard_of
        self.home = home
        self._owners: dict[NodeId, _Owner] = {}
        self._departed: dict[NodeId, None] = {}
        self._proofs: dict[NodeId, tuple[bytes, bytes]] = {}
        self._bytes = 0
        self._stamped: bytes | None = None
        self._root: tuple[tuple[Head, ...], bytes] | None = None

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def byte_count(self) -> int:
        """All records together."""
        return self._bytes

    # --- merging ----------------------------------------------------------------------------------------------------

    def merge(self, envelope: Envelope, wire: bytes) -> Merge:
        """Take in a verified word, ``wire`` as it travels."""
        assert isinstance(envelope.message, RECORD_KINDS), "other words are not kept"
        record = Record(envelope.sequence, wire, slot_of(envelope.message))
        return self.put(envelope.sender, envelope.incarnation, record)

    def put(self, node: NodeId, incarnation: Incarnation, record: Record) -> Merge:
        """Take in one record of ``node`` in its life ``incarnation``."""
        owner = self._owners.get(node)
        if len(record.wire) > RECORD_BYTES_MAX or self._bytes + len(record.wire) > RECORDS_BYTES_MAX:
            return Merge.REFUSED
        if owner is None:
            owner = self._owners[node] = _Owner(incarnation, self._shard_of(node), [])
        elif incarnation < owner.incarnation:
            return Merge.OLDER
        elif incarnation > owner.incarnation:
            self._clear(owner)
            owner.incarnation = incarnation
        return self._place(node, owner, record)

    def _place(self, node: NodeId, owner: _Owner, record: Record) -> Merge:
        outcome = Merge.NEWER
        standing = next((each for each in owner.records if each.slot == record.slot), None)
        if standing is not None:
            if record.sequence < standing.sequence:
                return Merge.OLDER
            if record.sequence == standing.sequence:
                if record.wire == standing.wire:
                    return Merge.KNOWN
                outcome = Merge.FORKED
                self._prove(node, standing.wire, record.wire)
                if record.wire < standing.wire:
                    return outcome
            self._drop(owner, standing)
        insort(owner.records, record)
        self._bytes += len(record.wire)
        self._touch(owner)
        self._return(node, owner)
        if len(owner.records) > RECORD_SLOTS_MAX:
            lowest = owner.records[0]
            self._drop(owner, lowest)
            return Merge.OLDER if lowest is record else outcome
        return outcome

    def _drop(self, owner: _Owner, record: Record) -> None:
        del owner.records[bisect_left(owner.records, record)]
        self._bytes -= len(record.wire)
        self._touch(owner)

    def _clear(self, owner: _Owner) -> None:
        self._bytes -= sum(len(record.wire) for record in owner.records)
        owner.records.clear()
        self._touch(owner)

    def _touch(self, owner: _Owner) -> None:
        if owner.shard == self.home:
            self._stamped = None

    def _prove(self, node: NodeId, one: bytes, other: bytes) -> None:
        if node not in self._proofs and len(self._proofs) < PROOFS_MAX:
            self._proofs[node] = (min(one, other), max(one, other))

    # --- asking -----------------------------------------------------------------------------------------------------

    def shard_of(self, node: NodeId) -> int:
        """In which share ``node`` is."""
        owner = self._owners.get(node)
        return self._shard_of(node) if owner is None else owner.shard

    def proof(self, node: NodeId) -> tuple[bytes, bytes] | None:
        """Two sealed words of ``node`` under one stamp, if it was ever caught."""
        return self._proofs.get(node)

    def place(self, node: NodeId) -> tuple[Incarnation, int]:
        """The life of ``node`` that this table knows of (-1: none), and its share."""
        owner = self._owners.get(node)
        return (Incarnation(-1), self._shard_of(node)) if owner is None else (owner.incarnation, owner.shard)

    def latest(self, node: NodeId) -> tuple[Incarnation, Record] | None:
        """The newest word of ``node`` and the life it is of."""
        owner = self._owners.get(node)
        return (owner.incarnation, owner.records[-1]) if owner is not None and owner.records else None

    def stamps(self, shard: int) -> tuple[Stamp, ...]:
        """What this table has of the nodes of ``shard``, as much as a message holds; what is cut is sent in vain."""
        offered = (
            Stamp(node, owner.incarnation, record.sequence)
            for node, owner in self._offered(shard)
            for record in owner.records
        )
        return tuple(islice(offered, LIST_ITEMS_MAX))

    def missing(
        self,
        stamps: Iterable[Stamp],
        shard: int,
        bytes_max: int = DELTA_BYTES_MAX,
        count_max: int = DELTAS_MAX,
    ) -> tuple[bytes, ...]:
        """The words of the nodes of ``shard`` that whoever has ``stamps`` lacks, as many as fit."""
        lives: dict[NodeId, Incarnation] = {}
        had: set[tuple[NodeId, Incarnation, Sequence]] = set()
        for stamp in stamps:
            lives[stamp.node] = max(lives.get(stamp.node, stamp.incarnation), stamp.incarnation)
            had.add((stamp.node, stamp.incarnation, stamp.sequence))
        wires: list[bytes] = []
        for node, owner in self._offered(shard):
            if lives.get(node, owner.incarnation) > owner.incarnation:
                continue
            for record in owner.records:
                if (node, owner.incarnation, record.sequence) in had:
                    continue
                bytes_max -= len(record.wire)
                if bytes_max < 0 or len(wires) == count_max:
                    return tuple(wires)
                wires.append(record.wire)
        return tuple(wires)

    def lacks(self, stamps: Iterable[Stamp]) -> bool:
        """Whether some of ``stamps`` is of a newer word than any this table has of its owner."""
        for stamp in stamps:
            latest = self.latest(stamp.node)
            if latest is None or (stamp.incarnation, stamp.sequence) > (latest[0], latest[1].sequence):
                return True
        return False

    def root(self, heads: tuple[Head, ...]) -> bytes:
        """The hash of everything of the own share, and of ``heads``, sorted by deployment."""
        if self._stamped is None:
            self._stamped = b"".join(
                b"%s%s%s" % (node.encode(), owner.incarnation.to_bytes(8), record.sequence.to_bytes(8))
                for node, owner in self._offered(self.home)
                for record in owner.records
            )
            self._root = None
        if self._root is None or self._root[0] != heads:
            mark = hashlib.blake2b(self._stamped, digest_size=ROOT_BYTES)
            for head in heads:
                mark.update(b"%s\0%s" % (head.deployment.encode(), head.epoch.to_bytes(8)))
            self._root = heads, mark.digest()
        return self._root[1]

    def _offered(self, shard: int) -> list[tuple[NodeId, _Owner]]:
        return sorted((node, owner) for node, owner in self._owners.items() if owner.shard == shard and not owner.mute)

    # --- forgetting -------------------------------------------------------------------------------------------------

    def departed(self, node: NodeId, now: Instant) -> None:
        """``node`` is gone, as far as anybody can tell; any newer word of its own brings it back."""
        owner = self._owners.get(node)
        if owner is not None and owner.departed is None:
            owner.departed = now
            self._departed[node] = None

    def _return(self, node: NodeId, owner: _Owner) -> None:
        if owner.departed is not None:
            owner.departed, owner.mute = None, False
            del self._departed[node]

    def sweep(self, now: Instant) -> None:
        """Stop offering, and later forget, whoever departed long ago."""
        for node in list(self._departed):
            owner = self._owners[node]
            assert owner.departed is not None, "filed as departed"
            gone_s = now - owner.departed
            if gone_s >= DEPARTED_S:
                self._forget(node, owner)
            elif gone_s >= DEPARTED_S / 2 and not owner.mute:
                owner.mute = True
                self._touch(owner)

    def keep(self, shards: Iterable[int]) -> tuple[NodeId, ...]:
        """Forget the nodes of all other shares; who they were."""
        wanted = frozenset(shards)
        gone = [(node, owner) for node, owner in self._owners.items() if owner.shard not in wanted]
        for node, owner in gone:
            self._forget(node, owner)
        return tuple(node for node, _ in gone)

    def _forget(self, node: NodeId, owner: _Owner) -> None:
        self._clear(owner)
        del self._owners[node]
        self._departed.pop(node, None)

    def check(self) -> None:
        """Assert that what is counted is there, in order, within its bounds."""
        assert self._bytes == sum(len(record.wire) for owner in self._owners.values() for record in owner.records)
        assert self._bytes <= RECORDS_BYTES_MAX
        for owner in self._owners.values():
            assert len(owner.records) <= RECORD_SLOTS_MAX
            assert owner.records == sorted(owner.records), "in the owner's order"
            assert len({record.slot for record in owner.records}) == len(owner.records), "one word in a slot"
