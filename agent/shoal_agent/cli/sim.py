"""``shoal sim``: the cluster's mind in a virtual world, broken on purpose, judged by oracles."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Annotated, Any, Final

import typer

from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.cli.replay import replay
from shoal_agent.errors import ExitCode
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.play import play
from shoal_agent.sim.report import NODES_MAX, Report, chosen, first_of_each, nodes_of, seeds_of
from shoal_agent.sim.scenarios import ALL, SCENARIOS

BAR_CHARS: Final = 24
JOBS_MAX: Final = 64
AHEAD_PER_JOB: Final = 4
"""Runs handed to each process before their turn, so that none waits for another's slow one."""

Run = tuple[str, int, int]
"""Scenario, seed and nodes."""

Name = Annotated[str, typer.Option("--scenario", help=f"One of: {', '.join(SCENARIOS)}; or all.", metavar="NAME")]
Seeds = Annotated[str, typer.Option("--seeds", help="A..B, both included, or one number.", metavar="A..B")]
Nodes = Annotated[
    str, typer.Option("--nodes", help=f"Nodes in each world, up to {NODES_MAX}; A..B or A,B: several.", metavar="N")
]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes.", min=1, max=JOBS_MAX)]
Traced = Annotated[
    bool, typer.Option("--trace", help="Print every event and effect, and each run's hash, on stderr; one process.")
]


def sim(
    context: typer.Context,
    *,
    scenario: Name = "all",
    seeds: Seeds = "0..9",
    nodes: Nodes = "5",
    jobs: Jobs = 1,
    as_json: AsJson = False,
    trace: Traced = False,
) -> None:
    """Run the agents' own core in a virtual world and break things; oracles judge what comes of it.

    Every world follows from scenario, seed and number of nodes: the same three give the same run, event by event, on
    any machine. A violation names its seed and the command that replays it, and ends the command with exit code 7.
    With "all", scenarios in which more nodes lie than the terms allow for are counted apart, and are no failure.

    Example: shoal sim --scenario lossy --seeds 0..99 --jobs 2

    What hearing each other costs: shoal sim --scenario scale --seeds 1 --nodes 10,100,1000
    """
    if context.invoked_subcommand is not None:
        return
    names, wanted, sizes, report = chosen(scenario), seeds_of(seeds), nodes_of(nodes), Report(apart=scenario == ALL)
    runs = [(name, seed, size) for name in names for size in sizes for seed in wanted]
    for outcome in _each(runs, jobs, trace=trace):
        report.add(outcome)
        _show(outcome, sum(report.scenarios.values()), len(runs), report, trace=trace)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if as_json:
        print_json(report.as_json(wanted))
    else:
        _print(report)
    if report.violations or report.undecided:
        raise typer.Exit(ExitCode.FAILED)


def _each(runs: Iterable[Run], jobs: int, *, trace: bool) -> Iterator[Outcome]:
    """The outcomes of ``runs``, in their order."""
    if jobs == 1 or trace:
        yield from (play(*run, progress if trace else None) for run in runs)
        return
    # A fresh interpreter per process: what a fork would copy of this one is nobody's business.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = iter(runs)
        ahead: list[Future[Outcome]] = [pool.submit(play, *run) for run in islice(waiting, jobs * AHEAD_PER_JOB)]
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(play, *run) for run in islice(waiting, 1)]


def _show(outcome: Outcome, done: int, total: int, report: Report, *, trace: bool) -> None:
    if trace:
        progress(f"{outcome.scenario} seed {outcome.seed}: trace {outcome.trace}")
    for failure in () if report.is_apart(outcome) else first_of_each(outcome):
        progress(f"\n{failure['oracle']} at {failure['at_s']} s: {failure['detail']}\n  replay: {failure['replay']}")
    if sys.stderr.isatty():
        full = BAR_CHARS * done // total
        bar = "#" * full + "." * (BAR_CHARS - full)
        wrong = f"{report.violations} violations, {report.undecided} undecided"
        print(f"\r[{bar}] {done}/{total} {outcome.scenario:<18} {wrong}", end="", file=sys.stderr)
        sys.stderr.flush()


def _print(report: Report) -> None:
    for name, runs in report.scenarios.items():
        failed = report.failed.get(name, 0)
        verdict = "ok" if not failed else f"{failed} failed"
        print(f"{name:<18} {runs:>6} runs  {verdict:<10} {SCENARIOS[name].summary}")
    for nodes, traffic in sorted(report.traffic.items()):
        messages, data = traffic.messages_per_node_s(), traffic.bytes_per_node_s()
        print(f"{nodes:>6} nodes: {messages:g} messages and {data:g} bytes per node and second")
    if report.beyond_runs:
        print(f"outside the fault model: oracles fired in {report.beyond_fired} of {report.beyond_runs} runs")
    told: dict[str, Any] = report.as_json([])["agreement_s"]
    if report.agreements:
        print(f"{len(report.agreements)} agreements, p50 {told['p50']} s, p99 {told['p99']} s")


app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.callback()(sim)
app.command("replay")(replay)
