from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.forecast import RETRY_S_MAX, Admitted, Refused, Step, finish_ms, judge
from shoal_agent.core.pipeline import JOIN, Pipeline
from shoal_agent.core.pipeline import Step as PipelineStep
from shoal_agent.core.pipeline_run import AT_ONCE, Ended, PipelineRun
from shoal_protocol.ids import Instant

AMOUNTS = st.floats(0, 1e4)


@st.composite
def pipelines(draw):
    steps = []
    for index in range(draw(st.integers(1, 8))):
        after = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        steps.append(Step(tuple(sorted(after)), draw(AMOUNTS), draw(AMOUNTS), draw(AMOUNTS)))
    return steps


def paths(steps, last):
    """Every way from a first step to ``last``."""
    if not steps[last].after:
        return [[last]]
    return [[*path, last] for before in steps[last].after for path in paths(steps, before)]


@given(pipelines())
def test_the_finish_is_the_longest_way_through(steps):
    took = [step.transfer_ms + step.wait_ms + step.service_ms for step in steps]
    longest = max(sum(took[k] for k in path) for last in range(len(steps)) for path in paths(steps, last))
    assert finish_ms(steps) == pytest.approx(longest)


@given(pipelines(), st.integers(1, 8))
def test_where_few_run_at_a_time_the_finish_is_that_of_the_run_itself(steps, lanes):
    """``PipelineRun`` under a clock that lets each step take what was predicted."""
    names = [f"s{index}" for index in range(len(steps))]
    drawn = [
        PipelineStep(name, "turn", _inputs(name, step.after, names), "around")
        for name, step in zip(names, steps, strict=True)
    ]
    joins = [
        PipelineStep(f"j{name}", JOIN, tuple(names[before] for before in step.after))
        for name, step in zip(names, steps, strict=True)
        if len(step.after) > 1
    ]
    last = PipelineStep("all", JOIN, (*names, "request")[: max(2, len(names))])
    assert finish_ms(steps, AT_ONCE) == pytest.approx(_lived([*drawn, *joins, last], steps))
    assert finish_ms(steps) <= finish_ms(steps, lanes) + 1e-6 <= finish_ms(steps, 1) + 2e-6
    assert finish_ms(steps, 1) == pytest.approx(sum(step.took_ms for step in steps))


def _inputs(name, after, names):
    if len(after) > 1:
        return (f"j{name}",)
    return tuple(names[before] for before in after) or ("request",)


def _lived(graph, steps):
    """When a run of ``graph`` is answered whose steps take what ``steps`` do."""
    run = PipelineRun(Pipeline("p", tuple(graph), "all"), {"request": b""}, Instant(inf))
    orders, running, now, count = run.begin(Instant(0.0)), [], 0.0, 0
    while not isinstance(orders[-1] if orders else None, Ended):
        for order in orders:
            count += 1
            running.append((now + steps[int(order.step.name[1:])].took_ms, count, order.step.name))
        running.sort()
        now, _, name = running.pop(0)
        orders = run.done(name, b"", Instant(now))
    return now


def test_steps_may_be_named_in_any_order():
    assert finish_ms([Step((1,), 0.0, 1.0, 2.0), Step((), 4.0, 0.0, 0.0)]) == 7.0


def asked(wait_ms, level=0.0, **given_):
    figures = {"late_chance": 0.1, "pressure": 1.0, "work": 1.0, "worth": 5.0} | given_
    return judge(finish_ms([Step((), 10.0, wait_ms, 40.0)]), 300.0, level=level, **figures)


def test_who_will_be_in_time_comes_in():
    assert asked(100.0) == Admitted(150.0)


def test_who_will_be_late_is_told_when_to_come_again():
    word = asked(2800.0)
    assert word == Refused(2850.0, 3, "it would take 2850 ms, and has 300 ms")
    assert asked(1e9).retry_after_s == RETRY_S_MAX


def test_who_is_not_worth_the_wait_he_causes_is_refused_until_his_class_is_owed_enough():
    assert isinstance(asked(100.0, pressure=50.0), Refused)
    assert isinstance(asked(100.0, pressure=50.0, level=60.0), Admitted)


@given(AMOUNTS, AMOUNTS, AMOUNTS, st.floats(0, 1), AMOUNTS)
def test_a_class_that_is_owed_more_is_never_refused_sooner(wait_ms, level, pressure, chance, more):
    figures = {"pressure": pressure, "late_chance": chance}
    if isinstance(asked(wait_ms, level, **figures), Admitted):
        assert isinstance(asked(wait_ms, level + more, **figures), Admitted)


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_no_figure_that_is_none_is_predicted_with(bad):
    for name in ("transfer_ms", "wait_ms", "service_ms"):
        with pytest.raises(ValueError, match=name):
            Step((), **{"transfer_ms": 1.0, "wait_ms": 1.0, "service_ms": 1.0, name: bad})
    for figure in ("finish", "deadline"):
        given_ms = {"finish": 1.0, "deadline": 1.0, figure: bad}
        with pytest.raises(ValueError, match=figure):
            judge(**given_ms, level=0.0, late_chance=0.0, pressure=0.0, work=0.0, worth=0.0)
    for name in ("level", "late_chance", "pressure", "work", "worth"):
        with pytest.raises(ValueError, match=name):
            asked(1.0, **{name: bad})


def test_a_chance_is_no_more_than_certainty():
    with pytest.raises(ValueError, match="late_chance"):
        asked(1.0, late_chance=1.5)


@pytest.mark.parametrize("after", [(0,), (1,), (-1,)])
def test_a_step_comes_after_others_that_end(after):
    with pytest.raises(ValueError, match="step 0"):
        finish_ms([Step(after, 0.0, 0.0, 0.0)])
