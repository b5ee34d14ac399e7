import math
from dataclasses import dataclass
from enum import IntEnum

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.fields import decode, encode, field_coders, record
from shoal_protocol.ids import ClusterId, DeploymentId, Digest, NodeId, SessionId, node_id_bytes, node_id_from_bytes
from shoal_protocol.limits import INTEGER_MAX, LIST_ITEMS_MAX, TEXT_BYTES_MAX
from tests.support.protocol import records


class Colour(IntEnum):
    RED = 1
    BLUE = 4


@dataclass(frozen=True, slots=True)
class Inner:
    flag: bool


@dataclass(frozen=True, slots=True)
class Everything:
    number: int
    port: int
    temperature: float
    logprob: float
    text: str
    plan: bytes
    node: NodeId
    cluster: ClusterId
    deployment: DeploymentId
    session: SessionId
    digest: Digest
    colour: Colour
    maybe: int | None
    inner: Inner
    many: tuple[Inner, ...]
    pairs: tuple[tuple[int, float], ...]


CODER = record(Everything, signed=False)
NODE = node_id_from_bytes(bytes(range(20)))
GOOD = Everything(
    number=1,
    port=80,
    temperature=0.5,
    logprob=-3.25,
    text="grüezi",
    plan=b"plan",
    node=NODE,
    cluster=ClusterId("0f" * 16),
    deployment=DeploymentId("toy"),
    session=SessionId(bytes(16)),
    digest=Digest(bytes(32)),
    colour=Colour.BLUE,
    maybe=None,
    inner=Inner(flag=True),
    many=(Inner(flag=False),),
    pairs=((1, 0.5),),
)
NAMES = list(Everything.__slots__)


def raw() -> list:
    return msgpack.unpackb(encode(CODER, GOOD))


@given(records(Everything))
def test_every_value_survives(value):
    data = encode(CODER, value)
    assert decode(CODER, data) == value
    assert encode(CODER, decode(CODER, data)) == data


def test_ids_travel_as_bytes_and_enums_as_numbers():
    row = dict(zip(NAMES, raw(), strict=True))
    assert row["node"] == node_id_bytes(NODE)
    assert row["cluster"] == b"\x0f" * 16
    assert row["colour"] == 4
    assert row["inner"] == [True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", -1),
        ("number", INTEGER_MAX + 1),
        ("number", True),
        ("number", 1.0),
        ("number", None),
        ("number", "1"),
        ("port", 65_536),
        ("temperature", 1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("logprob", math.inf),
        ("logprob", -math.inf),
        ("text", b"text"),
        ("text", "x" * (TEXT_BYTES_MAX + 1)),
        ("text", "é" * (TEXT_BYTES_MAX // 2 + 1)),
        ("plan", "plan"),
        ("plan", bytes(64 * 1024 + 1)),
        ("node", NODE),
        ("node", bytes(19)),
        ("cluster", "0f" * 16),
        ("cluster", bytes(15)),
        ("deployment", "Toy"),
        ("deployment", "a/b"),
        ("deployment", b"toy"),
        ("session", bytes(17)),
        ("digest", bytes(31)),
        ("colour", 2),
        ("colour", True),
        ("colour", "RED"),
        ("maybe", "1"),
        ("inner", True),
        ("inner", []),
        ("inner", [True, True]),
        ("inner", [1]),
        ("inner", None),
        ("many", [True]),
        ("many", [[True]] * (LIST_ITEMS_MAX + 1)),
        ("many", b""),
        ("pairs", [[1]]),
        ("pairs", [[1, 0.5, 2]]),
        ("pairs", [1, 0.5]),
    ],
)
def test_a_field_that_is_not_allowed_is_refused(name, value):
    row = raw()
    row[NAMES.index(name)] = value
    with pytest.raises(MalformedMessage):
        decode(CODER, msgpack.packb(row))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", -1),
        ("number", True),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("text", "\ud800"),
        ("text", 5),
        ("plan", bytearray(b"plan")),
        ("node", "short"),
        ("node", 5),
        ("cluster", b"x"),
        ("deployment", "Toy"),
        ("colour", 1),
        ("inner", None),
        ("many", [Inner(flag=True)]),
        ("pairs", ((1,),)),
    ],
)
def test_our_own_value_that_is_not_allowed_is_our_mistake(name, value):
    wrong = {**{field: getattr(GOOD, field) for field in NAMES}, name: value}
    with pytest.raises(LocalProtocolError):
        encode(CODER, Everything(**wrong))


