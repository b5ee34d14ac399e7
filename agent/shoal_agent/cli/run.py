"""``shoal run``: one agent, in the foreground, as systemd wants it."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from shoal_agent.config import load_config
from shoal_agent.errors import UnavailableError, UserError
from shoal_agent.shell.agent import run_agent

_LISTENING: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


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
        raise explain(fault) from fault


def explain(fault: OSError) -> UserError:
    """``fault`` of the operating system in words of the configuration; raised again if there are none."""
    if fault.errno in _LISTENING:
        return UnavailableError(
            f"cannot listen: {fault.strerror or fault}",
            "choose another data.port or api.port; `ss -ltnp` shows who holds one",
        )
    if fault.errno == errno.ENOSPC:
        return UnavailableError(f"the disk is full: {fault}", "free space for node.state_dir and models.store_dir")
    raise fault
