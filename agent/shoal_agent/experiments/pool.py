"""Many runs over a few processes, their results in order.

A run is a function of its arguments alone (they hold its seed), so where and when it runs changes nothing.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, TypeVar

from shoal_agent.experiments.options import Progress

AHEAD_PER_JOB: Final = 4
"""Runs handed to each process before their turn, so that none waits for another's slow one."""

Task = TypeVar("Task")
Answer = TypeVar("Answer")


def each(
    run: Callable[[Task], Answer], tasks: Sequence[Task], jobs: int, progress: Progress, name: Callable[[Task], str]
) -> list[Answer]:
    """``run`` of each of ``tasks``, in their order; ``run`` must be a function of a module."""
    answers: list[Answer] = []

    def take(answer: Answer) -> None:
        answers.append(answer)
        progress(len(answers), len(tasks), name(tasks[len(answers) - 1]))

    if jobs == 1:
        for task in tasks:
            take(run(task))
        return answers
    # A fresh interpreter per process: what a fork would copy of this one is nobody's business.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        ahead: list[Future[Answer]] = []
        for task in tasks:
            ahead.append(pool.submit(run, task))
            if len(ahead) >= jobs * AHEAD_PER_JOB:
                take(ahead.pop(0).result())
        for future in ahead:
            take(future.result())
    return answers
