"""A pipeline: the services that answer one kind of request, as a graph without circles.

    request.left ──► tokenizer.encode ──► embedder.embed ─┐
                                                          ├─► join ──► answer
    request.right ─► tokenizer.encode ──► embedder.embed ─┘

A step is a call of a light service, a generation (the core service of a model), or ``join``. Every step has one input,
which it is given as it is; only a join has several, and makes one of them: a msgpack map from each input, named as the
pipeline names it, to its bytes. So how several things become one is always written in the pipeline, and a service never
has to guess it.

What flows is bytes, of a sort. Sorts are known for the services of a model and not for others, whose answers may be
anything; so an edge is refused only where it cannot fit::

    step                         takes    gives
    request, whole               -        bytes
    request.NAME                 -        text      (the body is a JSON object, NAME one of its texts)
    tokenizer.encode             text     tokens
    embedder.embed               tokens   vector
    generate                     text     text
    join                         any      map
    a service a package brings   any      bytes

All that can be said against a pipeline is said at once, each fault with its place in the manifest.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgpack

from shoal_agent.core.services import EncodeRequest, Method, ServiceKind, pack
from shoal_protocol.ids import DeploymentId

STEPS_MAX: Final = 16
"""Steps of one pipeline: beyond that it is an application, which belongs to whoever runs it."""
INPUTS_MAX: Final = 8
"""Inputs of one join."""
GENERATE: Final = "generate"
JOIN: Final = "join"
REQUEST: Final = "request"
PART: Final = f"{REQUEST}."
SUBJECT: Final = "pipeline:"
"""Before a pipeline's name, where its story is told."""
_STEP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PART_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BROUGHT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}(:[a-z0-9][a-z0-9.-]{0,31})?")
"""As ``shell/services/registered.py`` admits them."""


class Sort(StrEnum):
    """What bytes between two steps are."""

    BYTES = "bytes"
    TEXT = "text"
    TOKENS = "tokens"
    VECTOR = "vector"
    MAP = "map"


_SORTS: Final[Mapping[str, tuple[Sort, Sort]]] = {
    GENERATE: (Sort.TEXT, Sort.TEXT),
    JOIN: (Sort.BYTES, Sort.MAP),
    ServiceKind.TOKENIZER: (Sort.TEXT, Sort.TOKENS),
    ServiceKind.EMBEDDER: (Sort.TOKENS, Sort.VECTOR),
}
"""What a service takes and gives; any other one BYTES, which may be anything."""
_METHODS: Final[Mapping[str, str]] = {
    ServiceKind.TOKENIZER: Method.ENCODE,
    ServiceKind.EMBEDDER: Method.EMBED,
}
"""Of a model's services that keep nothing between calls."""
_WITHIN: Final = (ServiceKind.SAMPLER, ServiceKind.DETOKENIZER, ServiceKind.CHAT_TEMPLATE)
"""What a generation does by itself."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How a step generates. ``chat``: its input is what a user says, after ``system`` if there is any."""

    tokens_max: int = 128
    temperature: float = 0.0
    chat: bool = True
    system: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One of them. ``model`` is a deployment's name; empty for services that are of no model."""

    name: str
    service: str
    inputs: tuple[str, ...]
    method: str = ""
    model: DeploymentId | None = None
    generation: Generation | None = None

    @property
    def call(self) -> str:
        """What it does, for people."""
        return f"{self.service}.{self.method}" if self.method else self.service

    @property
    def takes(self) -> Sort:
        """What its input must be; BYTES: anything."""
        return _SORTS.get(self.service, (Sort.BYTES, Sort.BYTES))[0]

    @property
    def gives(self) -> Sort:
        """What its answer is."""
        return _SORTS.get(self.service, (Sort.BYTES, Sort.BYTES))[1]

    def request(self, given: bytes) -> bytes:
        """What is sent to its service for ``given``; UnicodeDecodeError if that is no text and should be."""
        if self.takes is not Sort.TEXT:
            return given
        text = given.decode()
        return given if self.service == GENERATE else pack(EncodeRequest(text, special=False))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What answers requests of one name. ``kind``: the request class of those that name none; empty: no class."""

    name: str
    steps: tuple[Step, ...]
    output: str
    kind: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        faults = faults_of(self.steps, self.output)
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the texts that a request is made of, in order of their use; none: it is taken whole."""
        used = (given for step in self.steps for given in step.inputs if given.startswith(PART))
        return tuple(dict.fromkeys(given.removeprefix(PART) for given in used))

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    def sort_of(self, given: str) -> Sort:
        """What an input of that name is."""
        if given == REQUEST or given.startswith(PART):
            return Sort.TEXT if given != REQUEST else Sort.BYTES
        return self.step(given).gives


def joined(inputs: Mapping[str, bytes]) -> bytes:
    """The answer of a join."""
    return bytes(msgpack.packb(dict(inputs)))


def waves(steps: Sequence[Step]) -> tuple[tuple[str, ...], ...]:
    """Which steps could be done at once, then which ones after them, and so on; those in a circle are left out."""
    left = {step.name: step for step in reversed(steps)}
    found: list[tuple[str, ...]] = []
    while True:
        ready = tuple(
            step.name for step in steps if step.name in left and not any(each in left for each in step.inputs)
        )
        if not ready:
            return tuple(found)
        found.append(ready)
        for name in ready:
            left.pop(name, None)


