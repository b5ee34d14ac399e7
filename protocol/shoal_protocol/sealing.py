"""Signatures: who said these exact bytes, and as what.

A signature covers the DSSE pre-authentication encoding of a type and a body,

    PAE(type, body) = "DSSEv1" SP len(type) SP type SP len(body) SP body

with lengths in decimal ASCII. Both lengths stand before what they measure, so no two (type, body) pairs share an
encoding, and a signature on a roster can never be shown as one on a plan. What is signed is the bytes themselves,
never a value that would have to be encoded again to be checked.

Ed25519 is deterministic: no randomness at signing, the same bytes give the same signature on every machine.
``Sealer`` is a seam: a node needs something that signs for it, not a key in memory.
"""

from typing import Final, Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from shoal_protocol.errors import BadSignature, LocalProtocolError
from shoal_protocol.ids import NODE_KEY_BYTES
from shoal_protocol.limits import SIGNATURE_BYTES

SEED_BYTES: Final = 32


class Sealer(Protocol):
    """Signs in the name of one Ed25519 key."""

    @property
    def public_key(self) -> bytes:
        """32 bytes; the node's id is derived from them."""

    def sign(self, pae: bytes) -> bytes:
        """64 bytes over ``pae``, which is the output of :func:`pae`."""


class Ed25519Sealer:
    """A sealer whose key is in memory; ``seed`` are its 32 secret bytes."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"a key seed is {SEED_BYTES} bytes, not {len(seed)}")
        self._key = SigningKey(seed)
        self._public_key = bytes(self._key.verify_key)

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._public_key

    def sign(self, pae: bytes) -> bytes:
        """64 bytes; about 20 us."""
        return self._key.sign(pae).signature


def pae(payload_type: str, body: bytes) -> bytes:
    """What is signed for ``body`` as a ``payload_type`` (DSSE v1)."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(body), body)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Returns if ``signature`` is the key's over ``message`` (a PAE), else BadSignature; about 55 us."""
    if len(public_key) != NODE_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"key of {len(public_key)} bytes, signature of {len(signature)}")
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError as error:
        raise BadSignature("the signature does not cover these bytes") from error
