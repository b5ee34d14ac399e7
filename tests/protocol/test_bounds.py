import dataclasses
from typing import get_args, get_origin, get_type_hints

from shoal_protocol import bounds, content, envelope, headers, journal, light, messages, relay, roster, votes
from shoal_protocol.limits import INTEGER_MAX

EXTRA = (
    envelope.Statement,
    envelope.SealedStatement,
    roster.SignedRoster,
    roster.Roster,
    roster.Member,
    roster.RootSignature,
    votes.VoteStatement,
    votes.RecoveryStatement,
    relay.CircuitStatement,
)
ROOMS = (messages, headers, content, journal, light)
RECORDS = (
    *EXTRA,
    *(cls for room in ROOMS for cls in vars(room).values() if dataclasses.is_dataclass(cls)),
)
HINTS = [(name, hint) for cls in RECORDS for name, hint in get_type_hints(cls).items()]


def is_list(hint) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis


def test_every_bound_is_of_a_field_that_there_is():
    names = {name for name, _ in HINTS}
    assert set(bounds.INTEGERS) | set(bounds.FLOATS) | set(bounds.BYTES) <= names
    assert set(bounds.ITEMS) <= {name for name, hint in HINTS if is_list(hint)}


def test_every_byte_string_has_a_bound():
    assert {name for name, hint in HINTS if hint is bytes or hint == tuple[bytes, ...]} <= set(bounds.BYTES)


def test_a_bound_leaves_room_and_fits_the_wire():
    for low, high in (*bounds.INTEGERS.values(), *bounds.BYTES.values()):
        assert low <= high <= INTEGER_MAX
    for low, high in bounds.FLOATS.values():
        assert low < high
    assert all(items > 0 for items in bounds.ITEMS.values())
