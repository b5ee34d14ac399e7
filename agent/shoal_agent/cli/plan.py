"""``shoal plan``: what the planners would do, on paper or for the cluster that is there; nothing is announced."""

import asyncio
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from shoal_agent.cli.deploy import Aim, Loss, micronats
from shoal_agent.cli.model import StoreOption, open_store
from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.cli.plan_backbone import backbone
from shoal_agent.config import OperatorConfig, load_operator_config
from shoal_agent.core.crowding import told as told_demand
from shoal_agent.core.crowding import under_load
from shoal_agent.core.pareto import Choice, Terms, front
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import (
    CANDIDATES_EXACT_MAX,
    NO_DEMAND,
    Demand,
    Infeasible,
    Split,
    SplitProblem,
    Workload,
    problem_of,
    stages_of,
)
from shoal_agent.errors import ConfigError, NoPlanError
from shoal_agent.experiments.plots import draw
from shoal_agent.experiments.report import Chart
from shoal_agent.shell.explanation import demand_json, stage_json
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.operator import guarded_ends
from shoal_agent.shell.scene import Scene, heard_scene, scene_of
from shoal_agent.shell.sketch import load_sketch
from shoal_agent.shell.survey import Package
from shoal_models.errors import ModelError
from shoal_models.manifest import Manifest
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import TOKENS_PER_KS_MAX
from shoal_protocol.messages import Objective
from shoal_protocol.messages import Terms as DeploymentTerms

CONTEXT_TOKENS: Final = 2048
TABLE_CHARS: Final = 160
"""Stages of eight nodes in one line, whatever the terminal is: a table that breaks inside is none."""
PRICED_TOKENS: Final = 1_000_000
"""Money is told for so many tokens answered."""
EPILOG: Final = """Example: shoal plan --pareto --model smollm2-135m-instruct --cluster cluster.toml

A cluster file has one [[nodes]] table for each node (name, speed_macs_per_s, memory, zone, price_per_hour,
busy_permille, waiting_permille), one [[links]] table for each link that is known (between, rtt_us, bytes_per_s),
[default_link] for all others, and ingress, the node where requests come in."""


