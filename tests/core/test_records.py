"""Tables of records: a semilattice, an exact digest, and everything bounded."""

from itertools import permutations
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core import records as module
from shoal_agent.core.records import DEPARTED_S, PROOFS_MAX, Merge, Record, Records
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, Instant, NodeId, Sequence, node_id_of
from shoal_protocol.limits import (
    DELTA_BYTES_MAX,
    DELTAS_MAX,
    LIST_ITEMS_MAX,
    RECORD_BYTES_MAX,
    RECORD_SLOTS_MAX,
    ROOT_BYTES,
)
from shoal_protocol.messages import DeploymentPhase, Head, Heartbeat, PhaseReported, Stamp
from tests.support.world import CLUSTER

NODES = [node_id_of(bytes([index]) * 32) for index in range(200)]
SLOTS = [(1, ""), (5, "a"), (5, "b"), (5, "c")]
HEADS = (Head(DeploymentId("toy"), Epoch(3)),)
HOME, ABROAD = 0, 1


class Word(NamedTuple):
    """One delivery: who, in which life, which word."""

    node: NodeId
    life: int
    sequence: int
    slot: tuple[int, str]
    wire: bytes

    def tell(self, table: Records) -> Merge:
        record = Record(Sequence(self.sequence), self.wire, self.slot)
        return table.put(self.node, Incarnation(self.life), record)


def table() -> Records:
    return Records(lambda node: ABROAD if node == NODES[2] else HOME, HOME)


def told(*words: Word) -> Records:
    made = table()
    for word in words:
        word.tell(made)
        made.check()
    return made


def state(records: Records) -> object:
    """All that a table holds and can be asked for."""
    held = {node: (owner.incarnation, owner.records) for node, owner in records._owners.items() if owner.records}
    return held, records.root(HEADS), records.stamps(HOME), records.stamps(ABROAD), records.byte_count


def word(node: int = 0, life: int = 1, sequence: int = 1, slot: int = 0, wire: bytes | None = None) -> Word:
    text = f"{node} {life} {sequence} {slot}".encode()
    return Word(NODES[node], life, sequence, SLOTS[slot], text if wire is None else wire)


def honest(node: int, life: int, sequence: int) -> Word:
    """A word as an honest node says it: its number names it."""
    return word(node, life, sequence, (life * 7 + sequence * 3) % len(SLOTS))


HONEST = st.builds(honest, st.integers(0, 2), st.integers(1, 3), st.integers(1, 8))
LYING = st.builds(
    word, st.integers(0, 2), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.binary(max_size=2)
)


# --- a semilattice ----------------------------------------------------------------------------------------------------


@given(st.lists(LYING, max_size=20), st.randoms(use_true_random=False))
def test_tables_that_heard_the_same_words_are_equal_whatever_their_order_and_however_often(
    words: list[Word], rng: Random
):
    shuffled = words + rng.choices(words, k=10) if words else []
    rng.shuffle(shuffled)
    assert state(told(*words)) == state(told(*shuffled))


@given(st.lists(LYING, max_size=8), st.lists(LYING, max_size=8), st.lists(LYING, max_size=8))
def test_joining_tables_is_associative_commutative_and_idempotent(a: list[Word], b: list[Word], c: list[Word]):
    def join(*tables: Records) -> Records:
        words = [
            Word(node, owner.incarnation, record.sequence, record.slot, record.wire)
            for each in tables
            for node, owner in each._owners.items()
            for record in owner.records
        ]
        return told(*words)

    one, two, three = told(*a), told(*b), told(*c)
    assert state(join(join(one, two), three)) == state(join(one, join(two, three)))
    assert state(join(one, two)) == state(join(two, one))
    assert state(join(one, one)) == state(one)
    assert state(join(one, two)) == state(told(*a, *b)), "and it is the table that heard all of it"


def test_of_one_owner_the_highest_sequences_stay_in_any_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RECORD_SLOTS_MAX", 2)
    words = [word(sequence=1, slot=0), word(sequence=2, slot=1), word(sequence=3, slot=2), word(sequence=4, slot=1)]
    ends = [state(told(*order)) for order in permutations(words)]
    assert all(end == ends[0] for end in ends)
    assert [stamp.sequence for stamp in told(*words).stamps(HOME)] == [3, 4]


