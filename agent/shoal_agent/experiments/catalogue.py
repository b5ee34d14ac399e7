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


_ALL: Final[tuple[Experiment, ...]] = (
    Experiment(
        "paper-a",
        "Two-tier placement of microservices (arXiv 2601.19563): on-time rate and cost, R1 and R2.",
        "shoal_agent.experiments.paper_a.experiment",
    ),
    Experiment(
        "paper-b",
        "Splitting anew while conditions change (arXiv 2504.03668): service level, failures, incidents, goodput.",
        "shoal_agent.experiments.paper_b.study",
    ),
    Experiment(
        "v-sweep",
        "T1: cost falls to the least as 1/V, backlog grows as V.",
        "shoal_agent.experiments.laws.v_sweep",
    ),
    Experiment(
        "stability",
        "T2, T5: promises are kept inside the capacity region; no wait exceeds the bound of W.",
        "shoal_agent.experiments.laws.stability",
    ),
    Experiment(
        "ec-tail",
        "T3: effective capacity foretells the late share, and sizes services.",
        "shoal_agent.experiments.laws.ec_tail",
    ),
    Experiment(
        "staleness",
        "T4: old digests cost money, not stability.",
        "shoal_agent.experiments.laws.staleness",
    ),
    Experiment(
        "switching",
        "T6: where starts take time, always serving the longest queue loses capacity.",
        "shoal_agent.experiments.laws.switching",
    ),
    Experiment(
        "greedy",
        "T7: the backbone's search against the integer programme on 200 random clusters.",
        "shoal_agent.experiments.laws.greedy",
    ),
    Experiment(
        "epochs",
        "T8: no request of two epochs, nothing decided twice, whatever the network does.",
        "shoal_agent.experiments.laws.epochs",
    ),
    Experiment(
        "decentralisation",
        "The price of decentralisation over N and the age of gossip.",
        "shoal_agent.experiments.laws.decentralisation",
    ),
    Experiment(
        "scale",
        "Work, bytes and quality per node as the network grows.",
        "shoal_agent.experiments.laws.scale",
    ),
)

EXPERIMENTS: Final[dict[str, Experiment]] = {experiment.name: experiment for experiment in _ALL}


def find(name: str) -> Experiment:
    """The experiment of that name."""
    if name not in EXPERIMENTS:
        raise wrong(f"no experiment {name!r}", ", ".join(EXPERIMENTS))
    return EXPERIMENTS[name]
