import base64
import json

import pytest

from shoal_agent.shell.enrolment import Enrolment, read_enrolment, write_enrolment
from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.ids import node_id_of
from shoal_protocol.sealing import Ed25519Sealer

SEALER = Ed25519Sealer(bytes(range(32)))
OTHER = Ed25519Sealer(bytes(range(1, 33)))
CERTIFICATE = b"the certificate"


def altered(**changes):
    return json.dumps(json.loads(write_enrolment(SEALER, CERTIFICATE)) | changes)


def test_what_was_written_is_read():
    enrolment = read_enrolment(write_enrolment(SEALER, CERTIFICATE))
    assert enrolment == Enrolment(SEALER.public_key, CERTIFICATE)
    assert enrolment.node == node_id_of(SEALER.public_key)


def test_the_fingerprint_covers_key_and_certificate():
    one = Enrolment(SEALER.public_key, CERTIFICATE).fingerprint
    assert len(one.split()) == 16
    assert one != Enrolment(SEALER.public_key, b"another").fingerprint
    assert one != Enrolment(OTHER.public_key, CERTIFICATE).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": base64.b64encode(b"somebody else's").decode()},
        {"public_key": OTHER.public_key.hex(), "node": node_id_of(OTHER.public_key)},
        {"signature": "00" * 64},
        {"signature": ""},
        {"public_key": "00"},
    ],
)
def test_nobody_enrols_with_what_is_not_his(changes):
    with pytest.raises(BadSignature, match="does not hold its key"):
        read_enrolment(altered(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"node": "a" * 32},
        {"public_key": 5},
        {"public_key": "xy"},
        {"certificate": "not base64!"},
        {"certificate": base64.b64encode(bytes(5000)).decode()},
        {"certificate": None},
    ],
)
def test_what_is_no_enrolment(changes):
    with pytest.raises(MalformedMessage):
        read_enrolment(altered(**changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 100_000, "x" * 100_000])
def test_what_is_not_even_a_note(text):
    with pytest.raises(MalformedMessage):
        read_enrolment(text)
