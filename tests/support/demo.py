"""A cluster as a user gets one: ``shoal demo --keep --json`` in a process of its own, ended by a signal.

The show before it is cut short: one token, and nobody is killed, unless a test wants it otherwise.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

MODEL = "smollm2-135m-instruct"
START_S_MAX = 180.0
"""The first one on a machine fetches and converts the model."""
STOP_S_MAX = 30.0


@dataclass
class Demo:
    """What the demo printed, and the process behind it."""

    process: subprocess.Popen[bytes]
    printed: dict[str, Any]

    @property
    def api(self) -> str:
        return str(self.printed["api"])

    @property
    def key(self) -> str:
        return str(self.printed["api_key"])

    @property
    def pids(self) -> list[int]:
        return [each["pid"] for each in (*self.printed["agents"], *self.printed["brokers"])]

    def client(self, api: str | None = None, timeout: float = 60.0) -> httpx.Client:
        """Of one agent's API; the first one's if none is named."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=api or self.api, headers=headers, timeout=timeout, trust_env=False)

    def greedy(self, prompt: list[int], count: int, api: str | None = None) -> list[int]:
        """The ids of at most ``count`` greedy tokens after ``prompt``."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": count, "temperature": 0, "return_token_ids": True}
        with self.client(api) as client:
            answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["token_ids"])

    def metric(self, name: str, api: str | None = None) -> float:
        """One sample of an agent's metrics; 0 if it is not there."""
        with self.client(api) as client:
            found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0


def alive(pid: int) -> bool:
    """Whether a process with that id exists and is not only waiting to be reaped."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def start(*arguments: str) -> Demo:
    """``shoal demo --keep --json`` with ``arguments``, once it printed its object."""
    show = ("--no-chaos", "--max-tokens", "1")
    command = [sys.executable, "-m", "shoal_agent", "demo", "--keep", "--json", *show, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONWARNINGS": "default"})
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S_MAX)
    line = process.stdout.readline() if ready else b""
    if not line:
        process.kill()
        process.communicate()
        raise AssertionError(f"the demo printed nothing and ended with {process.returncode}")
    return Demo(process, json.loads(line))


def stop(demo: Demo, number: signal.Signals = signal.SIGTERM) -> bytes:
    """End the demo; what else it printed. Fails if a process of its own outlives it."""
    demo.process.send_signal(number)
    try:
        rest, _ = demo.process.communicate(timeout=STOP_S_MAX)
    except subprocess.TimeoutExpired:
        demo.process.kill()
        demo.process.communicate()
        raise
    assert demo.process.returncode == 0
    assert not [pid for pid in demo.pids if alive(pid)], "a process outlived the demo"
    return rest


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Demo]:
    """A demo for the time of the block."""
    demo = start(*arguments)
    try:
        yield demo
    finally:
        if demo.process.returncode is None:
            stop(demo)