def test_a_later_life_replaces_an_earlier_one_as_a_whole():
    records = told(word(sequence=5, slot=0), word(sequence=6, slot=1))
    assert word(life=2, sequence=1, slot=0).tell(records) is Merge.NEWER
    assert records.stamps(HOME) == (Stamp(NODES[0], Incarnation(2), Sequence(1)),)
    assert word(sequence=7, slot=1).tell(records) is Merge.OLDER


def test_what_became_of_a_word_is_told():
    records = told(word(sequence=2))
    assert word(sequence=2).tell(records) is Merge.KNOWN
    assert word(sequence=1).tell(records) is Merge.OLDER
    assert word(sequence=3).tell(records) is Merge.NEWER
    assert records.latest(NODES[0]) == (1, Record(Sequence(3), word(sequence=3).wire, SLOTS[0]))
    assert records.latest(NODES[1]) is None


def test_a_verified_envelope_is_filed_by_what_it_is_about():
    records = table()
    phase = PhaseReported(DeploymentId("b"), Epoch(0), Digest(bytes(32)), DeploymentPhase.READY, "")
    envelope = Envelope(CLUSTER, NODES[0], Incarnation(1), Sequence(9), 1, 1, phase)
    assert records.merge(envelope, b"sealed") is Merge.NEWER
    assert records.latest(NODES[0]) == (1, Record(Sequence(9), b"sealed", (5, "b")))
    beat = Envelope(CLUSTER, NODES[0], Incarnation(1), Sequence(9), 1, 1, Heartbeat(1, 1))
    with pytest.raises(AssertionError):
        records.merge(beat, b"sealed")


# --- lies -------------------------------------------------------------------------------------------------------------


def test_two_words_under_one_stamp_prove_a_lie_and_tables_agree_on_one_of_them():
    for order in ([b"x", b"y"], [b"y", b"x"]):
        records = table()
        outcomes = [word(wire=wire).tell(records) for wire in order]
        assert outcomes == [Merge.NEWER, Merge.FORKED]
        assert records.proof(NODES[0]) == (b"x", b"y")
        assert records.latest(NODES[0])[1].wire == b"y"
    assert records.proof(NODES[1]) is None


def test_proofs_are_bounded():
    records = table()
    for node in range(PROOFS_MAX + 1):
        for wire in (b"x", b"y"):
            word(node, wire=wire).tell(records)
    assert records.proof(NODES[PROOFS_MAX - 1]) is not None
    assert records.proof(NODES[PROOFS_MAX]) is None


# --- digests and deltas -----------------------------------------------------------------------------------------------


@given(st.lists(HONEST, max_size=20), st.lists(HONEST, max_size=20))
def test_one_exchange_makes_two_tables_equal(a: list[Word], b: list[Word]):
    by_wire = {each.wire: each for each in a + b}
    one, two = told(*a), told(*b)
    for wire in two.missing(one.stamps(HOME), HOME):
        assert by_wire[wire].tell(one) in (Merge.NEWER, Merge.OLDER), "nobody is sent what it has"
    for wire in one.missing(two.stamps(HOME), HOME):
        assert by_wire[wire].tell(two) in (Merge.NEWER, Merge.OLDER)
    assert one.stamps(HOME) == two.stamps(HOME)
    assert one.root(HEADS) == two.root(HEADS)
    assert not one.missing(two.stamps(HOME), HOME)


def test_a_gap_below_the_highest_word_is_seen():
    phase, record = word(sequence=1, slot=1), word(sequence=2, slot=0)
    full, lacking = told(phase, record), told(record)
    assert full.root(()) != lacking.root(())
    assert full.missing(lacking.stamps(HOME), HOME) == (phase.wire,)


def test_only_the_nodes_of_the_share_are_offered():
    records = told(word(0), word(2))
    assert [stamp.node for stamp in records.stamps(HOME)] == [NODES[0]]
    assert records.missing((), ABROAD) == (word(2).wire,)
    assert told(word(0)).root(()) == records.root(()), "the root is the own share's"


