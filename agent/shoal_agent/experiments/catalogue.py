"""Every experiment by its name.

The module that runs one is imported when it is named: some need solvers and large tables that the others do not.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal_agent.experiments.options import Options, Progress, wrong
from shoal_agent.experiments.report import Report

Run = Callable[[Options, Progress], Report]


@dataclass(frozen=True, slots=True)
class Experiment:
    """``module`` has a function ``run(options, progress) -> Report``."""

    name: str
    summary: str
    module: str

    def load(self) -> Run:
        run: Run = importlib.import_module(self.module).run
        return run


_ALL: Final[tuple[Experiment, ...]] = ()

EXPERIMENTS: Final[dict[str, Experiment]] = {experiment.name: experiment for experiment in _ALL}


def find(name: str) -> Experiment:
    """The experiment of that name."""
    if name not in EXPERIMENTS:
        raise wrong(f"no experiment {name!r}", ", ".join(EXPERIMENTS))
    return EXPERIMENTS[name]
