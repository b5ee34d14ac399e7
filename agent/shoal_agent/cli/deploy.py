"""``shoal deploy``: the operator's one sentence, from the command line."""

import asyncio
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.config import load_operator_config
from shoal_agent.core.problem import CANDIDATES_EXACT_MAX
from shoal_agent.shell.explanation import stage_json
from shoal_agent.shell.operator import DeployResult, DeployWish
from shoal_agent.shell.operator import deploy as found
from shoal_protocol.limits import LOSS_MICRONATS_MAX, STANDBYS_MAX
from shoal_protocol.messages import Objective, PlanStage
from shoal_protocol.widths import ActivationWidth


class Aim(StrEnum):
    """The objectives, in the words of the command line."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


Loss = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=LOSS_MICRONATS_MAX / 1_000_000,
        help="Nats of quality (KL) that narrow activations may cost in all; 0: they travel as they are.",
    ),
]


def micronats(nats: float) -> int:
    """As the wire has it."""
    return round(nats * 1_000_000)


def deploy(
    model: Annotated[str, typer.Argument(help="A package of the operator's store.")],
    config: Annotated[Path, typer.Option("--config", help="The operator's TOML file.")] = Path("operator.toml"),
    *,
    name: Annotated[str, typer.Option(help="What clients call it; the package's name if not given.")] = "",
    stages: Annotated[int | None, typer.Option(min=1, max=CANDIDATES_EXACT_MAX, help="So many.")] = None,
    nodes: Annotated[str, typer.Option(help="Only these: ids or beginnings of ids, with commas.")] = "",
    objective: Annotated[Aim, typer.Option(help="What the split is best at, now and later.")] = Aim.LATENCY,
    context_tokens: Annotated[int | None, typer.Option(min=1, help="Longest session to keep room for.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions of that length to keep room for.")] = 2,
    zones: Annotated[str, typer.Option(help="Trust zones that may host, with commas; any if not given.")] = "",
    standbys: Annotated[
        int, typer.Option(min=0, max=STANDBYS_MAX, help="Nodes that can take a stage's place, where memory permits.")
    ] = 1,
    private: Annotated[
        int, typer.Option(min=0, help="So many first blocks, and the last, in --trusted zones only.")
    ] = 0,
    trusted: Annotated[str, typer.Option(help="Zones that may hold private blocks, with commas.")] = "",
    loss: Loss = 0.0,
    faulty: Annotated[int, typer.Option(min=0, max=2, help="Voters that may lie: 1 takes 4 voters, 2 take 7.")] = 0,
    gain: Annotated[int, typer.Option(min=0, max=100, help="Percent a new plan must be better by.")] = 20,
    operators: Annotated[int, typer.Option(min=1, help="Operators it takes to recover it if its voters are lost.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and announce nothing.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until every host must be active.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Split a model over the nodes that are there.

    Listens to who is there, plans, announces the plan and waits until every host has opened its blocks.

    Example: shoal deploy smollm2-135m-instruct --config operator.toml --stages 3 --dry-run
    """
    settings = load_operator_config(config, environment=os.environ)
    wish = DeployWish(
        model,
        name,
        stages,
        _listed(nodes),
        Objective[objective.name],
        context_tokens,
        sessions,
        dry_run,
        timeout,
        _listed(zones),
        faulty,
        gain * 10,
        operators,
        standbys,
        micronats(loss),
        private,
        _listed(trusted),
    )
    result = asyncio.run(found(settings, wish, progress))
    if as_json:
        print_json(describe(result))
    else:
        print(table(result))


def _as(part: PlanStage) -> str:
    """How its input travels, where that is not as usual."""
    return "" if part.width is ActivationWidth.F32 else f" as {part.width.name.lower()}"


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def describe(result: DeployResult) -> dict[str, Any]:
    """``result`` as JSON."""
    return {
        "deployment": result.plan.deployment,
        "epoch": result.plan.epoch,
        "plan": result.digest.hex(),
        "model": result.plan.model.hex(),
        "context_tokens_max": result.plan.context_tokens_max,
        "active": result.active,
        "score_us": result.split.score_us,
        "stages": [
            {**stage_json(stage), "width": part.width.name.lower(), "standbys": list(part.standbys)}
            for stage, part in zip(result.split.stages, result.plan.stages, strict=True)
        ],
        "reason": result.plan.reason,
        "nodes_heard": [each.node for each in result.heard],
    }


def table(result: DeployResult) -> str:
    """``result`` for people; times are per token answered, the prompt's share included."""
    state = "active" if result.active else "planned, not announced"
    lines = [
        f"{result.plan.deployment}: epoch {result.plan.epoch}, {state}, {result.split.score_us / 1000:.2f} ms/token"
    ]
    for index, (stage, part) in enumerate(zip(result.split.stages, result.plan.stages, strict=True)):
        standbys = ", ".join(node[:8] for node in part.standbys) or "none"
        lines.append(
            f"  stage {index}  {stage.node}  blocks {stage.first_block}-{stage.last_block}  "
            f"{stage.time_us / 1000:.2f} ms (+{stage.link_us / 1000:.2f} ms link{_as(part)})  "
            f"{stage.memory_bytes / 2**20:.0f} MiB  standby {standbys}"
        )
    lines += [f"  {result.plan.reason}"] if result.plan.reason else []
    return "\n".join(lines)
