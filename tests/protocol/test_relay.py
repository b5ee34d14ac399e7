import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol.errors import (
    BadSignature,
    LocalProtocolError,
    MalformedMessage,
    OversizedMessage,
    RemoteProtocolError,
    UnknownSender,
    WrongCluster,
)
from shoal_protocol.ids import ClusterId
from shoal_protocol.limits import INTEGER_MAX, RELAY_MESSAGE_BYTES_MAX
from shoal_protocol.relay import (
    BODY_BYTES_MAX,
    SEALED,
    Ack,
    CircuitBox,
    CircuitStatement,
    RelayKind,
    circuit_keys,
    circuit_of,
    decode_ack,
    encode_ack,
    ephemeral_of,
    kind_of,
    read_circuit,
    sign_circuit,
)
from shoal_protocol.roster import Role
from tests.support.protocol import (
    AGENT,
    ANSWER,
    CIRCUIT,
    CLUSTER,
    MEMBERS,
    OPENING,
    RELAYED,
    SECRETS,
    STRANGER,
    WITNESS,
    circuit_ends,
    node_of,
    trusted_roster,
)

HERE, THERE = node_of(AGENT), node_of(WITNESS)
ROSTER = trusted_roster((MEMBERS[0], dataclasses.replace(MEMBERS[1], roles=(Role.AGENT,)), *MEMBERS[2:]))
ASKED = CircuitStatement(CLUSTER, HERE, THERE, CIRCUIT, ephemeral_of(SECRETS[0]), None)
NUMBERS = st.integers(0, INTEGER_MAX)


def test_both_sides_read_what_the_other_signed():
    assert read_circuit(OPENING, ROSTER, CLUSTER, THERE) == ASKED
    answered = read_circuit(ANSWER, ROSTER, CLUSTER, HERE)
    assert (answered.sender, answered.circuit, answered.answers) == (THERE, CIRCUIT, ASKED.ephemeral)


@pytest.mark.parametrize("name", ["open", "opened"])
def test_a_handshake_in_which_anything_was_changed_is_refused(name):
    message = dict(RELAYED)[name]
    here = THERE if name == "open" else HERE
    for index in range(len(message)):
        changed = bytearray(message)
        changed[index] ^= 1
        with pytest.raises(RemoteProtocolError):
            read_circuit(bytes(changed), ROSTER, CLUSTER, here)
    for end in range(len(message)):
        with pytest.raises(RemoteProtocolError):
            read_circuit(message[:end], ROSTER, CLUSTER, here)


def test_a_handshake_of_others_or_for_others_is_refused():
    with pytest.raises(MalformedMessage):
        read_circuit(OPENING, ROSTER, CLUSTER, HERE)
    other = ClusterId("00" * 16)
    with pytest.raises(WrongCluster):
        read_circuit(OPENING, ROSTER, other, THERE)
    with pytest.raises(UnknownSender):  # a witness only
        read_circuit(ANSWER, trusted_roster(), CLUSTER, HERE)
    strange = dataclasses.replace(ASKED, sender=node_of(STRANGER))
    with pytest.raises(UnknownSender):
        read_circuit(sign_circuit(STRANGER, strange), ROSTER, CLUSTER, THERE)


def test_an_opening_is_no_answer_and_the_other_way_round():
    for message, here in ((OPENING, THERE), (ANSWER, HERE)):
        for kind in RelayKind:
            if kind != message[0]:
                with pytest.raises(RemoteProtocolError):
                    read_circuit(bytes([kind]) + message[1:], ROSTER, CLUSTER, here)


def test_nobody_signs_in_the_name_of_another():
    with pytest.raises(LocalProtocolError):
        sign_circuit(WITNESS, ASKED)


def test_both_sides_find_the_same_keys_and_each_direction_has_its_own():
    there, here = (
        circuit_keys(secret, ephemeral_of(other), OPENING, ANSWER) for secret, other in (SECRETS, SECRETS[::-1])
    )
    assert there == here
    assert here[0] != here[1]


def test_another_handshake_has_other_keys():
    ours = circuit_keys(SECRETS[0], ephemeral_of(SECRETS[1]), OPENING, ANSWER)
    for opening, answer in ((ANSWER, OPENING), (OPENING + b"x", ANSWER), (OPENING, ANSWER[:-1])):
        theirs = circuit_keys(SECRETS[0], ephemeral_of(SECRETS[1]), opening, answer)
        assert not set(ours) & set(theirs)


@pytest.mark.parametrize("point", [bytes(32), bytes([1]) + bytes(31)])
def test_a_key_whose_secret_anybody_knows_is_refused(point):
    with pytest.raises(BadSignature):
        circuit_keys(SECRETS[0], point, OPENING, ANSWER)


@given(st.sampled_from(SEALED), NUMBERS, st.binary(max_size=300))
def test_what_is_sealed_is_opened_by_the_other_side_alone(kind, number, body):
    here, there = circuit_ends()
    message = here.seal(kind, number, body)
    assert there.open(message) == (kind, number, body)
    assert (kind_of(message), circuit_of(message)) == (kind, CIRCUIT)
    for other in (here, CircuitBox(CIRCUIT, bytes(32), bytes(32))):
        with pytest.raises(BadSignature):
            other.open(message)


@given(st.sampled_from(SEALED), NUMBERS, st.binary(max_size=40), st.data())
def test_a_sealed_message_in_which_anything_was_changed_does_not_open(kind, number, body, data):
    here, there = circuit_ends()
    changed = bytearray(here.seal(kind, number, body))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        there.open(bytes(changed))


def test_the_largest_body_fills_a_message_and_a_larger_one_is_our_mistake():
    here, there = circuit_ends()
    message = here.seal(RelayKind.DATA, 0, bytes(BODY_BYTES_MAX))
    assert len(message) == RELAY_MESSAGE_BYTES_MAX
    assert len(there.open(message)[2]) == BODY_BYTES_MAX
    with pytest.raises(LocalProtocolError):
        here.seal(RelayKind.DATA, 0, bytes(BODY_BYTES_MAX + 1))
    with pytest.raises(LocalProtocolError):
        here.seal(RelayKind.OPEN, 0, b"")
    with pytest.raises(LocalProtocolError):
        here.seal(RelayKind.DATA, INTEGER_MAX + 1, b"")


@given(st.binary(max_size=60))
def test_noise_is_refused(noise):
    _, there = circuit_ends()
    for read in (kind_of, circuit_of, there.open, lambda it: read_circuit(it, ROSTER, CLUSTER, HERE)):
        try:
            read(noise)
        except RemoteProtocolError:
            continue
        assert read in (kind_of, circuit_of), "without the key nothing opens"


def test_a_message_above_its_bound_is_refused_unread():
    with pytest.raises(OversizedMessage):
        kind_of(bytes([RelayKind.DATA]) + bytes(RELAY_MESSAGE_BYTES_MAX))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_an_acknowledgement_survives(following, beyond):
    ack = Ack(following, beyond)
    assert decode_ack(encode_ack(ack)) == ack
    with pytest.raises(MalformedMessage):
        decode_ack(encode_ack(ack)[:-1])