def plan(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="A package of the store.")] = "",
    cluster: Annotated[Path | None, typer.Option(help="A file of nodes and links, TOML or JSON.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The operator's TOML file: plan for the cluster it hears.")
    ] = None,
    store: StoreOption = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Splits that nothing beats in time, money, privacy.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="A directory for pareto.svg.")] = None,
    objective: Annotated[Aim, typer.Option(help="What one split is best at.")] = Aim.LATENCY,
    stages: Annotated[int | None, typer.Option(min=1, max=CANDIDATES_EXACT_MAX, help="So many.")] = None,
    context_tokens: Annotated[int | None, typer.Option(min=1, help="Longest session to keep room for.")] = None,
    sessions: Annotated[int, typer.Option(min=1, max=10_000, help="Sessions of that length.")] = 2,
    ingress: Annotated[str, typer.Option(help="Where requests come in; the file's if not given.")] = "",
    u_shape: Annotated[
        bool, typer.Option("--u-shape", help="The ingress may hold the first and last blocks, or anybody.")
    ] = False,
    trusted: Annotated[str, typer.Option(help="Trusted zones, with commas; the ingress's own if not given.")] = "",
    private: Annotated[int, typer.Option(min=0, help="So many first blocks, and the last, in trusted zones only.")] = 0,
    loss: Loss = 0.0,
    rate: Annotated[
        float | None, typer.Option(help="Sessions a second that come; of a cluster that runs, what it tells.")
    ] = None,
    price: Annotated[list[str] | None, typer.Option(help="NODE=PRICE an hour; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan the split of a model."""
    if context.invoked_subcommand is not None:
        return
    if not model or (cluster is None) == (config is None):
        hint = "shoal plan --model NAME --cluster FILE, or --config operator.toml for a cluster that runs"
        raise ConfigError("a model is needed, and either a cluster file or an operator's configuration", hint)
    settings = None if config is None else load_operator_config(config, environment=os.environ)
    manifest = _manifest(model, store, settings)
    scene = _scene(cluster, settings, manifest, ingress, _prices(price or []))
    zones = scene.trusted(tuple(part.strip() for part in trusted.split(",") if part.strip()))
    facts = facts_of(manifest)
    terms = DeploymentTerms(
        Objective[objective.name],
        stages or 1,
        stages or CANDIDATES_EXACT_MAX,
        sessions,
        loss_micronats=micronats(loss),
        guarded=guarded_ends(len(facts.blocks), private, zones),
    )
    tokens = min(context_tokens or CONTEXT_TOKENS, facts.context_tokens_max)
    problem = problem_of(facts, terms, tokens, scene.candidates, scene.links)
    if u_shape or scene.ingress is not None:  # else it is as agents plan
        problem = replace(problem, ingress=scene.ingress, u_shape=u_shape, nodes_min=1)
    problem = replace(problem, demand=scene.demand if rate is None else _demand(problem.workload, rate))
    answer = split_model(problem)
    if isinstance(answer, Infeasible):
        raise _no_plan(answer)
    if not pareto:
        priced = {"split": describe(answer), "demand": demand_json(problem.demand)}
        _show(as_json, priced, lambda: print(table(answer, problem.demand)))
        return
    demand, problem = problem.demand, under_load(problem, stages_of(answer))
    choices = front(problem, Terms(scene.price_micro, zones), _tell)
    if plot is not None:
        progress(f"drawn: {_draw(problem, choices, plot)}")
    points = [_point(problem, c) for c in choices]
    told = {"ingress": scene.ingress, "trusted_zones": list(zones), "demand": demand_json(demand), "front": points}
    _show(as_json, told, lambda: Console(width=TABLE_CHARS).print(_front_table(problem, choices)))


def _show(as_json: bool, told: dict[str, Any], otherwise: Callable[[], None]) -> None:
    if as_json:
        print_json(told)
    else:
        otherwise()


def _manifest(name: str, store: Path | None, settings: OperatorConfig | None) -> Manifest:
    place = open_store(settings.models.store_dir if store is None and settings is not None else store)
    try:
        return place.load(name)
    except ModelError as fault:
        raise ConfigError(str(fault), f"shoal model import {name}") from fault


def _scene(
    cluster: Path | None, settings: OperatorConfig | None, manifest: Manifest, ingress: str, prices: dict[str, float]
) -> Scene:
    if settings is not None:
        package = Package(manifest.digest, manifest.package_bytes)
        return asyncio.run(heard_scene(settings, package, ingress, prices, progress))
    assert cluster is not None, "one of both is given"
    scene = scene_of(load_sketch(cluster))
    names = [candidate.node for candidate in scene.candidates]
    for name in (*([ingress] if ingress else []), *prices):
        if name not in names:
            raise ConfigError(f"there is no node {name} in {cluster}", f"nodes: {', '.join(names)}")
    own = {NodeId(name): round(price * 1_000_000) for name, price in prices.items()}
    return replace(
        scene, ingress=NodeId(ingress) if ingress else scene.ingress, price_micro=dict(scene.price_micro) | own
    )


def _prices(given: list[str]) -> dict[str, float]:
    """``NODE=PRICE`` each."""
    prices = {}
    for text in given:
        name, equals, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not (name and equals and 0 <= value <= 10_000):  # noqa: PLR2004 - as in a cluster file; NaN is nowhere between
            raise ConfigError(f"--price {text} is no price", "--price desk=0.12, from 0 to 10000 an hour")
        prices[name] = value
    return prices


def _demand(load: Workload, rate: float) -> Demand:
    """What ``rate`` sessions a second of the length that is compared ask for."""
    highest = TOKENS_PER_KS_MAX / 1000 / max(load.prompt_tokens, load.answer_tokens)
    if not 0 <= rate <= highest:  # NaN is nowhere between
        raise ConfigError(f"--rate {rate} is no rate", f"sessions a second, from 0 to {highest:.0f}")
    return Demand(round(1000 * rate * load.prompt_tokens), round(1000 * rate * load.answer_tokens))


def _no_plan(reason: Infeasible) -> NoPlanError:
    hint = "more memory or nodes, fewer --context-tokens or --sessions; --u-shape if head and tail must stay at home"
    return NoPlanError("\n  ".join([reason.reason, *reason.nodes]), hint)


def _tell(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{of} weights", end="\n" if done == of else "", file=sys.stderr, flush=True)


def describe(split: Split) -> dict[str, Any]:
    """``split`` as JSON."""
    stages = [{**stage_json(stage), "width": stage.width} for stage in split.stages]
    return {"score_us": split.score_us, "stages": stages}


def table(split: Split, demand: Demand = NO_DEMAND) -> str:
    """``split`` for people; times are per token answered, the prompt's share included, in the line of ``demand``."""
    lines = [f"{split.score_us / 1000:.2f} ms/token"]
    for index, stage in enumerate(split.stages):
        width = f" as {stage.width}" if stage.width else ""
        lines.append(
            f"  stage {index}  {stage.node}  blocks {stage.first_block}-{stage.last_block}  "
            f"{stage.time_us / 1000:.2f} ms (+{stage.link_us / 1000:.2f} ms link{width})  "
            f"{stage.memory_bytes / 2**20:.0f} MiB"
        )
    if demand != NO_DEMAND:
        lines.append(f"  times count the line of sessions: {told_demand(demand)}")
    return "\n".join(lines)


def _money(problem: SplitProblem, choice: Choice) -> float:
    """Of PRICED_TOKENS tokens."""
    return choice.price_micro(PRICED_TOKENS, problem.workload.answer_tokens) / 1_000_000


def _point(problem: SplitProblem, choice: Choice) -> dict[str, Any]:
    figures = {
        "latency_us": choice.split.score_us,
        "money_per_million_tokens": round(_money(problem, choice), 6),
        "blocks_outside": choice.outside,
    }
    return figures | {"stages": describe(choice.split)["stages"]}


def _front_table(problem: SplitProblem, choices: Sequence[Choice]) -> Table:
    found = Table(box=SIMPLE, caption="nothing beats any of these; times per token answered")
    for name in ("ms/token", "money per million tokens", "blocks outside"):
        found.add_column(name, justify="right")
    found.add_column("stages")
    for choice in choices:
        stages = "  ".join(f"{s.node[:12]} {s.first_block}-{s.last_block}" for s in choice.split.stages)
        money = f"{_money(problem, choice):.4g}"
        found.add_row(f"{choice.split.score_us / 1000:.2f}", money, str(choice.outside), stages)
    return found


def _draw(problem: SplitProblem, choices: Sequence[Choice], folder: Path) -> Path:
    """One line for each number of blocks outside the trusted zones."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for choice in sorted(choices, key=lambda c: (c.outside, c.latency_ns)):
        point = (choice.split.score_us / 1000, _money(problem, choice))
        lines.setdefault(f"{choice.outside} blocks outside", []).append(point)
    chart = Chart("pareto", "splits that nothing beats", "ms per token", "money per million tokens", lines)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return draw(chart, folder)
    except OSError as fault:
        raise ConfigError(f"{folder}: {fault.strerror or fault}", "--plot with a directory you may write to") from fault


app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=EPILOG)
app.callback()(plan)
app.command("backbone")(backbone)
