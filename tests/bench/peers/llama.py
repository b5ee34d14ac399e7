"""llama.cpp as its users start it: ggml-rpc-server on every host, llama-server or llama-bench in front of them.

Everything is bound to loopback, one thread and one core per process. The process in front holds the embedding table and
samples; it is pinned to the first host's core, where Shoal's ingress is too. All blocks and the output matrix are on
the hosts, halved by ``--tensor-split``. What is off is what would spend time beside answering: the prompt cache, the
checkpoints, the fitting of a model into memory. ``GGML_NO_BACKTRACE`` keeps llama.cpp from calling a debugger when it
aborts, which would only delay the moment at which its client notices.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from tests.bench import client
from tests.bench.peers.build import Built
from tests.bench.peers.kills import Told, llama_word, seen
from tests.bench.variants import Sample
from tests.support.ports import fixed_ports

HOST: Final = "127.0.0.1"
HOSTS: Final = 2
CONTEXT_TOKENS: Final = 2048
"""As a deployment of Shoal has by default."""
THREAD: Final = ("-t", "1")
ALL_BLOCKS: Final = "99"
START_S_MAX: Final = 120.0
"""Reading 100 MB and sending them over loopback takes two seconds on a quiet machine."""
STOP_S_MAX: Final = 10.0
BENCH_S_MAX: Final = 300.0
LOOK_S: Final = 0.05


@dataclass(frozen=True)
class Host:
    """One ggml-rpc-server."""

    process: asyncio.subprocess.Process
    endpoint: str


@dataclass(frozen=True)
class Server:
    """One llama-server. ``log`` is what it printed."""

    process: asyncio.subprocess.Process
    api: str
    log: Path

    async def generate(self, prompt: list[int], count: int) -> Sample:
        heard = await asyncio.to_thread(self.ask, prompt, count)
        words = seen(heard, llama_word)
        assert words.finish == "limit", words
        found = client.streamed(heard, list(zip(words.times_s, words.tokens, strict=True)))
        return Sample(found.tokens, found.first_s, found.gaps_s)

    def ask(
        self, prompt: list[int], count: int, told: Told = lambda _events: None, silence_s: float = client.TIMEOUT_S
    ) -> client.Heard:
        """``count`` greedy tokens, streamed; nothing of an earlier request is used again."""
        body = {
            "prompt": prompt,
            "n_predict": count,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": False,
        }
        return client.post(self.api, "/completion", body, {}, told, silence_s)


@contextlib.asynccontextmanager
async def hosts(built: Built, cores: Sequence[int], folder: Path) -> AsyncIterator[list[Host]]:
    """One ggml-rpc-server on each of ``cores``, ready."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number, (core, port) in enumerate(zip(cores, fixed_ports(len(cores)), strict=True)):
            command = [built.program("ggml-rpc-server"), "-H", HOST, "-p", str(port), *THREAD]
            process = await stack.enter_async_context(_running(command, core, folder / f"host-{number + 1}.log"))
            await _until(process, partial(_accepts, port))
            found.append(Host(process, f"{HOST}:{port}"))
        yield found


@contextlib.asynccontextmanager
async def server(built: Built, model: Path, over: Sequence[Host], core: int, folder: Path) -> AsyncIterator[Server]:
    """A llama-server with ``model``, all of it ``over`` some hosts, or by itself if there are none."""
    (port,) = fixed_ports(1)
    command = [built.program("llama-server"), "-m", str(model), "--host", HOST, "--port", str(port), *THREAD]
    command += ["-c", str(CONTEXT_TOKENS), "-np", "1", "--cache-ram", "0", "--ctx-checkpoints", "0", "--fit", "off"]
    command += ["--offline", *_offloading(over, ",")]
    log = folder / "server.log"
    async with _running(command, core, log) as process:
        api = f"http://{HOST}:{port}"
        await _until(process, lambda: client.status(api, "/health") == 200)
        yield Server(process, api, log)


async def bench(
    built: Built, model: Path, over: Sequence[Host], core: int, prefill_tokens: int, decode_tokens: int
) -> dict[str, list[float]]:
    """llama.cpp's own benchmark, once: milliseconds per decoded token, and per prompt."""
    command = [built.program("llama-bench"), "-m", str(model), *THREAD, "-r", "1", "-o", "json"]
    command += ["-p", str(prefill_tokens), "-n", str(decode_tokens), *_offloading(over, "/")]
    process = await asyncio.create_subprocess_exec(
        *_pinned(command, core), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), BENCH_S_MAX)
    finally:
        await _stop(process)
    assert process.returncode == 0, f"llama-bench ended with {process.returncode}"
    return bench_samples(json.loads(printed))


def bench_samples(tests: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """What llama-bench printed as JSON, as our own variants tell it."""
    found: dict[str, list[float]] = {"decode_ms": [], "prefill_ms": []}
    for test in tests:
        kind, share = ("decode_ms", test["n_gen"]) if test["n_gen"] else ("prefill_ms", 1)
        found[kind] += [sample / share / 1e6 for sample in test["samples_ns"]]
    return found


def _offloading(over: Sequence[Host], separator: str) -> list[str]:
    """Options that put all blocks on the hosts, in equal parts; none: keep everything here."""
    if not over:
        return []
    parts = separator.join("1" for _ in over)
    return ["--rpc", ",".join(host.endpoint for host in over), "-ngl", ALL_BLOCKS, "-ts", parts]


def _pinned(command: Sequence[str], core: int) -> list[str]:
    return ["taskset", "-c", str(core), *command]


@contextlib.asynccontextmanager
async def _running(command: Sequence[str], core: int, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process on ``core``, ended by its id when the block is left."""
    with _opened(log) as output:
        process = await asyncio.create_subprocess_exec(
            *_pinned(command, core),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        )
    try:
        yield process
    finally:
        await _stop(process)


def _opened(log: Path) -> IO[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("wb")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S_MAX)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _until(process: asyncio.subprocess.Process, ready: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(START_S_MAX):
        while not await asyncio.to_thread(ready):
            assert process.returncode is None, f"ended with {process.returncode} while starting"
            await asyncio.sleep(LOOK_S)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False
