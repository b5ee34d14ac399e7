"""What a pipeline may be, and every way in which it may not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.pipeline import (
    GENERATE,
    INPUTS_MAX,
    JOIN,
    STEPS_MAX,
    Generation,
    Pipeline,
    Sort,
    Step,
    faults_of,
    joined,
    waves,
)
from shoal_agent.core.services import EncodeAnswer, EncodeRequest, pack, unpack
from shoal_protocol.ids import DeploymentId

MODEL = DeploymentId("tiny")


def brought(name, *inputs, service="turn"):
    return Step(name, service, inputs, "around")


def joining(name, *inputs):
    return Step(name, JOIN, inputs)


def encode(name, given):
    return Step(name, "tokenizer", (given,), "encode", MODEL)


def embed(name, given):
    return Step(name, "embedder", (given,), "embed", MODEL)


def generate(name, given):
    return Step(name, GENERATE, (given,), "", MODEL, Generation())


TWO_TEXTS = (
    encode("a", "request.left"),
    embed("b", "a"),
    encode("c", "request.right"),
    embed("d", "c"),
    joining("both", "b", "d"),
)


def test_two_texts_become_two_vectors_at_once():
    pipeline = Pipeline("compare", TWO_TEXTS, "both")
    assert pipeline.parts == ("left", "right")
    assert waves(pipeline.steps) == (("a", "c"), ("b", "d"), ("both",))
    sorts = {"request.left": Sort.TEXT, "a": Sort.TOKENS, "b": Sort.VECTOR, "both": Sort.MAP, "request": Sort.BYTES}
    assert {given: pipeline.sort_of(given) for given in sorts} == sorts


def test_the_order_of_steps_in_a_manifest_means_nothing():
    backwards = Pipeline("compare", TWO_TEXTS[::-1], "both")
    assert waves(backwards.steps) == (("c", "a"), ("d", "b"), ("both",))


def test_a_request_is_whole_or_in_parts():
    whole = Pipeline("p", (brought("a", "request"), brought("b", "a")), "b")
    assert (whole.parts, whole.sort_of("request")) == ((), Sort.BYTES)


def test_text_is_put_as_its_service_reads_it():
    assert unpack(EncodeRequest, encode("a", "request").request("ä".encode())) == EncodeRequest("ä", special=False)
    assert generate("a", "request").request(b"hello") == b"hello"
    assert brought("a", "request").request(b"\xff") == b"\xff"
    ids = pack(EncodeAnswer((1, 2)))
    assert embed("a", "b").request(ids) == ids
    with pytest.raises(UnicodeDecodeError):
        generate("a", "request").request(b"\xff")


def test_a_join_is_a_map_by_the_names_of_its_inputs():
    assert joined({"b": b"1", "a": b""}) == bytes.fromhex("82") + b"\xa1b\xc4\x011\xa1a\xc4\x00"


LINE = (brought("a", "request"), brought("b", "a"))


@pytest.mark.parametrize(
    ("steps", "output", "fault"),
    [
        ((), "a", "steps: 0 steps; a pipeline has 1 to 16"),
        (
            tuple(brought(f"s{i}", "request") for i in range(STEPS_MAX + 1)),
            "s0",
            "steps: 17 steps; a pipeline has 1 to 16",
        ),
        ((brought("request", "request.x"),), "request", "steps[0].name: 'request' is no name"),
        ((replace(LINE[0], name="a.b"),), "a.b", "steps[0].name: 'a.b' is no name"),
        ((*LINE, brought("a", "request")), "b", "steps[2].name: 'a' is the name of steps[0]"),
        (LINE, "c", "output: there is no step 'c'"),
        (
            (brought("a", "nobody"),),
            "a",
            "steps[0].inputs[0]: there is no step 'nobody', nor is it 'request' or request.N",
        ),
        ((brought("a"),), "a", "steps[0].inputs: 0 inputs; a step has one"),
        (
            (*LINE, brought("c", "a", "b")),
            "c",
            "steps[2].inputs: 2 inputs; a step has one, and a step of service 'join'",
        ),
        ((*LINE, joining("c", "b")), "c", "steps[2].inputs: 1 inputs; a join has 2 to 8"),
        ((*LINE, joining("c", "a", "b", "b")), "c", "steps[2].inputs[2]: 'b' is there already"),
        ((brought("a", "request."),), "a", "steps[0].inputs[0]: 'request.' is no part of a request"),
        ((brought("a", "request"), joining("b", "a", "request.x")), "b", "steps[1].inputs[1]: 'request.x', though"),
        ((brought("a", "b"), brought("b", "a")), "b", "steps: a -> b -> a is a circle"),
        ((brought("a", "a"),), "a", "steps: a -> a is a circle"),
        ((*LINE, brought("c", "a")), "b", "steps[2]: nothing needs the answer of 'c'; there is one output, 'b'"),
        (
            (encode("a", "request"), generate("b", "a")),
            "b",
            "steps[1].inputs[0]: generate takes text, and 'a' gives tokens",
        ),
        (
            (embed("a", "request.x"),),
            "a",
            "steps[0].inputs[0]: embedder.embed takes tokens, and 'request.x' gives text",
        ),
        (
            (*TWO_TEXTS, encode("e", "both")),
            "e",
            "steps[5].inputs[0]: tokenizer.encode takes text, and 'both' gives map",
        ),
        ((brought("a", "request", service="Turn"),), "a", "steps[0].service: 'Turn' is no name of a service"),
        ((brought("a", "request", service="sampler"),), "a", "steps[0].service: sampler works within a generation"),
        ((brought("a", "request", service="sampler:00"),), "a", "steps[0].service: sampler works within a generation"),
        (
            (brought("a", "request", service="tokenizer:00"),),
            "a",
            "steps[0].service: write 'tokenizer', and its model's deployment",
        ),
        ((replace(encode("a", "request"), model=None),), "a", "steps[0].model: tokenizer is of a model"),
        ((replace(generate("a", "request"), model=None),), "a", "steps[0].model: generate is of a model"),
        (
            (replace(encode("a", "request"), service="tokeniser"),),
            "a",
            "steps[0].model: 'tokeniser' is of no model; those that are: tokenizer, embedder, generate",
        ),
        ((replace(encode("a", "request"), method="check"),), "a", "steps[0].method: tokenizer has no method 'check'"),
        ((replace(LINE[0], method=""),), "a", "steps[0].method: required"),
        ((replace(generate("a", "request"), method="go"),), "a", "steps[0].method: generate has none"),
        ((replace(LINE[0], generation=Generation()),), "a", "steps[0]: only generate has tokens_max"),
    ],
)
def test_what_is_no_pipeline_is_refused_with_its_place(steps, output, fault):
    (told,) = faults_of(steps, output)
    assert told.startswith(fault)
    with pytest.raises(ValueError, match=r"steps|output"):
        Pipeline("p", steps, output)


def test_all_faults_come_together():
    steps = (brought("a", "b"), brought("b", "a"), brought("c", "nobody"), encode("c", "request.x"))
    assert len(faults_of(steps, "d")) == 4


NAMES = st.sampled_from(["a", "b", "c", "request", "request.x", "nobody"])
ANY = st.builds(
    Step,
    NAMES,
    st.sampled_from(["turn", JOIN, GENERATE, "tokenizer", "sampler"]),
    st.lists(NAMES, max_size=3).map(tuple),
    st.sampled_from(["", "encode"]),
    st.sampled_from([None, MODEL]),
)


@given(st.lists(ANY, max_size=5), NAMES)
def test_whatever_is_written_is_judged_and_what_is_right_has_an_order(steps, output):
    if not faults_of(steps, output):
        pipeline = Pipeline("p", tuple(steps), output)
        ordered = [name for wave in waves(steps) for name in wave]
        assert sorted(ordered) == sorted(step.name for step in steps)
        assert ordered[-1] == output
        assert pipeline.sort_of(output) is pipeline.step(output).gives


def test_a_join_is_bounded():
    steps = tuple(brought(f"s{i}", "request") for i in range(INPUTS_MAX + 1))
    names = tuple(step.name for step in steps)
    assert not faults_of((*steps[1:], joining("j", *names[1:])), "j")
    assert faults_of((*steps, joining("j", *names)), "j") == ("steps[9].inputs: 9 inputs; a join has 2 to 8",)
