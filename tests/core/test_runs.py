import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.runs import STEP, Runs


def listed(runs: Runs, begin: int, end: int) -> list[tuple[int, int]]:
    return list(runs.between(begin, end))


def test_a_prompt_runs_in_chunks_and_what_follows_one_by_one():
    runs = Runs(STEP + 10)
    assert listed(runs, 0, STEP + 12) == [
        (0, STEP),
        (STEP, STEP + 10),
        (STEP + 10, STEP + 11),
        (STEP + 11, STEP + 12),
    ]
    assert runs.amount(0, STEP + 12) == (2, STEP + 10)
    assert runs.amount(STEP, STEP + 12) == (2, 10)
    assert runs.amount(STEP + 11, STEP + 12) == (1, 0)


@pytest.mark.parametrize(
    ("position", "floor"), [(0, 0), (STEP - 1, 0), (STEP, STEP), (STEP + 9, STEP), (STEP + 10, STEP + 10), (999, 999)]
)
def test_the_start_of_the_run_a_position_is_in(position, floor):
    assert Runs(STEP + 10).floor(position) == floor


def test_a_prompt_that_fills_its_chunks_has_no_empty_one():
    assert listed(Runs(STEP), 0, STEP + 1) == [(0, STEP), (STEP, STEP + 1)]


def test_a_prefill_changes_the_runs_it_covers_and_no_others():
    runs = Runs(10).prefilled(12, 20)
    assert listed(runs, 0, 22) == [(0, 10), (10, 11), (11, 12), (12, 20), (20, 21), (21, 22)]
    again = runs.prefilled(0, 21)
    assert listed(again, 0, 22) == [(0, 21), (21, 22)]


BEGINS = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 400)), max_size=4)


@given(st.integers(1, 900), BEGINS, st.integers(1, 300))
def test_runs_cover_every_position_once_and_floors_and_amounts_agree(prompt, prefills, generated):
    runs, end = Runs(prompt), prompt
    for begin, length in prefills:
        start = runs.floor(min(begin, end))
        end = max(end, start + length)
        runs = runs.prefilled(start, end)
    end += generated
    every = listed(runs, 0, end)
    assert [start for start, _ in every] == [0, *(stop for _, stop in every[:-1])]
    assert every[-1][1] == end
    assert all(0 < stop - start <= STEP for start, stop in every)
    assert all(runs.floor(position) == start for start, stop in every for position in (start, stop - 1))
    begin = every[len(every) // 2][0]
    assert listed(runs, begin, end) == every[len(every) // 2 :]
    single, chunked = runs.amount(begin, end)
    assert single + chunked == end - begin
    assert single >= generated - max(0, begin - (end - generated))
