"""``shoal sim``: the cluster's mind in a virtual world, broken on purpose, judged by oracles."""

import sys
from typing import Annotated, Final

import typer

from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.errors import ExitCode
from shoal_agent.sim.play import NODES_MIN, Outcome, play
from shoal_agent.sim.report import Report, chosen, first_of_each, seeds_of
from shoal_agent.sim.scenarios import SCENARIOS

NODES_MAX: Final = 200
"""Every node hears every other: beyond this a virtual second takes longer than a real one."""
BAR_CHARS: Final = 24

Name = Annotated[str, typer.Option("--scenario", help=f"One of: {', '.join(SCENARIOS)}; or all.", metavar="NAME")]
Seeds = Annotated[str, typer.Option("--seeds", help="A..B, both included, or one number.", metavar="A..B")]
Nodes = Annotated[int, typer.Option("--nodes", help="Nodes in each world.", min=NODES_MIN, max=NODES_MAX)]
Traced = Annotated[bool, typer.Option("--trace", help="Print every event and effect, and each run's hash, on stderr.")]


def sim(
    *, scenario: Name = "all", seeds: Seeds = "0..9", nodes: Nodes = 5, as_json: AsJson = False, trace: Traced = False
) -> None:
    """Run the agents' own core in a virtual world and break things; oracles judge what comes of it.

    Every world follows from scenario, seed and number of nodes: the same three give the same run, event by event, on
    any machine. A violation names its seed and the command that replays it, and ends the command with exit code 7.

    In the JSON, agreement_s is null and undecided 0 until the nodes agree on plans by themselves.

    Example: shoal sim --scenario lossy --seeds 0..99
    """
    names, wanted, report = chosen(scenario), seeds_of(seeds), Report()
    total = len(names) * len(wanted)
    for name in names:
        for seed in wanted:
            outcome = play(name, seed, nodes, progress if trace else None)
            report.add(outcome)
            _show(outcome, sum(report.scenarios.values()), total, report.violations, trace=trace)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    result = report.as_json(wanted)
    if as_json:
        print_json(result)
    else:
        _print(report, result["messages_per_node_s"], result["bytes_per_node_s"])
    if report.violations:
        raise typer.Exit(ExitCode.FAILED)


def _show(outcome: Outcome, done: int, total: int, violations: int, *, trace: bool) -> None:
    if trace:
        progress(f"{outcome.scenario} seed {outcome.seed}: trace {outcome.trace}")
    for failure in first_of_each(outcome):
        progress(f"\n{failure['oracle']} at {failure['at_s']} s: {failure['detail']}\n  replay: {failure['replay']}")
    if sys.stderr.isatty():
        full = BAR_CHARS * done // total
        bar = "#" * full + "." * (BAR_CHARS - full)
        print(f"\r[{bar}] {done}/{total} {outcome.scenario:<18} {violations} violations", end="", file=sys.stderr)
        sys.stderr.flush()


def _print(report: Report, messages: float, data: float) -> None:
    for name, runs in report.scenarios.items():
        failed = len({failure["seed"] for failure in report.failures if failure["scenario"] == name})
        verdict = "ok" if not failed else f"{failed} failed"
        print(f"{name:<18} {runs:>6} runs  {verdict:<10} {SCENARIOS[name].summary}")
    print(f"{report.requests} requests; {messages:g} messages and {data:g} bytes per node and second")
