"""``shoal sim replay``: a recorded life of a real node, lived again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.core.flight import UnreadableFlight
from shoal_agent.errors import ExitCode, UserError
from shoal_agent.sim.replay import Replay
from shoal_agent.sim.replay import replay as live_again

Recording = Annotated[
    Path, typer.Argument(help="The file `flight` in the node's state directory.", exists=True, dir_okay=False)
]
Steps = Annotated[int | None, typer.Option("--steps", help="Stop after so many steps.", min=1)]


def replay(file: Recording, *, steps: Steps = None, as_json: AsJson = False) -> None:
    """Live the recording of a real node again, step by step, and tell its story.

    An agent records its life if `node.flight_bytes_max` is set. The replay runs the code that is installed here; the
    first step that does not do what the recorded one did is shown, and ends the command with exit code 7.

    Example: shoal sim replay /var/lib/shoal/flight
    """
    try:
        result = live_again(file, steps)
    except UnreadableFlight as fault:
        hint = "a recording begins with its agent: copy the whole file, and use the version that wrote it"
        raise UserError(f"{file} is no recording of a node: {fault}", hint, ExitCode.CORRUPT) from fault
    if as_json:
        print_json(_json(result))
    else:
        _print(result)
    if result.difference is not None:
        raise typer.Exit(ExitCode.FAILED)


def _json(result: Replay) -> dict[str, Any]:
    departure = result.departure
    return {
        "node": departure.node,
        "incarnation": departure.incarnation,
        "software": departure.config.software,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "events": dict(sorted(result.events.items())),
        "difference": result.difference,
        "story": [
            {"at_s": round(entry.at - departure.now, 3), "subject": entry.subject, "text": entry.text}
            for entry in result.story
        ],
    }


def _print(result: Replay) -> None:
    departure = result.departure
    print(f"{departure.node}, life {departure.incarnation}, {departure.config.software}")
    for entry in result.story:
        print(f"{entry.at - departure.now:9.2f} s  {entry.subject}: {entry.text}")
    told = ", ".join(f"{count} {name}" for name, count in result.events.most_common())
    print(f"{result.steps} steps, {result.seconds:.1f} s: {told}")
    print(result.difference or "every step was the recorded one")
