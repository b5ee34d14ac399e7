import itertools
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_agent.core.resume import RESERVE, Reach, Restart, Speed, Start, Way, restart_of, starts_of
from shoal_agent.core.runs import Runs

SPEED = Speed(0.01, 0.001)
RUNS = Runs(0, ((0, 3), (5, 1)))
"""Chunks of 0-2 and 3-4, then one by one."""


class OutOfOrderError(Exception):
    pass


def lived(reaches: Sequence[Reach], starts: Sequence[Start], runs: Runs, wanted: int) -> list[list[int]]:
    """What each stage computes after the resume, position by position. Every rule of a host is in here."""
    queues: list[deque[tuple[int, int]]] = [deque() for _ in reaches]
    positions = [start.position for start in starts]
    computed: list[list[int]] = [[] for _ in reaches]
    for stage, (reach, start) in enumerate(zip(reaches, starts, strict=True)):
        assert start.position <= reach.position
        assert start.replay_from <= start.position
        if start.replay_from < start.position:
            assert reach.retained_from <= start.replay_from, "only what was retained can be sent again"
            queues[stage + 1] += runs.between(start.replay_from, start.position)
    queues[0] += runs.between(starts[0].position, wanted)
    for stage, queue in enumerate(queues):
        for begin, end in queue:
            if end <= positions[stage]:
                continue
            if begin != positions[stage]:
                raise OutOfOrderError
            computed[stage] += range(begin, end)
            positions[stage] = end
            if stage + 1 < len(queues):
                queues[stage + 1].append((begin, end))
    return computed


def goes_on(reaches: Sequence[Reach], starts: Sequence[Start], runs: Runs, wanted: int) -> bool:
    """Whether every stage comes to ``wanted``, and the token there is drawn."""
    try:
        computed = lived(reaches, starts, runs, wanted)
    except OutOfOrderError:
        return False
    whole = all(row == list(range(start.position, wanted)) for row, start in zip(computed, starts, strict=True))
    return whole and wanted - 1 in computed[-1]


def reaches_of(wanted: int) -> st.SearchStrategy[Reach]:
    positions = st.integers(0, wanted)
    return st.tuples(positions, positions).map(
        lambda pair: Reach(max(pair), max(pair) if pair[0] < pair[1] else pair[1])
    )


@st.composite
def sessions(draw, tokens_max: int, stages_max: int, runs: Runs | None = None):
    wanted = draw(st.integers(1, tokens_max))
    made = runs or Runs(draw(st.integers(1, wanted)))
    reaches = draw(st.lists(reaches_of(wanted), min_size=1, max_size=stages_max))
    # What is retained begins with a run.
    fitting = [
        Reach(r.position, r.position if r.retained_from == r.position else made.floor(r.retained_from)) for r in reaches
    ]
    return fitting, made, wanted


@given(sessions(tokens_max=900, stages_max=5))
def test_every_stage_computes_every_position_from_its_start_on_exactly_once(session):
    reaches, runs, wanted = session
    assert goes_on(reaches, starts_of(reaches, runs, wanted), runs, wanted)


@settings(max_examples=300, deadline=None)
@given(sessions(tokens_max=8, stages_max=3, runs=RUNS))
def test_no_stage_could_begin_later(session):
    """Against every choice of starts there is: ours is the latest at every stage."""
    reaches, runs, wanted = session
    ours = [start.position for start in starts_of(reaches, runs, wanted)]
    edges = sorted({edge for run in runs.between(0, wanted) for edge in run})
    choices = [[edge for edge in edges if edge <= reach.position] for reach in reaches]
    for begins in itertools.product(*choices):
        starts = [Start(begin, min([begin, *begins[stage + 1 : stage + 2]])) for stage, begin in enumerate(begins)]
        if any(
            s.replay_from < s.position and r.retained_from > s.replay_from for s, r in zip(starts, reaches, strict=True)
        ):
            continue
        if goes_on(reaches, starts, runs, wanted):
            assert all(begin <= mine for begin, mine in zip(begins, ours, strict=True)), begins


