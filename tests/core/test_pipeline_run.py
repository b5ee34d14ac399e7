"""One run, step by step; and any graph against its plain evaluation, one step after the other."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.pipeline import JOIN, REQUEST, Generation, Pipeline, Step, joined
from shoal_agent.core.pipeline_run import AT_ONCE, HELD_BYTES_MAX, Begin, Ended, PipelineRun
from shoal_protocol.ids import DeploymentId, Instant

NOW, DEADLINE = Instant(10.0), Instant(12.0)


def step(name, *inputs, service="turn"):
    return Step(name, service, inputs, "around" if service == "turn" else "")


DIAMOND = (step("a", "request"), step("b", "a"), step("c", "a"), step("d", "b", "c", service=JOIN), step("e", "d"))


def run_of(steps=DIAMOND, output="e", request=b"r"):
    return PipelineRun(Pipeline("p", tuple(steps), output), {REQUEST: request}, DEADLINE)


def begun(orders):
    assert all(isinstance(order, Begin) for order in orders)
    return [(order.step.name, order.request, order.left_s) for order in orders]


def test_a_step_begins_when_its_inputs_are_there_and_branches_run_at_once():
    run = run_of()
    assert begun(run.begin(NOW)) == [("a", b"r", 2.0)]
    assert begun(run.done("a", b"1", Instant(10.5))) == [("b", b"1", 1.5), ("c", b"1", 1.5)]
    assert begun(run.done("c", b"3", Instant(11.0))) == []
    assert begun(run.done("b", b"2", Instant(11.5))) == [("e", joined({"b": b"2", "c": b"3"}), 0.5)]
    assert run.done("e", b"4", Instant(11.6)) == [Ended(b"4")]
    assert run.done("e", b"5", Instant(11.7)) == []


def test_the_first_that_fails_ends_it_and_nothing_follows():
    run = run_of()
    run.begin(NOW)
    run.done("a", b"1", NOW)
    (ended,) = run.failed("b", RejectCode.OVERLOADED, "no room", 3.0)
    assert ended == Ended(b"", RejectCode.OVERLOADED, "step 'b' (turn.around): no room", 3.0)
    assert run.done("c", b"3", NOW) == run.failed("c", RejectCode.INTERNAL, "", None) == run.expired(DEADLINE) == []


def test_its_deadline_ends_it_and_late_work_is_not_begun():
    run = run_of()
    run.begin(NOW)
    assert run.expired(Instant(11.99)) == []
    (ended,) = run.expired(DEADLINE)
    assert ended.code is RejectCode.DEADLINE
    assert "'a', 'b', 'c', 'd', 'e'" in ended.detail
    late = run_of()
    late.begin(NOW)
    (ended,) = late.done("a", b"1", DEADLINE)
    assert (ended.code, ended.detail.endswith("'b', 'c', 'd', 'e'")) == (RejectCode.DEADLINE, True)
    (ended,) = run_of().begin(DEADLINE)
    assert ended.code is RejectCode.DEADLINE


def test_the_last_answer_counts_even_if_the_clock_was_quicker():
    run = run_of([step("a", "request")], "a")
    run.begin(NOW)
    assert run.done("a", b"1", DEADLINE) == [Ended(b"1")]


def test_only_so_many_steps_run_at_a_time():
    wide = [step(f"s{number}", "request") for number in range(AT_ONCE + 2)]
    run = run_of([*wide, step("all", *(each.name for each in wide), service=JOIN)], "all")
    assert [name for name, _, _ in begun(run.begin(NOW))] == ["s0", "s1", "s2", "s3"]
    assert [name for name, _, _ in begun(run.done("s2", b"", NOW))] == ["s4"]


def test_text_that_is_none_is_told_with_its_step():
    ask = Step("ask", "generate", ("request",), "", DeploymentId("tiny"), Generation())
    (ended,) = run_of([ask], "ask", b"\xff").begin(NOW)
    assert ended.code is RejectCode.BAD_PROMPT
    assert ended.detail == "step 'ask' (generate): what it was given is no UTF-8 text"


def test_what_lies_between_steps_is_bounded_and_what_was_used_does_not_count():
    most = bytes(HELD_BYTES_MAX)
    run = run_of()
    run.begin(NOW)
    assert len(run.done("a", most, NOW)) == 2
    assert run.done("b", most, NOW) == []
    (ended,) = run.done("c", b"1", NOW)
    assert ended.code is RejectCode.BAD_PROMPT
    assert str(HELD_BYTES_MAX) in ended.detail


def test_an_answer_that_was_not_asked_for_changes_nothing():
    assert run_of().done("b", b"", NOW) == []


@pytest.mark.parametrize("request_bytes", [b"", b"\xff"])
def test_a_join_may_take_the_request_itself(request_bytes):
    run = run_of([step("a", "request"), step("b", "request", "a", service=JOIN)], "b", request_bytes)
    run.begin(NOW)
    assert run.done("a", b"1", NOW) == [Ended(joined({"request": request_bytes, "a": b"1"}))]


# --- any graph --------------------------------------------------------------------------------------------------------


@st.composite
def pipelines(draw):
    """Steps take from earlier ones; a last join gathers whatever nobody took. Listed in any order."""
    made: list[Step] = []
    for number in range(draw(st.integers(1, 10))):
        sources = [REQUEST, *(each.name for each in made)]
        name = f"s{number}"
        if len(sources) > 1 and draw(st.booleans()):
            inputs = draw(st.lists(st.sampled_from(sources), min_size=2, max_size=4, unique=True))
            made.append(step(name, *inputs, service=JOIN))
        else:
            made.append(step(name, draw(st.sampled_from(sources))))
    taken = {given for each in made for given in each.inputs}
    ends = [each.name for each in made if each.name not in taken]
    while len(ends) > 1:
        name = f"end{len(made)}"
        made.append(step(name, *ends[:8], service=JOIN))
        ends = [*ends[8:], name]
    return Pipeline("p", tuple(draw(st.permutations(made))), ends[0])


def answer_of(name, request):
    return hashlib.blake2b(name.encode() + b"\0" + request, digest_size=4).digest()


def evaluated(pipeline, name):
    """The answer of a step by plain recursion."""
    if name == REQUEST:
        return b"r"
    one = pipeline.step(name)
    inputs = {given: evaluated(pipeline, given) for given in one.inputs}
    return joined(inputs) if one.service == JOIN else answer_of(name, inputs[one.inputs[0]])


def ready(pipeline, done):
    """What could run, by the answers that are there; joins are done as soon as they can be."""
    there = {REQUEST, *done}
    while True:
        more = [e.name for e in pipeline.steps if e.service == JOIN and e.name not in there and there >= set(e.inputs)]
        if not more:
            return [each.name for each in pipeline.steps if each.name not in there and there >= set(each.inputs)]
        there.update(more)


@given(pipelines(), st.data())
def test_any_graph_in_any_order_is_what_plain_evaluation_gives(pipeline, data):
    run = run_of(pipeline.steps, pipeline.output)
    running, done, begun_once = {}, set(), []
    orders = run.begin(NOW)
    while True:
        for order in orders:
            if isinstance(order, Begin):
                running[order.step.name] = order.request
                begun_once.append(order.step.name)
        if orders and isinstance(orders[-1], Ended):
            break
        assert len(running) == min(AT_ONCE, len(ready(pipeline, done))), "as many as can run, run"
        name = data.draw(st.sampled_from(sorted(running)))
        if data.draw(st.integers(0, 19)) == 0:
            (ended,) = run.failed(name, RejectCode.INTERNAL, "why", None)
            assert ended.code is RejectCode.INTERNAL
            assert all(run.done(other, b"", NOW) == [] for other in sorted(running))
            return
        done.add(name)
        orders = run.done(name, answer_of(name, running.pop(name)), NOW)
    assert orders == [Ended(evaluated(pipeline, pipeline.output))]
    assert not running
    assert len(begun_once) == len(set(begun_once)) == sum(each.service != JOIN for each in pipeline.steps)
