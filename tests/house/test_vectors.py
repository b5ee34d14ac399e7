"""The golden vectors are read as they were meant, written back to the byte, and complete."""

import dataclasses

import pytest

from shoal_protocol.codec import HEADERS, MESSAGES, decode_plan, encode_plan
from shoal_protocol.envelope import open_envelope, seal
from shoal_protocol.frames import FrameReader, encode_frame
from shoal_protocol.relay import Ack, CircuitBox, RelayKind, circuit_keys, decode_ack, read_circuit
from shoal_protocol.roster import Role, TrustedRoster, sign_roster
from tests.support import protocol as samples
from tests.support.vectors import FOLDER, stored, vectors

EXPECTED = dict(vectors())
ENVELOPES = dict(zip([name for name in EXPECTED if name.startswith("envelope-")], samples.MESSAGES, strict=True))
FRAMES = dict(zip([name for name in EXPECTED if name.startswith("frame-")], samples.HEADERS, strict=True))


RELAYED = [name for name in EXPECTED if name.startswith("relay-")]


def golden_roster() -> TrustedRoster:
    return TrustedRoster.open(stored("roster"), samples.ROSTER.root_keys, 2, samples.WALL_MS // 1000)


def test_there_is_one_of_everything_and_no_other_file():
    files = {path.stem for path in FOLDER.glob("*.hex")}
    assert files == set(EXPECTED)
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.hex" for name in files} | {"README.md"}
    assert len(ENVELOPES) == len(MESSAGES)
    assert len(FRAMES) == len(HEADERS)
    assert len(RELAYED) == len(RelayKind)


@pytest.mark.parametrize("name", EXPECTED)
def test_we_still_write_what_we_wrote(name):
    """Deterministic signatures make even envelopes comparable. Never mend this by writing the file again."""
    assert stored(name) == EXPECTED[name]


@pytest.mark.parametrize(("name", "message"), ENVELOPES.items())
def test_an_envelope_is_read_and_written_back(name, message):
    wire = stored(name)
    got = open_envelope(wire, golden_roster(), samples.CLUSTER)
    assert got.message == message
    sealer = samples.SPEAKERS.get(type(message), samples.AGENT)
    rest = (got.sender, got.incarnation, got.sequence, got.ttl_ms, got.sent_ms, got.message)
    assert seal(sealer, got.cluster, *rest) == wire


@pytest.mark.parametrize(("name", "header"), FRAMES.items())
def test_a_frame_is_read_and_written_back(name, header):
    wire = stored(name)
    (got,) = FrameReader().feed(wire)
    assert got.header == header
    head, payload = encode_frame(got.header, got.payload)
    assert head + bytes(payload or b"") == wire


def test_a_circuit_is_opened_and_read():
    """From the two secrets and the two messages of the handshake; the witness is an agent in this roster."""
    roles = dataclasses.replace(samples.MEMBERS[1], roles=(Role.AGENT,))
    roster = samples.trusted_roster((samples.MEMBERS[0], roles, *samples.MEMBERS[2:]))
    opening, answer, *said = [stored(name) for name in RELAYED]
    dialler, answerer = samples.node_of(samples.AGENT), samples.node_of(samples.WITNESS)
    asked = read_circuit(opening, roster, samples.CLUSTER, answerer)
    answered = read_circuit(answer, roster, samples.CLUSTER, dialler)
    assert (asked.sender, answered.sender, answered.answers) == (dialler, answerer, asked.ephemeral)
    ours, theirs = circuit_keys(samples.SECRETS[0], answered.ephemeral, opening, answer)
    boxes = CircuitBox(asked.circuit, ours, theirs), CircuitBox(asked.circuit, theirs, ours)
    assert boxes[1].open(said[0]) == (RelayKind.DATA, 7, bytes(range(48)))
    kind, number, body = boxes[0].open(said[1])
    assert (kind, number, decode_ack(body)) == (RelayKind.ACK, 2, Ack(6, 0b101))
    assert boxes[0].open(said[2]) == (RelayKind.CLOSE, 0, b"going")


def test_the_plan_is_read_and_written_back():
    assert decode_plan(stored("plan")) == samples.PLAN
    assert encode_plan(decode_plan(stored("plan"))) == stored("plan")


def test_the_roster_is_read_and_written_back():
    assert golden_roster().members == samples.ROSTER.members
    assert sign_roster(samples.ROSTER, samples.ROOTS[:2]) == stored("roster")


def test_the_readme_gives_the_keys():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for sealer in (*samples.ROOTS, samples.AGENT, samples.WITNESS, samples.OPERATOR, samples.OBSERVER):
        assert sealer.public_key.hex() in text
    assert samples.node_of(samples.AGENT) in text
    assert samples.CLUSTER in text
