"""Enrolment: how a new node asks to be let in.

A node makes its keys where they are used; what leaves the device is this note: its public key, its data-plane
certificate, and the node key's signature over the certificate. The signature proves that whoever wrote the note holds
the key, and that this certificate belongs to it: nobody can enrol with another's certificate. The operator compares
the fingerprint with what the device showed, over a channel of its own, and admits the node to the roster.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.ids import NodeId, node_id_of
from shoal_protocol.limits import CERTIFICATE_BYTES_MAX
from shoal_protocol.sealing import Sealer, pae, verify

ENROLMENT_TYPE: Final = "application/vnd.shoal.enrolment.v1+der"
ENROLMENT_BYTES_MAX: Final = 64 * 1024
"""A certificate in base64 and two keys; what is longer is something else."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A note that was verified. ``public_key`` is Ed25519, ``certificate`` DER (empty: no data plane)."""

    public_key: bytes
    certificate: bytes

    @property
    def node(self) -> NodeId:
        """The id that follows from the key."""
        return node_id_of(self.public_key)

    @property
    def fingerprint(self) -> str:
        """What two people compare: 16 groups of 4 hexadecimal characters over key and certificate."""
        digest = hashlib.blake2b(self.public_key + self.certificate, digest_size=32).hexdigest()
        return " ".join(digest[i : i + 4] for i in range(0, 64, 4))


def write_enrolment(sealer: Sealer, certificate: bytes) -> str:
    """The note of the node that ``sealer`` signs for, as JSON text."""
    note = {
        "node": node_id_of(sealer.public_key),
        "public_key": sealer.public_key.hex(),
        "certificate": base64.b64encode(certificate).decode("ascii"),
        "signature": sealer.sign(pae(ENROLMENT_TYPE, certificate)).hex(),
    }
    return json.dumps(note, indent=2) + "\n"


def read_enrolment(text: str) -> Enrolment:
    """The enrolment in ``text``; MalformedMessage, or BadSignature if its writer did not hold the key."""
    if len(text) > ENROLMENT_BYTES_MAX:
        raise MalformedMessage(f"an enrolment of {len(text)} characters")
    try:
        note: Any = json.loads(text)
        public_key = bytes.fromhex(note["public_key"])
        certificate = base64.b64decode(note["certificate"], validate=True)
        signature = bytes.fromhex(note["signature"])
        node = str(note["node"])
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as fault:
        raise MalformedMessage(f"not an enrolment: {fault!r}") from fault
    if len(certificate) > CERTIFICATE_BYTES_MAX:
        raise MalformedMessage(f"a certificate of {len(certificate)} bytes")
    try:
        verify(public_key, pae(ENROLMENT_TYPE, certificate), signature)
    except BadSignature as fault:
        raise BadSignature("the writer of this enrolment does not hold its key") from fault
    enrolment = Enrolment(public_key, certificate)
    if enrolment.node != node:
        raise MalformedMessage(f"{node[:40]!r} is not the id of the key")
    return enrolment