# --- what can be wrong ------------------------------------------------------------------------------------------------


def faults_of(steps: Sequence[Step], output: str) -> tuple[str, ...]:
    """Everything that is wrong with a graph of these steps, each fault with its place."""
    if not 0 < len(steps) <= STEPS_MAX:
        return (f"steps: {len(steps)} steps; a pipeline has 1 to {STEPS_MAX}",)
    return (
        *_faults_of_names(steps, output),
        *_faults_of_services(steps),
        *_faults_of_inputs(steps),
        *_adrift(steps, output),
    )


def _faults_of_names(steps: Sequence[Step], output: str) -> Iterator[str]:
    names = [step.name for step in steps]
    for index, name in enumerate(names):
        if name == REQUEST or not _STEP_NAME.fullmatch(name):
            yield f"steps[{index}].name: {name!r} is no name; a-z 0-9 _ -, at most 32, and not {REQUEST!r}"
        if name in names[:index]:
            yield f"steps[{index}].name: {name!r} is the name of steps[{names.index(name)}]"
    if output not in names:
        yield f"output: there is no step {output!r}"


def _faults_of_services(steps: Sequence[Step]) -> Iterator[str]:
    for index, step in enumerate(steps):
        place, service = f"steps[{index}]", step.service
        kind, _, rest = service.partition(":")
        of_model = service == GENERATE or service in _METHODS
        if kind in _WITHIN:
            yield f"{place}.service: {kind} works within a generation; use {GENERATE!r}"
            continue
        if kind in _SORTS and rest:
            yield f"{place}.service: write {kind!r}, and its model's deployment as model"
            continue
        if service not in _SORTS and not _BROUGHT.fullmatch(service):
            yield f"{place}.service: {service!r} is no name of a service"
        if of_model and step.model is None:
            yield f"{place}.model: {service} is of a model; name its deployment"
        if not of_model and step.model is not None:
            yield f"{place}.model: {service!r} is of no model; those that are: {', '.join((*_METHODS, GENERATE))}"
        if service in {GENERATE, JOIN}:
            if step.method:
                yield f"{place}.method: {service} has none"
        elif not step.method:
            yield f"{place}.method: required"
        elif step.method != _METHODS.get(service, step.method):
            yield f"{place}.method: {service} has no method {step.method!r} for pipelines, but {_METHODS[service]}"
        if service != GENERATE and step.generation is not None:
            yield f"{place}: only {GENERATE} has tokens_max, temperature, chat and system"


def _faults_of_inputs(steps: Sequence[Step]) -> Iterator[str]:
    by_name = {step.name: step for step in reversed(steps)}
    whole = any(given == REQUEST for step in steps for given in step.inputs)
    for index, step in enumerate(steps):
        place = f"steps[{index}].inputs"
        count = len(step.inputs)
        if step.service == JOIN and not 1 < count <= INPUTS_MAX:
            yield f"{place}: {count} inputs; a {JOIN} has 2 to {INPUTS_MAX}"
        elif step.service != JOIN and count != 1:
            yield f"{place}: {count} inputs; a step has one, and a step of service {JOIN!r} makes one of several"
        for number, given in enumerate(step.inputs):
            at, sort = f"{place}[{number}]", Sort.TEXT
            if given in step.inputs[:number]:
                yield f"{at}: {given!r} is there already"
            elif given.startswith(PART):
                if not _PART_NAME.fullmatch(given.removeprefix(PART)):
                    yield f"{at}: {given!r} is no part of a request; A-Z a-z 0-9 _ -, at most 64"
                elif whole:
                    yield f"{at}: {given!r}, though another input is {REQUEST!r}: it is taken whole, or in parts"
            elif given != REQUEST and given not in by_name:
                yield f"{at}: there is no step {given!r}, nor is it {REQUEST!r} or {PART}NAME"
                continue
            else:
                sort = Sort.BYTES if given == REQUEST else by_name[given].gives
            if step.service != JOIN and step.takes not in {Sort.BYTES, sort} and sort is not Sort.BYTES:
                yield f"{at}: {step.call} takes {step.takes}, and {given!r} gives {sort}"


def _adrift(steps: Sequence[Step], output: str) -> Iterator[str]:
    """Steps in a circle, and those that nothing waits for."""
    by_name = {step.name: step for step in reversed(steps)}
    done = {name for wave in waves(steps) for name in wave}
    stuck = [step.name for step in steps if step.name not in done]
    if stuck:
        yield f"steps: {' -> '.join(_circle(by_name, stuck))} is a circle"
    needed, todo = set[str](), [output]
    while todo:
        name = todo.pop()
        if name in by_name and name not in needed:
            needed.add(name)
            todo += by_name[name].inputs
    if output in by_name:
        for index, step in enumerate(steps):
            if step.name not in needed:
                yield f"steps[{index}]: nothing needs the answer of {step.name!r}; there is one output, {output!r}"


def _circle(by_name: Mapping[str, Step], stuck: Sequence[str]) -> list[str]:
    """One circle, in the direction of the data. Whoever is stuck waits for somebody who is stuck."""
    walk = [stuck[0]]
    while True:
        before = next(given for given in by_name[walk[-1]].inputs if given in stuck)
        if before in walk:
            return [before, *reversed(walk[walk.index(before) :])]
        walk.append(before)
