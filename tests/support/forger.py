"""Makes wrong things out of right ones: bytes that were damaged, and values that are allowed but make no sense.

Two kinds of wrong find different faults. Damaged bytes try the strict form: almost all are refused at the door. A
message whose every field is in its range, signed by a member, passes the door and reaches whoever acts on it; so its
values are drawn from a few that mean something to the one attacked (its peers, its deployments, its epochs) and from
the edges of what the field allows.
"""

import dataclasses
from enum import IntEnum
from random import Random
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgpack

from shoal_protocol import bounds
from shoal_protocol.codec import encode_plan
from shoal_protocol.errors import LocalProtocolError
from shoal_protocol.ids import ClusterId, DeploymentId, Digest, NodeId, SessionId, node_id_from_bytes
from shoal_protocol.limits import EPOCH_LEAP, INTEGER_MAX, TEXT_BYTES_MAX
from shoal_protocol.messages import Plan

EDITS_MAX: Final = 4
JUNK: Final = (b"\xc0", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x81\xc0\xc0", b"\x80", b"\xc4\x00", b"\x91" * 40, b"")
INTEGERS: Final = (0, 1, 2, 3, 7, 1000, EPOCH_LEAP, EPOCH_LEAP + 1, 2**31 - 1, 2**31, 2**62, INTEGER_MAX)
TEXTS: Final = ("", "word", "\n", "ü" * (TEXT_BYTES_MAX // 2), "../../etc/passwd", "sampler")
LENGTHS: Final = (0, 1, 1, 2, 3, 8)


@dataclasses.dataclass(frozen=True)
class Pool:
    """Values that mean something to the one attacked."""

    cluster: ClusterId
    nodes: tuple[NodeId, ...]
    deployments: tuple[DeploymentId, ...]
    digests: tuple[Digest, ...]
    sessions: tuple[SessionId, ...]
    plans: tuple[Plan, ...]
    envelopes: tuple[bytes, ...]


class Forger:
    """Draws wrong things; everything follows from the generator it was given."""

    def __init__(self, rng: Random, pool: Pool) -> None:
        self.rng = rng
        self.pool = pool

    # --- bytes ----------------------------------------------------------------------------------------------------

    def damaged(self, data: bytes, others: tuple[bytes, ...]) -> bytes:
        """``data`` after a few edits: bytes changed, lost, put in, repeated, or taken from one of ``others``."""
        rng, out = self.rng, bytearray(data)
        for _ in range(rng.randint(1, EDITS_MAX)):
            start = rng.randint(0, len(out))
            end = min(len(out), start + rng.randint(0, 8))
            match rng.randrange(6):
                case 0:
                    out[start:end] = rng.randbytes(rng.randint(0, 6))
                case 1:
                    out[start:end] = rng.choice(JUNK)
                case 2 if start < len(out):
                    out[start] ^= 1 << rng.randrange(8)
                case 3:
                    out[start:start] = out[start:end]
                case 4:
                    del out[start:]
                case _:
                    out[start:] = rng.choice(others)[start:]
        return bytes(out)

    def row(self, data: bytes) -> bytes:
        """``data``, one of our arrays, with an item of it replaced by anything msgpack can hold."""
        values = msgpack.unpackb(data)
        at = self.rng.randrange(len(values)) if values else 0
        values[at : at + 1] = self.rng.choice(([], [self.anything()], [self.anything(), self.anything()]))
        return bytes(msgpack.packb(values))

    def anything(self, depth: int = 0) -> object:
        """Any value at all."""
        rng = self.rng
        kinds = 8 if depth < 3 else 7
        match rng.randrange(kinds):
            case 0:
                return None
            case 1:
                return rng.random() < 0.5
            case 2:
                return rng.choice(INTEGERS)
            case 3:
                return rng.choice((-1, 2**63, 2**64 - 1, -(2**63), rng.getrandbits(64)))
            case 4:
                return rng.choice((0.5, float("nan"), float("inf")))
            case 5:
                return rng.choice(TEXTS)
            case 6:
                return rng.randbytes(rng.choice((0, 1, 16, 20, 32, 64, 200)))
            case _:
                return [self.anything(depth + 1) for _ in range(rng.choice(LENGTHS))]

    # --- values ---------------------------------------------------------------------------------------------------

    def altered(self, value: Any) -> Any:
        """A dataclass like ``value`` with one to three fields, or what lies within them, drawn anew."""
        hints = get_type_hints(type(value))
        names = [field.name for field in dataclasses.fields(value)]
        for name in self.rng.sample(names, min(len(names), self.rng.randint(1, 3))):
            old = getattr(value, name)
            inner = dataclasses.is_dataclass(old) and self.rng.random() < 0.7
            value = dataclasses.replace(value, **{name: self.altered(old) if inner else self.drawn(hints[name], name)})
        return value

    def drawn(self, hint: Any, name: str) -> Any:
        """A value that a field of type ``hint`` called ``name`` may hold."""
        rng = self.rng
        if get_origin(hint) is tuple:
            items = get_args(hint)
            if items[-1] is not Ellipsis:
                return tuple(self.drawn(item, name) for item in items)
            return tuple(self.drawn(items[0], name) for _ in range(min(rng.choice(LENGTHS), bounds.ITEMS.get(name, 8))))
        if get_origin(hint) in (Union, UnionType):
            kept = next(part for part in get_args(hint) if part is not NoneType)
            return None if rng.random() < 0.3 else self.drawn(kept, name)
        if isinstance(hint, type) and issubclass(hint, IntEnum):
            return rng.choice(list(hint))
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner = get_type_hints(hint)
            return hint(**{field.name: self.drawn(inner[field.name], field.name) for field in dataclasses.fields(hint)})
        return self._scalar(hint, name)

    def _scalar(self, hint: Any, name: str) -> Any:
        rng, pool = self.rng, self.pool
        if hint is bytes:
            return self._bytes(name)
        if hint is NodeId:
            return rng.choice((*pool.nodes, node_id_from_bytes(rng.randbytes(20))))
        if hint is Digest:
            return rng.choice((*pool.digests, Digest(rng.randbytes(32))))
        if hint in (ClusterId, DeploymentId, SessionId):
            return rng.choice({ClusterId: (pool.cluster,), DeploymentId: pool.deployments}.get(hint, pool.sessions))
        if hint is bool:
            return rng.random() < 0.5
        if hint is str:
            return rng.choice(TEXTS)
        if hint is float:
            low, high = bounds.FLOATS.get(name, (-1e300, 1e300))
            return rng.choice((low, high, rng.uniform(max(low, -10.0), min(high, 10.0))))
        low, high = bounds.INTEGERS.get(name, (0, INTEGER_MAX))
        return min(high, max(low, rng.choice((low, high, *INTEGERS))))

    def _bytes(self, name: str) -> bytes:
        rng, pool = self.rng, self.pool
        if name == "plan":
            return self.plan()
        if name in ("first", "second", "deltas"):
            envelope = rng.choice(pool.envelopes)
            return envelope if rng.random() < 0.7 else self.damaged(envelope, pool.envelopes)
        low, high = bounds.BYTES[name]
        return rng.randbytes(rng.randint(low, min(high, max(low, 100))))

    def plan(self) -> bytes:
        """The bytes of a plan: one that is known, one that says something else, or none at all."""
        known = self.rng.choice(self.pool.plans)
        match self.rng.randrange(4):
            case 0:
                return encode_plan(known)
            case 1:
                return self.damaged(encode_plan(known), JUNK)
            case _:
                try:
                    return encode_plan(self.altered(known))
                except LocalProtocolError:
                    return encode_plan(known)
