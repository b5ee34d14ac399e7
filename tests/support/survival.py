"""Streams that run while machines behind them are struck: what the client saw, and what the nodes say of it.

The model is a llama of random weights, big enough that a long prompt takes a second and small enough that a token takes
milliseconds. What a client saw is compared, token by token and letter by letter, with what it saw when nothing was
struck; how the gap came about is read in the log of the node it asked.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from shoal_models.importing import import_gguf
from shoal_models.package import Store
from shoal_protocol.messages import Objective
from tests.support.demo import alive
from tests.support.models import measurement
from tests.support.processes import Agent, Processes, processes
from tests.support.repair import MEMORY_BYTES, SETTLED_S_MAX, begin, tell
from tests.support.streams import Stream
from tests.support.streams import begin as ask
from tests.support.tiny_model import TinyLlama, write_tiny_llama

MODEL: Final = "minnow"
MINNOW: Final = TinyLlama(layers=6, hidden=256, heads=4, kv_heads=2, feed_forward=1024, context=2048, seed=7)
"""With this seed both texts below are as long as they are asked to be, and no token follows from the last few."""
PROMPT: Final = (5, 6, 7)
TOKENS: Final = 300
LONG_TOKENS: Final = 60
"""After the long prompt."""
LONG_PROMPT: Final = tuple(Random(7).choices(range(3, 300), k=1900))
OVER_S_MAX: Final = 60.0
"""Until a stream is over, whatever happened."""


def minnow_store(folder: Path) -> Store:
    store = Store(folder / "store")
    gguf = write_tiny_llama(folder / "minnow.gguf", MINNOW)
    import_gguf(gguf, store, MODEL, "int8", "Apache-2.0", measurement(), lambda *_: None)
    return store


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    prompt: tuple[int, ...] | str
    tokens: int


SHORT: Final = Question(PROMPT, TOKENS)
LONG: Final = Question(LONG_PROMPT, LONG_TOKENS)


@dataclass
class Client:
    """One stream under way, and what it asks."""

    question: Question
    ingress: Agent
    stream: Stream
    task: "asyncio.Task[None]" = field(repr=False)

    async def over(self) -> None:
        """Returns when the stream is over, in whatever way."""
        async with asyncio.timeout(OVER_S_MAX):
            await self.task


@dataclass
class Survival:
    """A cluster that serves, and what it answers when nothing happens to it."""

    cluster: Processes
    undisturbed: dict[Question, Stream] = field(default_factory=dict)

    @property
    def agents(self) -> list[Agent]:
        """Those that run."""
        return [agent for agent in self.cluster.agents if agent.process is not None]

    def ask(self, ingress: Agent, question: Question = SHORT) -> Client:
        stream, task = ask(self.cluster, ingress, question.tokens, question.prompt)
        return Client(question, ingress, stream, task)

    async def learn(self, *questions: Question) -> None:
        """Ask while nothing happens: what everything later is compared with."""
        for question in questions:
            client = self.ask(self.agents[0], question)
            await client.over()
            stream = client.stream
            assert (stream.status, stream.error) == (200, ""), stream.error
            assert len(stream.tokens) > question.tokens // 2, "a stream that ends by itself is too short to be struck"
            self.undisturbed[question] = stream
            per_token_ms = 1000 * (stream.times[-1] - stream.times[0]) / (len(stream.times) - 1)
            tell(
                f"undisturbed: {len(stream.tokens)} tokens, the first after {stream.times[0] - stream.begun:.3f} s, "
                f"then one every {per_token_ms:.1f} ms"
            )

    async def whole(self, client: Client, what: str = "") -> Stream:
        """Wait for the end; all tokens came, once and in order, and are those of the undisturbed stream."""
        await client.over()
        seen, wanted = client.stream, self.undisturbed[client.question]
        told = f"{what}: status {seen.status}, {len(seen.tokens)} tokens, {seen.finish}, {seen.error!r}"
        told += "".join(f"\n{line}" for line in resumed(client))
        assert (seen.status, seen.error, seen.finish) == (200, "", wanted.finish), told
        assert seen.tokens == wanted.tokens, f"{told}; differs from {_first_difference(seen.tokens, wanted.tokens)} on"
        assert seen.text == wanted.text, told
        if what:
            gaps = "; ".join(map(str, resumed(client))) or "it noticed nothing"
            waits = ", ".join(f"{1000 * wait_s:.0f} ms before token {number}" for wait_s, number in seen.gaps()[:3])
            tell(f"{what}: {waits}; {gaps}")
        return seen

    async def hosts(self, witness: Agent | None = None) -> list[Agent]:
        """Who serves each stage of the newest epoch now."""
        newest = (await self.cluster.view(witness or self.agents[0])).newest
        assert newest is not None
        assert newest["route"] is not None, newest
        tell(f"epoch {newest['epoch']}: {self._layout(newest)}")
        return [self.cluster.agent(node) for node in newest["route"]]

    def _layout(self, deployment: dict[str, Any]) -> str:
        """For whoever reads of a test that failed: which layout it met."""
        backing = [[each["node"] for each in stage["standbys"]] for stage in deployment["stages"]]
        stages = zip(deployment["route"], backing, strict=True)
        return ", ".join(
            f"{self.cluster.agent(node).name} backed by {[self.cluster.agent(each).name for each in standbys]}"
            for node, standbys in stages
        )

    async def standbys(self) -> list[list[Agent]]:
        """Who could take over each stage of the newest epoch, and has its blocks open."""
        newest = (await self.cluster.view(self.agents[0])).newest
        assert newest is not None
        return [
            [self.cluster.agent(each["node"]) for each in stage["standbys"] if each["open"]]
            for stage in newest["stages"]
        ]

    async def settled(self, *, backed: bool = True) -> None:
        """Everybody knows everybody, and the newest plan is ACTIVE with a standby for each stage, if it is ``backed``.

        A plan that names too few is replaced only after a while, so what counts is who is named.
        """
        agents = self.agents
        nodes = {agent.node for agent in agents}

        def so(view: Any) -> bool:
            if not (view.active and view.alive == nodes and view.brokers_up):
                return False
            stages = view.newest["stages"]
            return not backed or all(
                each["open"] for stage in stages for each in stage["standbys"] if each["node"] in nodes
            )

        await self.cluster.until(so, agents, SETTLED_S_MAX)

    async def mend(self) -> None:
        """Whoever sleeps wakes, whoever is dead comes back, and everything is as it should be."""
        for agent in self.agents:
            with contextlib.suppress(ProcessLookupError):
                agent.signal(signal.SIGCONT)
        dead = [agent for agent in self.cluster.agents if not runs(agent)]
        for agent in dead:
            await agent.stop()
        await self.cluster.start(*dead)
        await self.settled()


@dataclass(frozen=True)
class Resumed:
    """How a stream went on, as its ingress says."""

    moved: bool
    way: str
    position: int
    attempt: int
    gap_ms: float
    detect_ms: float
    switch_ms: float
    rebuild_ms: float
    predicted_ms: float

    def __str__(self) -> str:
        what = "moved" if self.moved else f"came back by {self.way}"
        return (
            f"{what} at {self.position} after {self.gap_ms:.0f} ms (detect {self.detect_ms:.0f}, "
            f"switch {self.switch_ms:.0f}, rebuild {self.rebuild_ms:.0f})"
        )


def resumed(client: Client) -> list[Resumed]:
    """Every time the stream went on, in order."""
    notes = [note for note in notes_of(client.ingress) if note["event"] in ("session resumed", "session moved")]
    return [
        Resumed(
            note["event"] == "session moved", **{name: note[name] for name in Resumed.__annotations__ if name in note}
        )
        for note in notes
        if note["session"] == client.stream.session
    ]


def runs(agent: Agent) -> bool:
    """Whether there is a process, and it is not only waiting to be reaped."""
    return agent.process is not None and alive(agent.pid)


def notes_of(agent: Agent) -> list[dict[str, Any]]:
    """What an agent logged in all its lives; what is no JSON is not its own."""
    notes = []
    for line in agent.lab.log.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            notes.append(json.loads(line))
    return [note for note in notes if isinstance(note, dict) and "event" in note]


def complaints(agents: Sequence[Agent]) -> list[str]:
    """Lines of their logs that no healthy agent writes: errors, and what Python says of exceptions.

    What a library says of a broker that was killed is none of them.
    """
    return [
        f"{agent.name}: {line}"
        for agent in agents
        for line in agent.lab.log.read_text(errors="replace").splitlines()
        if '"level": "error"' in line or line.startswith(("Traceback", "AssertionError"))
        if '"library": "mqtt"' not in line
    ]


def _first_difference(seen: Sequence[int], wanted: Sequence[int]) -> int:
    pairs = zip(seen, wanted, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(seen), len(wanted)))


@contextlib.asynccontextmanager
async def surviving(
    store: Store,
    folder: Path,
    *,
    agents: int = 4,
    stages: int = 3,
    model: str = MODEL,
    objective: Objective = Objective.LATENCY,
    hosts: Sequence[int] = (),
    loss_micronats: int = 0,
    prepare: Callable[[Sequence[Agent]], None] = lambda _: None,
    **settings: Any,
) -> AsyncIterator[Survival]:
    """``agents`` that serve ``model`` in ``stages``, each with a standby; ``prepare`` them before they start.

    ``hosts``: the only ones to serve at first; empty: all.
    """
    lab = LabSettings(folder / "lab", agents, store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(lab, model=model, **settings) as cluster:
        prepare(cluster.agents)
        nodes = tuple(cluster.agents[index].node for index in hosts)
        wish = DeployWish(model, stages=stages, nodes=nodes, objective=objective, loss_micronats=loss_micronats)
        await begin(cluster, cluster.agents, wish)
        made = Survival(cluster)
        await made.settled()
        yield made
        await asyncio.gather(*(agent.kill() for agent in made.agents if runs(agent)))
        said = complaints(cluster.agents)
        assert not said, "\n".join(said[:20])


def all_of(blow: Callable[[Agent], Callable[[], Any]], victims: Sequence[Agent]) -> Callable[[], None]:
    """Strike all of them at once."""
    blows = [blow(victim) for victim in victims]

    def strike() -> None:
        for one in blows:
            one()

    return strike
