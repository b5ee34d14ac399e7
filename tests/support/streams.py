"""A client that reads a stream token by token and notes when each came: what a user saw, whatever happened behind."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import httpx

from tests.support.processes import Agent, Processes

READ_S_MAX: Final = 60.0
"""No gap of a test is longer: the request's deadline comes first."""


@dataclass
class Stream:
    """What one client saw. ``finish`` is None if the stream just broke off; ``times`` are the loop's, one per token."""

    begun: float
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    text: str = ""
    status: int = 0
    """Of HTTP; 0 while there is no answer. A stream is answered when every stage is there: then the prompt runs."""
    retry_after_s: int | None = None
    session: str = ""
    """As the logs of agents name it."""
    finish: str | None = None
    error: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answered(self) -> None:
        """Returns when the answer began, or the stream is over."""
        await self._until(lambda: self.status != 0)

    async def reached(self, count: int) -> None:
        """Returns when ``count`` tokens are here, or the stream is over."""
        await self._until(lambda: len(self.tokens) >= count)

    async def _until(self, so: Callable[[], bool]) -> None:
        while not so() and self.finish is None and not self.error:
            self.changed.clear()
            await self.changed.wait()

    def gap_s(self, first: int = 0) -> float:
        """The longest time between two tokens, from token ``first`` on."""
        return self.gaps(first)[0][0]

    def gaps(self, first: int = 0) -> list[tuple[float, int]]:
        """The seconds before each token and its number, the longest first; from token ``first`` on."""
        waits = [(after - before, number) for number, (before, after) in enumerate(pairwise(self.times), 1)]
        return sorted(waits[first:], reverse=True) or [(0.0, 0)]

    def take(self, chunk: dict[str, Any], now: float) -> None:
        """One event of the stream."""
        if "error" in chunk:
            self.error = chunk["error"]["message"]
            return
        self.session = chunk["id"].rpartition("-")[2]
        for choice in chunk["choices"]:
            fresh = choice.get("token_ids") or []
            self.tokens += fresh
            self.times += [now] * len(fresh)
            self.text += choice.get("text") or ""
            self.finish = choice.get("finish_reason") or self.finish


def begin(
    cluster: Processes, agent: Agent, count: int, prompt: Sequence[int] | str = (5, 6, 7), **options: Any
) -> tuple[Stream, "asyncio.Task[None]"]:
    """Ask ``agent`` for ``count`` greedy tokens, and read on in a task of its own."""
    stream = Stream(asyncio.get_running_loop().time())
    words = prompt if isinstance(prompt, str) else list(prompt)
    body = {"model": cluster.model, "prompt": words, "max_tokens": count, "temperature": 0, "stream": True}
    body |= {"return_token_ids": True, **options}
    return stream, asyncio.create_task(_read(cluster, agent, body, stream))


async def _read(cluster: Processes, agent: Agent, body: dict[str, Any], stream: Stream) -> None:
    url, clock = f"{agent.api}/v1/completions", asyncio.get_running_loop().time
    try:
        async with cluster.client.stream("POST", url, json=body, timeout=READ_S_MAX) as answer:
            stream.status = answer.status_code
            stream.changed.set()
            if answer.status_code != httpx.codes.OK:
                told = answer.headers.get("retry-after")
                stream.retry_after_s = None if told is None else int(told)
                stream.error = (await answer.aread()).decode()
                return
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    stream.take(json.loads(line.removeprefix("data: ")), clock())
                    stream.changed.set()
    except httpx.TransportError as fault:
        stream.error = repr(fault)
    finally:
        stream.changed.set()
