"""Relayed links: two members that cannot connect talk through a broker, which sees sizes and timing only.

A relayed link is called a *circuit*. It carries the bytes that a TLS connection would carry, cut into messages of at
most ``RELAY_MESSAGE_BYTES_MAX``, on the topic of who hears them, ``r/{node}/{source}``::

    dialler                                             answerer
       | OPEN    circuit, its ephemeral key, signed  ----> |
       | <--- OPENED  the same circuit, own key, signed    |     both know the keys now
       | DATA 0 ... ------------------------------------>  |     only now the answerer believes: OPEN may be old
       | <-------------------------- ACK, DATA 0 ...       |

*Who.* Both halves of the handshake are signed with the node keys of the roster, under a type of their own. OPENED names
the key it answers, so it is fresh to the dialler; the first sealed message proves to the answerer that the dialler has
the secret of its key. The signatures bind cluster, both nodes, circuit and keys: nothing of one handshake fits another.

*What.* The keys are drawn for this circuit and forgotten with it, so whoever takes a node's key later reads nothing of
what was said before, which static keys would allow. With z = X25519(own secret, other's key)::

    k = BLAKE2b-512(key = z, person = "shoal-relay-1", BLAKE2b-256(OPEN) || BLAKE2b-256(OPENED))

the first half seals what the dialler says, the second what the answerer says (XSalsa20-Poly1305, NaCl's secretbox).

*In which order.* A sealed message is ``kind | circuit | number | box``, and the nonce ``kind, 15 zeros, number``. The
number counts the messages of a kind and direction from 0, so no nonce comes twice with another content, and a message
whose kind or number was changed does not open. DATA with one number is always the same bytes: a copy, a repetition
and a replay are one thing and change nothing. ACK says up to which number everything is here, and which of those after
it. CLOSE is number 0, ends both directions, and cannot be forged either.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, cast

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base, crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError

from shoal_protocol.envelope import SealedStatement
from shoal_protocol.errors import (
    BadSignature,
    LocalProtocolError,
    MalformedMessage,
    OversizedMessage,
    UnknownSender,
    WrongCluster,
)
from shoal_protocol.fields import decode, encode, record
from shoal_protocol.ids import ClusterId, NodeId, digest_of, node_id_of
from shoal_protocol.limits import (
    CIRCUIT_BYTES,
    EPHEMERAL_BYTES,
    INTEGER_MAX,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_WINDOW_MESSAGES_MAX,
)
from shoal_protocol.roster import Role, TrustedRoster
from shoal_protocol.sealing import Sealer, pae, verify

CIRCUIT_TYPE: Final = "application/vnd.shoal.circuit.v1+msgpack"
SECRET_BYTES: Final = 32
_PERSON: Final = b"shoal-relay-1"
_KEY_BYTES: Final = 32
_HEAD: Final = struct.Struct(f">B{CIRCUIT_BYTES}sQ")
_TAG_BYTES: Final = 16
_ACK: Final = struct.Struct(">QQ")
BODY_BYTES_MAX: Final = RELAY_MESSAGE_BYTES_MAX - _HEAD.size - _TAG_BYTES
"""What one DATA carries."""


class RelayKind(IntEnum):
    """What a relayed message is: its first byte."""

    OPEN = 1
    OPENED = 2
    DATA = 3
    ACK = 4
    CLOSE = 5


SEALED: Final = (RelayKind.DATA, RelayKind.ACK, RelayKind.CLOSE)


@dataclass(frozen=True, slots=True)
class CircuitStatement:
    """What either side signs; the order of the fields is the wire format. ``answers`` nil: this is the opening."""

    cluster: ClusterId
    sender: NodeId
    target: NodeId
    circuit: bytes
    ephemeral: bytes
    answers: bytes | None


@dataclass(frozen=True, slots=True)
class Ack:
    """Every DATA below ``following`` is here; bit i of ``beyond`` says that ``following + 1 + i`` is here as well."""

    following: int
    beyond: int


_STATEMENT: Final = record(CircuitStatement, signed=True)
_SEALED: Final = record(SealedStatement, signed=True)


def ephemeral_of(secret: bytes) -> bytes:
    """The X25519 public key of 32 random bytes."""
    assert len(secret) == SECRET_BYTES
    return crypto_scalarmult_base(secret)


def kind_of(message: bytes) -> RelayKind:
    """What ``message`` says it is. OversizedMessage or MalformedMessage."""
    if len(message) > RELAY_MESSAGE_BYTES_MAX:
        raise OversizedMessage(f"relayed message of {len(message)} bytes, at most {RELAY_MESSAGE_BYTES_MAX}")
    try:
        return RelayKind(message[0])
    except (IndexError, ValueError) as error:
        raise MalformedMessage("no relayed message") from error


# --- handshake -------------------------------------------------------------------------------------------------


def sign_circuit(sealer: Sealer, statement: CircuitStatement) -> bytes:
    """``statement`` as an OPEN or OPENED message; LocalProtocolError if it is not in our name or out of range."""
    if statement.sender != node_id_of(sealer.public_key):
        raise LocalProtocolError(f"{statement.sender} is not the id of the key that signs")
    said = encode(_STATEMENT, statement)
    kind = RelayKind.OPEN if statement.answers is None else RelayKind.OPENED
    return bytes([kind]) + encode(_SEALED, SealedStatement(said, sealer.sign(pae(CIRCUIT_TYPE, said))))


def read_circuit(message: bytes, roster: TrustedRoster, cluster: ClusterId, here: NodeId) -> CircuitStatement:
    """The verified statement in an OPEN or OPENED message to ``here``.

    MalformedMessage (also: to somebody else), WrongCluster, UnknownSender (also: no agent) or BadSignature otherwise.
    """
    kind = kind_of(message)
    sealed = cast("SealedStatement", decode(_SEALED, message[1:]))
    said = cast("CircuitStatement", decode(_STATEMENT, sealed.statement))
    if (said.answers is None) != (kind is RelayKind.OPEN) or kind in SEALED or said.target != here:
        raise MalformedMessage(f"{kind.name} to {said.target}, which answers {said.answers is not None}")
    if said.cluster != cluster:
        raise WrongCluster(f"a circuit of cluster {said.cluster}")
    member = roster.member(said.sender)
    if member is None or Role.AGENT not in member.roles:
        raise UnknownSender(f"{said.sender} is no agent of the roster")
    verify(member.public_key, pae(CIRCUIT_TYPE, sealed.statement), sealed.signature)
    return said


def circuit_keys(secret: bytes, ephemeral: bytes, opening: bytes, answer: bytes) -> tuple[bytes, bytes]:
    """What seals the words of the dialler and those of the answerer.

    From the own ``secret``, the other side's key, and both messages of the handshake. BadSignature if that key is one
    of the few whose shared secret anybody knows.
    """
    assert len(ephemeral) == EPHEMERAL_BYTES, "its statement was read"
    try:
        shared = crypto_scalarmult(secret, ephemeral)
    except SodiumError as error:
        raise BadSignature("a key of small order") from error
    said = digest_of(opening) + digest_of(answer)
    keys = hashlib.blake2b(said, key=shared, person=_PERSON, digest_size=2 * _KEY_BYTES).digest()
    return keys[:_KEY_BYTES], keys[_KEY_BYTES:]


# --- sealed messages -------------------------------------------------------------------------------------------


def circuit_of(message: bytes) -> bytes:
    """Which circuit a sealed message is of; MalformedMessage if it is too short to be one."""
    if len(message) < _HEAD.size + _TAG_BYTES:
        raise MalformedMessage(f"sealed message of {len(message)} bytes")
    return message[1 : 1 + CIRCUIT_BYTES]


class CircuitBox:
    """Seals one direction of a circuit and opens the other."""

    def __init__(self, circuit: bytes, ours: bytes, theirs: bytes) -> None:
        self._circuit = circuit
        self._ours = ours
        self._theirs = theirs

    def seal(self, kind: RelayKind, number: int, body: bytes) -> bytes:
        """One message; whoever seals gives no number of a kind to two bodies."""
        if kind not in SEALED or not 0 <= number <= INTEGER_MAX or len(body) > BODY_BYTES_MAX:
            raise LocalProtocolError(f"unfit to send: {kind!r} {number} of {len(body)} bytes")
        head = _HEAD.pack(kind, self._circuit, number)
        return head + crypto_secretbox(body, _nonce(kind, number), self._ours)

    def open(self, message: bytes) -> tuple[RelayKind, int, bytes]:
        """Kind, number and body of a sealed message.

        BadSignature if it was not sealed with the other side's key, MalformedMessage or OversizedMessage if it is none.
        """
        kind = kind_of(message)
        if kind not in SEALED or circuit_of(message) != self._circuit:
            raise MalformedMessage(f"{kind.name} is no sealed message of this circuit")
        _, _, number = _HEAD.unpack_from(message)
        if number > INTEGER_MAX:
            raise MalformedMessage(f"number {number}")
        try:
            body = crypto_secretbox_open(message[_HEAD.size :], _nonce(kind, number), self._theirs)
        except CryptoError as error:
            raise BadSignature("not sealed by the other side of this circuit") from error
        return kind, number, body


def _nonce(kind: RelayKind, number: int) -> bytes:
    return struct.pack(">B15xQ", kind, number)


def encode_ack(ack: Ack) -> bytes:
    """The body of an ACK."""
    return _ACK.pack(ack.following, ack.beyond)


def decode_ack(body: bytes) -> Ack:
    """The inverse; MalformedMessage."""
    if len(body) != _ACK.size:
        raise MalformedMessage(f"acknowledgement of {len(body)} bytes")
    return Ack(*_ACK.unpack(body))


assert 8 * struct.calcsize(">Q") >= RELAY_WINDOW_MESSAGES_MAX, "each message of the window has its bit"
