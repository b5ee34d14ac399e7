"""Field coders: what one field of a message may hold, and how it stands in a msgpack array.

msgpack is not canonical: one value has many encodings (long integers, long lengths, duplicate map keys), and two
encodings of one statement are two signatures. So a message is only ever an **array with fixed positions**: no maps,
no extension types, and of every value exactly one accepted form. Each coder is a pair of functions that are inverse
to each other on the allowed values and refuse every other value, so decoding followed by encoding gives back the
input, byte for byte, or the input was refused (``decode`` compares, at a quarter of a microsecond).

Coders are derived once, at import, from the type hints of a dataclass; what a hint cannot say follows from the
field's *name*, which means the same everywhere (``stage`` is a stage's index in any message). Both directions check
alike: what we would refuse to read we refuse to write. The names and their bounds stand in ``bounds``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from operator import attrgetter
from reprlib import repr as shown
from types import NoneType, UnionType
from typing import Union, cast, get_args, get_origin, get_type_hints

import msgpack

from shoal_protocol.bounds import BYTES, FLOATS, INTEGERS, ITEMS
from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.ids import (
    CLUSTER_ID_BYTES,
    DIGEST_BYTES,
    SESSION_ID_BYTES,
    ClusterId,
    DeploymentId,
    Digest,
    Epoch,
    Incarnation,
    NodeId,
    Sequence,
    SessionId,
    node_id_bytes,
    node_id_from_bytes,
    parse_cluster_id,
    parse_deployment_id,
)
from shoal_protocol.limits import INTEGER_MAX, LIST_ITEMS_MAX, TEXT_BYTES_MAX

Check = Callable[[object], object]
"""Takes a value to its other form; MalformedMessage if it is not allowed."""


@dataclass(frozen=True, slots=True)
class Coder:
    """Both directions of one field, and the words SPEC.md has for what it allows."""

    to_wire: Check
    from_wire: Check
    text: str


def _integer(where: str, low: int, high: int) -> Coder:
    def check(value: object) -> object:
        if type(value) is not int or not low <= value <= high:
            raise MalformedMessage(f"{where}: not an integer in {low}..{high}: {shown(value)}")
        return value

    return Coder(check, check, f"int {low}..{'2^63-1' if high == INTEGER_MAX else high}")


def _float(where: str, low: float, high: float) -> Coder:
    def from_wire(value: object) -> object:
        if type(value) is not float or not math.isfinite(value) or not low <= value <= high:
            raise MalformedMessage(f"{where}: not a finite number in {low}..{high}: {shown(value)}")
        return value

    def to_wire(value: object) -> object:
        return from_wire(float(value) if type(value) is int else value)

    return Coder(to_wire, from_wire, "float64, finite" if math.isinf(high) else f"float64 {low}..{high}")


def _boolean(where: str) -> Coder:
    def check(value: object) -> object:
        if type(value) is not bool:
            raise MalformedMessage(f"{where}: not a boolean: {shown(value)}")
        return value

    return Coder(check, check, "bool")


def _text(where: str) -> Coder:
    def check(value: object) -> object:
        if type(value) is not str or len(value) > TEXT_BYTES_MAX or len(value.encode()) > TEXT_BYTES_MAX:
            raise MalformedMessage(f"{where}: not a text of at most {TEXT_BYTES_MAX} bytes: {shown(value)}")
        return value

    return Coder(check, check, f"str, at most {TEXT_BYTES_MAX} bytes of UTF-8")


def _bytes(where: str, low: int, high: int) -> Coder:
    def check(value: object) -> object:
        if type(value) is not bytes or not low <= len(value) <= high:
            raise MalformedMessage(f"{where}: not {low}..{high} bytes: {shown(value)}")
        return value

    return Coder(check, check, f"bin, {low} bytes" if low == high else f"bin, {low}..{high} bytes")


def _parsed(where: str, parse: Callable[[str], str], text: str) -> Coder:
    """A string with a grammar of its own."""

    def check(value: object) -> object:
        if type(value) is not str:
            raise MalformedMessage(f"{where}: not a text: {shown(value)}")
        return parse(value)

    return Coder(check, check, text)


def _node(where: str) -> Coder:
    def to_wire(value: object) -> object:
        if type(value) is not str:
            raise MalformedMessage(f"{where}: not a node id: {shown(value)}")
        return node_id_bytes(value)

    def from_wire(value: object) -> object:
        if type(value) is not bytes:
            raise MalformedMessage(f"{where}: not the bytes of a node id: {shown(value)}")
        return node_id_from_bytes(value)

    return Coder(to_wire, from_wire, "bin, 20 bytes (node id)")


def _cluster(where: str) -> Coder:
    def to_wire(value: object) -> object:
        if type(value) is not str:
            raise MalformedMessage(f"{where}: not a cluster id: {shown(value)}")
        return bytes.fromhex(parse_cluster_id(value))

    def from_wire(value: object) -> object:
        if type(value) is not bytes or len(value) != CLUSTER_ID_BYTES:
            raise MalformedMessage(f"{where}: not the bytes of a cluster id: {shown(value)}")
        return ClusterId(value.hex())

    return Coder(to_wire, from_wire, f"bin, {CLUSTER_ID_BYTES} bytes (cluster id)")


def _enum(where: str, cls: type[IntEnum]) -> Coder:
    members = {member.value: member for member in cls}

    def to_wire(value: object) -> object:
        if not isinstance(value, cls):
            raise MalformedMessage(f"{where}: not a {cls.__name__}: {shown(value)}")
        return value.value

    def from_wire(value: object) -> object:
        if type(value) is not int or value not in members:
            raise MalformedMessage(f"{where}: no {cls.__name__} has number {shown(value)}")
        return members[value]

    return Coder(to_wire, from_wire, f"int, {cls.__name__}")


def _optional(item: Coder) -> Coder:
    def to_wire(value: object) -> object:
        return None if value is None else item.to_wire(value)

    def from_wire(value: object) -> object:
        return None if value is None else item.from_wire(value)

    return Coder(to_wire, from_wire, f"nil or {item.text}")


def _list(where: str, item: Coder, items_max: int) -> Coder:
    def to_wire(value: object) -> object:
        if type(value) is not tuple or len(value) > items_max:
            raise MalformedMessage(f"{where}: not a tuple of at most {items_max} items")
        return [item.to_wire(part) for part in value]

    def from_wire(value: object) -> object:
        if type(value) is not list or len(value) > items_max:
            raise MalformedMessage(f"{where}: not an array of at most {items_max} items")
        return tuple([item.from_wire(part) for part in value])

    return Coder(to_wire, from_wire, f"array of at most {items_max}: {item.text}")


def _fixed(where: str, items: tuple[Coder, ...]) -> Coder:
    arity = len(items)

    def to_wire(value: object) -> object:
        if type(value) is not tuple or len(value) != arity:
            raise MalformedMessage(f"{where}: not a tuple of {arity} items")
        return [item.to_wire(part) for item, part in zip(items, value, strict=True)]

    def from_wire(value: object) -> object:
        if type(value) is not list or len(value) != arity:
            raise MalformedMessage(f"{where}: not an array of {arity} items")
        return tuple([item.from_wire(part) for item, part in zip(items, value, strict=True)])

    return Coder(to_wire, from_wire, f"[{'; '.join(item.text for item in items)}]")


def record(cls: type, *, signed: bool) -> Coder:
    """The coder of dataclass ``cls``, field by field; ``signed`` bodies may hold no floats."""
    names = [field.name for field in fields(cls)]
    coders = field_coders(cls, signed=signed)
    encoders = [coder.to_wire for coder in coders]
    decoders = [coder.from_wire for coder in coders]
    arity, read = len(names), attrgetter(*names)
    make = cast("Callable[..., object]", cls)

    def to_wire(value: object) -> object:
        if type(value) is not cls:
            raise MalformedMessage(f"not a {cls.__name__}: {shown(value)}")
        values = read(value) if arity > 1 else (read(value),)
        return [encode(part) for encode, part in zip(encoders, values, strict=True)]

    def from_wire(value: object) -> object:
        if type(value) is not list or len(value) != arity:
            raise MalformedMessage(f"{cls.__name__}: not an array of {arity} items")
        return make(*[decode(part) for decode, part in zip(decoders, value, strict=True)])

    return Coder(to_wire, from_wire, cls.__name__)


def field_coders(cls: type, *, signed: bool) -> list[Coder]:
    """The coders of the fields of ``cls``, in wire order."""
    hints = get_type_hints(cls)
    return [coder_of(hints[f.name], f.name, f"{cls.__name__}.{f.name}", signed=signed) for f in fields(cls)]


def coder_of(hint: object, name: str, where: str, *, signed: bool) -> Coder:
    """The coder for a field of type ``hint`` called ``name``; an unknown type is an assertion, at import."""
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is Ellipsis:
            return _list(where, coder_of(items[0], name, where, signed=signed), ITEMS.get(name, LIST_ITEMS_MAX))
        return _fixed(where, tuple(coder_of(item, name, where, signed=signed) for item in items))
    if get_origin(hint) in (Union, UnionType):  # the former where a NewType stands in it
        kept = [part for part in get_args(hint) if part is not NoneType]
        assert len(kept) == 1, f"{where}: a union other than with None"
        return _optional(coder_of(kept[0], name, where, signed=signed))
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return _enum(where, hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return record(hint, signed=signed)
    return _scalar(hint, name, where, signed=signed)


def _scalar(hint: object, name: str, where: str, *, signed: bool) -> Coder:
    if hint is NodeId:
        return _node(where)
    if hint is ClusterId:
        return _cluster(where)
    if hint is DeploymentId:
        return _parsed(where, parse_deployment_id, "str (deployment id)")
    if hint is SessionId:
        return _bytes(where, SESSION_ID_BYTES, SESSION_ID_BYTES)
    if hint is Digest:
        return _bytes(where, DIGEST_BYTES, DIGEST_BYTES)
    if hint in (int, Epoch, Incarnation, Sequence):
        return _integer(where, *INTEGERS.get(name, (0, INTEGER_MAX)))
    if hint is bool:
        return _boolean(where)
    if hint is str:
        return _text(where)
    if hint is bytes:
        return _bytes(where, *BYTES[name])
    assert hint is float, f"{where}: no coder for {hint!r}"
    assert not signed, f"{where}: two encodings of one float would be two signatures"
    return _float(where, *FLOATS.get(name, (-math.inf, math.inf)))


def encode(coder: Coder, value: object) -> bytes:
    """``value`` as bytes; LocalProtocolError if it is not what ``coder`` allows: we made it, so it is our mistake."""
    try:
        return cast("bytes", msgpack.packb(coder.to_wire(value)))
    except (MalformedMessage, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"unfit to send: {error}") from error


def decode(coder: Coder, data: bytes | memoryview, items_max: int = LIST_ITEMS_MAX) -> object:
    """The value in ``data``, which must be its one encoding and nothing more; MalformedMessage otherwise.

    ``items_max`` bounds any array inside: msgpack allocates an array when it reads its length, nested ones too.
    """
    try:
        raw = msgpack.unpackb(data, max_array_len=items_max, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, OverflowError) as error:
        raise MalformedMessage(f"no msgpack of ours: {type(error).__name__} {error!s:.200}") from error
    value = coder.from_wire(raw)
    if msgpack.packb(raw) != data:
        raise MalformedMessage("not the one encoding of its value")
    return value
