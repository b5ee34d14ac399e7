"""``shoal plan``: what the planners would do, of a cluster on paper; nothing is announced."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shoal_agent.cli.model import StoreOption, open_store
from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.cli.plan_backbone import backbone
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Infeasible, Split, problem_of
from shoal_agent.errors import ConfigError, NoPlanError
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.sketch import load_sketch
from shoal_models.errors import ModelError
from shoal_protocol.messages import Terms

CONTEXT_TOKENS: Final = 2048

EPILOG: Final = """Example: shoal plan --pareto --model smollm2-135m-instruct --cluster cluster.toml"""


def plan(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="A package of the store.")] = "",
    cluster: Annotated[Path | None, typer.Option(help="A file of nodes and links, TOML or JSON.")] = None,
    store: StoreOption = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Every split that nothing beats.")] = False,
    as_json: AsJson = False,
) -> None:
    """Plan the split of a model over a cluster that a file describes."""
    if context.invoked_subcommand is not None:
        return
    assert not pareto, "comes next"
    if not model or cluster is None:
        raise ConfigError("a model and a cluster are needed", "shoal plan --model NAME --cluster FILE")
    try:
        facts = facts_of(open_store(store).load(model))
    except ModelError as fault:
        raise ConfigError(str(fault), f"shoal model import {model}") from fault
    sketch = load_sketch(cluster)
    tokens = min(CONTEXT_TOKENS, facts.context_tokens_max)
    answer = split_model(problem_of(facts, Terms(), tokens, sketch.candidates, sketch.ways))
    if isinstance(answer, Infeasible):
        raise NoPlanError("\n  ".join([answer.reason, *answer.nodes]), "add nodes, or give them more memory")
    if as_json:
        print_json(describe(answer))
    else:
        print(table(answer))


def describe(split: Split) -> dict[str, Any]:
    """``split`` as JSON."""
    stages = [{"node": s.node, "first_block": s.first_block, "last_block": s.last_block} for s in split.stages]
    return {"score_us": split.score_us, "stages": stages}


def table(split: Split) -> str:
    """``split`` for people."""
    return "\n".join(f"{s.node}: blocks {s.first_block}-{s.last_block}" for s in split.stages)


app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=EPILOG)
app.callback()(plan)
app.command("backbone")(backbone)
