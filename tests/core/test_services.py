import dataclasses
import math
import typing

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core import services
from shoal_agent.core.services import (
    ChatMessage,
    CheckRequest,
    Done,
    EmbedAnswer,
    EmbedRequest,
    EncodeAnswer,
    EncodeRequest,
    FlushAnswer,
    FlushRequest,
    OpenDetokenizerRequest,
    OpenSamplerRequest,
    PushAnswer,
    PushRequest,
    RenderAnswer,
    RenderRequest,
    SampleAnswer,
    SampleRequest,
    ServiceKind,
    pack,
    service_name,
    unpack,
)
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import Digest, SessionId
from shoal_protocol.limits import STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX, TOP_LOGPROBS_MAX

SESSION = SessionId(bytes(range(16)))
SAMPLING = Sampling(temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.1, seed=2**63 - 1, top_logprobs=-1)
EXAMPLES = (
    RenderRequest((ChatMessage("system", "be brief"), ChatMessage("user", "hé\u0000llo")), add_generation_prompt=True),
    RenderAnswer("<|im_start|>user"),
    EncodeRequest("text", special=False),
    CheckRequest((0, 7, 49151)),
    EncodeAnswer(()),
    EmbedRequest((5, 6)),
    EmbedAnswer((0.6, -0.8), 2),
    OpenSamplerRequest(SESSION, (1, 2, 3), SAMPLING),
    SampleRequest(SESSION, 0),
    SampleAnswer(5, end=True, logprob=-0.25, top=((5, -0.25), (6, -1.5))),
    OpenDetokenizerRequest(SESSION, ("\n\n", "User:"), logprobs=True),
    PushRequest(SESSION, 5, (5, 6)),
    PushAnswer("he", stopped=False, token_bytes=b"he\xff", top_bytes=(b"he", b"")),
    FlushRequest(SESSION),
    FlushAnswer("\ufffd"),
    Done(),
)


def test_every_message_has_an_example():
    assert {type(example) for example in EXAMPLES} == set(typing.get_args(services.ServiceMessage))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message):
    assert unpack(type(message), pack(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_what_never_travelled_is_what_it_is_and_packs_only_once(message):
    assert unpack(type(message), message) is message
    assert pack(pack(message)) == pack(message)


def test_a_message_taken_for_another_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="took a Done for a FlushAnswer"):
        unpack(FlushAnswer, Done())


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_is_an_array_of_its_fields_in_order(message):
    row = msgpack.unpackb(pack(message), use_list=False)
    assert len(row) == len(dataclasses.fields(message))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
@given(data=st.data())
def test_any_bytes_are_a_message_or_malformed(message, data):
    good = pack(message)
    at = data.draw(st.integers(0, len(good) - 1))
    raw = data.draw(
        st.sampled_from([good[:at], good + b"\x00", good[:at] + data.draw(st.binary(min_size=1, max_size=3))])
    )
    try:
        again = unpack(type(message), raw)
    except MalformedMessage:
        return
    assert isinstance(again, type(message))


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (RenderRequest, ([("user",)], True)),
        (RenderRequest, ([("user", 1)], True)),
        (RenderRequest, ([], 1)),
        (EncodeRequest, (b"bytes", True)),
        (EncodeRequest, ("text",)),
        (EncodeRequest, {"text": True}),
        (CheckRequest, ([-1],)),
        (CheckRequest, ([2**31],)),
        (CheckRequest, ([True],)),
        (SampleRequest, (b"short", 0)),
        (SampleRequest, (SESSION, -1)),
        (SampleAnswer, (1, True, math.nan, [])),
        (SampleAnswer, (1, True, 0.0, [(1, 0.0)] * (TOP_LOGPROBS_MAX + 1))),
        (OpenDetokenizerRequest, (SESSION, [""], False)),
        (OpenDetokenizerRequest, (SESSION, ["x" * (STOP_STRING_BYTES_MAX + 1)], False)),
        (OpenDetokenizerRequest, (SESSION, ["x"] * (STOP_STRINGS_MAX + 1), False)),
        (OpenSamplerRequest, (SESSION, [], (-0.1, 0, 1.0, 1.0, 0, -1))),
        (OpenSamplerRequest, (SESSION, [], (math.inf, 0, 1.0, 1.0, 0, -1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, -1, 1.0, 1.0, 0, -1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, 0, 0.0, 1.0, 0, -1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, 0, 1.1, 1.0, 0, -1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, 0, 1.0, 0.0, 0, -1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, 0, 1.0, 1.0, 2**63, -1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, 0, 1.0, 1.0, 0, TOP_LOGPROBS_MAX + 1))),
        (OpenSamplerRequest, (SESSION, [], (1.0, 0, 1.0, 1.0, 0, -2))),
        (Done, (1,)),
    ],
)
def test_a_field_out_of_range_is_malformed(kind, row):
    with pytest.raises(MalformedMessage):
        unpack(kind, msgpack.packb(row))


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91\xa1\xff", b"\x91" * 2000])
def test_what_is_no_msgpack_is_malformed(raw):
    with pytest.raises(MalformedMessage):
        unpack(RenderAnswer, raw)


def test_a_whole_number_is_a_number():
    whole = dataclasses.replace(SAMPLING, temperature=0, top_p=1)
    assert unpack(OpenSamplerRequest, pack(OpenSamplerRequest(SESSION, (), whole))).sampling == whole


def test_a_service_is_named_by_kind_and_model():
    model = Digest(bytes.fromhex("0123456789abcdef") + bytes(24))
    assert service_name(ServiceKind.TOKENIZER, model) == "tokenizer:0123456789abcdef"
    assert service_name(ServiceKind.CHAT_TEMPLATE, model) == "chat-template:0123456789abcdef"
