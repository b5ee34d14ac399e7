"""Numbers that are no numbers, or too many of them, never get past the codec."""

import dataclasses

import msgpack
import pytest

from shoal_protocol.codec import KIND_OF, decode_header, decode_message, encode_header, encode_message
from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.headers import ServiceCall
from shoal_protocol.light import DigestTold, LoadTold
from shoal_protocol.limits import INSTANCES_MAX, LEVEL_MILLI_MAX, LOADS_MAX, RATE_MILLI_MAX, WAIT_US_MAX, WORK_MAX
from tests.support.protocol import LOAD

DIGEST = DigestTold((LOAD,))
WRONG = (float("nan"), float("inf"), -float("inf"), -1, 0.5, 2**63, None, True, "1")
BOUNDED = {
    "instances": INSTANCES_MAX,
    "waiting": WORK_MAX,
    "rate_milli": RATE_MILLI_MAX,
    "wait_us": WAIT_US_MAX,
}


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("index", range(1, 5))
def test_a_load_that_is_no_number_is_refused(index, value):
    row = list(dataclasses.astuple(LOAD))
    row[index] = value
    with pytest.raises(MalformedMessage):
        decode_message(KIND_OF[DigestTold], msgpack.packb([[row], 0]))
    with pytest.raises(MalformedMessage):
        decode_header(KIND_OF[LoadTold], msgpack.packb([1, row, 0]))


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_price_that_is_no_number_is_refused(value):
    with pytest.raises(MalformedMessage):
        decode_message(KIND_OF[DigestTold], msgpack.packb([[], value]))
    with pytest.raises(MalformedMessage):
        decode_header(KIND_OF[LoadTold], msgpack.packb([1, None, value]))


@pytest.mark.parametrize("value", [*WRONG, LEVEL_MILLI_MAX + 1], ids=repr)
def test_what_is_owed_is_a_number_or_the_call_is_refused(value):
    call = [1, "tokenizer:00", "encode", 1000, 0]
    assert decode_header(KIND_OF[ServiceCall], msgpack.packb(call)) == ServiceCall(*call)
    with pytest.raises(MalformedMessage):
        decode_header(KIND_OF[ServiceCall], msgpack.packb([*call[:4], value]))


@pytest.mark.parametrize(("name", "most"), BOUNDED.items())
def test_a_load_keeps_its_bounds_both_ways(name, most):
    assert encode_header(LoadTold(1, dataclasses.replace(LOAD, **{name: most})))
    with pytest.raises(LocalProtocolError):
        encode_header(LoadTold(1, dataclasses.replace(LOAD, **{name: most + 1})))


def test_an_oversized_digest_is_refused_both_ways():
    with pytest.raises(LocalProtocolError):
        encode_message(DigestTold((LOAD,) * (LOADS_MAX + 1)))
    row = list(dataclasses.astuple(LOAD))
    with pytest.raises(MalformedMessage):
        decode_message(KIND_OF[DigestTold], msgpack.packb([[row] * (LOADS_MAX + 1), 0]))
    with pytest.raises(LocalProtocolError):
        encode_message(dataclasses.replace(DIGEST, price_milli=LEVEL_MILLI_MAX + 1))


def test_a_full_digest_is_a_small_message():
    kind, body = encode_message(DigestTold((LOAD,) * LOADS_MAX))
    assert len(body) < 2048
    assert len(decode_message(kind, body).loads) == LOADS_MAX