def test_an_integer_is_a_float_where_we_say_so():
    data = encode(CODER, Everything(**{**{field: getattr(GOOD, field) for field in NAMES}, "temperature": 1}))
    assert decode(CODER, data).temperature == 1.0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x00",
        b"\xc1",
        b"\x80",
        b"\x81\x00\x00",
        b"\x81\x90\x00",
        b"\xd4\x00\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xa1\xff",
        b"\x91" * 3000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff" * 1000,
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_what_is_no_msgpack_of_ours_is_refused(data):
    with pytest.raises(MalformedMessage):
        decode(CODER, data)


def test_nothing_may_follow_and_nothing_may_be_missing():
    data = encode(CODER, GOOD)
    with pytest.raises(MalformedMessage):
        decode(CODER, data + b"\x00")
    for end in range(len(data)):
        with pytest.raises(MalformedMessage):
            decode(CODER, data[:end])


LONGER = [
    (b"\x91\xc3", b"\xdc\x00\x01\xc3"),  # an array length in 16 bits
    (b"\x91\xc3", b"\xdd\x00\x00\x00\x01\xc3"),  # in 32 bits
]


@pytest.mark.parametrize(("short", "long"), LONGER)
def test_a_longer_encoding_of_the_same_value_is_refused(short, long):
    coder = record(Inner, signed=True)
    assert decode(coder, short) == Inner(flag=True)
    assert msgpack.unpackb(long) == msgpack.unpackb(short)
    with pytest.raises(MalformedMessage, match="one encoding"):
        decode(coder, long)


@pytest.mark.parametrize(
    "long", [b"\x91\xcc\x01", b"\x91\xcd\x00\x01", b"\x91\xcf" + bytes(7) + b"\x01", b"\x91\xd0\x01"]
)
def test_a_longer_integer_is_refused(long):
    @dataclass(frozen=True, slots=True)
    class One:
        number: int

    coder = record(One, signed=True)
    assert decode(coder, b"\x91\x01") == One(1)
    with pytest.raises(MalformedMessage, match="one encoding"):
        decode(coder, long)


def test_an_array_that_claims_to_be_long_is_refused_before_it_is_allocated():
    with pytest.raises(MalformedMessage, match="max_array_len"):
        decode(CODER, b"\xdc\x04\x01" + bytes(1025))


@given(st.binary(max_size=200))
def test_random_bytes_are_never_anything_else_than_malformed(data):
    with pytest.raises(MalformedMessage):
        decode(CODER, data)


def test_a_signed_body_may_hold_no_float():
    with pytest.raises(AssertionError, match="two signatures"):
        record(Everything, signed=True)


def test_a_type_without_a_coder_is_noticed_at_import():
    @dataclass
    class Wrong:
        table: dict[str, int]

    with pytest.raises(AssertionError, match="no coder"):
        record(Wrong, signed=True)


def test_every_coder_says_in_words_what_it_allows():
    texts = {name: coder.text for name, coder in zip(NAMES, field_coders(Everything, signed=False), strict=True)}
    assert texts["port"] == "int 0..65535"
    assert texts["maybe"] == "nil or int 0..2^63-1"
    assert texts["many"] == "array of at most 1024: Inner"
    assert texts["session"] == "bin, 16 bytes"
    assert texts["colour"] == "int, Colour"


@pytest.mark.parametrize("depth", [100, 1000])
@pytest.mark.parametrize("tail", [b"", b"\x00"], ids=["", "and more"])
def test_what_is_nested_beyond_the_stack_is_refused_like_anything_else(depth, tail):
    """The words of the refusal are bounded too: repr() of such a value exhausts the stack."""
    wire = b"\x91" + b"\x91" * depth + b"\x01" + tail
    with pytest.raises(MalformedMessage):
        decode(record(Inner, signed=True), wire)
