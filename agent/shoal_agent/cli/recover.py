"""``shoal recover``: operators replace a plan whose voters are lost."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.config import load_operator_config
from shoal_agent.errors import ConfigError
from shoal_agent.shell.recovery import RecoverResult, RecoverWish
from shoal_agent.shell.recovery import recover as take_part
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import DeploymentId, parse_deployment_id


def recover(
    deployment: Annotated[str, typer.Argument(help="What cannot change any more.")],
    config: Annotated[Path, typer.Option("--config", help="The operator's TOML file.")] = Path("operator.toml"),
    *,
    order: Annotated[
        Path | None, typer.Option(help="The order, made if it is not there; DEPLOYMENT.order if not given.")
    ] = None,
    nodes: Annotated[str, typer.Option(help="Only these may host: ids or beginnings of ids, with commas.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the order; write and announce nothing.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until every host must be active.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Replace a plan whose voters are lost.

    The first operator makes an order for the nodes that are there. Every other one runs the same command with its
    file and adds a signature; with the last that the terms ask for, the order is announced.

    Example: shoal recover smollm2 --order smollm2.order --config operator.toml
    """
    settings = load_operator_config(config, environment=os.environ)
    name = _deployment(deployment)
    file = order or Path(f"{name}.order")
    wish = RecoverWish(name, file, tuple(part.strip() for part in nodes.split(",") if part.strip()), dry_run, timeout)
    result = asyncio.run(take_part(settings, wish, progress))
    if as_json:
        print_json(describe(result, file))
    else:
        print(table(result, file))


def _deployment(text: str) -> DeploymentId:
    try:
        return parse_deployment_id(text)
    except MalformedMessage as fault:
        raise ConfigError(str(fault), "shoal status lists the deployments") from fault


def describe(result: RecoverResult, file: Path) -> dict[str, Any]:
    """``result`` as JSON."""
    return {
        "deployment": result.plan.deployment,
        "epoch": result.plan.epoch,
        "plan": result.digest.hex(),
        "order": str(file),
        "signed": list(result.signed),
        "operators_min": result.operators_min,
        "missing": result.missing,
        "active": result.active,
        "voters": list(result.plan.voters),
        "stages": [
            {"node": stage.node, "first_block": stage.first_block, "last_block": stage.last_block}
            for stage in result.plan.stages
        ],
    }


def table(result: RecoverResult, file: Path) -> str:
    """``result`` for people."""
    state = "active" if result.active else f"{len(result.signed)} of {result.operators_min} signatures"
    lines = [f"{result.plan.deployment}: epoch {result.plan.epoch}, {state}"]
    lines += [
        f"  stage {index}  {stage.node}  blocks {stage.first_block}-{stage.last_block}"
        for index, stage in enumerate(result.plan.stages)
    ]
    lines.append(f"  voters of the next epoch: {', '.join(node[:8] for node in result.plan.voters)}")
    if result.missing:
        lines.append(f"next: another operator runs  shoal recover {result.plan.deployment} --order {file}")
    return "\n".join(lines)
