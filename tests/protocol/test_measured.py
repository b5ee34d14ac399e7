"""What nobody honest could say of itself is refused where it is read: no NaN and no negative rate gets further."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_protocol.codec import decode_message, encode_message
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.limits import BYTES_PER_S_MAX, TOKENS_PER_KS_MAX
from tests.support.protocol import MESSAGES

RECORD = MESSAGES[0]
LINKS, FIELD = 10, 13
"""Where links and demands stand in a record."""
RATES = st.integers(0, TOKENS_PER_KS_MAX)
ABSURD = st.one_of(
    st.integers(max_value=-1, min_value=-(2**63)),
    st.integers(min_value=TOKENS_PER_KS_MAX + 1, max_value=2**64 - 1),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)


def record(prompts, answers):
    body = msgpack.unpackb(encode_message(RECORD)[1])
    ((name, *_),) = body[FIELD]
    body[FIELD] = [[name, prompts, answers]]
    return msgpack.packb(body)


@settings(max_examples=60, deadline=None)
@given(RATES, RATES)
def test_what_a_node_may_say_is_read_as_it_was_said(prompts, answers):
    (told,) = decode_message(1, record(prompts, answers)).demands
    assert (told.prompt_tokens_per_ks, told.answer_tokens_per_ks) == (prompts, answers)


@settings(max_examples=60, deadline=None)
@given(ABSURD, RATES, st.booleans())
def test_what_nobody_may_say_is_refused_at_the_door(absurd, rate, first):
    with pytest.raises(MalformedMessage):
        decode_message(1, record(absurd, rate) if first else record(rate, absurd))


@settings(max_examples=60, deadline=None)
@given(ABSURD.filter(lambda value: not isinstance(value, int) or isinstance(value, bool) or value < 0))
def test_a_link_carries_a_whole_number_of_bytes(absurd):
    body = msgpack.unpackb(encode_message(RECORD)[1])
    body[LINKS][1][3] = absurd
    with pytest.raises(MalformedMessage):
        decode_message(1, msgpack.packb(body))
    body[LINKS][1][3] = BYTES_PER_S_MAX
    assert decode_message(1, msgpack.packb(body)).links[1].bytes_per_s == BYTES_PER_S_MAX
