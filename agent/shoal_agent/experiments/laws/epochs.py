"""T8: no request is served under two epochs, and nothing is decided twice, whatever the network does.

The agents' own core runs in the simulator (``shoal_agent.sim``) while links, brokers and clocks fail; its oracles watch
every step. Mixed epochs are what ``epoch-fence`` sees: a block that runs for an activation of another plan. A double
commit is what ``certificates``, ``votes`` and ``unproven`` see: two plans for one epoch, two votes in one round, a plan
without a quorum's proof. The seeds are fixed, so the same worlds are judged on every machine.
"""

from collections import Counter
from typing import Final

from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.pool import each
from shoal_agent.experiments.report import Band, Report, Row
from shoal_agent.experiments.traces import trace_hash
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.play import play

SCENARIOS: Final = (
    "partition",
    "island",
    "broker-partition",
    "flapping",
    "ballots",
    "locks",
    "voter-change",
    "amnesia",
)
"""Those in which a plan is decided while not everybody hears everybody."""
NODES: Final = 5
MIXED: Final = frozenset({"epoch-fence"})
DOUBLE: Final = frozenset({"certificates", "votes", "unproven"})


def run(options: Options, progress: Progress) -> Report:
    """Every scenario on every seed."""
    names = options.wanted(SCENARIOS)
    worlds = [(name, seed) for name in names for seed in range(options.seeds)]
    outcomes = each(_played, worlds, options.jobs, progress, lambda world: f"{world[0]} seed {world[1]}")
    rows = [_row(name, outcomes[index * options.seeds :][: options.seeds]) for index, name in enumerate(names)]
    totals = {key: sum(row.extra[key] for row in rows) for key in ("mixed", "double", "other")}
    return Report(
        "epochs",
        trace_hash([one.trace for one in outcomes]),
        [
            f"{NODES} nodes, 1 to 4 of them hosts, a toy model, 1.5 requests a second; faults strike for 12 s and more",
            f"seeds 0 to {options.seeds - 1} of each scenario; at most one voter may lie, none does",
            "mixed: runs of a block for another epoch's activation; double: votes, certificates, proofs",
            "other: all other oracles, liveness after the last fault included",
        ],
        rows,
        [
            Band("requests of mixed epochs", totals["mixed"], 0.0, 0.0),
            Band("double commits", totals["double"], 0.0, 0.0),
            Band("all other violations", totals["other"], 0.0, 0.0),
        ],
    )


def _played(world: tuple[str, int]) -> Outcome:
    return play(*world, NODES)


def _row(name: str, outcomes: list[Outcome]) -> Row:
    seen = Counter(violation.oracle for outcome in outcomes for violation in outcome.violations)
    mixed, double = (sum(seen[oracle] for oracle in sorted(oracles)) for oracles in (MIXED, DOUBLE))
    return Row(
        name,
        extra={
            "worlds": float(len(outcomes)),
            "plans": float(sum(len(outcome.agreements) for outcome in outcomes)),
            "mixed": float(mixed),
            "double": float(double),
            "other": float(seen.total() - mixed - double),
        },
    )
