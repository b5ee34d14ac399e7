"""A client that costs next to nothing: one connection, one request, and the moment at which each line came.

The standard library's blocking client, because what a benchmark's client does with a token happens on a core that an
agent may need: events are kept as bytes with their time and taken apart when the stream is over.
"""

import gc
import http.client
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 120.0
EVENT: Final = b"data: {"


@dataclass(frozen=True)
class Heard:
    """All that came over one connection. ``fault``: what broke it, None if it ended as HTTP says it should."""

    status: int
    begun_s: float
    lines: list[tuple[float, bytes]] = field(repr=False)
    ended_s: float
    fault: Exception | None

    def events(self) -> list[tuple[float, dict[str, Any]]]:
        """What was said, and when; not what broke off within a line."""
        whole = [(at, line) for at, line in self.lines if line.startswith(EVENT) and line.endswith(b"\n")]
        return [(at, json.loads(line[len(EVENT) - 1 :])) for at, line in whole]


@dataclass(frozen=True)
class Streamed:
    """One answer as its client saw it. ``first_s`` counts from the moment the request was sent."""

    tokens: list[int]
    first_s: float
    gaps_s: list[float]


def stream(api: str, key: str, model: str, prompt: list[int], count: int) -> Streamed:
    """``count`` greedy tokens after ``prompt``; an AssertionError if they do not come."""
    heard = post(api, "/v1/completions", completion(model, prompt, count), bearer(key))
    assert heard.status == http.client.OK, heard
    assert heard.fault is None, heard
    return streamed(heard, [(at, token) for at, event in heard.events() for token in _tokens(event)])


def completion(model: str, prompt: list[int], count: int) -> dict[str, Any]:
    """What to ask for ``count`` greedy tokens, each in an event of its own."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": count,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
    }


def streamed(heard: Heard, tokens: list[tuple[float, int]]) -> Streamed:
    """The answer in what was ``heard``, given its ``tokens`` with their times."""
    assert tokens, heard
    times = [at for at, _ in tokens]
    gaps = [after - before for before, after in pairwise(times)]
    return Streamed([token for _, token in tokens], times[0] - heard.begun_s, gaps)


def post(
    api: str,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str],
    told: Callable[[int], None] = lambda _count: None,
    silence_s: float = TIMEOUT_S,
) -> Heard:
    """Ask, and keep every line of the answer until it ends, however it does. ``told`` hears the number of events."""
    connection = http.client.HTTPConnection(*_address(api), timeout=silence_s)
    lines: list[tuple[float, bytes]] = []
    status, events, fault = 0, 0, None
    begun = time.perf_counter()
    gc.disable()
    try:
        connection.connect()
        begun = time.perf_counter()
        connection.request("POST", path, json.dumps(body), headers | {"Content-Type": "application/json"})
        response = connection.getresponse()
        status = response.status
        while line := response.readline():
            lines.append((time.perf_counter(), line))
            if line.startswith(EVENT):
                events += 1
                told(events)
    except (OSError, http.client.HTTPException) as error:
        fault = error
    finally:
        gc.enable()
        connection.close()
    return Heard(status, begun, lines, time.perf_counter(), fault)


def inter_token(api: str, key: str) -> tuple[int, float]:
    """What the ingress itself counted so far: gaps between two tokens, and their sum in seconds."""
    connection = http.client.HTTPConnection(*_address(api), timeout=TIMEOUT_S)
    connection.request("GET", "/metrics", headers=bearer(key))
    text = connection.getresponse().read().decode()
    connection.close()
    count, total = (
        float(re.search(rf"^shoal_inter_token_seconds_{each} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]
        for each in ("count", "sum")
    )
    return int(count), total


def bearer(key: str) -> dict[str, str]:
    """The header that opens an API."""
    return {"Authorization": f"Bearer {key}"}


def status(api: str, path: str) -> int | None:
    """The status of one GET without a key; None while nobody listens."""
    connection = http.client.HTTPConnection(*_address(api), timeout=1.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def _tokens(event: dict) -> list[int]:
    assert "error" not in event, event
    return [token for choice in event["choices"] for token in choice.get("token_ids") or ()]


def _address(api: str) -> tuple[str, int]:
    parts = urlsplit(api)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