@pytest.mark.parametrize(("bytes_max", "count_max"), [(20, 256), (10_000, 3), (10_000, 1)])
def test_what_does_not_fit_follows_until_nothing_is_missing(bytes_max: int, count_max: int):
    words = [honest(node, 1, sequence) for node in range(2) for sequence in range(1, 9)]
    full, table_ = told(*words), table()
    by_wire = {each.wire: each for each in words}
    rounds = 0
    while delta := full.missing(table_.stamps(HOME), HOME, bytes_max, count_max):
        rounds += 1
        assert sum(map(len, delta)) <= bytes_max
        assert len(delta) <= count_max
        for wire in delta:
            by_wire[wire].tell(table_)
    assert rounds > 1
    assert full.root(()) == table_.root(())


def test_a_delta_and_a_digest_fit_into_one_message():
    records = Records(lambda node: HOME, HOME)
    for node in range(200):
        for slot in range(8):
            record = Record(Sequence(slot), bytes(2000), (5, f"d{slot}"))
            records.put(NODES[node], Incarnation(1), record)
    assert len(records.stamps(HOME)) == LIST_ITEMS_MAX
    delta = records.missing((), HOME)
    assert 0 < len(delta) <= DELTAS_MAX
    assert sum(map(len, delta)) <= DELTA_BYTES_MAX


def test_a_root_says_what_it_sums_up():
    records = told(word(0, sequence=1))
    roots = [records.root(()), records.root(HEADS), records.root((Head(DeploymentId("toy"), Epoch(4)),))]
    word(0, sequence=2).tell(records)
    roots.append(records.root(()))
    word(1).tell(records)
    roots.append(records.root(()))
    word(1, life=2).tell(records)
    roots.append(records.root(()))
    assert len(set(roots)) == len(roots)
    assert all(len(root) == ROOT_BYTES for root in roots)
    assert records.root(()) is records.root(()), "computed once"


# --- forgetting and bounds --------------------------------------------------------------------------------------------


def test_the_departed_are_offered_for_half_a_day_and_remembered_for_a_day():
    records = told(word(0), word(1))
    full = records.root(())
    records.departed(NODES[0], Instant(0.0))
    records.departed(NODES[0], Instant(1000.0))
    records.departed(NODES[5], Instant(0.0))
    records.sweep(Instant(DEPARTED_S / 2 - 1))
    assert records.root(()) == full
    records.sweep(Instant(DEPARTED_S / 2))
    assert [stamp.node for stamp in records.stamps(HOME)] == [NODES[1]]
    assert records.root(()) == told(word(1)).root(())
    assert word(0).tell(records) is Merge.KNOWN, "whoever still offers it brings nobody back"
    assert len(records) == 2
    records.sweep(Instant(DEPARTED_S))
    assert (len(records), records.byte_count) == (1, len(word(1).wire))
    records.check()


def test_a_newer_word_brings_the_departed_back():
    records = told(word(0))
    records.departed(NODES[0], Instant(0.0))
    records.sweep(Instant(DEPARTED_S / 2))
    assert word(0, sequence=2).tell(records) is Merge.NEWER
    assert [stamp.node for stamp in records.stamps(HOME)] == [NODES[0]]
    records.sweep(Instant(DEPARTED_S))
    assert len(records) == 1


def test_shares_nobody_listens_to_are_forgotten():
    records = told(word(0), word(2))
    records.departed(NODES[2], Instant(0.0))
    assert records.keep((HOME,)) == (NODES[2],)
    assert (len(records), records.byte_count) == (1, len(word(0).wire))
    records.sweep(Instant(DEPARTED_S))
    records.check()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    records = table()
    assert word(wire=bytes(RECORD_BYTES_MAX + 1)).tell(records) is Merge.REFUSED
    assert len(records) == 0
    for slot in range(RECORD_SLOTS_MAX + 5):
        records.put(NODES[0], Incarnation(1), Record(Sequence(slot), b"x", (5, f"d{slot}")))
    assert len(records.stamps(HOME)) == RECORD_SLOTS_MAX
    assert records.put(NODES[0], Incarnation(1), Record(Sequence(2), b"x", (5, "e"))) is Merge.OLDER
    monkeypatch.setattr(module, "RECORDS_BYTES_MAX", 100)
    assert word(1, wire=bytes(50)).tell(records) is Merge.REFUSED
    records.check()
