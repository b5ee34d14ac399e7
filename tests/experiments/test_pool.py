from operator import neg

import pytest

from shoal_agent.experiments.options import silent
from shoal_agent.experiments.pool import each


@pytest.mark.parametrize("jobs", [1, 2])
def test_answers_come_in_the_order_of_their_tasks(jobs):
    told = []
    tasks = list(range(12))
    answers = each(neg, tasks, jobs, lambda *step: told.append(step), str)
    assert answers == [-task for task in tasks]
    assert told == [(done, 12, str(done - 1)) for done in range(1, 13)]


def test_a_run_that_breaks_ends_the_whole():
    with pytest.raises(TypeError):
        each(neg, [1, "x", 2], 1, silent, str)


def test_nothing_to_do():
    assert each(neg, [], 2, silent, str) == []
