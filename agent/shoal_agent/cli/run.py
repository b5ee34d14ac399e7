"""``shoal run``: one agent, in the foreground, as systemd wants it."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from shoal_agent.config import load_config
from shoal_agent.errors import UnavailableError
from shoal_agent.shell.agent import run_agent


def run(
    config: Annotated[Path, typer.Option("--config", help="The agent's TOML file.")] = Path("/etc/shoal/agent.toml"),
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error; wins over the file.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console; wins over the file.")] = None,
) -> None:
    """Run one agent until it is told to stop.

    SIGTERM and SIGINT end it cleanly. Everything it has to say goes to stderr.

    Example: shoal run --config /etc/shoal/agent.toml
    """
    flags = {"log.level": log_level, "log.format": log_format}
    overrides = {path: value for path, value in flags.items() if value is not None}
    settings = load_config(config, environment=os.environ, overrides=overrides)
    try:
        asyncio.run(run_agent(settings))
    except OSError as fault:
        if fault.errno != errno.ENOSPC:
            raise
        hint = "free space for node.state_dir and models.store_dir"
        raise UnavailableError(f"the disk is full: {fault}", hint) from fault
