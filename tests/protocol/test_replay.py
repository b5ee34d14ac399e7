import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol import replay
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import OversizedMessage, ReplayedMessage
from shoal_protocol.ids import DeploymentId, Digest, Incarnation, Sequence, node_id_from_bytes
from shoal_protocol.limits import REPLAY_SLOTS_MAX, REPLAY_WINDOW_BITS
from shoal_protocol.messages import (
    Certified,
    DeploymentPhase,
    Heartbeat,
    LinkDeath,
    PhaseReported,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteCast,
)
from shoal_protocol.replay import ReplayWindow, slot_of
from tests.support.protocol import AGENT, CLUSTER, MESSAGES, NEXT, PLAN, WALL_MS, node_of

BEAT = Heartbeat(1, 1)
ME = node_of(AGENT)
PROOFS = (PlanAnnounced, Certified, RecoveryOrdered)


def envelope(sequence: int, incarnation: int = 1, message=BEAT, sender=ME) -> Envelope:
    return Envelope(CLUSTER, sender, Incarnation(incarnation), Sequence(sequence), 0, WALL_MS, message)


def phase(deployment: str) -> PhaseReported:
    return PhaseReported(DeploymentId(deployment), PLAN.epoch, Digest(bytes(32)), DeploymentPhase.READY, "")


def announced(deployment: str) -> PlanAnnounced:
    return PlanAnnounced(encode_plan(dataclasses.replace(PLAN, deployment=DeploymentId(deployment))))


class EverySequence:
    """The window written down as it is meant: remember everything, refuse what is too old."""

    def __init__(self) -> None:
        self.incarnation, self.seen = -1, set()

    def accepts(self, incarnation: int, sequence: int) -> bool:
        if incarnation < self.incarnation:
            return False
        if incarnation > self.incarnation:
            self.incarnation, self.seen = incarnation, set()
        if sequence in self.seen or (self.seen and sequence <= max(self.seen) - REPLAY_WINDOW_BITS):
            return False
        self.seen.add(sequence)
        return True


NUMBERS = st.integers(0, 40) | st.integers(0, 3 * REPLAY_WINDOW_BITS) | st.sampled_from([0, 2**63 - 1])


@given(st.lists(st.tuples(st.sampled_from([1, 1, 1, 2]), NUMBERS), max_size=60))
def test_the_window_is_what_it_is_meant_to_be(deliveries):
    window, model = ReplayWindow(), EverySequence()
    for incarnation, sequence in deliveries:
        if model.accepts(incarnation, sequence):
            window.accept(envelope(sequence, incarnation))
        else:
            with pytest.raises(ReplayedMessage):
                window.accept(envelope(sequence, incarnation))


@given(st.permutations(range(30)))
def test_each_is_accepted_once_in_any_order(order):
    window = ReplayWindow()
    for sequence in order:
        window.accept(envelope(sequence))
    for sequence in order:
        with pytest.raises(ReplayedMessage):
            window.accept(envelope(sequence))


def test_the_edge_of_the_window():
    window = ReplayWindow()
    window.accept(envelope(REPLAY_WINDOW_BITS))
    with pytest.raises(ReplayedMessage, match="below"):
        window.accept(envelope(0))
    window.accept(envelope(1))
    with pytest.raises(ReplayedMessage, match="before"):
        window.accept(envelope(1))