def restart(reaches: list[tuple[int, int]], *, wanted: int, left_s: float = 1e9, prompt: int = 10) -> Restart:
    return restart_of([Reach(*r) for r in reaches], Runs(prompt), wanted, [SPEED] * len(reaches), left_s)


def test_a_copy_that_lags_is_completed_from_what_the_stage_before_retained():
    found = restart([(50, 30), (44, 44), (50, 50)], wanted=50)
    assert found.starts == (Start(50, 44), Start(44, 44), Start(49, 49))
    assert found.way is Way.KV
    assert found.cost_s == pytest.approx(5 * 0.01)


def test_what_was_not_retained_is_produced_again():
    found = restart([(50, 47), (44, 44), (50, 50)], wanted=50)
    assert found.starts == (Start(44, 44), Start(44, 44), Start(49, 49))
    assert found.way is Way.REPLAY


def test_a_stage_without_any_copy_is_a_replay_even_if_all_was_retained():
    found = restart([(50, 0), (0, 0), (50, 50)], wanted=50)
    assert found.starts == (Start(50, 0), Start(0, 0), Start(49, 49))
    assert found.way is Way.REPLAY
    assert found.cost_s == pytest.approx(39 * 0.01 + 10 * 0.001)


def test_the_first_stage_lost_is_fed_again_by_the_ingress():
    found = restart([(44, 44), (50, 50), (50, 50)], wanted=50)
    assert found.starts == (Start(44, 44), Start(49, 49), Start(49, 49))
    assert found.way is Way.KV


def test_nothing_is_repeated_where_everybody_has_all_but_the_wanted_run():
    found = restart([(49, 49), (49, 49)], wanted=50)
    assert (found.way, found.cost_s) == (Way.KV, 0.0)


def test_rows_that_end_within_a_chunk_count_up_to_its_beginning():
    found = restart([(600, 300), (400, 400)], wanted=601, prompt=600)
    assert found.starts == (Start(256, 256), Start(256, 256))


def test_a_position_nobody_was_sent_is_not_believed():
    found = restart([(900, 0), (900, 900)], wanted=50)
    assert found.starts == (Start(50, 49), Start(49, 49))


def test_prefill_is_chosen_only_where_the_exact_way_would_end_too_late():
    lost = [(0, 0), (0, 0)]
    exact_s = 2 * (189 * 0.01 + 10 * 0.001)
    just = exact_s / (1 - RESERVE)
    assert restart(lost, wanted=200, left_s=just + 1e-6).way is Way.REPLAY
    found = restart(lost, wanted=200, left_s=just - 1e-6)
    assert found.way is Way.PREFILL
    assert found.starts == (Start(0, 0), Start(0, 0))
    assert found.cost_s == pytest.approx(2 * 200 * 0.001)
    assert list(found.runs.between(0, 201)) == [(0, 200), (200, 201)]


def test_prefill_begins_where_all_stages_are():
    found = restart([(200, 190), (100, 100)], wanted=200, left_s=0.1)
    assert found.way is Way.PREFILL
    assert found.starts == (Start(100, 100), Start(100, 100))
    assert list(found.runs.between(99, 201)) == [(99, 100), (100, 200), (200, 201)]


def test_prefill_is_not_chosen_where_it_takes_longer():
    slow = Speed(0.001, 0.01)
    found = restart_of([Reach(0, 0)], Runs(1), 100, [slow], 0.0)
    assert found.way is Way.REPLAY


@given(sessions(tokens_max=900, stages_max=5), st.floats(0, 10))
def test_whatever_way_is_chosen_the_session_goes_on(session, left_s):
    reaches, runs, wanted = session
    found = restart_of(reaches, runs, wanted, [SPEED] * len(reaches), left_s)
    assert goes_on(reaches, found.starts, found.runs, wanted)
    assert found.cost_s >= 0
