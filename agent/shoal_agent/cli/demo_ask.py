"""One question of `shoal demo`, over the OpenAI API, and its answer as the client saw it, token by token."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Final

import httpx

from shoal_agent.errors import FailedError

READ_TIMEOUT_S: Final = 300.0
"""A long silence on a busy laptop; the API's own deadline comes first."""
CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, greedily: whoever asks again gets the same answer."""

    model: str
    prompt: str
    max_tokens: int
    seed: int


@dataclass(slots=True)
class Answer:
    """One streamed answer. Times are the monotonic clock's; ``token_times`` has one for each token."""

    begun: float
    session: str = ""
    """In hexadecimal, as the agents call it."""
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)

    @property
    def first_token_s(self) -> float:
        """From the question to the first token."""
        return self.token_times[0] - self.begun if self.token_times else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Rate after the first token: decoding alone."""
        span_s = self.token_times[-1] - self.token_times[0] if self.token_times else 0.0
        return (len(self.token_times) - 1) / span_s if span_s > 0 else 0.0

    @property
    def usual_pause_s(self) -> float:
        """The median time between two tokens."""
        pauses = [after - before for before, after in pairwise(self.token_times)]
        return median(pauses) if pauses else 0.0

    def longest_pause_s(self, since: float) -> float | None:
        """The longest time between two tokens of which the second came after ``since``; None if there are no such."""
        return max((after - before for before, after in pairwise(self.token_times) if after > since), default=None)


Show = Callable[[Answer, str], None]
"""Called with the answer so far, and the piece of text that it just grew by, which may be empty."""


def session_client(api: str, key: str) -> httpx.AsyncClient:
    """A client of the agent's API at ``api``; proxies of the environment do not lead to loopback."""
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx.AsyncClient(base_url=api, headers={"Authorization": f"Bearer {key}"}, timeout=timeout, trust_env=False)


async def ask(client: httpx.AsyncClient, question: Question, show: Show) -> Answer:
    """The whole answer; FailedError if there is none, or not all of it."""
    body = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "seed": question.seed,
        "stream": True,
        "return_token_ids": True,
    }
    answer = Answer(time.monotonic())
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise FailedError(f"the API answered {response.status_code}: {text[:500]}")
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return answer
                if line.startswith("data: "):
                    _take(json.loads(line.removeprefix("data: ")), answer, show)
    except httpx.TransportError as fault:
        raise FailedError(f"the stream broke after {len(answer.token_ids)} tokens: {fault!r}") from fault
    raise FailedError(f"the stream ended after {len(answer.token_ids)} tokens, without its last word")


def _take(event: dict[str, Any], answer: Answer, show: Show) -> None:
    if "error" in event:
        detail = event["error"].get("message", event["error"])
        raise FailedError(f"the stream broke after {len(answer.token_ids)} tokens: {detail}")
    answer.session = str(event.get("id", "")).rpartition("-")[2]
    now = time.monotonic()
    for choice in event.get("choices", ()):
        tokens = choice.get("token_ids") or []
        answer.token_ids += tokens
        answer.token_times += [now] * len(tokens)
        text = choice.get("delta", {}).get("content") or ""
        answer.text += text
        show(answer, text)
