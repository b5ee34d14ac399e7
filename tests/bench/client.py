"""A client that costs next to nothing: one connection, one request, and the moment at which each line came.

The standard library's blocking client, because what a benchmark's client does with a token happens on a core that an
agent may need: events are kept as bytes with their time and taken apart when the stream is over.
"""

import gc
import http.client
import json
import re
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Streamed:
    """One answer as its client saw it. ``first_s`` counts from the moment the request was sent."""

    tokens: list[int]
    first_s: float
    gaps_s: list[float]


def stream(api: str, key: str, model: str, prompt: list[int], count: int) -> Streamed:
    """``count`` greedy tokens after ``prompt``; an AssertionError if they do not come."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": count,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
    }
    connection = _connection(api)
    connection.connect()
    came: list[tuple[float, bytes]] = []
    gc.disable()
    try:
        begun = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), _headers(key))
        response = connection.getresponse()
        while line := response.readline():
            came.append((time.perf_counter(), line))
    finally:
        gc.enable()
        connection.close()
    assert response.status == http.client.OK, (response.status, came)
    events = [(at, json.loads(line[6:])) for at, line in came if line.startswith(b"data: {")]
    tokens = [(at, token) for at, event in events for token in _tokens(event)]
    assert tokens, came
    times = [at for at, _ in tokens]
    gaps = [after - before for before, after in pairwise(times)]
    return Streamed([token for _, token in tokens], times[0] - begun, gaps)


def inter_token(api: str, key: str) -> tuple[int, float]:
    """What the ingress itself counted so far: gaps between two tokens, and their sum in seconds."""
    connection = _connection(api)
    connection.request("GET", "/metrics", headers=_headers(key))
    text = connection.getresponse().read().decode()
    connection.close()
    count, total = (
        float(re.search(rf"^shoal_inter_token_seconds_{each} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]
        for each in ("count", "sum")
    )
    return int(count), total


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


def _connection(api: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*_address(api), timeout=TIMEOUT_S)


def _address(api: str) -> tuple[str, int]:
    parts = urlsplit(api)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
