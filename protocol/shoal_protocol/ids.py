"""Names of things on the wire.

Every identifier is a plain string, integer or byte string with a ``NewType`` around it, so that mypy keeps a
session apart from a digest and the codec still sees a msgpack primitive. A node is named by its key: the id is
the base32 text of BLAKE2b-160 over the Ed25519 public key, so an id can be checked against a key and never
needs a registry (160 bits: a second preimage costs 2^160; the text stays 32 characters, one MQTT level).
"""

import base64
import hashlib
import re
from functools import lru_cache
from typing import NewType

from shoal_protocol.errors import MalformedMessage
from shoal_protocol.limits import SENDERS_MAX

NodeId = NewType("NodeId", str)
"""32 lower-case base32 characters, BLAKE2b-160 of the Ed25519 public key."""
ClusterId = NewType("ClusterId", str)
"""32 lower-case hexadecimal characters (16 bytes on the wire)."""
DeploymentId = NewType("DeploymentId", str)
"""What clients call the model: ``[a-z0-9][a-z0-9._-]{0,63}``; one level of an MQTT topic."""
SessionId = NewType("SessionId", bytes)
"""16 random bytes: one generation in flight."""
Digest = NewType("Digest", bytes)
"""32 bytes of BLAKE2b-256."""
Epoch = NewType("Epoch", int)
Incarnation = NewType("Incarnation", int)
"""Boot counter of a node, persisted before its first message."""
Sequence = NewType("Sequence", int)
"""Counter of a sender's envelopes within one incarnation."""
Instant = NewType("Instant", float)
"""Seconds on the caller's monotonic clock; only differences mean anything."""

NODE_KEY_BYTES = 32
NODE_ID_BYTES = 20
CLUSTER_ID_BYTES = 16
SESSION_ID_BYTES = 16
DIGEST_BYTES = 32

_DEPLOYMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NODE = re.compile(r"[a-z2-7]{32}")
_CLUSTER = re.compile(r"[0-9a-f]{32}")


def digest_of(data: bytes | memoryview) -> Digest:
    """BLAKE2b-256 of ``data``: the name of every shard, plan and manifest."""
    return Digest(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest())


@lru_cache(SENDERS_MAX)
def node_id_of(public_key: bytes) -> NodeId:
    """The id of the node that holds ``public_key`` (32 bytes); remembered, because it is asked for at every seal."""
    raw = hashlib.blake2b(public_key, digest_size=NODE_ID_BYTES).digest()
    return NodeId(base64.b32encode(raw).decode("ascii").lower())


def parse_node_id(text: str) -> NodeId:
    """``text`` as a node id, or MalformedMessage."""
    if not _NODE.fullmatch(text):
        raise MalformedMessage(f"not a node id (32 base32 characters): {text[:80]!r}")
    return NodeId(text)


def parse_cluster_id(text: str) -> ClusterId:
    """``text`` as a cluster id, or MalformedMessage."""
    if not _CLUSTER.fullmatch(text):
        raise MalformedMessage(f"not a cluster id (32 hexadecimal characters): {text[:80]!r}")
    return ClusterId(text)


def parse_deployment_id(text: str) -> DeploymentId:
    """``text`` as a deployment id, or MalformedMessage."""
    if not _DEPLOYMENT.fullmatch(text):
        raise MalformedMessage(f"not a deployment id (a-z 0-9 . _ -, at most 64): {text[:80]!r}")
    return DeploymentId(text)


@lru_cache(SENDERS_MAX)
def node_id_bytes(node: str) -> bytes:
    """The 20 bytes of ``node`` as they travel, or MalformedMessage if it is no node id; remembered, because every
    message names nodes several times.
    """
    return base64.b32decode(parse_node_id(node).upper())


@lru_cache(SENDERS_MAX)
def node_id_from_bytes(raw: bytes) -> NodeId:
    """The inverse of :func:`node_id_bytes`; MalformedMessage on any other length."""
    if len(raw) != NODE_ID_BYTES:
        raise MalformedMessage(f"a node id is {NODE_ID_BYTES} bytes, not {len(raw)}")
    return NodeId(base64.b32encode(raw).decode("ascii").lower())
