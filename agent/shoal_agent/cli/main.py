"""``shoal``: the one entry point.

Commands live in modules of their own, and only the one that was named is imported: ``shoal --help`` and ``shoal
version`` must answer at once on a small machine, where importing what ``run`` needs takes seconds. So the names and
one-line descriptions of all commands stand here, in a table; a test holds it against the commands themselves.

Every error somebody can mend is a ``UserError``: it is printed with its hint and ends the process with its own code
(``shoal_agent.errors.ExitCode``). Anything else is a bug of ours and keeps its traceback.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import typer

from shoal_agent.cli.output import print_error
from shoal_agent.errors import UserError


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command lives: ``attribute`` of ``module`` is a function, or a typer app with commands of its own."""

    module: str
    attribute: str
    summary: str


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command(
        "shoal_agent.cli.demo", "demo", "Split a real language model over agents on this machine and ask it something."
    ),
    "run": Command("shoal_agent.cli.run", "run", "Run one agent until it is told to stop."),
    "status": Command("shoal_agent.cli.status", "status", "Show who is here, which blocks they hold, which epoch."),
    "explain": Command(
        "shoal_agent.cli.explain",
        "explain",
        "Say why the plan is as it is: what caused it, what was considered, who was left out.",
    ),
    "chat": Command("shoal_agent.cli.chat", "chat", "Talk to a model that the cluster serves."),
    "deploy": Command("shoal_agent.cli.deploy", "deploy", "Split a model over the nodes that are there."),
    "plan": Command("shoal_agent.cli.plan", "app", "Plan for a cluster on paper, or for the one that is there."),
    "recover": Command("shoal_agent.cli.recover", "recover", "Replace a plan whose voters are lost."),
    "model": Command("shoal_agent.cli.model", "app", "Import, list, show, verify and remove packages."),
    "pipeline": Command("shoal_agent.cli.pipeline", "app", "Look over the manifest of a pipeline of services."),
    "keygen": Command("shoal_agent.cli.keys", "keygen", "Make the keys of a new node, and its enrolment."),
    "api-key": Command(
        "shoal_agent.cli.keys", "api_key", "Make a key for the API, and the hash the agents keep of it."
    ),
    "roster": Command("shoal_agent.cli.roster", "app", "Found a cluster and admit nodes to it."),
    "sim": Command(
        "shoal_agent.cli.sim",
        "app",
        "Run the agents' own core in a virtual world and break things; oracles judge what comes of it.",
    ),
    "experiment": Command(
        "shoal_agent.cli.experiment",
        "experiment",
        "Measure a claim again: ours against every baseline on the same traces, with its pass bands.",
    ),
    "version": Command("shoal_agent.cli.version", "version", "Print the versions of shoal and of what it stands on."),
}
"""In the order in which ``--help`` shows them."""

HELP: Final = """One foundation model across many small machines that nobody orchestrates.

Begin with: shoal demo"""


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The application for one command line: the command named in it is real, the others know their summary only."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    app = typer.Typer(
        help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    for name, command in COMMANDS.items():
        if name != named:
            app.command(name, help=command.summary)(_absent)
            continue
        target = getattr(importlib.import_module(command.module), command.attribute)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=command.summary)
        else:
            app.command(name)(target)
    return app


def _absent() -> None:
    """Stands in for every command that was not named."""
    raise AssertionError("only the command named on the command line runs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and end the process with its exit code."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        build_app(line)(line, prog_name="shoal")
    except UserError as fault:
        print_error(fault, as_json="--json" in line)
        sys.exit(fault.exit_code)
