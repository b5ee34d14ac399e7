"""``shoal pipeline``: manifests of pipelines, looked over before an agent reads them."""

from pathlib import Path
from typing import Annotated

import typer

from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.core.pipeline import waves
from shoal_agent.shell.pipeline_manifest import described, load_pipeline

app = typer.Typer(no_args_is_help=True, help="Services put together from a manifest.")


@app.callback()
def main() -> None:
    """Services put together from a manifest."""


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="The manifest, TOML; deploy/pipelines has examples.", show_default=False)
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a manifest, every fault with its place; else what it does, step by step.

    Whether its models and services are there is only known to a cluster. Example: shoal pipeline check compare.toml
    """
    pipeline = load_pipeline(file)
    if as_json:
        print_json(described(pipeline))
        return
    takes = f"a JSON object of {', '.join(pipeline.parts)}" if pipeline.parts else "the body as it is"
    print(f"{pipeline.name} takes {takes}, gives {pipeline.sort_of(pipeline.output)} ({pipeline.output})")
    for number, wave in enumerate(waves(pipeline.steps), 1):
        done = [f"{name}: {pipeline.step(name).call} of {', '.join(pipeline.step(name).inputs)}" for name in wave]
        print(f"{number}  {'; '.join(done)}")
