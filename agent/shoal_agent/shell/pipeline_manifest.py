"""Pipelines as an operator writes them down: a TOML file each, in one folder that the agent's configuration names.

::

    name = "compare"                     # clients reach it at POST /shoal/v1/pipelines/compare
    summary = "Vectors of two texts"
    class = "search"                     # the request class of clients that name none; may be left out
    output = "both"                      # the step whose answer is the pipeline's

    [[steps]]
    name = "left-tokens"
    service = "tokenizer"                # of a model: tokenizer (encode), embedder (embed), generate
    method = "encode"
    model = "smollm2-135m-instruct"      # a deployment
    inputs = ["request.left"]            # a text of the JSON object in the body; "request": the body as it is

    [[steps]]
    name = "answer"
    service = "generate"
    model = "smollm2-135m-instruct"
    inputs = ["request.right"]
    tokens_max = 64                      # these four are generate's alone; shown are their defaults but for this one
    temperature = 0.0
    chat = true                          # the input is what a user says, after ``system``; false: a bare prompt
    system = ""

    [[steps]]
    name = "both"
    service = "join"                     # the only one that takes several inputs; makes a map of them
    inputs = ["left-tokens", "answer"]

Any other service is one that packages bring (``shell/services/registered.py``); it has a method and no model.

Everything wrong with a file is reported at once, each fault with its path: first what is wrong in its form, then what
is wrong with the graph (``core/pipeline.py``). The examples in ``deploy/pipelines`` are tested.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shoal_agent.config import faults_in, read_sketch
from shoal_agent.config_values import Name, Whole
from shoal_agent.core.pipeline import INPUTS_MAX, STEPS_MAX, Generation, Pipeline, Step, faults_of, waves
from shoal_agent.errors import ConfigError
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import DeploymentId, parse_deployment_id

PIPELINES_MAX: Final = 32
"""Of one agent."""
GENERATED_TOKENS_MAX: Final = 1024
"""Of one step: beyond that an answer is for people, who read it while it comes."""
SYSTEM_CHARS_MAX: Final = 4096
SUMMARY_CHARS_MAX: Final = 200
HINT: Final = "mend the lines named; deploy/pipelines has examples"


def _deployment(value: str) -> DeploymentId:
    try:
        return parse_deployment_id(value)
    except MalformedMessage as fault:
        raise ValueError(str(fault)) from None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepPart(_Part):
    """One step; what only a generation has is None unless it is named."""

    name: str
    service: str
    method: str = ""
    model: Annotated[str, AfterValidator(_deployment)] | None = None
    inputs: Annotated[tuple[str, ...], Field(max_length=2 * INPUTS_MAX)]
    tokens_max: Annotated[Whole, Field(ge=1, le=GENERATED_TOKENS_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    chat: bool | None = None
    system: Annotated[str, Field(max_length=SYSTEM_CHARS_MAX)] | None = None

    def step(self) -> Step:
        """The same for the core."""
        named = self.model_dump(include={"tokens_max", "temperature", "chat", "system"}, exclude_none=True)
        generation = Generation(**named) if named or self.service == "generate" else None
        model = None if self.model is None else DeploymentId(self.model)
        return Step(self.name, self.service, self.inputs, self.method, model, generation)


class PipelinePart(_Part):
    """A whole file."""

    name: Name
    summary: Annotated[str, Field(max_length=SUMMARY_CHARS_MAX)] = ""
    kind: Annotated[Name | None, Field(alias="class")] = None
    output: str
    steps: Annotated[tuple[StepPart, ...], Field(max_length=4 * STEPS_MAX)]


def load_pipeline(file: Path, classes: Sequence[str] | None = None) -> Pipeline:
    """The pipeline of ``file``; ConfigError names every fault. ``classes``: those there are, if that is known."""
    part = read_sketch(PipelinePart, file, HINT)
    steps, kind = tuple(each.step() for each in part.steps), part.kind or ""
    faults = list(faults_of(steps, part.output))
    if kind and classes is not None and kind not in classes:
        known = ", ".join(classes) or "none"
        faults.append(f"class: there is no request class {kind!r} in the agent's configuration; known: {known}")
    if faults:
        raise faults_in(file, faults, HINT)
    return Pipeline(part.name, steps, part.output, kind, part.summary)


def described(pipeline: Pipeline) -> dict[str, Any]:
    """A pipeline as JSON. ``takes`` None: the body as it is; ``waves``: which steps are done side by side, in order."""
    steps = [
        {
            "name": step.name,
            "service": step.service,
            "method": step.method or None,
            "model": step.model,
            "inputs": list(step.inputs),
        }
        for step in pipeline.steps
    ]
    return {
        "name": pipeline.name,
        "summary": pipeline.summary,
        "class": pipeline.kind or None,
        "takes": list(pipeline.parts) or None,
        "gives": pipeline.sort_of(pipeline.output).value,
        "output": pipeline.output,
        "steps": steps,
        "waves": [list(wave) for wave in waves(pipeline.steps)],
    }


def load_pipelines(folder: Path | None, classes: Sequence[str]) -> tuple[Pipeline, ...]:
    """Every ``*.toml`` of ``folder``, in the order of their names; ConfigError names every fault of all of them."""
    if folder is None:
        return ()
    if not folder.is_dir():
        raise ConfigError(f"pipelines.folder: {folder} is not there", "make the folder, or take the setting away")
    files = sorted(folder.glob("*.toml"))
    if len(files) > PIPELINES_MAX:
        raise ConfigError(f"{folder} has {len(files)} pipelines, at most {PIPELINES_MAX}", "take some of them away")
    found: dict[str, Pipeline] = {}
    faults = []
    for file in files:
        try:
            pipeline = load_pipeline(file, classes)
            if pipeline.name in found:
                raise faults_in(file, [f"name: another file of this folder has a pipeline {pipeline.name!r}"], HINT)
            found[pipeline.name] = pipeline
        except ConfigError as fault:
            faults.append(fault.message)
    if faults:
        raise ConfigError("\n".join(faults), HINT)
    return tuple(found.values())