def test_the_window_stays_as_small_as_it_is():
    window = ReplayWindow()
    for sequence in range(0, 20 * REPLAY_WINDOW_BITS, REPLAY_WINDOW_BITS // 2):
        window.accept(envelope(sequence))
        kept = window._kinds[type(BEAT)][ME]
        assert kept.fresh.bit_length() + kept.older.bit_length() <= 2 * REPLAY_WINDOW_BITS
    kept.fold()
    assert kept.older.bit_length() <= REPLAY_WINDOW_BITS


def test_an_earlier_life_is_over_in_everything_a_node_says_about_itself():
    window = ReplayWindow()
    window.accept(envelope(1, incarnation=2))
    for message in (BEAT, phase("toy"), LinkDeath(1, "broker"), MESSAGES[0]):
        with pytest.raises(ReplayedMessage, match="incarnation"):
            window.accept(envelope(99, incarnation=1, message=message))
    window.accept(envelope(1, incarnation=3))


def test_a_retained_record_is_heard_after_any_number_of_heartbeats():
    window = ReplayWindow()
    window.accept(envelope(100_000))
    for message in (MESSAGES[0], phase("toy"), phase("other"), LinkDeath(1, "broker")):
        window.accept(envelope(5, message=message))
        with pytest.raises(ReplayedMessage):
            window.accept(envelope(5, message=message))


def test_plans_of_two_deployments_are_heard_in_any_order():
    window = ReplayWindow()
    window.accept(envelope(1, incarnation=9, message=announced("later")))
    window.accept(envelope(1, incarnation=3, message=announced("earlier")))
    with pytest.raises(ReplayedMessage):
        window.accept(envelope(1, incarnation=3, message=announced("earlier")))
    with pytest.raises(ReplayedMessage):
        window.accept(envelope(2, incarnation=8, message=announced("later")))


def test_a_plan_with_its_proof_outlives_whoever_published_it():
    window, proofs = ReplayWindow(), [message for message in MESSAGES if isinstance(message, PROOFS)]
    assert len(proofs) == len(PROOFS)
    window.accept(envelope(1, incarnation=7))
    for proof in proofs:
        window.accept(envelope(3, incarnation=2, message=proof))
        with pytest.raises(ReplayedMessage, match="before"):
            window.accept(envelope(3, incarnation=2, message=proof))
    with pytest.raises(ReplayedMessage, match="incarnation"):
        window.accept(envelope(9, incarnation=6))


def test_what_is_said_of_two_deployments_counts_apart():
    for message in MESSAGES:
        if isinstance(message, Proposed | VoteCast):
            other = dataclasses.replace(message, deployment=DeploymentId("other"))
            assert slot_of(message)[0] == slot_of(other)[0]
            assert slot_of(message) != slot_of(other)
    elsewhere = encode_plan(dataclasses.replace(NEXT, deployment=DeploymentId("other")))
    assert slot_of(Certified(elsewhere, 0, ())) != slot_of(Certified(encode_plan(NEXT), 0, ()))


def test_a_slot_is_the_kind_and_what_it_is_about():
    assert slot_of(phase("a")) != slot_of(phase("b"))
    assert slot_of(phase("a")) != slot_of(announced("a"))
    assert slot_of(Heartbeat(1, 1)) == slot_of(Heartbeat(2, 2))
    assert len({slot_of(message) for message in MESSAGES}) == len(MESSAGES)


def test_refusing_changes_nothing():
    window = ReplayWindow()
    window.accept(envelope(5, incarnation=2))
    with pytest.raises(ReplayedMessage):
        window.accept(envelope(7, incarnation=1))
    window.accept(envelope(4, incarnation=2))


def test_senders_are_apart_and_known_once_heard():
    window, other = ReplayWindow(), node_id_from_bytes(bytes(20))
    window.accept(envelope(5))
    assert window.knows(node_of(AGENT))
    assert not window.knows(other)
    window.accept(envelope(5, sender=other))
    assert window.knows(other)


def test_senders_are_bounded(monkeypatch):
    monkeypatch.setattr(replay, "SENDERS_MAX", 2)
    window = ReplayWindow()
    for index in range(2):
        window.accept(envelope(1, sender=node_id_from_bytes(bytes([index]) * 20)))
    with pytest.raises(OversizedMessage):
        window.accept(envelope(1))
    assert not window.knows(node_of(AGENT))


def test_a_sender_that_speaks_of_everything_forgets_its_oldest_subject_only():
    window = ReplayWindow()
    for index in range(REPLAY_SLOTS_MAX):
        window.accept(envelope(1, message=phase(f"d{index}")))
    window.accept(envelope(2, message=phase("d0")))
    window.accept(envelope(1, message=phase("one-more")))
    with pytest.raises(ReplayedMessage):
        window.accept(envelope(2, message=phase("d0")))
    with pytest.raises(ReplayedMessage):
        window.accept(envelope(1, message=phase("d2")))
    window.accept(envelope(1, message=phase("d1")))
