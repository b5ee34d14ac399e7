"""What a command says, and where.

Results go to stdout, everything else to stderr: a pipe gets the result alone. With ``--json`` a command prints exactly
one JSON object on stdout, whether it succeeds or fails (``{"error": {...}}``); a script needs no second way to read it.
"""

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from shoal_agent.errors import UserError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
"""The option every command has."""


def print_json(value: Mapping[str, Any]) -> None:
    """The one object of a command that was asked for JSON."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")), flush=True)


def progress(text: str) -> None:
    """Something a person may want to know meanwhile."""
    print(text, file=sys.stderr, flush=True)


def print_error(fault: UserError, *, as_json: bool) -> None:
    """``fault`` for a person, and as the one object if JSON was asked for."""
    print(fault, file=sys.stderr, flush=True)
    if as_json:
        detail = {"message": fault.message, "hint": fault.hint, "exit_code": int(fault.exit_code)}
        print_json({"error": detail})
