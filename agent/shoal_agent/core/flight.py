"""The flight recording: everything that happened to one node, so that its life can be lived again.

A node is a function of its beginning and of its events: no clock, no chance and no socket enter it by another way. So
a recording is short to describe: who it was, the seed of its generator, and then each event with its instant. Whoever
has that can build the same node, hand it the same events, and look at every step.

Two things come out of a node that the recording must hold as well. Its *signatures*: the replay has no key, and must
not have it; it is given the recorded ones in their order. And a *mark* of the effects of every step, eight bytes of
their digest: equal marks all along prove that the life was repeated and not merely resembled.

A recording is a row of msgpack values, the departure first. Values are written by their shape, so a new event needs no
new code here::

    tuple      [0, item, ...]
    dataclass  [1, name, field, ...]         of those that an event can reach, no others
    enum       [2, name, value]
    scalar     itself

It holds what clients asked and what they were answered: it is private, and made only where an operator wants it.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Final, Union, cast, get_args, get_origin, get_type_hints

import msgpack

from shoal_agent.core.effects import Effect
from shoal_agent.core.events import Event
from shoal_agent.core.voice import CoreConfig
from shoal_protocol.ids import Incarnation, Instant, NodeId
from shoal_protocol.limits import FLIGHT_BYTES_MAX

FLIGHT_VERSION: Final = 1
MARK_BYTES: Final = 8
"""Of a step's effects: a difference goes unnoticed once in 2^64."""
_TUPLE, _RECORD, _ENUM = 0, 1, 2


class UnreadableFlight(Exception):  # noqa: N818 - an outcome: the file is not what it should be
    """The recording is cut off, damaged, or of another version."""


@dataclass(frozen=True, slots=True)
class Departure:
    """How a node began: all it was built from, its key apart."""

    version: int
    config: CoreConfig
    node: NodeId
    public_key: bytes
    incarnation: Incarnation
    roster: bytes
    """The signed roster, as it was trusted."""
    roster_unix_s: int
    """When it was trusted."""
    root_keys: tuple[bytes, ...]
    root_threshold: int
    seed: int
    """Of the node's generator."""
    now: Instant


@dataclass(frozen=True, slots=True)
class WillAsked:
    """Not an event, but it seals: a driver asked for the last will of a connection."""

    broker: str
    connection: int


@dataclass(frozen=True, slots=True)
class Step:
    """One event, when it was handled, what was signed in handling it, and the mark of what came of it."""

    now: Instant
    event: Event | WillAsked
    signatures: tuple[bytes, ...]
    mark: bytes


def mark_of(effects: list[Effect]) -> bytes:
    """What tells these effects from others."""
    return hashlib.blake2b(repr(effects).encode(), digest_size=MARK_BYTES).digest()


def write(value: Departure | Step) -> bytes:
    """``value`` as it stands in a recording."""
    return cast("bytes", msgpack.packb(_plain(value)))


def read(chunks: Iterator[bytes]) -> Iterator[Departure | Step]:
    """What a recording holds, the departure first; UnreadableFlight where it stops making sense.

    A recording ends where the process died: a last value that is cut off is no fault.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=FLIGHT_BYTES_MAX)
    began = False
    for chunk in chunks:
        unpacker.feed(chunk)
        for raw in unpacker:
            value = _shaped(raw)
            if not isinstance(value, Step if began else Departure):
                raise UnreadableFlight(f"{type(value).__name__} where {'a step' if began else 'a departure'} belongs")
            if isinstance(value, Departure) and value.version != FLIGHT_VERSION:
                raise UnreadableFlight(f"recorded as version {value.version}, this is version {FLIGHT_VERSION}")
            began = True
            yield value
    if not began:
        raise UnreadableFlight("it is empty")


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return [_ENUM, type(value).__name__, value.value]
    if isinstance(value, tuple):
        return [_TUPLE, *map(_plain, value)]
    if is_dataclass(value):
        return [_RECORD, type(value).__name__, *[_plain(getattr(value, field.name)) for field in fields(value)]]
    assert value is None or type(value) in (bool, int, float, str, bytes), f"an event holds a {type(value)}"
    return value


def _shaped(raw: object) -> object:
    if not isinstance(raw, list):
        return raw
    try:
        shape, *rest = raw
        if shape == _TUPLE:
            return tuple([_shaped(item) for item in rest])
        name, *values = rest
        make = cast("Callable[..., object]", _KNOWN[name])
        return make(*[_shaped(value) for value in values])
    except (ValueError, KeyError, TypeError) as fault:
        raise UnreadableFlight(f"no value of ours: {fault}") from fault


def _reachable(hint: object, known: dict[str, type]) -> None:
    """Every dataclass and enum that a value of type ``hint`` may hold, by name."""
    if get_origin(hint) in (tuple, Union, UnionType):
        for part in get_args(hint):
            _reachable(part, known)
        return
    if hint is NoneType or not isinstance(hint, type) or hint.__name__ in known:
        return
    if issubclass(hint, Enum):
        known[hint.__name__] = hint
    elif is_dataclass(hint):
        known[hint.__name__] = hint
        for part in get_type_hints(hint).values():
            _reachable(part, known)


def _all_known() -> dict[str, type]:
    known: dict[str, type] = {}
    _reachable(Departure, known)
    _reachable(Step, known)
    return known


_KNOWN: Final = _all_known()
